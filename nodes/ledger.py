"""What a node remembers of the messages that it took: one row per object (design 4, rule 2), in sqlite.

Everything that must survive a power loss is here: ``started`` is committed before a verb acts, the reply
together with the counter after it. ``flock`` on a file beside the database keeps a second agent out.
"""

import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodes.contract.errors import ErrorInfo, NodeError
from nodes.contract.messages import VERBS, Envelope, Outcome

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS objects (
    object TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    verb TEXT NOT NULL,
    envelope TEXT,             -- NULL: raised or cancelled before any message came
    incarnation INTEGER,       -- of the agent that started it
    libvirtd TEXT,             -- process that would hold the call, as nodes.drain names it
    reply TEXT,                -- Answer as JSON; NULL: started, and nobody knows
    cancelled INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS children (pid INTEGER NOT NULL, started INTEGER NOT NULL, command TEXT NOT NULL,
    PRIMARY KEY (pid, started));
CREATE TABLE IF NOT EXISTS wanted (
    vm TEXT PRIMARY KEY,
    uuid TEXT NOT NULL,
    name TEXT NOT NULL,
    local_only INTEGER NOT NULL,
    running INTEGER NOT NULL DEFAULT 0,
    boot INTEGER NOT NULL DEFAULT 0  -- the node has booted since, and the guest was not yet started
);
CREATE TABLE IF NOT EXISTS self_fenced (uuid TEXT PRIMARY KEY, name TEXT NOT NULL);
INSERT OR IGNORE INTO meta VALUES ('incarnation', 0), ('counter', 0), ('self_fencing_after_s', 0);
"""


@dataclass(frozen=True)
class Answer:
    """The part of a reply that does not depend on who asks."""

    outcome: Outcome
    result: Mapping[str, Any]
    error: ErrorInfo | None = None

    def to_json(self) -> str:
        error = self.error.model_dump() if self.error else None
        return json.dumps({"outcome": self.outcome, "result": dict(self.result), "error": error})

    @classmethod
    def from_json(cls, text: str) -> "Answer":
        stored = json.loads(text)
        error = ErrorInfo(**stored["error"]) if stored["error"] else None
        return cls(stored["outcome"], stored["result"], error)


@dataclass(frozen=True)
class Row:
    object: str
    number: int
    verb: str
    envelope: Mapping[str, Any] | None
    incarnation: int | None
    libvirtd: str | None
    answer: Answer | None
    cancelled: bool

    @property
    def in_doubt(self) -> bool:
        """Nobody knows what came of it: it was started and never answered, or answered so."""
        return self.answer is None or self.answer.outcome == "uncertain"

    @property
    def move(self) -> bool:
        return self.verb in VERBS and VERBS[self.verb].move


@dataclass(frozen=True)
class Wanted:
    """A guest as the node must know it at a boot, without the panel (law 5)."""

    vm: str
    uuid: str
    name: str
    local_only: bool
    running: bool
    boot: bool = False


@dataclass(frozen=True)
class Child:
    pid: int
    started: int
    """Clock ticks since the boot of the machine: a pid alone may be somebody else's by now."""
    command: str


class Ledger:
    """Thread-safe. All methods commit before they return."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._lock = threading.RLock()
        self._file: int | None = None
        if read_only:
            if not path.exists():
                raise NodeError("no_ledger", f"{path} is missing", "Has this node joined, and did its agent ever run?")
            self._db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, timeout=10)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _take_file(path.with_suffix(".lock"))
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(SCHEMA)
            os.chmod(path, 0o600)
        self._db.row_factory = sqlite3.Row

    def close(self) -> None:
        with self._lock:
            self._db.close()
            if self._file is not None:
                os.close(self._file)

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _meta(self, name: str) -> int:
        with self._lock:
            return int(self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0])

    # --- incarnation and counter --------------------------------------------------------------------------

    def new_incarnation(self) -> int:
        with self._write() as db:
            db.execute("UPDATE meta SET value = value + 1 WHERE name = 'incarnation'")
        return self.incarnation

    @property
    def incarnation(self) -> int:
        return self._meta("incarnation")

    @property
    def counter(self) -> int:
        return self._meta("counter")

    # --- self-fencing ---------------------------------------------------------------------------------------

    @property
    def self_fencing_after_s(self) -> int | None:
        """None: never."""
        return self._meta("self_fencing_after_s") or None

    def set_self_fencing(self, after_s: int | None) -> None:
        with self._write() as db:
            db.execute("UPDATE meta SET value = ? WHERE name = 'self_fencing_after_s'", (after_s or 0,))

    def ended_by_itself(self, uuid: str, name: str) -> None:
        """The node ended this guest, because the panel did not answer: it is not started again without a word."""
        with self._write() as db:
            db.execute("UPDATE wanted SET running = 0, boot = 0 WHERE uuid = ?", (uuid,))
            db.execute("INSERT OR REPLACE INTO self_fenced VALUES (?, ?)", (uuid, name))
            db.execute("UPDATE meta SET value = value + 1 WHERE name = 'counter'")

    def self_fenced(self) -> dict[str, str]:
        """uuid -> name of the guests that the node ended itself, and of whose power nobody has said anything since."""
        with self._lock:
            found = self._db.execute("SELECT uuid, name FROM self_fenced ORDER BY name").fetchall()
        return {row["uuid"]: row["name"] for row in found}

    # --- objects ------------------------------------------------------------------------------------------

    def get(self, name: str) -> Row | None:
        with self._lock:
            found = self._db.execute("SELECT * FROM objects WHERE object = ?", (name,)).fetchone()
        return _row(found) if found else None

    def number_of(self, name: str) -> int:
        """Of the last message about an object; 0 for one never heard of."""
        row = self.get(name)
        return row.number if row else 0

    def rows(self) -> list[Row]:
        with self._lock:
            return [_row(found) for found in self._db.execute("SELECT * FROM objects ORDER BY object")]

    def start(self, envelope: Envelope, incarnation: int, libvirtd: str | None) -> None:
        """Write down that this number acts from now on. An early or late wish to cancel it stays noted."""
        with self._write() as db:
            db.execute(
                "INSERT INTO objects (object, number, verb, envelope, incarnation, libvirtd)"
                " VALUES (:object, :number, :verb, :envelope, :incarnation, :libvirtd)"
                " ON CONFLICT (object) DO UPDATE SET verb = :verb, envelope = :envelope, reply = NULL,"
                " incarnation = :incarnation, libvirtd = :libvirtd,"
                " cancelled = cancelled AND number = :number, number = :number",
                {
                    "object": envelope.object,
                    "number": envelope.dispatch,
                    "verb": envelope.verb,
                    # Without what it asks for: that may hold a key or a password.
                    "envelope": envelope.model_dump_json(exclude={"body"}),
                    "incarnation": incarnation,
                    "libvirtd": libvirtd,
                },
            )

    def finish(self, name: str, number: int, answer: Answer, wanted: "WantedChange | None" = None) -> int:
        """Reply, counter and law 5's note in one transaction. Returns the new counter."""
        with self._write() as db:
            db.execute("UPDATE objects SET reply = ? WHERE object = ? AND number = ?", (answer.to_json(), name, number))
            db.execute("UPDATE meta SET value = value + 1 WHERE name = 'counter'")
            if wanted is not None:
                wanted.write(db)
        return self.counter

    def note_cancel(self, name: str, number: int) -> None:
        with self._write() as db:
            db.execute("UPDATE objects SET cancelled = 1 WHERE object = ? AND number = ?", (name, number))

    def remember_cancel(self, name: str, number: int, answer: Answer) -> None:
        """The message with this number has not come yet; when it does, ``answer`` is its answer."""
        with self._write() as db:
            _overtake(db, name, number, "cancelled", answer)

    def raise_to(self, raises: Mapping[str, int], placed: Iterable[str]) -> None:
        """Make every number below ``raises[object]`` superseded; forget that guests should run that live elsewhere.

        :param placed: uuids of the guests that the panel places on this node.
        """
        stay = set(placed)
        with self._write() as db:
            for name, lowest in raises.items():
                found = db.execute("SELECT number, reply FROM objects WHERE object = ?", (name,)).fetchone()
                settled = found and (found["number"] >= lowest or (found["number"] == lowest - 1 and found["reply"]))
                if not settled:
                    _overtake(db, name, lowest - 1, "raised", Answer("superseded", {}))
                kind, _, vm = name.partition(":")
                if kind == "domain":
                    wanted = db.execute("SELECT uuid FROM wanted WHERE vm = ?", (vm,)).fetchone()
                    if wanted and wanted["uuid"] not in stay:
                        db.execute("UPDATE wanted SET running = 0, boot = 0 WHERE vm = ?", (vm,))

    # --- children -----------------------------------------------------------------------------------------

    def add_child(self, child: Child) -> None:
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO children VALUES (?, ?, ?)", (child.pid, child.started, child.command))

    def drop_child(self, child: Child) -> None:
        with self._write() as db:
            db.execute("DELETE FROM children WHERE pid = ? AND started = ?", (child.pid, child.started))

    def children(self) -> list[Child]:
        with self._lock:
            return [Child(*found) for found in self._db.execute("SELECT pid, started, command FROM children")]

    # --- wanted -------------------------------------------------------------------------------------------

    def wanted(self) -> list[Wanted]:
        with self._lock:
            found = self._db.execute("SELECT * FROM wanted ORDER BY vm").fetchall()
        return [
            Wanted(w["vm"], w["uuid"], w["name"], bool(w["local_only"]), bool(w["running"]), bool(w["boot"]))
            for w in found
        ]

    def node_has_booted(self) -> None:
        """Every guest that should run has to be started again."""
        with self._write() as db:
            db.execute("UPDATE wanted SET boot = 1 WHERE running")

    def started_at_boot(self, vm: str) -> None:
        with self._write() as db:
            db.execute("UPDATE wanted SET boot = 0 WHERE vm = ?", (vm,))
            db.execute("UPDATE meta SET value = value + 1 WHERE name = 'counter'")

    def shut_itself_down(self, uuid: str, as_of_counter: int) -> bool:
        """The guest went off by its own will: it is not wanted running any more.

        :param as_of_counter: the counter before the guest was seen off.
        :returns: False when a verb ended since: it may have started the guest again, so look again.
        """
        with self._write() as db:
            if self.counter != as_of_counter:
                return False
            db.execute("UPDATE wanted SET running = 0, boot = 0 WHERE uuid = ?", (uuid,))
        return True


@dataclass(frozen=True)
class WantedChange:
    """What a verb does to law 5's note; written together with its reply."""

    vm: str
    defined: Wanted | None = None
    """A definition: everything but ``running``, which a new definition leaves as it was."""
    running: bool | None = None
    forget: bool = False

    def write(self, db: sqlite3.Connection) -> None:
        if self.forget or self.running is not None:
            db.execute("DELETE FROM self_fenced WHERE uuid = (SELECT uuid FROM wanted WHERE vm = ?)", (self.vm,))
        if self.forget:
            db.execute("DELETE FROM wanted WHERE vm = ?", (self.vm,))
        if self.defined is not None:
            db.execute(
                "INSERT INTO wanted (vm, uuid, name, local_only) VALUES (?, ?, ?, ?) ON CONFLICT (vm) DO UPDATE"
                " SET uuid = excluded.uuid, name = excluded.name, local_only = excluded.local_only",
                (self.vm, self.defined.uuid, self.defined.name, self.defined.local_only),
            )
        if self.running is not None:
            db.execute("UPDATE wanted SET running = ?, boot = 0 WHERE vm = ?", (self.running, self.vm))


def _overtake(db: sqlite3.Connection, name: str, number: int, verb: str, answer: Answer) -> None:
    """A row for a number that never ran here."""
    db.execute(
        "INSERT OR REPLACE INTO objects (object, number, verb, reply, cancelled) VALUES (?, ?, ?, ?, ?)",
        (name, number, verb, answer.to_json(), verb == "cancelled"),
    )


def _row(found: sqlite3.Row) -> Row:
    return Row(
        object=found["object"],
        number=found["number"],
        verb=found["verb"],
        envelope=json.loads(found["envelope"]) if found["envelope"] else None,
        incarnation=found["incarnation"],
        libvirtd=found["libvirtd"],
        answer=Answer.from_json(found["reply"]) if found["reply"] else None,
        cancelled=bool(found["cancelled"]),
    )


def _take_file(path: Path) -> int:
    """Lock a file for the life of this process. Raises a certain ``agent_running``."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise NodeError(
            "agent_running", f"{path} is locked: another agent runs on this node", "End it before starting this one."
        ) from None
    return descriptor
