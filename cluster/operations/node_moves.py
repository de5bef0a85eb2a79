"""Many VMs at once: where each of them would go, with the room that the others before it have been promised.

Not an operation: the parts that emptying a node, filling it again and balancing share. Planning reads only.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from django.db.models import QuerySet

from cluster.models import Vm, VmState
from cluster.operations import start_child
from cluster.refusals import Forbidden, NotKnown, Refusal, Refused
from cluster.saga.steps import Children, Context

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
            "reasons": [reason.said() for reason in self.reasons],
        }


def all_vms() -> "QuerySet[Vm]":
    """With all that a plan asks of each; the largest first: the small ones fit into what is left."""
    vms = Vm.objects.select_related("node").prefetch_related("nics__network", "disks__pool", "disks__iso")
    return vms.order_by("-memory_bytes", "name")


def intend(vms: Iterable[Vm], targets: Collection[str] | None = None) -> list[Intended]:
    """
    :param targets: the only nodes that come into question, which are about to be opened; None: all but each VM's own.
    """
    nodes = list(nodes_for_moves())
    for node in nodes:
        node.in_maintenance = node.in_maintenance and targets is None
    found = []
    for vm in vms:
        if vm.state not in MOVABLE:
            why = Refusal("state", {"vm": vm.name, "state": vm.state, "needed": list(MOVABLE)}, status=409)
            found.append(Intended(vm, "leave", reasons=[why]))
            continue
        others = [n for n in nodes if n.pk != vm.node_id and (targets is None or n.pk in targets)]
        rows = MovePlanning(vm, nodes=others).candidates()
        if rows and not rows[0].reasons:
            _promise(rows[0], vm)
            found.append(Intended(vm, "move", rows[0]))
        else:
            found.append(Intended(vm, "leave", reasons=_why_none(vm, rows)))
    return found


def _promise(best: Candidate, vm: Vm) -> None:
    """In memory alone: what the next one is told of the room that is left."""
    best.node.memory_allocated_bytes += vm.memory_bytes
    for copied in best.copied:
        copied.pool.reserved_bytes += copied.size_bytes


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
