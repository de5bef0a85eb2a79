"""A harmless operation that waits for a click: it stays in the product to show the engine, and to try it out.

It leaves a small file on a node, waits, and takes the file away again.
"""

from collections.abc import Sequence
from typing import Any

from django.utils.translation import gettext_lazy as _

from cluster.models import Node
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, LockName, NoParams, NoUndo, Operation, Step, WaitForClick
from nodes.contract.messages import DemoMark, DemoUnmark

from .node_inspect import node_must_answer


def put(context: Context[Any], key: str) -> Call:
    return Call(context.subject_id, DemoMark(id=context.job.pk))


def take(context: Context[Any], key: str) -> Call:
    return Call(context.subject_id, DemoUnmark(id=context.job.pk))


def wait(context: Context[Any], key: str) -> WaitForClick | None:
    return None if context.data.get("clicked") else WaitForClick()


class DemoWait(Operation[NoParams]):
    code = "demo.wait"
    noun = "nodes"
    label = _("Demo: wait for a click")
    icon = "hand-click"
    Params = NoParams
    steps = (
        Step("put", _("Leave a mark on the node"), do=put, undo=take),
        Step("wait", _("Wait for a click"), do=wait, undo=NoUndo(_("waiting leaves nothing behind"))),
        Step("take", _("Take the mark away"), do=take, undo=put),
    )

    @classmethod
    def obstacles(cls, target: Node) -> list[Refusal]:
        return node_must_answer(target)

    @classmethod
    def locks(cls, context: Context[NoParams]) -> Sequence[LockName]:
        return [LockName("demo:" + context.subject_id), LockName("node:" + context.subject_id, exclusive=False)]

    @classmethod
    def recheck(cls, context: Context[NoParams]) -> list[Refusal]:
        return []
