"""What a node's folders hold after a test, and an image that no node may take."""

import subprocess
from pathlib import Path

from nodes.storage.directory import IDENTITY_FILE


def left(folder: Path) -> list[str]:
    """The names of the files in a pool's folder, hidden parts too."""
    return sorted(file.name for file in folder.iterdir() if file.name != IDENTITY_FILE)


def image_over_shadow(folder: Path) -> bytes:
    """A qcow2 that names another file of the node as what lies behind it."""
    path = folder / "evil.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "1M"], check=True)
    rebase = ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/shadow", str(path)]
    subprocess.run(rebase, check=True)
    return path.read_bytes()
