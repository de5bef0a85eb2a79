"""The other nodes' names: each must resolve here, because a migration asks for the other side by its name."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from nodes.files import write_atomically

HOSTS = Path("/etc/hosts")
HOSTS_BEGIN, HOSTS_END = "# ulei: nodes of the cluster", "# ulei: end"


def learn(state_dir: Path, peers: Mapping[str, str]) -> None:
    """Remember name -> address of every node, and name in /etc/hosts those that nothing else names."""
    write_atomically(_file(state_dir), json.dumps(dict(peers), indent=1))
    _name(peers)


def known(state_dir: Path) -> dict[str, str]:
    file = _file(state_dir)
    return dict(json.loads(file.read_text())) if file.exists() else {}


def _file(state_dir: Path) -> Path:
    return state_dir / "peers.json"


def _name(peers: Mapping[str, str]) -> None:
    """A migration resolves the other node's name, and hangs for minutes where nobody knows it."""
    text = HOSTS.read_text() if HOSTS.exists() else ""
    without = re.sub(rf"{HOSTS_BEGIN}\n.*?{HOSTS_END}\n", "", text, flags=re.DOTALL)
    known = {(name, fields[0]) for fields in map(str.split, without.splitlines()) for name in fields[1:]}
    missing = [(name, address) for name, address in sorted(peers.items()) if (name, address) not in known]
    block = [HOSTS_BEGIN, *(f"{address}\t{name}" for name, address in missing), HOSTS_END] if missing else []
    wanted = without.rstrip("\n") + "\n" + "".join(f"{line}\n" for line in block)
    if wanted != text:
        # In place: in a container this file is a mount and cannot be replaced.
        HOSTS.write_text(wanted)
