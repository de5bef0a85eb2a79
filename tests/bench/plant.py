"""A panel without nodes: database, Redis and settings of its own, for rows that need no hypervisor.

Its parts run as processes of ours (``python -m tests.bench.work.<part>``) in the environment of a demo's panel.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from deploy.lab import broker
from deploy.lab.client import Api
from deploy.lab.panel import Panel
from deploy.lab.processes import ROOT, Failed, wait
from deploy.lab.state import Simulation, State
from deploy.lib import postgres
from tests.bench.places import empty, free_ports


class Plant:
    def __init__(self, folder: Path) -> None:
        self.state = State(folder, free_ports())
        self.panel = Panel(self.state)
        self._open = ExitStack()

    def __enter__(self) -> "Plant":
        self.state.simulate(Simulation(0, 0, 0.0))  # so that Redis needs no network of a lab
        self.state.make_folders()
        self.panel.prepare()
        self._open.callback(broker.process(self.state).stop)
        broker.start(self.state)
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    @property
    def api(self) -> Api:
        return Api.from_credentials(self.state.credentials)

    def environment(self) -> dict[str, str]:
        return self.state.panel_environment("web")

    def work(self, part: str, **given: Any) -> Any:
        """Runs ``tests.bench.work.<part>`` to its end; the JSON of its last line."""
        argv = [sys.executable, "-m", f"tests.bench.work.{part}", json.dumps(given)]
        done = subprocess.run(argv, cwd=ROOT, env=self.environment(), capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"{part} ended with {done.returncode}", "\n".join(done.stderr.splitlines()[-5:]))
        return json.loads(done.stdout.splitlines()[-1])

    def run(self, *argv: str) -> None:
        """A process that lives until the plant is left."""
        log = self._open.enter_context((self.state.folder / "log/work.log").open("ab"))
        command = [sys.executable, *argv]
        process = subprocess.Popen(command, cwd=ROOT, env=self.environment(), stdout=log, stderr=log)
        self._open.callback(process.wait)
        self._open.callback(process.terminate)

    def run_web(self, application: str = "web.asgi:application") -> None:
        port = str(self.state.port)
        options = ["--host", "127.0.0.1", "--port", port, "--lifespan", "off", "--no-access-log"]
        self.run("-m", "uvicorn", *options, "--log-level", "warning", application)

    def wait_ready(self, *, conductor: bool) -> None:
        """``/readyz`` also asks for a conductor; without one, an answer is enough."""
        if conductor:
            wait(self.api.ready, 30, "the panel to be ready")
        else:
            wait(self._answers, 30, "the web process to answer")

    def _answers(self) -> bool:
        try:
            return self.api.request("GET", "session/").status == 200
        except OSError:
            return False


@contextmanager
def plant(folder: Path, *, with_postgres: bool = False) -> Iterator[Plant]:
    """A fresh one, on SQLite or on a PostgreSQL of its own."""
    empty(folder)
    before = os.environ.pop("DATABASE_URL", None)
    try:
        with ExitStack() as stack:
            if with_postgres:
                os.environ["DATABASE_URL"] = stack.enter_context(postgres.server(folder / "postgres.log"))
            yield stack.enter_context(Plant(folder))
    finally:
        os.environ.pop("DATABASE_URL", None)
        if before is not None:
            os.environ["DATABASE_URL"] = before
