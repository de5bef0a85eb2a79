"""Many VMs at once: where each of them would go, with the room that the others before it have been promised.

Not an operation: the parts that emptying a node, filling it again and balancing share. Planning reads only.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from django.db.models import QuerySet

from cluster import affinity, links
from cluster.models import Iso, Network, Node, Pool, Vm, VmState
from cluster.operations import start_child
from cluster.refusals import Forbidden, NotKnown, Refusal, Refused
from cluster.saga.steps import Children, Context

from . import trash
from .vm_migrate import TimeLimit
from .vm_move_plan import Candidate, MovePlanning, nodes_for_moves

MOVABLE = (VmState.RUNNING, VmState.PAUSED, VmState.STOPPED)


class MovesParams(TimeLimit):
    """What is said of every move at once."""

    auto_converge: bool = True
    """Without it a busy guest could keep its node from ever being empty."""


@dataclass
class Intended:
    """What would be done with one VM."""

    vm: Vm
    then: Literal["move", "stop", "start", "restart", "leave"]
    best: Candidate | None = None
    reasons: list[Refusal] = field(default_factory=list)

    def said(self) -> dict[str, Any]:
        target = self.best.node if self.best else None
        return {
            "vm": self.vm.pk,
            "name": self.vm.name,
            "state": self.vm.state,
            "then": self.then,
            "node": target.pk if target else None,
            "node_name": target.name if target else None,
            "copied_bytes": self.best.copied_bytes if self.best else 0,
            "takes_s": self.best.takes_s if self.best else None,
            "reasons": [reason.said() for reason in self.reasons],
        }


def vms_for_moves(which: "QuerySet[Vm] | None" = None) -> list[Vm]:
    """With all that a plan asks of each; the largest first: the small ones fit into what is left.

    :param which: None: all.
    """
    vms = (Vm.objects.all() if which is None else which).select_related("node", "started_on", "node_group")
    found = list(vms.prefetch_related("nics", "disks", "snapshots").order_by("-memory_bytes", "name"))
    nics = [nic for vm in found for nic in vm.nics.all()]
    disks = [disk for vm in found for disk in vm.disks.all()]
    _give(nics, "network", Network.objects)
    _give(disks, "pool", Pool.objects.defer("monitors", "key"))
    _give(disks, "iso", Iso.objects)
    return found


def _give(rows: Iterable[Any], name: str, kind: Any) -> None:
    """Each row what it refers to. Not as a prefetch: of more than a thousand SQLite takes no such query."""
    known = kind.in_bulk({getattr(row, name + "_id") for row in rows} - {None})
    for row in rows:
        setattr(row, name, known.get(getattr(row, name + "_id")))


class Outlook:
    """Nodes and affinity groups as a plan sees them, in memory alone: what one VM was promised is told to the next."""

    def __init__(self, vms: Iterable[Vm]) -> None:
        self.nodes = nodes_for_moves()
        self.rules = affinity.rules_of_vms([vm.pk for vm in vms])
        self.speeds = links.speeds()
        self._changes: list[Callable[[], None]] = []

    def rows(self, vm: Vm, targets: Collection[str] | None = None) -> list[Candidate]:
        """Every other node; the best of the possible ones first."""
        others = [n for n in self.nodes if n.pk != vm.node_id and (targets is None or n.pk in targets)]
        rules = self.rules.get(vm.pk, [])
        return MovePlanning(vm, nodes=others, rules=rules, speeds=self.speeds).candidates()

    def intended(self, vm: Vm, targets: Collection[str] | None = None) -> Intended:
        """To the best of them, where the VM is promised its room; or why to none."""
        rows = self.rows(vm, targets)
        if not rows or rows[0].reasons:
            return Intended(vm, "leave", reasons=_why_none(vm, rows))
        self.promise(vm, rows[0])
        return Intended(vm, "move", rows[0])

    def leave(self, vms: Iterable[Vm]) -> None:
        """All of them will move: those that belong together follow each other."""
        leaving = {vm.pk for vm in vms}
        for member in affinity.members(self.rules):
            if member.vm in leaving:
                self._set(member, holds=None)

    def release(self, vm: Vm, node: Node) -> None:
        """It leaves that node."""
        self._set(
            node,
            memory_allocated_bytes=node.memory_allocated_bytes - vm.memory_bytes,
            cpus_allocated=node.cpus_allocated - vm.vcpus,
        )

    def promise(self, vm: Vm, best: Candidate) -> None:
        node = best.node
        self._set(
            node,
            memory_allocated_bytes=node.memory_allocated_bytes + vm.memory_bytes,
            cpus_allocated=node.cpus_allocated + vm.vcpus,
        )
        for copied in best.copied:
            self._set(copied.pool, reserved_bytes=copied.pool.reserved_bytes + copied.size_bytes)
        for member in affinity.members({vm.pk: self.rules.get(vm.pk, [])}):
            if member.vm == vm.pk:
                self._set(member, places={node.pk: node.name}, holds={node.pk})

    @contextmanager
    def supposing(self) -> Iterator[None]:
        """Whatever is promised inside is forgotten at the end."""
        before = len(self._changes)
        try:
            yield
        finally:
            while len(self._changes) > before:
                self._changes.pop()()

    def _set(self, thing: Any, **values: Any) -> None:
        for name, value in values.items():
            self._changes.append(partial(setattr, thing, name, getattr(thing, name)))
            setattr(thing, name, value)


def intend(vms: Iterable[Vm], targets: Collection[str] | None = None, outlook: Outlook | None = None) -> list[Intended]:
    """
    :param targets: the only nodes that come into question, which are about to be opened; None: all but each VM's own.
    :param outlook: that knows the VMs, and is told what is promised; None: as things are.
    """
    vms = list(vms)
    outlook = outlook or Outlook(vms)
    for node in outlook.nodes:
        node.in_maintenance = node.in_maintenance and targets is None
    outlook.leave(vms)
    found = []
    for vm in vms:
        if vm.state not in MOVABLE:
            why = Refusal("state", {"vm": vm.name, "state": vm.state, "needed": list(MOVABLE)}, status=409)
            found.append(Intended(vm, "leave", reasons=[why]))
            continue
        found.append(outlook.intended(vm, targets))
    return found


def stays(rows: Iterable[Intended]) -> list[dict[str, Any]]:
    """Of which pools how much stays in use when all of them have moved."""
    moved = (row.best.copied for row in rows if row.best and row.then == "move")
    return trash.stays((one.disk, one.size_bytes) for copied in moved for one in copied)


def _why_none(vm: Vm, rows: Sequence[Candidate]) -> list[Refusal]:
    reasons = [reason for row in rows for reason in row.reasons]
    return reasons or [Refusal("no_target", {"vm": vm.name})]


def begin(context: Context[Any], more: Iterable[tuple[str, str]]) -> Any:
    """Begin all of ``data["moves"]``; what cannot begin is noted in ``data["hindered"]``, and the others go on.

    :param more: (VM, operation): ``vm.shutdown``, ``vm.start``.
    """
    options = context.params.model_dump(include=set(MovesParams.model_fields), exclude_none=True)
    wanted = [("vm.migrate", vm, {"target": node, **options}) for vm, node in context.data["moves"]]
    wanted += [(code, vm, {}) for vm, code in more]
    return begin_all(context, wanted)


def begin_all(context: Context[Any], wanted: Iterable[tuple[str, str, dict[str, Any]]]) -> Any:
    """
    :param wanted: (operation, VM, parameters).
    """
    jobs = []
    for code, vm, params in wanted:
        try:
            jobs.append(start_child(context.job, code, params, vm))
        except (Refused, Forbidden, NotKnown) as error:
            why = error.refusals[0] if isinstance(error, Refused) else Refusal("subject_gone", {"name": vm})
            context.data.setdefault("hindered", {})[vm] = why.kept()
    return Children(jobs) if jobs else None


def check(context: Context[Any], key: str) -> None:
    """Raises :class:`Refused` where a part of it could not be begun, or was not done."""
    children = context.job.children
    failed = list(children.exclude(state="succeeded").values_list("pk", flat=True))
    hindered = context.data.get("hindered", {})
    if hindered:
        why = Refusal.from_kept(next(iter(hindered.values())))
        raise Refused(Refusal("moves_hindered", {"count": len(hindered), "why": why.said()["cause"]}))
    if failed:
        facts = {"failed": len(failed), "count": children.count(), "job": failed[0]}
        raise Refused(Refusal("children_failed", facts))
