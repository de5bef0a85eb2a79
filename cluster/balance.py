"""Which VMs would have to move so that the nodes are filled alike: a plan with the gain and the cost of each move.

A node's points are the share of it that its VMs have, out of 1000, as placement counts it. The plan takes the fullest
node, and of its VMs the one whose move makes the points of all nodes most alike; then again. It moves nothing where the
fullest and the emptiest node differ by less than a threshold, nothing that moved a short while ago, nothing with which
a job is at work, and nothing for a small gain: what was balanced stays so. Reads only.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import pstdev
from typing import Any

from django.utils import timezone

from . import placement
from .models import Job, JobState, Lock, Node, NodeState, Vm, VmState
from .operations import node_moves
from .operations.node_moves import Intended, Outlook

LEAST_GAIN = 5.0
"""Points of deviation: less is not worth a move."""
MOVED_BY = ("vm.migrate",)


@dataclass(frozen=True)
class Options:
    threshold_points: int = 0
    cooldown: timedelta = timedelta(0)
    most_moves: int = 10
    copy_disks: bool = True


@dataclass
class Move:
    vm: Vm
    source: Node
    intended: Intended
    gain: float
    """By how many points the nodes deviate less."""

    def said(self) -> dict[str, Any]:
        names = {"source": self.source.pk, "source_name": self.source.name}
        return {**self.intended.said(), **names, "gain": round(self.gain, 1)}


@dataclass
class Prospect:
    before: Mapping[Node, int]
    """The points of each node that counts."""
    after: Mapping[Node, int] = field(default_factory=dict)
    moves: list[Move] = field(default_factory=list)

    @property
    def spread_before(self) -> int:
        return spread(self.before.values())

    @property
    def spread_after(self) -> int:
        return spread(self.after.values())


def spread(points: Iterable[int]) -> int:
    known = list(points)
    return max(known) - min(known) if known else 0


def plan(options: Options) -> Prospect:
    vms = node_moves.vms_for_moves(Vm.objects.filter(state__in=[VmState.RUNNING, VmState.PAUSED]))
    outlook = Outlook(vms)
    nodes = [node for node in outlook.nodes if node.state != NodeState.OFFLINE and not node.in_maintenance]
    on: dict[str, list[Vm]] = defaultdict(list)
    resting = _resting(options.cooldown)
    for vm in vms:
        if vm.pk not in resting:
            on[vm.node_id].append(vm)
    prospect = Prospect(before={node: placement.points_in_use(node) for node in nodes})
    while len(prospect.moves) < options.most_moves:
        points = {node: placement.points_in_use(node) for node in nodes}
        if spread(points.values()) <= options.threshold_points:
            break
        best = _best(outlook, points, on, options)
        if best is None:
            break
        prospect.moves.append(best)
        on[best.source.pk].remove(best.vm)
        outlook.release(best.vm, best.source)
        if best.intended.best:
            outlook.promise(best.vm, best.intended.best)
    prospect.after = {node: placement.points_in_use(node) for node in nodes}
    return prospect


def _resting(cooldown: timedelta) -> set[str]:
    """VMs that moved a short while ago, and those with which a job is at work or that it awaits."""
    done = Job.objects.filter(operation__in=MOVED_BY, state=JobState.SUCCEEDED, finished__gt=timezone.now() - cooldown)
    busy = Lock.objects.filter(name__startswith="vm:").values_list("name", flat=True)
    return {name.removeprefix("vm:") for name in [*done.values_list("subject", flat=True), *busy]}


def _best(outlook: Outlook, points: Mapping[Node, int], on: Mapping[str, list[Vm]], options: Options) -> Move | None:
    """From the fullest node from which any move is worth it."""
    mean = sum(points.values()) / len(points)
    emptier = [node.pk for node, its in points.items() if its < mean]
    before = pstdev(points.values())
    for source in sorted(points, key=lambda node: (-points[node], node.name)):
        if points[source] <= mean:
            return None
        found: list[Move] = []
        for vm in on[source.pk]:
            for row in outlook.rows(vm, emptier):
                if row.reasons or row.wishes or (row.copied_bytes and not options.copy_disks):
                    continue
                changed = {
                    source: placement.points_in_use(source, -vm.memory_bytes, -vm.vcpus),
                    row.node: placement.points_in_use(row.node, vm.memory_bytes, vm.vcpus),
                }
                gain = before - pstdev({**points, **changed}.values())
                if gain >= LEAST_GAIN:
                    found.append(Move(vm, source, Intended(vm, "move", row), gain))
        if found:
            return min(found, key=lambda move: (-round(move.gain), _copied(move), move.vm.name))
    return None


def _copied(move: Move) -> int:
    return move.intended.best.copied_bytes if move.intended.best else 0
