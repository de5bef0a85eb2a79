"""Move VMs so that the nodes are filled alike (:mod:`cluster.balance`)."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any

from django.utils.translation import gettext_lazy as _
from pydantic import Field

from cluster import balance
from cluster.models import Balance
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Context, LockName, NoUndo, Operation, Plan, Step

from . import node_moves
from .node_moves import MovesParams

LOCK = LockName("balancing:cluster")
"""Two plans at once would each move what the other one counts on."""


class BalanceParams(MovesParams):
    threshold_points: Annotated[int, Field(ge=0, le=1000)] = 0
    """Between the fullest and the emptiest node, out of 1000: nothing is moved below it."""
    cooldown_minutes: Annotated[int, Field(ge=0, le=7 * 1440)] = 0
    """VMs that moved within it stay where they are."""
    most_moves: Annotated[int, Field(ge=1, le=100)] = 10
    copy_disks: bool = True
    """VMs whose disks the other node does not see move, too."""

    def options(self) -> balance.Options:
        cooldown = timedelta(minutes=self.cooldown_minutes)
        return balance.Options(self.threshold_points, cooldown, self.most_moves, self.copy_disks)


class BalanceApply(Operation[BalanceParams]):
    code = "balance.apply"
    noun = "balances"
    creates = True
    label = _("Balance the nodes")
    hint = _("VMs move from the fullest nodes to emptier ones, one after another as the limits of moves allow")
    icon = "scale"
    Params = BalanceParams

    @classmethod
    def plan(cls, actor: Actor, target: None, params: BalanceParams) -> Plan:
        prospect = balance.plan(params.options())
        moves = [move.said() for move in prospect.moves]
        return Plan(
            refusals=[] if moves else [Refusal("balanced_already", {"spread": prospect.spread_before}, status=409)],
            moves=moves,
            stays=node_moves.stays(move.intended for move in prospect.moves),
            data={
                "moves": [[move["vm"], move["node"]] for move in moves],
                "spread_before": prospect.spread_before,
                "spread_after": prospect.spread_after,
            },
        )

    @classmethod
    def begin(cls, actor: Actor, target: None, params: BalanceParams, plan: Plan) -> Balance:
        kept = [
            {
                "vm": move["vm"],
                "name": move["name"],
                "source": move["source"],
                "source_name": move["source_name"],
                "target": move["node"],
                "target_name": move["node_name"],
                "copied_bytes": move["copied_bytes"],
                "gain": move["gain"],
            }
            for move in plan.moves or []
        ]
        spreads = {name: plan.data[name] for name in ("spread_before", "spread_after")}
        return Balance.objects.create(moves=kept, **spreads)

    @classmethod
    def locks(cls, context: Context[BalanceParams]) -> Sequence[LockName]:
        return [LOCK]

    @classmethod
    def recheck(cls, context: Context[BalanceParams]) -> list[Refusal]:
        return []

    # The table of steps stands below the functions that it names.


def move(context: Context[Any], key: str) -> Any:
    return node_moves.begin(context, [])


BalanceApply.steps = (
    Step(
        "move",
        _("Move the VMs"),
        do=move,
        undo=NoUndo(_("what has moved stays there until the balance is undone")),
        tolerant=True,
    ),
    Step("check", _("See whether all have moved"), do=node_moves.check, undo=NoUndo(_("it only looks"))),
)
