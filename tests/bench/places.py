"""Free ports and empty folders."""

import shutil
import socket
from pathlib import Path

from deploy.lab.processes import Failed


def free_ports(count: int = 3) -> int:
    """The first of so many free ports in a row: a demo with simulated nodes listens on three."""
    for _ in range(50):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = int(probe.getsockname()[1])
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise Failed("no free ports")


def empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
