"""An administrator's word that a silent node is dead: its VMs whose disks other nodes see are started there.

Silence is no death, so nothing is taken on trust: each VM is started only where the storage takes nothing from the old
node any more (:mod:`cluster.operations.vm_restart_elsewhere`), or where a person has seen that it has no power. The
others stay, and nobody knows their state until the node is back.
"""

from collections.abc import Sequence
from typing import Any

from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from cluster import events
from cluster.models import LeftGuest, Lock, Node, NodeState
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Context, LockName, NoUndo, Operation, Plan, Step
from cluster.states import IN_WORK

from . import node_moves
from .node_maintenance import locks_of, set_to
from .node_moves import Intended, Outlook
from .vm_move_plan import Candidate
from .vm_restart_elsewhere import RestartParams, candidates, held_by, places_of, without_fence


class DeclareDeadParams(RestartParams):
    confirm: str = ""
    """The node's name, typed."""


class NodeDeclareDead(Operation[DeclareDeadParams]):
    code = "node.declare_dead"
    noun = "nodes"
    label = _("Declare dead")
    hint = _(
        "the storage takes nothing from it any more, its VMs whose disks other nodes see are started there, and it "
        "gets no VMs until it is back and was opened again"
    )
    icon = "heart-broken"
    danger = True
    dialog = True
    Params = DeclareDeadParams

    @classmethod
    def obstacles(cls, target: Node) -> list[Refusal]:
        if not target.redis_password_sha256:
            return [Refusal("node_gone", {"node": target.name}, status=409)]
        if target.state != NodeState.OFFLINE:
            return [Refusal("node_answers", {"node": target.name}, status=409)]
        return []

    @classmethod
    def plan(cls, actor: Actor, target: Node, params: DeclareDeadParams) -> Plan:
        rows = intend(target, params.powered_off)
        typed = params.confirm == target.name
        return Plan(
            refusals=[] if typed else [Refusal("type_to_declare_dead", {"node": target.name}, field="confirm")],
            moves=[row.said() for row in rows],
            data={
                "restarts": [row.vm.pk for row in rows if row.then == "restart"],
                "was_on": target.in_maintenance,
                "was_dead": target.declared_dead.isoformat() if target.declared_dead else None,
            },
        )

    @classmethod
    def locks(cls, context: Context[DeclareDeadParams]) -> Sequence[LockName]:
        return locks_of(context)

    @classmethod
    def recheck(cls, context: Context[DeclareDeadParams]) -> list[Refusal]:
        return cls.obstacles(Node.objects.get(pk=context.subject_id))

    # The table of steps stands below the functions that it names.


def intend(node: Node, powered_off: bool) -> list[Intended]:
    """What would become of each VM of the node; those of higher priority first, then the larger ones."""
    vms = sorted(node_moves.vms_for_moves(node.vms.all()), key=lambda vm: -vm.restart_priority)
    outlook = Outlook(vms)
    outlook.leave(vms)
    waiting = dict(Lock.objects.filter(name__in=["vm:" + vm.pk for vm in vms]).values_list("name", "job"))
    places, found = places_of(vms), []
    for vm in vms:
        holder = waiting.get("vm:" + vm.pk, "")
        reasons = [held_by(vm, holder)] if holder or vm.state in IN_WORK else []
        rows = candidates(vm, outlook.nodes, outlook.rules.get(vm.pk, []))
        if not reasons and (not rows or rows[0].reasons):
            reasons = [reason for row in rows for reason in row.reasons] or [Refusal("no_target", {"vm": vm.name})]
        reasons = reasons or without_fence(vm, powered_off, places)
        if reasons:
            found.append(Intended(vm, "leave", reasons=reasons))
            continue
        best = Candidate(rows[0].node)
        outlook.promise(vm, best)
        found.append(Intended(vm, "restart", best))
    return found


def declare(context: Context[DeclareDeadParams], key: str) -> None:
    Node.objects.filter(pk=context.subject_id, declared_dead=None).update(declared_dead=timezone.now())
    set_to(context.subject_id, on=True)


def take_back_the_word(context: Context[DeclareDeadParams], key: str) -> None:
    """Unless something was started elsewhere, or may have been shut out, because of it."""
    node = Node.objects.get(pk=context.subject_id)
    if LeftGuest.objects.filter(node=node).exists() or node.pool_places.exclude(fenced=[]).exists():
        return
    if context.data["was_dead"] is None:
        undeclare(node.pk)
    set_to(node.pk, on=context.data["was_on"])


def undeclare(node_id: str) -> None:
    Node.objects.filter(pk=node_id).update(declared_dead=None, version=F("version") + 1)
    events.node_changed(Node.objects.get(pk=node_id))


def restart(context: Context[DeclareDeadParams], key: str) -> Any:
    params = {"powered_off": context.params.powered_off}
    return node_moves.begin_all(context, [("vm.restart_elsewhere", vm, params) for vm in context.data["restarts"]])


NodeDeclareDead.steps = (
    Step("declare", _("Close the node and note that it is dead"), do=declare, undo=take_back_the_word),
    Step(
        "restart",
        _("Start the VMs elsewhere"),
        do=restart,
        undo=NoUndo(_("what was started elsewhere stays there")),
        tolerant=True,
    ),
    Step("check", _("See whether all were started"), do=node_moves.check, undo=NoUndo(_("it only looks"))),
)
