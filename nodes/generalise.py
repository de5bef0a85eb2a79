"""Take out of an image what only one machine may have, or every VM made of it would be the same one.

What is done to it stands in :mod:`nodes.guestfs_process`.
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from nodes.contract.errors import NodeError
from nodes.guestfs_process import UNSUPPORTED
from nodes.node import Node
from nodes.shell import Cancellation

TIMEOUT_S = 900.0


def missing() -> str:
    """What this node lacks for it: ``package``, ``kernel``; empty: nothing."""
    if importlib.util.find_spec("guestfs") is None:
        return "package"
    if "LIBGUESTFS_PATH" in os.environ:
        return ""  # its small machine was built elsewhere. Source: libguestfs-make-fixed-appliance(1)
    if shutil.which("supermin") is None:
        return "package"
    # supermin boots its small machine with a kernel of this one.
    kernels = [os.environ.get("SUPERMIN_KERNEL", ""), *map(str, Path("/boot").glob("vmlinuz-*"))]
    return "" if any(os.access(kernel, os.R_OK) for kernel in kernels if kernel) else "kernel"


def generalise(node: Node, image: Path, cancellation: Cancellation) -> None:
    """Change the image, on which nothing runs. Raises a certain ``no_guestfs``, ``guest_unsupported``."""
    if lacks := missing():
        raise NodeError("no_guestfs", f"this node has no libguestfs ({lacks})", "Install python3-guestfs and a kernel.")
    argv = [sys.executable, "-m", "nodes.guestfs_process", str(image), node.virt.type]
    result = node.shell.run(argv, timeout_s=TIMEOUT_S, check=False, cancellation=cancellation)
    why = result.stderr.strip()[-400:] or f"status {result.status}"
    if result.status == UNSUPPORTED:
        raise NodeError(
            "guest_unsupported",
            f"{image.name}: {why}",
            "Make the image without generalising, and clean the guest by hand first.",
        )
    if result.status:
        raise NodeError("command_failed", f"libguestfs: {why}")
