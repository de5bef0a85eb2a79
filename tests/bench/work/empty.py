"""Operations that do nothing, for a plant's web and conductor: what a job itself costs.

``vm.bench_empty`` has one step and no verb; ``vm.bench_verb`` sends one verb, which a node of
:mod:`tests.bench.work.nodes` answers at once.
"""

from collections.abc import Sequence
from typing import Any

from cluster.models import Role
from cluster.permissions import TABLE
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, LockName, NoParams, NoUndo, Operation, Step
from nodes.contract.messages import DemoMark

OPERATIONS = ("bench_empty", "bench_verb")


def nothing(context: Context[Any], key: str) -> None:
    pass


def mark(context: Context[Any], key: str) -> Call:
    from cluster.models import Vm

    return Call(Vm.objects.get(pk=context.subject_id).node_id, DemoMark(id=context.job.pk))


def register() -> None:
    """Makes them known to this process, and allows them to administrators."""

    class Empty(Operation[NoParams]):
        code = "vm.bench_empty"
        noun = "vms"
        label = "Bench: nothing"
        Params = NoParams
        steps = (Step("nothing", "Nothing", do=nothing, undo=NoUndo("nothing happened")),)

        @classmethod
        def locks(cls, context: Context[NoParams]) -> Sequence[LockName]:
            return [LockName("vm:" + context.subject_id)]

        @classmethod
        def recheck(cls, context: Context[NoParams]) -> list[Refusal]:
            return []

    class OneVerb(Empty):
        code = "vm.bench_verb"
        label = "Bench: one verb"
        steps = (Step("mark", "One verb", do=mark, undo=NoUndo("a mark is nothing")),)

    for operation in (Empty, OneVerb):
        TABLE[operation.code] = frozenset({Role.ADMINISTRATOR})
