"""After a maintenance: open the node, and return to it the VMs that were moved away for it, as they were."""

from collections.abc import Sequence
from typing import Any

from django.utils.translation import gettext_lazy as _

from cluster import states
from cluster.models import Node, NodeState, Vm, VmState
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Context, LockName, NoUndo, Operation, Plan, Step

from . import node_moves
from .node_maintenance import locks_of, not_taken_back, set_to
from .node_moves import Intended, MovesParams


class NodePutBack(Operation[MovesParams]):
    code = "node.put_back"
    noun = "nodes"
    label = _("Put its VMs back")
    hint = _("the node is open again, and the VMs that were moved away for its maintenance return to it")
    icon = "arrow-bar-to-left"
    dialog = True
    Params = MovesParams

    @classmethod
    def obstacles(cls, target: Node) -> list[Refusal]:
        reasons = not_taken_back(target)
        if target.state == NodeState.OFFLINE:
            reasons.append(Refusal("node_offline", {"node": target.name}, status=409))
        if not target.in_maintenance and not target.away.exists():
            reasons.append(Refusal("nothing_to_put_back", {"node": target.name}, status=409))
        return reasons

    @classmethod
    def plan(cls, actor: Actor, target: Node, params: MovesParams) -> Plan:
        away = node_moves.vms_for_moves(target.away.all())
        here = [vm for vm in away if vm.node_id == target.pk]
        rows = node_moves.intend([vm for vm in away if vm.node_id != target.pk], targets=[target.pk])
        rows += [Intended(vm, "start") for vm in here if vm.starts_at_home and vm.state == VmState.STOPPED]
        return Plan(
            moves=[row.said() for row in rows],
            stays=node_moves.stays(rows),
            data={
                "moves": [[row.vm.pk, target.pk] for row in rows if row.then == "move"],
                "starts": [row.vm.pk for row in rows if row.then == "start"],
                "was_on": target.in_maintenance,
            },
        )

    @classmethod
    def locks(cls, context: Context[MovesParams]) -> Sequence[LockName]:
        return locks_of(context)

    @classmethod
    def recheck(cls, context: Context[MovesParams]) -> list[Refusal]:
        return cls.obstacles(Node.objects.get(pk=context.subject_id))

    # The table of steps stands below the functions that it names.


def open_node(context: Context[MovesParams], key: str) -> None:
    set_to(context.subject_id, on=False)


def close_again(context: Context[MovesParams], key: str) -> None:
    if context.job.error is None:
        set_to(context.subject_id, on=context.data["was_on"])


def move(context: Context[MovesParams], key: str) -> Any:
    return node_moves.begin(context, [(vm, "vm.start") for vm in context.data["starts"]])


def check(context: Context[MovesParams], key: str) -> None:
    for vm in Vm.objects.filter(home=context.subject_id, node=context.subject_id).exclude(state=VmState.STOPPED):
        states.touch(vm.pk, home=None, starts_at_home=False)
    node_moves.check(context, key)


NodePutBack.steps = (
    Step("open", _("Open the node"), do=open_node, undo=close_again),
    Step(
        "move",
        _("Return the VMs"),
        do=move,
        undo=NoUndo(_("what has returned stays")),
        tolerant=True,
    ),
    Step("check", _("See whether all have returned"), do=check, undo=NoUndo(_("it only looks"))),
)
