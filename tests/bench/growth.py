"""What grows with the number of nodes: some rows of the table again, at several sizes, and a word for each.

A word comes from the power that fits the sizes (:func:`tests.bench.statistics.exponent`). Every measure is one of
which less is better, so that a larger power is always worse.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from deploy.lab.processes import Failed
from deploy.lab.simulated import SimulatedDemo
from tests.bench.bench import Bench
from tests.bench.report import markdown_table, number, text_table
from tests.bench.row import Row
from tests.bench.rows.idle import SETTLE_S, load_of
from tests.bench.rows.ingest import steady
from tests.bench.rows.jobs import jobs_of
from tests.bench.rows.lists import lists_of
from tests.bench.rows.storm import agents_return, redis_returns, wait_steady
from tests.bench.statistics import at_size, exponent, growth

CHANGES_PER_S = 200.0
EXPECTED_NODES = 1000
WINDOWS = 5
PAGE_ROUNDS = 20
PANEL = ("web", "conductor", "redis")


@dataclass
class Sizes:
    """Values of one measure, by the number of nodes."""

    values: dict[int, float]
    unit: str


class Growth:
    def __init__(self, bench: Bench, vms: int) -> None:
        self.bench, self.vms = bench, vms
        self.found: dict[str, Sizes] = defaultdict(lambda: Sizes({}, ""))
        self.failed: list[str] = []

    def size(self, nodes: int) -> None:
        for part in (self._lists, self._ingest, self._jobs, self._steady, self._cluster):
            self.bench.say(f"{nodes} nodes: {part.__name__.strip('_')}")
            try:
                part(nodes)
            except (Failed, OSError, AssertionError) as error:
                self.failed.append(f"{nodes} nodes, {part.__name__.strip('_')}: {error}")
                self.bench.say(self.failed[-1])

    def _put(self, what: str, nodes: int, value: float, unit: str) -> None:
        self.found[what].values[nodes] = value
        self.found[what].unit = unit
        self.bench.say(f"  {what}: {number(value)} {unit}")

    # --- without nodes ----------------------------------------------------------------------------------------

    def _lists(self, nodes: int) -> None:
        total = nodes * self.vms
        ways = lists_of(self.bench, (total,), nodes=nodes)[str(total)]["first"]
        self._put("list of VMs, API, first page", nodes, median(ways["api-inside"]["ours"]), "ms")
        self._put("list of VMs, page, first page", nodes, median(ways["page-inside"]["ours"]), "ms")

    def _ingest(self, nodes: int) -> None:
        with self.bench.plant() as panel:
            found = panel.work("ingest", nodes=nodes, vms=self.vms, batch=self.vms, pairs=max(3, self.bench.pairs // 4))
        thousands = found["count"] / 1000
        self._put("1,000 states into rows", nodes, median(found["ours"]) * 1000 / thousands, "ms")
        self._put("1,000 states, CPU of the conductor", nodes, median(found["cpu"]) * 1000 / thousands, "ms")

    def _jobs(self, nodes: int) -> None:
        for result in jobs_of(self.bench, nodes):
            self._put(result.row.title, nodes, result.figures["ours"].value, "ms")

    def _steady(self, nodes: int) -> None:
        row = Row("", f"conductor at {CHANGES_PER_S:.0f} changes a second, nodes that only speak", unit="% of a core")
        result = steady(self.bench, row, nodes, self.vms, CHANGES_PER_S)
        self._put(row.title, nodes, result.figures["value"].value, row.unit)

    # --- with simulated ones ------------------------------------------------------------------------------------

    def _cluster(self, nodes: int) -> None:
        with self.bench.simulated(nodes, self.vms) as demo:
            wait_steady(demo)
            self._pages(demo, nodes)
            self._load(demo, nodes, "idle")
            self._put("storm: all agents start, to steady", nodes, agents_return(demo), "s")
            self._put("storm: Redis back and empty, to steady", nodes, redis_returns(demo), "s")
            for name in demo.shares:
                demo.state.process(name).stop()
            demo.simulation = replace(demo.simulation, changes_per_s=CHANGES_PER_S)
            demo.start_nodes()
            wait_steady(demo)
            self._load(demo, nodes, f"{CHANGES_PER_S:.0f} changes a second")

    def _pages(self, demo: SimulatedDemo, nodes: int) -> None:
        for name, path in (("VMs", "vms/"), ("nodes", "nodes/")):
            self._put(
                f"list of {name}, API over HTTP, idle cluster", nodes, _median_ms(lambda p=path: demo.api.get(p)), "ms"
            )

    def _load(self, demo: SimulatedDemo, nodes: int, when: str) -> None:
        time.sleep(SETTLE_S)
        panel = [process for process in demo.processes() if process.name in PANEL]
        agents = [demo.state.process(name) for name in demo.shares]
        load = load_of(demo, [*panel, *agents], WINDOWS)
        cpu = {name: median(shares) for name, shares in load.cpu.items()}
        for name in PANEL:
            self._put(f"{name}, {when}", nodes, cpu[name], "% of a core")
        self._put(f"whole panel, {when}", nodes, sum(cpu[name] for name in PANEL), "% of a core")
        self._put(f"all agents, {when}", nodes, sum(cpu[name] for name in demo.shares), "% of a core")
        self._put(f"Redis commands, {when}", nodes, load.commands_per_s, "a second")
        if when == "idle":
            self._put("panel and Redis, memory (PSS)", nodes, sum(load.pss[name] for name in PANEL), "MiB")
            self._put("simulated agents, memory (PSS)", nodes, sum(load.pss[name] for name in demo.shares), "MiB")


def _median_ms(ask: Callable[[], Any]) -> float:
    took = []
    for _ in range(PAGE_ROUNDS):
        began = time.monotonic()
        ask()
        took.append((time.monotonic() - began) * 1000)
    return median(took)


def measure(bench: Bench, sizes: list[int], vms: int) -> tuple[list[str], dict[str, Any]]:
    """The report's parts, and the raw numbers."""
    growing = Growth(bench, vms)
    for nodes in sizes:
        growing.size(nodes)
    head = ("what", *(f"{nodes} nodes" for nodes in sizes), "power", "is", f"{EXPECTED_NODES:,} nodes, by that power")
    lines = [_line(what, found, sizes) for what, found in growing.found.items()]
    print("\n" + text_table(head, lines))
    parts = [
        f"{vms} VMs on each node. The power fits value = constant x nodes^power; up to 0.25 it is called flat, up to"
        " 1.15 linear, above that worse.",
        markdown_table(head, lines),
        *(f"Not measured: {why}" for why in growing.failed),
    ]
    raw = {what: {"unit": found.unit, "values": found.values} for what, found in growing.found.items()}
    return parts, {"growth": raw, "failed": growing.failed}


def _line(what: str, found: Sizes, sizes: list[int]) -> tuple[str, ...]:
    cells = [number(found.values[nodes]) if nodes in found.values else "–" for nodes in sizes]
    known = [nodes for nodes in sizes if nodes in found.values]
    name = f"{what}, {found.unit}"
    if len(known) < 2:
        return (name, *cells, "–", "–", "–")
    values = [found.values[nodes] for nodes in known]
    power = exponent(known, values)
    return (name, *cells, f"{power:.2f}", growth(power), number(at_size(known, values, EXPECTED_NODES)))
