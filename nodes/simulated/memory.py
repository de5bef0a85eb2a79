"""What a simulated node keeps over a restart: the test driver forgets everything with its connection."""

import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

SCHEMA = """
CREATE TABLE IF NOT EXISTS domains (uuid TEXT PRIMARY KEY, xml TEXT NOT NULL, state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS volumes (name TEXT PRIMARY KEY, disk TEXT NOT NULL, size_bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS nics (id TEXT PRIMARY KEY, spec TEXT NOT NULL);
"""


@dataclass(frozen=True)
class KeptDomain:
    uuid: str
    xml: str
    state: str


class Memory:
    """Thread-safe. Beside the ledger, and not synced: nobody's guest depends on it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.executescript(SCHEMA)
        self._lock = threading.Lock()

    def domains(self) -> list[KeptDomain]:
        with self._lock:
            return [KeptDomain(*row) for row in self._db.execute("SELECT uuid, xml, state FROM domains")]

    def keep_domain(self, uuid: str, xml: str, state: str) -> None:
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO domains VALUES (?, ?, ?)", (uuid, xml, state))

    def keep_state(self, uuid: str, state: str) -> None:
        with self._lock:
            self._db.execute("UPDATE domains SET state = ? WHERE uuid = ?", (state, uuid))

    def drop_domain(self, uuid: str) -> None:
        with self._lock:
            self._db.execute("DELETE FROM domains WHERE uuid = ?", (uuid,))

    def volumes(self) -> list[tuple[str, str, int]]:
        """(name, disk's id, size in bytes)."""
        with self._lock:
            return list(self._db.execute("SELECT name, disk, size_bytes FROM volumes ORDER BY name"))

    def volume_bytes(self, name: str) -> int | None:
        with self._lock:
            row = self._db.execute("SELECT size_bytes FROM volumes WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def allocated_bytes(self) -> int:
        with self._lock:
            return int(self._db.execute("SELECT coalesce(sum(size_bytes), 0) FROM volumes").fetchone()[0])

    def keep_volume(self, name: str, disk: str, size_bytes: int) -> None:
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO volumes VALUES (?, ?, ?)", (name, disk, size_bytes))

    def drop_volume(self, name: str) -> None:
        with self._lock:
            self._db.execute("DELETE FROM volumes WHERE name = ?", (name,))

    def nics(self) -> list[str]:
        """NicSpecs as JSON."""
        with self._lock:
            return [row[0] for row in self._db.execute("SELECT spec FROM nics ORDER BY id")]

    def keep_nic(self, nic_id: str, spec: str) -> None:
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO nics VALUES (?, ?)", (nic_id, spec))

    def drop_nic(self, nic_id: str) -> None:
        with self._lock:
            self._db.execute("DELETE FROM nics WHERE id = ?", (nic_id,))
