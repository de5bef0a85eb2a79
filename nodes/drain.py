"""Which process holds a libvirt call, and whether libvirtd still works on calls whose caller is gone."""

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from nodes.contract.errors import NodeError
from nodes.log import Log
from nodes.shell import Shell, start_time

log = Log("ulei.drain")

PID_FILES = (Path("/run/libvirtd.pid"), Path("/run/libvirt/libvirtd.pid"))
SAMPLES = 3
SAMPLE_EVERY_S = 0.05
LOOK_EVERY_S = 0.5
ADMIN_TIMEOUT_S = 5.0
CONDITION_BYTES = 48
"""sizeof(pthread_cond_t)"""

_FIELD = re.compile(r"^(\w+)\s*:\s*(\d+)$", re.MULTILINE)


class CallLost(NodeError):
    """The connection broke before libvirtd answered: it may still work on the call."""

    def __init__(self, code: str, cause: str) -> None:
        super().__init__(code, cause, certain=False, retryable=True)


def libvirtd_process() -> str | None:
    """The running libvirtd, as ``<pid>.<start time>``; None when it cannot be told."""
    for file in PID_FILES:
        try:
            pid = int(file.read_text())
        except (FileNotFoundError, ValueError):
            continue
        started = start_time(pid)
        if started is not None:
            return f"{pid}.{started}"
    return None


def _lives(process: str) -> bool:
    pid, _, started = process.partition(".")
    return start_time(int(pid)) == int(started)


class Drain:
    """Tells when libvirtd has ended every call that is not one of ours in flight.

    libvirt has no question "is the call of that dead client still queued?", but its admin interface shows how
    many workers are busy. A call by somebody else only makes us wait longer.
    """

    def __init__(self, shell: Shell, calls_in_flight: Callable[[], dict[int, float]]) -> None:
        self._shell = shell
        self._calls_in_flight = calls_in_flight

    def is_over(self, holder: str | None) -> bool:
        """
        :param holder: the process that took the call (``libvirtd_process()`` at that time).
        """
        if holder is not None and not _lives(holder):
            return True  # a call ends with its process
        began = time.monotonic()
        settled = {call for call, sent in self._calls_in_flight().items() if sent < began - LOOK_EVERY_S}
        for _ in range(SAMPLES):
            busy = self._busy_workers()
            # Only our calls that surely have reached a worker, and have it still, may be counted against it.
            settled &= self._calls_in_flight().keys()
            if busy is None or busy > len(settled):
                return False
            time.sleep(SAMPLE_EVERY_S)
        return True

    def _busy_workers(self) -> int | None:
        """Workers of libvirtd that do something, and calls that wait for one; None: libvirtd does not say."""
        try:
            answer = self._shell.run(
                ["virt-admin", "-c", "libvirtd:///system", "srv-threadpool-info", "libvirtd"],
                timeout_s=ADMIN_TIMEOUT_S,
            )
        except NodeError:
            return None
        fields = {name: int(value) for name, value in _FIELD.findall(answer.stdout)}
        return fields["nWorkers"] - fields["freeWorkers"] + fields["jobQueueDepth"] + _busy_priority_workers()


def _busy_priority_workers() -> int:
    """Of the workers for calls like destroy and define the admin interface shows only how many there are.

    Idle ones all wait for the same condition, so for an address within its few bytes (proc(5), syscall); a worker
    that has anything to do waits elsewhere, or runs.
    """
    process = libvirtd_process()
    if process is None:
        return 0
    waits: list[int | None] = []
    for thread in Path(f"/proc/{process.partition('.')[0]}/task").iterdir():
        try:
            if (thread / "comm").read_text().startswith("prio-rpc-"):
                fields = (thread / "syscall").read_text().split()
                waits.append(int(fields[1], 16) if len(fields) > 1 else None)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    idle = [
        sum(other is not None and 0 <= other - first < CONDITION_BYTES for other in waits)
        for first in waits
        if first is not None
    ]
    return len(waits) - max(idle, default=0)


class Sampler:
    """Watches held objects, in one thread that lives only while there are any."""

    def __init__(self, is_over: Callable[[str | None], bool], release: Callable[[str], None]) -> None:
        self._is_over = is_over
        self._release = release
        self._held: dict[str, str | None] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def hold(self, name: str, holder: str | None) -> None:
        with self._lock:
            self._held[name] = holder
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="drain", daemon=True)
                self._thread.start()

    def holds(self, name: str) -> bool:
        with self._lock:
            return name in self._held

    def _watch(self) -> None:
        while True:
            with self._lock:
                held = dict(self._held)
                if not held:
                    self._thread = None
                    return
            for holder in set(held.values()):
                if self._looks_over(holder):
                    for name in (name for name, its in held.items() if its == holder):
                        with self._lock:
                            del self._held[name]
                        log.info("libvirtd holds no call of ours on it any more", object=name)
                        self._release(name)
            time.sleep(LOOK_EVERY_S)

    def _looks_over(self, holder: str | None) -> bool:
        """A look that fails (libvirtd ends just while /proc is read) proves nothing, and must not be the last one."""
        try:
            return self._is_over(holder)
        except Exception:
            log.exception("it could not be told whether libvirtd still holds a call")
            return False
