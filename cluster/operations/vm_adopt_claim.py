"""Place a VM on another node that shows its guest, because an administrator says that this one is right (law 6).

Only on evidence that is asked for now, from both nodes, its own first: what they show must say by the table of law 1
that the guest is over there, and the domain over there must have exactly the VM's disks. A guest that its own node
runs too, or a node that is silent, decides nothing, and nothing is touched. The rest is as after any move by hand:
lease and filter stand on the new node, the definition is the panel's, and what the old one still has of it goes.
"""

from collections.abc import Sequence

from django.utils.translation import gettext_lazy as _

from cluster import domain_drift, moved_by_hand, states, whereabouts
from cluster.models import Node, NodeState, Vm
from cluster.permissions import Actor
from cluster.refusals import Refusal, Refused
from cluster.saga.steps import Call, Context, Id, LockName, NoUndo, Operation, Params, Plan, Step
from nodes.contract.messages import DomainLook, DomainRead, DomainWhereabouts, ReadDomain

from .vm_power import vm_of
from .vm_reapply import VmReapply


class AdoptClaimParams(Params):
    node: Id | None = None
    """Which shows it; None: the only one that does."""


class VmAdoptClaim(Operation[AdoptClaimParams]):
    code = "vm.adopt_claim"
    noun = "vms"
    label = _("It is right there")
    hint = _("the VM belongs to the other node from now on, if both nodes say that only that one has its guest")
    icon = "transfer"
    dialog = True
    Params = AdoptClaimParams

    @classmethod
    def obstacles(cls, target: Vm) -> list[Refusal]:
        if not _claims(target):
            return [Refusal("vm_no_claim", {"vm": target.name}, status=409)]
        if target.state in states.IN_WORK:
            return [Refusal("vm_in_work", {"vm": target.name, "state": target.state}, status=409)]
        return _silent(target.node)

    @classmethod
    def plan(cls, actor: Actor, target: Vm, params: AdoptClaimParams) -> Plan:
        claims = _claims(target)
        names = [node.name for node in claims]
        if len(claims) > 1:
            return Plan(refusals=[Refusal("vm_claimed_often", {"vm": target.name, "node": names}, status=409)])
        chosen = next((node for node in claims if params.node in (None, node.pk)), None)
        if chosen is None:
            facts = {"vm": target.name, "node": names}
            return Plan(refusals=[Refusal("claim_elsewhere", facts, field="node")] if claims else [])
        refusals = _silent(chosen)
        if not moved_by_hand.sees_all_disks(target.pk, chosen.pk):
            refusals.append(Refusal("claim_other_storage", {"vm": target.name, "node": chosen.name}, field="node"))
        return Plan(refusals=refusals, data={"source": target.node_id, "target": chosen.pk})

    @classmethod
    def locks(cls, context: Context[AdoptClaimParams]) -> Sequence[LockName]:
        return [LockName("vm:" + context.subject_id)]

    @classmethod
    def recheck(cls, context: Context[AdoptClaimParams]) -> list[Refusal]:
        return cls.obstacles(vm_of(context))

    # The table of steps stands below the functions that it names.


def _claims(vm: Vm) -> list[Node]:
    """Nodes of the cluster that show it beside its own."""
    return list(Node.objects.filter(pk__in=vm.claims or {}).exclude(redis_password_sha256="").order_by("name"))


def _silent(node: Node) -> list[Refusal]:
    """Silence is no evidence."""
    return [Refusal("node_offline", {"node": node.name}, status=409)] if node.state == NodeState.OFFLINE else []


def look_here(context: Context[AdoptClaimParams], key: str) -> Call:
    vm = vm_of(context)
    return Call(context.data["source"], DomainLook(vm=vm.pk, uuid=vm.uuid))


def shown_here(context: Context[AdoptClaimParams], key: str, result: DomainWhereabouts) -> None:
    context.data["here"] = result.model_dump(mode="json")


def look_there(context: Context[AdoptClaimParams], key: str) -> Call:
    vm = vm_of(context)
    return Call(context.data["target"], DomainRead(vm=vm.pk, uuid=vm.uuid))


def shown_there(context: Context[AdoptClaimParams], key: str, result: ReadDomain) -> None:
    context.data["there"] = result.model_dump(mode="json")


def follow(context: Context[AdoptClaimParams], key: str) -> None:
    """Raises :class:`Refused` unless what both have shown leaves no doubt."""
    vm, data = Vm.objects.select_related("node").get(pk=context.subject_id), context.data
    if vm.node_id == data["target"]:
        return
    here, there = DomainWhereabouts.model_validate(data["here"]), ReadDomain.model_validate(data["there"])
    target = Node.objects.get(pk=data["target"])
    facts = {"vm": vm.name, "node": vm.node.name, "other": target.name}
    if vm.node_id != data["source"] or whereabouts.verdict(here, there) != "done":
        shown = {"here": whereabouts.shown(here), "there": whereabouts.shown(there)}
        both_run = shown == {"here": "on", "there": "on"}
        raise Refused(Refusal("claim_both_run" if both_run else "claim_unclear", {**facts, **shown}, status=409))
    if not _has_its_disks(vm, there):
        raise Refused(Refusal("claim_other_disks", facts, status=409))
    moved_by_hand.place(vm, vm.node, target, states.SEEN[there.state])


def _has_its_disks(vm: Vm, there: ReadDomain) -> bool:
    """A domain of that name with other disks is somebody's copy, not the guest."""
    if there.outline is None:
        return False
    panel = {disk.place for disk in domain_drift.expected([vm.pk])[vm.pk].disks if disk.device == "disk"}
    return panel == {disk.place for disk in there.outline.disks if disk.device == "disk"}


LOOKS = NoUndo(_("it only looks"))

VmAdoptClaim.steps = (
    # Its own node first: an answer of the other one that is older could be from before the guest went there.
    Step("look_here", _("Ask its node"), do=look_here, undo=LOOKS, after=shown_here),
    Step("look_there", _("Ask the node that shows it too"), do=look_there, undo=LOOKS, after=shown_there),
    Step("follow", _("Compare both, and place the VM"), do=follow, undo=NoUndo(_("both nodes say that it is there"))),
    *VmReapply.steps,
)
