"""What tests of moves have in common."""

import itertools
import re
from contextlib import suppress
from typing import Any

from deploy.lab.demo import PATIENCE_S
from deploy.lab.faults import Watch
from deploy.lab.processes import wait
from tests.lab.conftest import MIB, Lab, console

DISKS = [{"size_bytes": 128 * MIB}, {"size_bytes": 64 * MIB}]
TICK = re.compile(r"^tick (\d+)\s*$", re.MULTILINE)


class Ticks(Watch):
    """Reads all the time what the guest says on each node: it counts seconds, so no number may come from two nodes."""

    def __init__(self, lab: Lab, vm: str) -> None:
        super().__init__()
        self._lab, self._vm = lab, vm
        self.seen: dict[str, set[int]] = {name: set() for name in lab.nodes}

    def look(self) -> None:
        for name, node in self._lab.nodes.items():
            # The old node removes what its guest said when that has gone.
            with suppress(FileNotFoundError):
                self.seen[name] |= {int(number) for number in TICK.findall(console(node, self._vm))}

    def last(self, name: str) -> int:
        self.look()
        return max(self.seen[name], default=0)

    def wait_for_more(self, name: str) -> None:
        before = self.last(name)
        wait(lambda: self.last(name) > before, PATIENCE_S, f"the guest to go on on {name}")

    @property
    def from_two_nodes(self) -> set[int]:
        pairs = itertools.combinations(self.seen.values(), 2)
        return {tick for one, other in pairs for tick in one & other}


def migrate(lab: Lab, vm: str, target: str, **options: Any) -> str:
    return lab.api.post(f"vms/{vm}/migrate/", {"target": lab.node_id(target), **options})["job"]["id"]


def step_of(job: dict[str, Any], name: str) -> dict[str, Any]:
    return next(step for step in job["steps"] if step["name"] == name)


def wait_under_way(lab: Lab, job: str, *, disks: bool = False) -> dict[str, Any]:
    """Until the other node has got some of its memory, which comes when its disks are there.

    :param disks: until it has got some of them instead.
    """

    def under_way() -> dict[str, Any] | None:
        step = step_of(lab.api.job(job), "move")
        memory, disk = (step["facts"].get(name) for name in ("memory_left_bytes", "disk_left_bytes"))
        return step if step["state"] == "running" and (disk and not memory if disks else memory) else None

    return wait(under_way, PATIENCE_S, "the move to be under way")
