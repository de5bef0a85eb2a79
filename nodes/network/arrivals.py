"""Guests that are about to come from other nodes: who may connect to this one, and for which guest.

One small file each, so that a new agent knows what the one before it had opened.
"""

import ipaddress
import threading
from pathlib import Path

from nodes.contract.errors import NodeError
from nodes.files import fsync_folder, write_atomically
from nodes.network.filters import Filters


class Arrivals:
    def __init__(self, state_dir: Path, filters: Filters) -> None:
        self._folder = state_dir / "arrivals"
        self._filters = filters
        self._lock = threading.Lock()

    def restore(self) -> None:
        """Raises ``command_failed``."""
        with self._lock:
            self._apply()

    def expected(self, vm: str) -> bool:
        return self._file(vm).exists()

    def expect(self, vm: str, address: str) -> None:
        """Open this node for the node with that address. Raises ``bad_message``."""
        try:
            address = str(ipaddress.ip_address(address))
        except ValueError:
            raise NodeError("bad_message", f"{address!r} is not an address") from None
        with self._lock:
            write_atomically(self._file(vm), address)
            self._apply()

    def forget(self, vm: str) -> None:
        """Close this node again, unless another guest is about to come from there; also where nothing is expected."""
        with self._lock:
            if self.expected(vm):
                # Killed in between, the next agent closes what no file asks for.
                self._file(vm).unlink()
                fsync_folder(self._folder)
                self._apply()

    def _apply(self) -> None:
        files = self._folder.glob("[!.]*") if self._folder.exists() else ()
        self._filters.close_ports(but_for=[file.read_text() for file in files])

    def _file(self, vm: str) -> Path:
        return self._folder / vm
