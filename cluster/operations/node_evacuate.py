"""Empty a node: close it, then move each VM to where there is room for it. One that fails does not stop the others.

Where each belongs is kept, so that ``node.put_back`` can return them.
"""

from collections.abc import Sequence
from typing import Any, Literal

from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from cluster import states
from cluster.models import Node, Vm, VmState
from cluster.permissions import Actor
from cluster.refusals import Refusal, Refused
from cluster.saga.steps import Context, LockName, NoUndo, Operation, Plan, Step

from . import node_moves
from .node_maintenance import locks_of, set_to
from .node_moves import Intended, MovesParams


class EvacuateParams(MovesParams):
    stopped: Literal["move", "leave"] = "move"
    """VMs that are off: their disks are copied too, where the other node does not see them."""
    cannot: Literal["refuse", "leave", "stop"] = "refuse"
    """What becomes of a VM that can go nowhere: refuse the whole, leave it as it is, or shut it down."""


class NodeEvacuate(Operation[EvacuateParams]):
    code = "node.evacuate"
    noun = "nodes"
    label = _("Evacuate")
    hint = _("its VMs move to other nodes, and it gets no new ones; they can be put back afterwards")
    icon = "arrow-bar-right"
    dialog = True
    Params = EvacuateParams

    @classmethod
    def plan(cls, actor: Actor, target: Node, params: EvacuateParams) -> Plan:
        rows = [_decided(row, params) for row in node_moves.intend(_asked(target, params))]
        refusals = []
        unmoved = [row for row in rows if row.reasons]
        if unmoved and params.cannot == "refuse":
            names = ", ".join(row.vm.name for row in unmoved)
            facts = {"node": target.name, "count": len(unmoved), "names": names}
            refusals = [Refusal("cannot_be_emptied", facts, field="cannot"), *unmoved[0].reasons]
        return Plan(
            refusals=refusals,
            moves=[row.said() for row in rows],
            stays=node_moves.stays(rows),
            data={
                "moves": [[row.vm.pk, row.best.node.pk] for row in rows if row.best and row.then == "move"],
                "stops": [row.vm.pk for row in rows if row.then == "stop"],
                "planned": [row.vm.pk for row in rows],
                "was_on": target.in_maintenance,
            },
        )

    @classmethod
    def locks(cls, context: Context[EvacuateParams]) -> Sequence[LockName]:
        return locks_of(context)

    @classmethod
    def recheck(cls, context: Context[EvacuateParams]) -> list[Refusal]:
        return []

    # The table of steps stands below the functions that it names.


def _asked(node: Node, params: EvacuateParams) -> list[Vm]:
    vms = node.vms.all()
    return node_moves.vms_for_moves(vms if params.stopped == "move" else vms.exclude(state=VmState.STOPPED))


def _decided(row: Intended, params: EvacuateParams) -> Intended:
    """A VM that can go nowhere and runs is shut down where that was asked for."""
    if row.reasons and params.cannot == "stop" and row.vm.state == VmState.RUNNING:
        row.then = "stop"
    return row


def close(context: Context[EvacuateParams], key: str) -> None:
    set_to(context.subject_id, on=True)


def open_again(context: Context[EvacuateParams], key: str) -> None:
    """Only where somebody thought better of it: one that could not be emptied stays closed, or it would fill again."""
    if context.job.error is None:
        set_to(context.subject_id, on=context.data["was_on"])


def move(context: Context[EvacuateParams], key: str) -> Any:
    for vm in context.data["stops"]:
        states.touch(vm, home=context.subject_id, starts_at_home=True)
    return node_moves.begin(context, [(vm, "vm.shutdown") for vm in context.data["stops"]])


def check(context: Context[EvacuateParams], key: str) -> None:
    """Also of those who were on their way to the node when it was closed."""
    node_moves.check(context, key)
    node = Q(node=context.subject_id) | Q(moving_to=context.subject_id)
    late = Vm.objects.filter(node).exclude(pk__in=context.data["planned"])
    if context.params.stopped == "leave":
        late = late.exclude(state=VmState.STOPPED)
    names = list(late.order_by("name").values_list("name", flat=True))
    if names:
        facts = {"node": context.job.subject_name, "count": len(names), "names": ", ".join(names)}
        raise Refused(Refusal("came_meanwhile", facts))


NodeEvacuate.steps = (
    Step("close", _("Close the node for new VMs"), do=close, undo=open_again),
    Step(
        "move",
        _("Move the VMs"),
        do=move,
        undo=NoUndo(_("what has moved stays there until it is put back")),
        tolerant=True,
    ),
    Step("check", _("See whether all have moved"), do=check, undo=NoUndo(_("it only looks"))),
)
