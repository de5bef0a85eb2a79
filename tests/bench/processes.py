"""What processes take of the machine, from /proc: processor time by the scheduler's own count, and memory."""

import contextlib
import time
from pathlib import Path

from deploy.lab import broker
from deploy.lab.processes import Process
from deploy.lab.state import State

MIB = 2**20


def cpu_s(pid: int) -> float:
    """Seconds on a processor, of all its threads that live."""
    nanoseconds = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            nanoseconds += int((thread / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def memory_mib(pid: int) -> tuple[float, float]:
    """(RSS, PSS): with all shared pages, and with its share of them."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("Rss", "Pss"):
            found[name] = int(rest.split()[0]) * 1024 / MIB
    return found["Rss"], found["Pss"]


def shares_of_a_core(pids: dict[str, int], windows: int, window_s: float) -> dict[str, list[float]]:
    """Per cent of one core, a sample a window."""
    found: dict[str, list[float]] = {name: [] for name in pids}
    for _ in range(windows):
        before = {name: cpu_s(pid) for name, pid in pids.items()}
        began = time.monotonic()
        time.sleep(window_s)
        took = time.monotonic() - began
        for name, pid in pids.items():
            found[name].append((cpu_s(pid) - before[name]) / took * 100)
    return found


def redis_commands(state: State) -> dict[str, int]:
    """Calls so far, by command; what asks this question is in it too."""
    found = {}
    for line in broker.cli(state, "INFO", "commandstats").splitlines():
        name, _, rest = line.partition(":")
        if name.startswith("cmdstat_"):
            found[name.removeprefix("cmdstat_")] = int(rest.partition("calls=")[2].partition(",")[0])
    return found


def living(processes: list[Process]) -> dict[str, int]:
    """Pids by name."""
    return {process.name: pid for process in processes if (pid := process.pid()) is not None}
