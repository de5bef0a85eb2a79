"""What the panel and an agent take while nothing happens: processor, memory, Redis commands."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from deploy.lab.demo import Demo
from deploy.lab.processes import Process
from tests.bench.bench import Bench
from tests.bench.processes import living, memory_mib, redis_commands, shares_of_a_core
from tests.bench.row import Result, Row, measures, single
from tests.bench.statistics import Limit

WINDOWS, WINDOW_S = 10, 3.0
"""A window is a heartbeat."""
SETTLE_S = 5.0
PARTS = {"n2.agent": "agent", "conductor": "conductor", "web": "web", "redis": "Redis"}
GOALS = {"n2.agent": ((Limit("value", 0.2),), (Limit("value", 60),))}

CPU = {
    part: Row(f"idle-cpu-{said.lower()}", f"{said}, idle", unit="% of a core", goal=GOALS.get(part, ((), ()))[0])
    for part, said in PARTS.items()
}
MEMORY = {
    part: Row(f"idle-memory-{said.lower()}", f"{said}, memory (PSS)", unit="MiB", goal=GOALS.get(part, ((), ()))[1])
    for part, said in PARTS.items()
}
REDIS = Row("idle-redis", "Redis commands, 2 agents and the panel, idle", unit="a second")


@dataclass(frozen=True)
class Load:
    """What some processes took over the windows."""

    cpu: dict[str, list[float]]
    """Per cent of a core."""
    pss: dict[str, float]
    """MiB."""
    rss: dict[str, float]
    commands_per_s: float
    by_command: str


@measures(*CPU.values(), *MEMORY.values(), REDIS)
def idle(bench: Bench) -> Iterator[Result]:
    demo = bench.lab.demo
    time.sleep(SETTLE_S)
    load = load_of(demo, [process for process in demo.processes() if process.name in PARTS])
    for part in PARTS:
        yield single(CPU[part], load.cpu[part])
    for part in PARTS:
        yield single(MEMORY[part], [load.pss[part]], f"RSS {load.rss[part]:.0f} MiB")
    yield single(REDIS, [load.commands_per_s], load.by_command)


def load_of(demo: Demo, processes: list[Process], windows: int = WINDOWS) -> Load:
    pids = living(processes)
    before, began = redis_commands(demo.state), time.monotonic()
    cpu = shares_of_a_core(pids, windows, WINDOW_S)
    took = time.monotonic() - began
    calls = {name: count - before.get(name, 0) for name, count in redis_commands(demo.state).items()}
    most = sorted((name for name in calls if calls[name]), key=lambda name: -calls[name])[:6]
    memory = {name: memory_mib(pid) for name, pid in pids.items()}
    return Load(
        cpu,
        {name: pss for name, (_, pss) in memory.items()},
        {name: rss for name, (rss, _) in memory.items()},
        sum(calls.values()) / took,
        ", ".join(f"{name} {calls[name] / took:.2f}" for name in most),
    )
