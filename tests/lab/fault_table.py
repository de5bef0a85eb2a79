"""The fault table: who is struck, where, and while the job goes which way.

One row of ``POINTS`` is one process and the named points that it comes by (nodes/contract/faults.py) in a create or
a delete; every part of ``PARTS`` is struck at every one of them.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Literal

Way = Literal["forward", "cancel", "undo"]

VERBS = {
    "vm.create": ["disk.create", "nic.plug", "domain.define", "domain.start"],
    "vm.delete": ["domain.stop", "domain.undefine", "disk.delete", "nic.unplug"],
}
UNDO_VERBS = {
    "vm.create": ["domain.stop", "domain.undefine", "nic.unplug", "disk.delete"],
    "vm.delete": ["domain.define", "domain.start"],
}
# A cancel at this verb turns the job round as late as it can be.
CANCELLED_AT = {"vm.create": "domain.start", "vm.delete": "domain.undefine"}

PAST_PIVOT = {"vm.create": [], "vm.delete": ["nic.unplug"]}

AT_A_VERB = ["agent.taken", "agent.started-written", "agent.effect-done", "agent.reply-written", "agent.reply-sent"]
AT_A_CALL = ["domain.before-call", "domain.after-call"]
IN_A_VOLUME = {
    "vm.create": ["disk.marked", "disk.part-made", "disk.linked", "disk.unlinked"],
    "vm.delete": ["disk.unlinked"],
}
OF_THE_CONDUCTOR = ["conductor.read", "conductor.before-store", "conductor.after-store"]
OF_THE_ENGINE = ["engine.before-commit", "engine.after-commit"]
OF_WEB = ["start.before-commit", "start.after-commit"]
# Passages of the conductor, counted from the request; a create and a delete have at least these many.
TIMES = range(1, 5)
IN_A_TRANSACTION = ("conductor.before-store", "engine.before-commit")

PARTS = ["agent", "libvirtd", "redis", "redis empty", "conductor", "web", "node"]
ONE_OF_TWO = "one of two conductors"
BESIDE_TWO = "agent, two conductors"


@dataclass(frozen=True)
class Case:
    """``part`` is struck when ``holder`` comes by the point for the ``times``-th time.

    ``way`` "cancel": a person cancels at that moment, and then the part dies, if one is named. "undo": the job has
    been cancelled before, and the point is one of its way back.
    """

    operation: str
    way: Way
    part: str
    holder: str
    point: str
    detail: str = ""
    times: int = 1

    @property
    def where(self) -> str:
        times = f" #{self.times}" if self.times > 1 else ""
        return f"{self.point} {self.detail}".strip() + times

    @property
    def is_past_pivot(self) -> bool:
        return self.detail in PAST_PIVOT[self.operation]

    def __str__(self) -> str:
        return f"{self.operation} {self.way}: {self.part or 'nothing'} at {self.where}"


def agent_points(operation: str, verbs: list[str]) -> Iterator[tuple[str, str]]:
    yield from ((point, verb) for verb in verbs for point in AT_A_VERB)
    yield from ((point, verb) for verb in verbs if verb.startswith("domain.") for point in AT_A_CALL)


def cases() -> list[Case]:
    found: list[Case] = []
    for operation, verbs in VERBS.items():
        inside = [(point, "") for point in IN_A_VOLUME[operation]]
        points = [*agent_points(operation, verbs), *inside]
        # The hello of an agent that was killed at this verb.
        hello = [("agent.hello", verb) for verb in verbs]
        found += [Case(operation, "forward", part, "agent", *at) for part in PARTS for at in [*points, *hello]]
        found += [Case(operation, "forward", BESIDE_TWO, "agent", *at) for at in points]
        for point in [*OF_THE_CONDUCTOR, *OF_THE_ENGINE]:
            detail = operation if point in OF_THE_ENGINE else ""
            for part in [*PARTS, ONE_OF_TWO]:
                found += [Case(operation, "forward", part, "conductor", point, detail, times) for times in TIMES]
        found += [Case(operation, "forward", part, "web", point, operation) for part in PARTS for point in OF_WEB]
        found += [Case(operation, "cancel", part, "agent", *at) for part in ("", "agent") for at in points]
        back = [(point, verb) for verb in UNDO_VERBS[operation] for point in AT_A_VERB]
        found += [Case(operation, "undo", part, "agent", *at) for part in PARTS for at in back]
    return found


def chosen(count: int | None, seed: int) -> list[Case]:
    """All cases, or so many of every way; shuffled, with creates and deletes in turn, so that a run that is broken
    off has seen a bit of everything, and a delete finds the VM of the create before it."""
    order = random.Random(seed)
    every = cases()
    order.shuffle(every)
    if count is not None:
        shares = {"cancel": count // 4, "undo": count // 4, "forward": count - count // 4 * 2}
        every = [case for way, share in shares.items() for case in [c for c in every if c.way == way][:share]]
    creates = [case for case in every if case.operation == "vm.create"]
    deletes = [case for case in every if case.operation == "vm.delete"]
    return [case for case in chain.from_iterable(zip_longest(creates, deletes)) if case is not None]
