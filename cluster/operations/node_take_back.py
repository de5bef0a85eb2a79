"""A node that was declared dead is back: what it still has of the VMs that were started elsewhere is ended.

First the guests end, then their definitions, leases and filters go, and only then does the storage let the node in
again. It stays closed for new VMs until a person opens it. Begun by itself when the node is heard
(:mod:`cluster.returning`).
"""

from collections.abc import Sequence

from django.utils.translation import gettext_lazy as _

from cluster import states
from cluster.domain_specs import pool_spec
from cluster.models import LeftGuest, Node, NodeState, Pool, PoolOnNode, Vm
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, LockName, NoParams, NoUndo, Operation, Plan, Step
from cluster.states import IN_WORK
from nodes.contract.messages import DomainStop, DomainUndefine, DomainWhereabouts, NicUnplug, PoolUnfence

from .node_declare_dead import undeclare


class NodeTakeBack(Operation[NoParams]):
    code = "node.take_back"
    noun = "nodes"
    label = _("Take back")
    hint = _("guests that were started elsewhere are ended on it, and the storage lets it in again; it stays closed")
    icon = "arrow-back-up"
    Params = NoParams

    @classmethod
    def obstacles(cls, target: Node) -> list[Refusal]:
        if target.declared_dead is None:
            return [Refusal("not_declared_dead", {"node": target.name}, status=409)]
        if target.state == NodeState.OFFLINE:
            return [Refusal("node_offline", {"node": target.name}, status=409)]
        return []

    @classmethod
    def plan(cls, actor: Actor, target: Node, params: NoParams) -> Plan:
        left = list(LeftGuest.objects.filter(node=target))
        here = Vm.objects.filter(node=target, disks__pool__in=_fenced(target)).exclude(state__in=IN_WORK).distinct()
        return Plan(
            data={
                "left": {guest.vm: guest.uuid for guest in left},
                "here": {vm.pk: vm.uuid for vm in here},
                "nics": {nic: bridge for guest in left for nic, bridge in guest.nics.items()},
                "pools": _fenced(target),
            }
        )

    @classmethod
    def locks(cls, context: Context[NoParams]) -> Sequence[LockName]:
        return [
            LockName("maintenance:" + context.subject_id),
            LockName("node:" + context.subject_id, exclusive=False),
            *(LockName("vm:" + pk) for pk in context.data["here"]),
            *(LockName("pool:" + pk) for pk in context.data["pools"]),
        ]

    @classmethod
    def recheck(cls, context: Context[NoParams]) -> list[Refusal]:
        node = Node.objects.get(pk=context.subject_id)
        now = cls.plan(None, node, context.params).data  # type: ignore[arg-type]  # it does not ask who
        if now != context.data:
            return [Refusal("guests_changed", {"node": node.name}, status=409)]
        return cls.obstacles(node)

    # The table of steps stands below the functions that it names.


def _fenced(node: Node) -> list[str]:
    """Pools out of which it is, or may be, shut."""
    places = PoolOnNode.objects.filter(node=node).exclude(fenced=[])
    return sorted(places.values_list("pool", flat=True))


def guests(context: Context[NoParams]) -> list[str]:
    """Those too that nobody started elsewhere: what they wrote since they were shut out is lost to their disks."""
    return [*context.data["left"], *context.data["here"]]


def left(context: Context[NoParams]) -> list[str]:
    return list(context.data["left"])


def nics(context: Context[NoParams]) -> list[str]:
    return list(context.data["nics"])


def pools(context: Context[NoParams]) -> list[str]:
    return list(context.data["pools"])


def stop(context: Context[NoParams], vm: str) -> Call:
    return Call(context.subject_id, DomainStop(vm=vm, uuid=(context.data["left"] | context.data["here"])[vm]))


def stopped(context: Context[NoParams], vm: str, result: DomainWhereabouts) -> None:
    row = Vm.objects.filter(pk=vm, node=context.subject_id).exclude(state__in=IN_WORK).first()
    if row is not None and result.state in states.SEEN:
        states.move(row, states.SEEN[result.state])


def undefine(context: Context[NoParams], vm: str) -> Call:
    return Call(context.subject_id, DomainUndefine(vm=vm, uuid=context.data["left"][vm]))


def unplug_nic(context: Context[NoParams], nic: str) -> Call:
    return Call(context.subject_id, NicUnplug(id=nic, bridge=context.data["nics"][nic]))


def let_in(context: Context[NoParams], pool_id: str) -> Call:
    pool = Pool.objects.get(pk=pool_id)
    place = PoolOnNode.objects.get(pool=pool, node=context.subject_id)
    # Another node asks for it, where there is one that answers: this one's own connection may still be shut out.
    others = Node.objects.filter(pools=pool).exclude(pk=context.subject_id).exclude(state=NodeState.OFFLINE)
    asked = others.order_by("name").values_list("pk", flat=True).first() or context.subject_id
    return Call(asked, PoolUnfence(pool=pool_spec(pool), node=context.subject_id, addresses=tuple(place.fenced)))


def was_let_in(context: Context[NoParams], pool_id: str, result: object) -> None:
    PoolOnNode.objects.filter(pool=pool_id, node=context.subject_id).update(fenced=[])


def finish(context: Context[NoParams], key: str) -> None:
    LeftGuest.objects.filter(node=context.subject_id, vm__in=context.data["left"]).delete()
    undeclare(context.subject_id)


LIVES_ELSEWHERE = NoUndo(_("the VM belongs to another node"))

NodeTakeBack.steps = (
    Step(
        "stop",
        _("End the guest that is shut out"),
        do=stop,
        undo=NoUndo(_("it could not write to its disk any more")),
        each=guests,
        after=stopped,
    ),
    Step("undefine", _("Forget its definition"), do=undefine, undo=LIVES_ELSEWHERE, each=left),
    Step("unplug_nic", _("Remove its lease and filter"), do=unplug_nic, undo=LIVES_ELSEWHERE, each=nics),
    Step(
        "let_in",
        _("Let the node in again"),
        do=let_in,
        undo=NoUndo(_("nothing runs there any more that must be shut out")),
        each=pools,
        after=was_let_in,
    ),
    Step("finish", _("Take the node back"), do=finish, undo=NoUndo(_("nothing can fail after it"))),
)
