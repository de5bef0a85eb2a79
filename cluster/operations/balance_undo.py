"""Return the VMs of a balance to where they were before it."""

from collections.abc import Sequence

from django.utils.translation import gettext_lazy as _

from cluster.models import Balance, Vm
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Context, LockName, NoUndo, Operation, Plan, Step

from . import node_moves
from .balance_apply import LOCK, move
from .node_moves import Intended, MovesParams, Outlook


class BalanceUndo(Operation[MovesParams]):
    code = "balance.undo"
    noun = "balances"
    label = _("Undo the balance")
    hint = _("the VMs that it has moved, and that are still there, return to where they were")
    icon = "arrow-back-up"
    dialog = True
    Params = MovesParams

    @classmethod
    def obstacles(cls, target: Balance) -> list[Refusal]:
        return [Refusal("balance_undone", status=409)] if target.undone else []

    @classmethod
    def plan(cls, actor: Actor, target: Balance, params: MovesParams) -> Plan:
        rows = _intended(target)
        moves = [[row.vm.pk, row.best.node.pk] for row in rows if row.best]
        refusals = [] if moves else [Refusal("nothing_to_undo", status=409), *(r for row in rows for r in row.reasons)]
        said, stays = [row.said() for row in rows], node_moves.stays(rows)
        return Plan(refusals=refusals, moves=said, stays=stays, data={"moves": moves})

    @classmethod
    def locks(cls, context: Context[MovesParams]) -> Sequence[LockName]:
        return [LOCK]

    @classmethod
    def recheck(cls, context: Context[MovesParams]) -> list[Refusal]:
        return cls.obstacles(Balance.objects.get(pk=context.subject_id))

    # The table of steps stands below the functions that it names.


def _intended(balance: Balance) -> list[Intended]:
    """Only of those VMs that are still where the balance has brought them."""
    kept = {move["vm"]: move for move in balance.moves}
    vms = [vm for vm in node_moves.vms_for_moves(Vm.objects.filter(pk__in=kept)) if vm.node_id == kept[vm.pk]["target"]]
    outlook = Outlook(vms)
    return [outlook.intended(vm, [kept[vm.pk]["source"]]) for vm in vms]


def note(context: Context[MovesParams], key: str) -> None:
    Balance.objects.filter(pk=context.subject_id).update(undone=True)


BalanceUndo.steps = (
    Step(
        "move",
        _("Move the VMs back"),
        do=move,
        undo=NoUndo(_("what has moved stays there")),
        tolerant=True,
    ),
    Step("check", _("See whether all have moved"), do=node_moves.check, undo=NoUndo(_("it only looks"))),
    Step("note", _("Note that it is undone"), do=note, undo=NoUndo(_("nothing can fail after it"))),
)
