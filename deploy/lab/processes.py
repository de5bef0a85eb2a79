"""The one place that starts and ends processes of a demo. It ends only what it started."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from deploy.lab.spawn import start_time

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]


class Failed(Exception):
    """A step failed: ``what``, and ``hint`` with what to do next."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what if not hint else f"{what}\n  {hint}")
        self.what, self.hint = what, hint


def wait(condition: Callable[[], T | None], seconds: float, what: str, hint: str = "") -> T:
    """The first true answer of ``condition``; looks every 20 ms, then every 100 ms, and gives up after ``seconds``."""
    began = time.monotonic()
    while True:
        answer = condition()
        if answer:
            return answer
        waited = time.monotonic() - began
        if waited > seconds:
            raise Failed(f"waited {seconds:g} s in vain: {what}", hint)
        time.sleep(0.02 if waited < 2 else 0.1)


def run(*argv: str, check: bool = True, **options) -> subprocess.CompletedProcess[str]:
    """A short command with its output captured; its own words are in the failure."""
    done = subprocess.run(argv, capture_output=True, text=True, **options)
    if check and done.returncode:
        raise Failed(f"{' '.join(argv[:6])}: {(done.stderr or done.stdout).strip() or done.returncode}")
    return done


@dataclass(frozen=True)
class Process:
    """A detached process, known by its pid file: ``<pid> <start time>``."""

    name: str
    pid_file: Path
    log: Path

    def start(self, argv: Sequence[str], env: Mapping[str, str], inside: int | None = None) -> int:
        """Starts it (in the namespaces of the process ``inside``) unless it runs; answers its pid."""
        pid = self.pid()
        if pid is not None:
            return pid
        for folder in (self.pid_file.parent, self.log.parent):
            folder.mkdir(parents=True, exist_ok=True)
        spawn = [sys.executable, "-m", "deploy.lab.spawn", str(self.pid_file), str(self.log)]
        spawn += [] if inside is None else ["--in", str(inside)]
        done = subprocess.run([*spawn, "--", *argv], cwd=ROOT, env=dict(env), capture_output=True, text=True)
        pid = self.pid()
        if done.returncode or pid is None:
            raise Failed(f"{self.name} did not start: {done.stderr.strip() or 'it ended at once'}", f"see {self.log}")
        return pid

    def remember(self, pid: int) -> None:
        """Takes over a process that a started one has made for us."""
        self.pid_file.write_text(f"{pid} {start_time(pid)}\n")

    def pid(self) -> int | None:
        """Its pid while it lives, else None."""
        try:
            pid, started = self.pid_file.read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        return int(pid) if started != "None" and start_time(int(pid)) == int(started) else None

    def signal(self, number: signal.Signals) -> bool:
        pid = self.pid()
        if pid is None:
            return False
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True

    def stop(self, seconds: float = 10.0) -> None:
        """SIGTERM, and SIGKILL if it still lives after ``seconds``."""
        if self.signal(signal.SIGTERM):
            self.signal(signal.SIGCONT)
            try:
                wait(lambda: self.pid() is None, seconds, f"{self.name} to end")
            except Failed:
                self.kill()

    def kill(self) -> None:
        """SIGKILL, as if its power had gone; returns when it is gone."""
        if self.signal(signal.SIGKILL):
            wait(lambda: self.pid() is None, 10, f"{self.name} to die")

    def last_lines(self, count: int = 15) -> str:
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])
        except FileNotFoundError:
            return ""
