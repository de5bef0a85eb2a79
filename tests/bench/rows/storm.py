"""All nodes return at once: how long until every node is online and the state of every VM is known.

On simulated nodes. Once their agents were killed and are started together; once Redis comes back empty, so that each
agent, its user and its stream begin anew.
"""

import time
from collections.abc import Callable, Iterator

from deploy.lab import broker
from deploy.lab.processes import Failed, wait
from deploy.lab.simulated import SimulatedDemo
from tests.bench.bench import Bench
from tests.bench.row import Result, Row, measures, single

NODES, VMS = 50, 20
ROUNDS = 3
AGENTS = Row("storm-agents", f"{NODES} nodes x {VMS} VMs: all agents start at once, to steady", unit="s")
REDIS = Row("storm-redis", f"{NODES} nodes x {VMS} VMs: Redis back and empty, to steady", unit="s")
STEADY_WITHIN_S = 300.0
LOOK_EVERY_S = 0.25


@measures(AGENTS, REDIS)
def storm(bench: Bench) -> Iterator[Result]:
    with bench.simulated(NODES, VMS) as demo:
        wait_steady(demo)
        agents = [agents_return(demo) for _ in range(ROUNDS)]
        yield single(AGENTS, agents)
        yield single(REDIS, [redis_returns(demo) for _ in range(ROUNDS)])


def agents_return(demo: SimulatedDemo) -> float:
    """Seconds from the agents' start to steady; before it, all are dead for as long as makes them offline."""
    for name in demo.shares:
        demo.state.process(name).kill()
    wait(lambda: _count(demo, "nodes/?state=offline") == demo.simulation.nodes, 60, "all nodes to be offline")
    return _timed(demo, demo.start_nodes)


def redis_returns(demo: SimulatedDemo) -> float:
    """Seconds from Redis' return, empty, to steady."""
    broker.process(demo.state).kill()
    wait(lambda: broker.process(demo.state).pid() is None, 10, "Redis to end")
    return _timed(demo, lambda: broker.restart_empty(demo.state))


def _timed(demo: SimulatedDemo, bring_back: Callable[[], None]) -> float:
    began = time.monotonic()
    bring_back()
    wait_steady(demo)
    return time.monotonic() - began


def wait_steady(demo: SimulatedDemo) -> None:
    """Every agent waits for messages, every node is online, and no VM's state is unknown."""
    deadline = time.monotonic() + STEADY_WITHIN_S
    while not _is_steady(demo):
        if time.monotonic() > deadline:
            raise Failed(f"not steady after {STEADY_WITHIN_S:g} s", f"logs: {demo.state.folder / 'log'}")
        time.sleep(LOOK_EVERY_S)


def _is_steady(demo: SimulatedDemo) -> bool:
    try:
        return (
            len(broker.listening(demo.state)) >= demo.simulation.nodes
            and not _any(demo, "nodes/?state=offline")
            and not _any(demo, "vms/?state=unknown")
        )
    except (OSError, Failed):
        return False  # the panel or Redis is not yet back


def _any(demo: SimulatedDemo, path: str) -> bool:
    return bool(demo.api.get(f"{path}&page_size=1")["results"])


def _count(demo: SimulatedDemo, path: str) -> int:
    return len(demo.api.all(f"{path}&page_size=500"))
