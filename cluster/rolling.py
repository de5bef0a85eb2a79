"""In which order nodes can be rebooted one after another, each emptied before and filled again after it.

Reads only. One node is away at a time, so each is planned as if all others were as they are now.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from .models import Node, NodeState, Vm
from .operations import node_moves
from .operations.node_moves import Intended, Outlook
from .permissions import Actor


@dataclass
class Turn:
    """One node, and what becomes of its VMs while it reboots."""

    node: Node
    moves: list[Intended] = field(default_factory=list)

    @property
    def staying(self) -> list[Intended]:
        """Those that can go nowhere."""
        return [row for row in self.moves if row.reasons]

    @property
    def copied_bytes(self) -> int:
        return sum(row.best.copied_bytes for row in self.moves if row.best)

    def said(self) -> dict[str, Any]:
        return {
            "node": self.node.pk,
            "name": self.node.name,
            "possible": not self.staying,
            "copied_bytes": self.copied_bytes,
            "moves": [row.said() for row in self.moves],
        }


def order(actor: Actor) -> list[Turn]:
    """Every node that answers: those that can be emptied first, and of them the one with the least to do.

    Raises :class:`cluster.refusals.Forbidden`.
    """
    actor.require("node.evacuate")
    vms = node_moves.vms_for_moves()
    placed: dict[str, list[Vm]] = defaultdict(list)
    for vm in vms:
        placed[vm.node_id].append(vm)
    outlook, turns = Outlook(vms), []
    for node in outlook.nodes:
        if node.state != NodeState.OFFLINE:
            with outlook.supposing():
                turns.append(Turn(node, node_moves.intend(placed[node.pk], outlook=outlook)))
    return sorted(turns, key=lambda turn: (len(turn.staying), len(turn.moves), turn.copied_bytes, turn.node.name))
