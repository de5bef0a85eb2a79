"""One run of a verb: how it reports, how it is stopped, and what it leaves for the ledger."""

import threading
import time
from collections.abc import Callable

from nodes.ledger import WantedChange
from nodes.shell import Cancellation

PROGRESS_EVERY_S = 0.5


class Run:
    def __init__(self, number: int, *, repeats: bool, report: Callable[[int, dict[str, int]], None]) -> None:
        """
        :param repeats: the effect may have happened already; a cancel cannot stop this run.
        :param report: sends a percentage to the panel, and facts beside it.
        """
        self.number = number
        self.repeats = repeats
        self.cancellation = Cancellation()
        self.wanted: WantedChange | None = None
        """Law 5's note, written in the same transaction as the reply, and only if the verb was done."""
        self.holder: str | None = None
        """The libvirtd to which its calls go, as ``drain.libvirtd_process()`` names it."""
        self._report = report
        self._reported = float("-inf")
        self._lock = threading.Lock()

    def progress(self, percent: int, facts: dict[str, int] | None = None) -> None:
        """Say how far it is, at most twice a second."""
        with self._lock:
            now = time.monotonic()
            if now - self._reported < PROGRESS_EVERY_S:
                return
            self._reported = now
        self._report(percent, facts or {})
