"""Ask a node to run its preflight again and to send a full inventory."""

from collections.abc import Sequence
from typing import Any

from django.utils.translation import gettext_lazy as _

from cluster.domain_specs import inspection
from cluster.models import Node, NodeState
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, LockName, NoParams, NoUndo, Operation, Step


def node_must_answer(node: Node) -> list[Refusal]:
    if not node.redis_password_sha256:
        return [Refusal("node_gone", {"node": node.name})]
    if node.state == NodeState.OFFLINE:
        return [Refusal("node_offline", {"node": node.name}, status=409)]
    return []


def inspect(context: Context[Any], key: str) -> Call:
    return Call(context.subject_id, inspection(Node.objects.get(pk=context.subject_id), volumes=True))


class NodeInspect(Operation[NoParams]):
    code = "node.inspect"
    noun = "nodes"
    label = _("Check again")
    icon = "refresh"
    Params = NoParams
    steps = (
        Step("inspect", _("Run the checks on the node"), do=inspect, undo=NoUndo(_("it only reads"))),
    )  # fmt: skip

    @classmethod
    def obstacles(cls, target: Node) -> list[Refusal]:
        return node_must_answer(target)

    @classmethod
    def locks(cls, context: Context[NoParams]) -> Sequence[LockName]:
        return [LockName("node:" + context.subject_id, exclusive=False)]

    @classmethod
    def recheck(cls, context: Context[NoParams]) -> list[Refusal]:
        return []
