"""Whether a node that does not hear the panel for a minute ends its guests that could be started elsewhere."""

from collections.abc import Sequence

from django.conf import settings
from django.db.models import F
from django.utils.translation import gettext_lazy as _

from cluster import events
from cluster.models import Node, NodeState
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, LockName, Operation, Params, Plan, Step
from nodes.contract.messages import NodeSelfFencing as Message
from nodes.contract.messages import Nothing


class SelfFencingParams(Params):
    on: bool = True


class NodeSelfFencing(Operation[SelfFencingParams]):
    code = "node.self_fencing"
    noun = "nodes"
    label = _("Self-fencing")
    hint = _("without the panel for a minute, the node itself ends guests whose disks are all in Ceph")
    icon = "shield-x"
    dialog = True
    Params = SelfFencingParams

    @classmethod
    def obstacles(cls, target: Node) -> list[Refusal]:
        if target.state == NodeState.OFFLINE:
            return [Refusal("node_offline", {"node": target.name}, status=409)]
        return []

    @classmethod
    def plan(cls, actor: Actor, target: Node, params: SelfFencingParams) -> Plan:
        return Plan(data={"was_on": target.self_fencing})

    @classmethod
    def locks(cls, context: Context[SelfFencingParams]) -> Sequence[LockName]:
        node = context.subject_id
        return [LockName("self_fencing:" + node), LockName("node:" + node, exclusive=False)]

    @classmethod
    def recheck(cls, context: Context[SelfFencingParams]) -> list[Refusal]:
        return []

    # The table of steps stands below the functions that it names.


def after_s(on: bool) -> int | None:
    """Of a node with this setting."""
    return settings.INSTALLATION.self_fencing_after_s if on else None


def change(context: Context[SelfFencingParams], key: str) -> Call:
    return Call(context.subject_id, Message(after_s=after_s(context.params.on)))


def change_back(context: Context[SelfFencingParams], key: str) -> Call:
    return Call(context.subject_id, Message(after_s=after_s(context.data["was_on"])))


def changed(context: Context[SelfFencingParams], key: str, result: Nothing) -> None:
    Node.objects.filter(pk=context.subject_id).update(self_fencing=context.params.on, version=F("version") + 1)
    events.node_changed(Node.objects.get(pk=context.subject_id))


NodeSelfFencing.steps = (Step("change", _("Change it"), do=change, undo=change_back, after=changed),)
