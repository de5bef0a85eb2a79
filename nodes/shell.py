"""Other programs: an argument list, a time limit, no shell.

Each child is the leader of its own process group and is written to the ledger, so that a new agent can end
what a killed one left behind before it takes work.
"""

import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nodes.contract.errors import NodeError
from nodes.ledger import Child, Ledger
from nodes.log import Log

log = Log("ulei.shell")

TAIL_CHARACTERS = 400
END_TIMEOUT_S = 10.0


class Cancelled(Exception):
    """The panel asked this verb to stop, and it did."""


class Cancellation:
    """One running verb's way to be stopped: a flag to look at, children to end, and connections to cut."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[str]] = set()
        self._waiters: list[threading.Condition] = []
        self._connections: set[socket.socket] = set()
        self.asked = False

    def cancel(self) -> None:
        with self._lock:
            self.asked = True
            processes, waiters = list(self._processes), list(self._waiters)
            for connection in self._connections:
                _shut(connection)
        for process in processes:
            _end(process)
        for condition in waiters:
            with condition:
                condition.notify_all()

    def check(self) -> None:
        """Raises Cancelled if this verb was asked to stop."""
        if self.asked:
            raise Cancelled

    def wake(self, condition: threading.Condition) -> None:
        """Notify a condition when the verb is asked to stop."""
        with self._lock:
            self._waiters.append(condition)

    @contextlib.contextmanager
    def cuts(self, connection: socket.socket) -> Iterator[None]:
        """Meanwhile the connection ends when the verb is asked to stop, so that it waits for nothing from there."""
        with self._lock:
            self._connections.add(connection)
            if self.asked:
                _shut(connection)
        try:
            yield
        finally:
            with self._lock:
                self._connections.discard(connection)

    def add(self, process: subprocess.Popen[str]) -> None:
        with self._lock:
            self._processes.add(process)
            asked = self.asked
        if asked:
            _end(process)

    def remove(self, process: subprocess.Popen[str]) -> None:
        with self._lock:
            self._processes.discard(process)


@dataclass(frozen=True)
class Result:
    status: int
    stdout: str
    stderr: str


class Shell:
    def __init__(self, ledger: Ledger | None = None, family: int | None = None) -> None:
        """
        :param ledger: where children are written down.
        :param family: the descriptor from ``end_children``, which every child inherits.
        """
        self._ledger = ledger
        self._family = () if family is None else (family,)

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: str | None = None,
        check: bool = True,
        outlives: bool = False,
        cancellation: Cancellation | None = None,
    ) -> Result:
        """Run a program to its end.

        :param check: raise when its status is not 0.
        :param outlives: it leaves a server behind that stays when the agent ends.
        :raises NodeError: ``no_program``, ``command_failed`` (both certain: the program has ended) with the tail of
            its stderr, ``command_timeout`` after ``timeout_s`` seconds, when its whole group was killed.
        :raises Cancelled: ``cancellation`` ended it.
        """
        # The C locale: messages and numbers are parsed. LVM would complain of the descriptor that a child inherits.
        environment = {**os.environ, "LC_ALL": "C", "LVM_SUPPRESS_FD_WARNINGS": "1"}
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=environment,
                process_group=0,
                pass_fds=() if outlives else self._family,
            )
        except FileNotFoundError:
            raise NodeError("no_program", f"{argv[0]} is not installed", f"Install {argv[0]} on this node.") from None
        child = Child(process.pid, start_time(process.pid) or 0, " ".join(argv))
        if self._ledger:
            self._ledger.add_child(child)
        if cancellation:
            cancellation.add(process)
        try:
            stdout, stderr = process.communicate(stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            _end(process)
            raise NodeError(
                "command_timeout", f"{argv[0]} did not end within {timeout_s:g} s and was killed", retryable=True
            ) from None
        finally:
            if cancellation:
                cancellation.remove(process)
            if self._ledger:
                self._ledger.drop_child(child)
        if cancellation and process.returncode == -signal.SIGKILL:
            cancellation.check()
        if check and process.returncode != 0:
            tail = stderr.strip()[-TAIL_CHARACTERS:] or f"status {process.returncode}"
            raise NodeError("command_failed", f"{argv[0]}: {tail}")
        return Result(process.returncode, stdout, stderr)


def start_time(pid: int) -> int | None:
    """When a process began, in clock ticks since the boot of the machine; None when it has ended. Source: proc(5)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field, the name in parentheses, may itself hold spaces and parentheses.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def end_children(ledger: Ledger, family_file: Path) -> int:
    """End what a killed agent left running; nothing else may take work before.

    :param family_file: locked by the descriptor that this returns and that every child inherits. A child that
        the ledger does not know, because its agent was killed in the moment between, still holds the lock.
    """
    for child in ledger.children():
        if start_time(child.pid) == child.started:
            log.warning("ending a child of the agent before", pid=child.pid, command=child.command)
            _kill_group(child.pid)
            await_end(child.pid)
        ledger.drop_child(child)
    descriptor = os.open(family_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def await_end(pid: int) -> None:
    """Wait for the end of a process that need not be a child of ours."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        select.select([descriptor], [], [], END_TIMEOUT_S)
    finally:
        os.close(descriptor)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # Below TLS, whose state another thread is just using.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _end(process: subprocess.Popen[str]) -> None:
    _kill_group(process.pid)
    process.wait()


def _kill_group(leader_pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader_pid, signal.SIGKILL)
