"""Moments at named points (nodes/contract/faults.py, ``note``) of a lab's processes."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.lab import broker
from deploy.lab.processes import wait
from tests.lab.conftest import Lab


@dataclass(frozen=True, order=True)
class Note:
    at: float
    """Monotonic seconds."""
    point: str
    detail: str = ""


class Notes:
    """What some processes have noted; they are started anew for it, and again when it is over."""

    def __init__(self, lab: Lab, processes: list[str], points: list[str]) -> None:
        self.lab, self.processes, self.points = lab, processes, points

    def folder(self, process: str) -> Path:
        return self.lab.demo.state.faults_of(process)

    @contextmanager
    def taken(self) -> Iterator["Notes"]:
        for process in self.processes:
            shutil.rmtree(self.folder(process), ignore_errors=True)
            self.folder(process).mkdir(parents=True)
            for point in self.points:
                (self.folder(process) / point).write_text("note")
            self._restart(process, ULEI_FAULTS=str(self.folder(process)))
        try:
            yield self
        finally:
            for process in self.processes:
                self._restart(process)

    def read(self, since: float = 0.0) -> list[Note]:
        """In the order of their moments."""
        notes = []
        for process in self.processes:
            file = self.folder(process) / "notes"
            for line in file.read_text().splitlines() if file.exists() else []:
                at, _, name = line.partition(" ")
                point, _, detail = name.partition(":")
                if float(at) >= since:
                    notes.append(Note(float(at), point, detail))
        return sorted(notes)

    def wait_for(self, point: str, since: float, seconds: float = 10.0) -> Note:
        def there() -> Note | None:
            return next((note for note in self.read(since) if note.point == point), None)

        return wait(there, seconds, f"the point {point} to be passed")

    def _restart(self, name: str, **extra: str) -> None:
        demo = self.lab.demo
        node, _, part = name.partition(".")
        if part == "agent":
            demo.nodes[node].agent.stop()
            demo.nodes[node].start_agent(**extra)
            node_id = self.lab.node_id(node)
            wait(lambda: node_id in broker.listening(demo.state), 30, f"the agent of {node} to wait for messages")
        else:
            demo.panel.process(name).stop()
            demo.panel.start(name, **extra)
            wait(demo.api.ready, 30, "the panel to be ready")
