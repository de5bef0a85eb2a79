"""What every measurement is given: how many pairs, where to put its state, and parts that are started when needed."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path

from deploy.lab.demo import Demo
from deploy.lab.processes import ROOT, wait
from deploy.lab.simulated import SimulatedDemo
from deploy.lab.state import Simulation, State
from tests.bench.caller import Caller, Listener
from tests.bench.places import free_ports
from tests.bench.plant import Plant, plant
from tests.lab.conftest import Lab

QUIET_SHARE = 0.85
"""So much of all cores' time must be idle before something is measured."""
QUIET_FOR_S = 0.1
QUIET_WITHIN_S = 15.0


class Bench:
    def __init__(self, pairs: int, folder: Path, with_postgres: bool = False) -> None:
        self.pairs, self.folder, self.with_postgres = pairs, folder, with_postgres
        self.noisy = 0
        """Measurements that began on a machine that did not become quiet."""
        self._open = ExitStack()
        os.environ.setdefault("ULEI_CACHE", str(ROOT / "var/cache"))

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def say(self, text: str) -> None:
        print(text, flush=True)

    @cached_property
    def lab(self) -> Lab:
        """Two real nodes, with nothing in the processes that serves only tests."""
        left_over = Demo(State(self.folder / "lab", free_ports()), quiet=True)
        left_over.stop()
        left_over.forget()
        demo = Demo(left_over.state, quiet=True)  # without the nodes that were left over
        self._open.callback(demo.stop)
        demo.start(first_vm=False)
        lab = Lab(demo)
        for name in demo.nodes:
            wait(lambda node=name: lab.may_create_on(node), 30, f"{name} to show its images")
        return lab

    def end_lab(self) -> None:
        """Its two agents and their guests must not be a part of what needs no lab."""
        self._open.close()
        for part in ("lab", "caller", "listener"):
            self.__dict__.pop(part, None)

    @contextmanager
    def plant(self, database: str = "") -> Iterator[Plant]:
        """A panel without nodes; ``database`` empty: on SQLite."""
        self.end_lab()
        with plant(self.folder / "plant", with_postgres=bool(database)) as panel:
            yield panel

    @contextmanager
    def simulated(self, nodes: int, vms: int, changes_per_s: float = 0.0) -> Iterator[SimulatedDemo]:
        """A cluster of simulated nodes, fresh."""
        self.end_lab()
        state = State(self.folder / "simulated", free_ports())
        if state.simulation:
            SimulatedDemo(state, state.simulation, quiet=True).stop()
        demo = SimulatedDemo(state, Simulation(nodes, vms, changes_per_s), quiet=True)
        demo.forget()
        try:
            demo.start(first_vm=False)
            yield demo
        finally:
            demo.stop()

    def settle_on(self, node: str) -> None:
        """One guest more, switched off, on this node of the lab: on an empty node each first NIC starts a DHCP server
        and each last one ends it, which is not what a node in use does."""
        body = self.lab.vm_body(f"neighbour-{node}", node=self.lab.node_id(node))
        self.lab.api.do("vms/", {**body, "start": False})

    @cached_property
    def caller(self) -> Caller:
        return Caller(self.lab.api)

    @cached_property
    def listener(self) -> Listener:
        return self._open.enter_context(Listener(self.lab.api, ["vms", "jobs"]))

    def wait_quiet(self) -> None:
        """Until the machine has nothing to do: a guest that boots must not be a part of the next measurement."""
        if not is_quiet(QUIET_WITHIN_S):
            self.noisy += 1


def is_quiet(seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        before = _ticks()
        time.sleep(QUIET_FOR_S)
        idle, every = (now - then for now, then in zip(_ticks(), before, strict=True))
        if idle >= QUIET_SHARE * every:
            return True
    return False


def _ticks() -> tuple[int, int]:
    """(idle, all) clock ticks of all cores since the boot."""
    words = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    numbers = [int(word) for word in words]
    return numbers[3] + numbers[4], sum(numbers[:8])
