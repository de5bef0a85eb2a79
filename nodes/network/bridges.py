"""Bridges of this node and their ports, as the kernel shows them in /sys/class/net."""

import re
from pathlib import Path

NET = Path("/sys/class/net")

_TAP = re.compile(r"ul[a-z2-7]{13}")


def names() -> list[str]:
    return sorted(entry.parent.name for entry in NET.glob("*/bridge"))


def uplinks(bridge: str) -> list[str]:
    """Ports that lead to other machines: whatever is no tap. A tap of a guest that is not ours counts as one of ours
    only by its kind, which the kernel shows as ``tun_flags``."""
    return sorted(
        port.name for port in (NET / bridge / "brif").glob("*") if not (NET / port.name / "tun_flags").exists()
    )


def taps() -> list[str]:
    """Interfaces with the name of one of our NICs."""
    return sorted(entry.name for entry in NET.iterdir() if _TAP.fullmatch(entry.name))
