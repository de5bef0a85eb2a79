"""The real agent as a process of its own, over a real Redis and libvirt's test driver."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodes.contract import messages as m
from nodes.contract.specs import PoolSpec
from nodes.storage.directory import IDENTITY_FILE
from tests.agent.panel import NODE, PASSWORD, PATIENCE_S, Panel

ROOT = Path(__file__).parents[2]
PORTS = range(16410, 16500)


def free_port() -> int:
    for port in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("every port of the range is taken")


@contextmanager
def a_folder() -> Iterator[Path]:
    """On a disk: a memory file system may have no user xattrs."""
    path = Path(tempfile.mkdtemp(prefix="ulei-agent-", dir="/var/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def folder() -> Iterator[Path]:
    with a_folder() as path:
        yield path


class Redis:
    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        raise RuntimeError("redis-server did not start")

    def stop(self) -> None:
        assert self._process
        self._process.kill()
        self._process.wait()


@contextmanager
def a_redis(folder: Path) -> Iterator[Redis]:
    server = Redis(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def redis_server(folder: Path) -> Iterator[Redis]:
    with a_redis(folder) as server:
        yield server


@pytest.fixture
def panel(redis_server: Redis) -> Panel:
    return Panel(redis_server.port)


class Agent:
    """A node's agent; ``start`` after ``kill`` is the next incarnation on the same node."""

    def __init__(self, folder: Path, redis_port: int, panel: Panel) -> None:
        self.folder = folder
        self.images = folder / "images"
        self.isos = folder / "isos"
        self.state = folder / "state"
        self.faults = folder / "faults"
        self.panel = panel
        self._process: subprocess.Popen[bytes] | None = None
        for path in (self.images, self.isos, self.state, self.faults):
            path.mkdir()
        (self.state / "redis.password").write_text(PASSWORD)
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "ULEI_FAULTS": str(self.faults),
            "ULEI_NODE_CONFIG": str(folder / "node.toml"),
            "ULEI_NODE_ID": NODE,
            "ULEI_NODE_NAME": "n1",
            "ULEI_NODE_REDIS_HOST": "127.0.0.1",
            "ULEI_NODE_REDIS_PORT": str(redis_port),
            "ULEI_NODE_REDIS_TLS": "false",
            "ULEI_NODE_LIBVIRT_URI": "test:///default",
            "ULEI_NODE_IMAGES_DIR": str(self.images),
            "ULEI_NODE_ISOS_DIR": str(self.isos),
            "ULEI_NODE_STATE_DIR": str(self.state),
            "ULEI_NODE_RUN_DIR": str(folder / "run"),
            "ULEI_NODE_CONSOLE_LOG_DIR": str(folder),
            "ULEI_NODE_PKI_DIR": str(folder / "pki"),
        }

    def start(self) -> None:
        with (self.folder / "agent.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "nodes.cli", "run"], env=self.environment, stdout=log, stderr=log, cwd=ROOT
            )

    def up(self, **welcome: object) -> m.Hello:
        """Start, and be welcomed."""
        self.start()
        return self.panel.welcome(**welcome)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def terminate(self) -> int:
        assert self._process
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=PATIENCE_S)

    def arm(self, point: str, action: str = "kill") -> None:
        (self.faults / point).write_text(action)

    def await_point(self, point: str) -> None:
        """It holds at an armed point."""
        deadline = time.monotonic() + PATIENCE_S
        while not self._reached(point).exists():
            assert time.monotonic() < deadline, f"{point} was not reached"
            time.sleep(0.005)

    def let_go(self, point: str) -> None:
        self._reached(point).unlink()

    def _reached(self, point: str) -> Path:
        return self.faults / f"{point}.reached"

    def await_death(self) -> None:
        """It has killed itself at an armed point."""
        assert self._process
        assert self._process.wait(timeout=PATIENCE_S) == -signal.SIGKILL

    def run(self, *arguments: str) -> str:
        """Another command of ulei-node on the same node."""
        return subprocess.run(
            [sys.executable, "-m", "nodes.cli", *arguments],
            env=self.environment,
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def empty(self) -> None:
        """Nothing is left in its folders, so that the next test begins anew."""
        for file in [*self.images.iterdir(), *self.isos.iterdir()]:
            if file.name != IDENTITY_FILE:
                file.unlink()

    @property
    def pool(self) -> PoolSpec:
        identity = (self.images / IDENTITY_FILE).read_text().strip()
        return PoolSpec(id="p" * 13, kind="directory", identity=identity, path=str(self.images))


@contextmanager
def a_node(folder: Path, redis: Redis, panel: Panel) -> Iterator[Agent]:
    agent = Agent(folder, redis.port, panel)
    try:
        yield agent
    finally:
        # Also of a test that failed: left alive, it would take what the next one sends to the same port.
        agent.kill()


@pytest.fixture
def node(folder: Path, redis_server: Redis, panel: Panel) -> Iterator[Agent]:
    with a_node(folder, redis_server, panel) as agent:
        yield agent


@pytest.fixture
def agent(node: Agent) -> Agent:
    """A node whose agent runs and was welcomed."""
    node.up()
    return node


@pytest.fixture(scope="module")
def shared_agent() -> Iterator[Agent]:
    """One for all tests of a module that leave nothing behind; its panel is its own."""
    with a_folder() as folder, a_redis(folder) as server, a_node(folder, server, Panel(server.port)) as node:
        node.up()
        yield node
