"""Close a node for new VMs, or open it again. Those that it has stay, and run on."""

from collections.abc import Sequence
from typing import Any

from django.db.models import F
from django.utils.translation import gettext_lazy as _

from cluster import events, reconcile
from cluster.models import Node, NodeState
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Context, LockName, Operation, Params, Plan, Step


class MaintenanceParams(Params):
    on: bool = True


class NodeMaintenance(Operation[MaintenanceParams]):
    code = "node.maintenance"
    noun = "nodes"
    label = _("Maintenance")
    hint = _("a node in maintenance gets no VM; those that it has stay and run on")
    icon = "tool"
    dialog = True
    Params = MaintenanceParams

    @classmethod
    def plan(cls, actor: Actor, target: Node, params: MaintenanceParams) -> Plan:
        refusals = [] if params.on else not_taken_back(target)
        return Plan(refusals=refusals, data={"was_on": target.in_maintenance})

    @classmethod
    def locks(cls, context: Context[MaintenanceParams]) -> Sequence[LockName]:
        return locks_of(context)

    @classmethod
    def recheck(cls, context: Context[MaintenanceParams]) -> list[Refusal]:
        return [] if context.params.on else not_taken_back(Node.objects.get(pk=context.subject_id))

    # The table of steps stands below the functions that it names.


def locks_of(context: Context[Any]) -> list[LockName]:
    """Not the node itself: moves to and from it go on, and two nodes that are emptied towards each other would wait
    for each other for ever."""
    return [LockName("maintenance:" + context.subject_id), LockName("node:" + context.subject_id, exclusive=False)]


def not_taken_back(node: Node) -> list[Refusal]:
    """One that was declared dead stays closed as long as guests of others may run on it."""
    if node.declared_dead is None:
        return []
    return [Refusal("declared_dead", {"node": node.name}, status=409)]


def set_to(node_id: str, on: bool) -> None:
    """Also while it is offline; then its state says only that."""
    node = Node.objects.get(pk=node_id)
    node.in_maintenance = on
    state = node.state if node.state == NodeState.OFFLINE else reconcile.shown_state(node)
    Node.objects.filter(pk=node_id).update(in_maintenance=on, state=state, version=F("version") + 1)
    node.refresh_from_db()
    events.node_changed(node)


def change(context: Context[MaintenanceParams], key: str) -> None:
    set_to(context.subject_id, context.params.on)


def change_back(context: Context[MaintenanceParams], key: str) -> None:
    set_to(context.subject_id, context.data["was_on"])


NodeMaintenance.steps = (Step("change", _("Change it"), do=change, undo=change_back),)
