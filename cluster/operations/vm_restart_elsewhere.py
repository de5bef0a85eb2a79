"""Start a VM of a node that was declared dead on another one, which sees its disks, with the old node shut out of them.

The old guest may still run: nobody has heard of its node. So the storage is told first to take nothing from that node
any more, and shows that none of its clients is left; only then does the VM belong to another node, and start. What the
old node still has of it is ended when it is taken back (:mod:`cluster.operations.node_take_back`).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.db.models import prefetch_related_objects
from django.utils.translation import gettext_lazy as _

from cluster import affinity, placement, states
from cluster.domain_specs import domain_spec, volume_of
from cluster.models import Disk, LeftGuest, Lock, Node, PoolOnNode, Vm, VmState
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga import dispatch
from cluster.saga.steps import Call, Context, LockName, NoUndo, Operation, Params, Plan, Settle, Step, Verdict, done
from cluster.states import IN_WORK
from nodes.contract.messages import (
    DiskFence,
    DomainDefine,
    DomainLook,
    DomainStart,
    DomainUndefine,
    DomainWhereabouts,
)

from .vm_create import FOREIGN, nic_ids, plug, unplug
from .vm_move_plan import nodes_for_moves
from .vm_power import RUNS, moved_meanwhile, show, vm_of
from .vm_snapshot import disks_changed


class RestartParams(Params):
    powered_off: bool = False
    """A person has seen that the old node has no power: storage that cannot shut it out is used all the same."""


class VmRestartElsewhere(Operation[RestartParams]):
    code = "vm.restart_elsewhere"
    noun = "vms"
    label = _("Start on another node")
    hint = _("its node was declared dead; the storage takes nothing from that node any more")
    icon = "heart-broken"
    dialog = True
    Params = RestartParams

    @classmethod
    def obstacles(cls, target: Vm) -> list[Refusal]:
        if target.node.declared_dead is None:
            return [Refusal("node_not_dead", {"vm": target.name, "node": target.node.name}, status=409)]
        return in_work(target)

    @classmethod
    def plan(cls, actor: Actor, target: Vm, params: RestartParams) -> Plan:
        rows = candidates(target, list(nodes_for_moves()), affinity.rules_of_vms([target.pk]).get(target.pk, []))
        best = rows[0] if rows and not rows[0].reasons else None
        refusals = without_fence(target, params.powered_off, places_of([target]))
        if best is None:
            refusals += [Refusal("no_target", {"vm": target.name}), *(r for row in rows for r in row.reasons)]
        disks = _disks(target)
        return Plan(
            refusals=refusals,
            placement=placement.explain(rows),
            data={
                "source": target.node_id,
                "target": best.node.pk if best else None,
                "was": known_state(target),
                "disks": [disk.pk for disk in disks],
                "fenced": [disk.pk for disk in disks if _fences(disk) or _holds_back(disk)],
            },
        )

    @classmethod
    def begin(cls, actor: Actor, target: Vm, params: RestartParams, plan: Plan) -> Vm:
        affinity.hold_for(target, plan.data["target"])
        placement.reserve(plan.data["target"], target)
        Vm.objects.filter(pk=target.pk).update(moving_to=plan.data["target"])
        return target

    @classmethod
    def locks(cls, context: Context[RestartParams]) -> Sequence[LockName]:
        data = context.data
        # As long as it is under way, its old node is not taken back.
        nodes = [LockName("maintenance:" + data["source"], exclusive=False)]
        nodes += [LockName("node:" + data["target"], exclusive=False)] if data["target"] else []
        return [LockName("vm:" + context.subject_id), *(LockName("disk:" + pk) for pk in data["disks"]), *nodes]

    @classmethod
    def recheck(cls, context: Context[RestartParams]) -> list[Refusal]:
        vm = vm_of(context)
        reasons = disks_changed(vm, context.data["disks"]) + cls.obstacles(vm)
        return reasons + moved_meanwhile(vm, context.data["source"])

    # The table of steps stands below the functions that it names.


# --- what is planned ------------------------------------------------------------------------------------------


def known_state(vm: Vm) -> str:
    """What it was when its node was heard last."""
    return vm.known_state if vm.state == VmState.UNKNOWN else vm.state


def in_work(vm: Vm) -> list[Refusal]:
    """A job that waits for the silent node has marked it: an administrator resolves that first."""
    if vm.state not in IN_WORK:
        return []
    holder = Lock.objects.filter(name="vm:" + vm.pk, held=True).values_list("job", flat=True).first()
    return [held_by(vm, holder or "")]


def held_by(vm: Vm, job: str) -> Refusal:
    return Refusal("job_holds_it", {"vm": vm.name, "job": job or "—", "node": vm.node.name}, status=409)


def candidates(vm: Vm, nodes: Iterable[Node], rules: Sequence[affinity.Rule]) -> list[placement.Candidate]:
    """Every other node with what is against it; the best of the possible ones first."""
    prefetch_related_objects([vm], "nics__network", "disks__pool", "disks__iso")
    networks = [nic.network for nic in vm.nics.all()]
    need = placement.Need(vm.vcpus, vm.memory_bytes, networks, group=vm.node_group, rules=rules, vm=vm.pk)
    rows = placement.candidates(need, [node for node in nodes if node.pk != vm.node_id])
    for row in rows:
        # A default pool is needed for new disks only.
        row.reasons = [reason for reason in row.reasons if reason.code != "no_pool"] + _lacks(vm, row.node)
    rows.sort(key=lambda row: (bool(row.reasons), -row.score, row.node.name))
    return rows


def _lacks(vm: Vm, node: Node) -> list[Refusal]:
    pools, isos = {place.pool_id for place in node.pool_places.all()}, {copy.iso_id for copy in node.iso_copies.all()}
    reasons = []
    for disk in vm.disks.all():
        if disk.pool and disk.pool_id not in pools:
            facts = {"disk": disk.name, "pool": disk.pool.name, "node": node.name}
            reasons.append(Refusal("disk_not_there", facts))
        if disk.iso and disk.iso_id not in isos:
            reasons.append(Refusal("iso_absent_there", {"node": node.name, "iso": disk.iso.name}))
    return reasons


Places = Mapping[str, Sequence[PoolOnNode]]
"""Pool -> where it is seen, with the nodes."""


def places_of(vms: Iterable[Vm]) -> Places:
    """In one query for all of their disks."""
    found: dict[str, list[PoolOnNode]] = {}
    pools = {disk.pool_id for vm in vms for disk in vm.disks.all() if disk.pool_id}
    for place in PoolOnNode.objects.filter(pool__in=pools).select_related("node", "pool"):
        found.setdefault(place.pool_id, []).append(place)
    return found


def without_fence(vm: Vm, powered_off: bool, places: Places) -> list[Refusal]:
    """Why the old guest could go on writing, or answering under the same address, whatever the panel does."""
    disks = _disks(vm)
    facts = {"vm": vm.name, "node": vm.node.name}
    # An older agent there would start it at its next boot, before the panel has answered.
    heeds = DiskFence.verb in vm.node.verbs
    bare = sorted({d.pool.name for d in disks if d.pool and not _fences(d) and not (heeds and _holds_back(d))})
    if bare or not disks:
        return [Refusal("cannot_be_held_back", {**facts, "pools": ", ".join(bare) or "—"})]
    open_to_it = sorted({disk.pool.name for disk in disks if disk.pool and not _fences(disk)})
    if open_to_it and not powered_off:
        return [Refusal("no_fence", {**facts, "pools": ", ".join(open_to_it)}, field="powered_off")]
    fenced = sorted({disk.pool_id for disk in disks if disk.pool_id and _fences(disk)})
    return [reason for pool in fenced for reason in _hits_others(vm.node, places[pool])]


def _fences(disk: Disk) -> bool:
    return bool(disk.pool and disk.pool.facts.get("fences"))


def _holds_back(disk: Disk) -> bool:
    return bool(disk.pool and disk.pool.facts.get("holds_back"))


def _hits_others(node: Node, places: Sequence[PoolOnNode]) -> list[Refusal]:
    """Its address in the storage is another node's, too: to shut it out would shut out both."""
    address = next((address_of(place) for place in places if place.node_id == node.pk), node.address)
    others = [place.node.name for place in places if place.node_id != node.pk and address_of(place) == address]
    facts = {"node": node.name, "address": address, "other": ", ".join(sorted(others)), "pool": places[0].pool.name}
    return [Refusal("fence_hits_others", facts)] if others else []


def address_of(place: PoolOnNode) -> str:
    return str(place.client_address or place.node.address)


def _disks(vm: Vm) -> list[Disk]:
    return [disk for disk in vm.disks.all() if disk.device == "disk"]


# --- the steps ------------------------------------------------------------------------------------------------


def release(context: Context[RestartParams], key: str) -> None:
    """A VM that belongs to the other node keeps its memory there."""
    vm = vm_of(context)
    if vm.node_id == context.data["source"]:
        placement.release(context.data["target"], vm)
        Vm.objects.filter(pk=vm.pk).update(moving_to=None)


def fenced_disks(context: Context[RestartParams]) -> list[str]:
    return list(context.data["fenced"])


def fence(context: Context[RestartParams], disk_id: str) -> Call:
    disk = Disk.objects.select_related("pool").get(pk=disk_id)
    place = PoolOnNode.objects.select_related("node").get(pool=disk.pool, node=context.data["source"])
    # Noted before it is asked: whatever may have been shut out has to be let in again.
    place.fenced = sorted({*place.fenced, address_of(place)})
    place.save(update_fields=["fenced"])
    message = DiskFence(**volume_of(disk), node=context.data["source"], addresses=tuple(place.fenced))
    return Call(context.data["target"], message)


def plug_nic(context: Context[RestartParams], nic_id: str) -> Call:
    return plug(context.data["target"], nic_id)


def unplug_nic(context: Context[RestartParams], nic_id: str) -> Call:
    return unplug(context.data["target"], nic_id)


def define(context: Context[RestartParams], key: str) -> Call:
    return Call(context.data["target"], DomainDefine(domain=domain_spec(vm_of(context))))


def undefine(context: Context[RestartParams], key: str) -> Call:
    vm = vm_of(context)
    return Call(context.data["target"], DomainUndefine(vm=vm.pk, uuid=vm.uuid))


def taken_over(context: Context[RestartParams], key: str, result: DomainWhereabouts) -> None:
    """From here on it belongs to the other node."""
    source, vm = context.data["source"], vm_of(context)
    there = {"node": context.data["target"], "moving_to": None, "observed_counter": 0, "home": source}
    if not Vm.objects.filter(pk=vm.pk, node=source).update(**there):
        return
    placement.release(source, vm)
    states.guests_are_off([vm.pk])
    nics = dict(vm.nics.values_list("pk", "network__bridge"))
    LeftGuest.objects.update_or_create(node_id=source, vm=vm.pk, defaults={"uuid": vm.uuid, "nics": nics})
    # What was sent there before is void, and a boot does not start it.
    dispatch.raise_number(source, "domain:" + vm.pk)
    states.touch(vm.pk)


def look_there(context: Context[Any], key: str) -> Sequence[Call]:
    vm = vm_of(context)
    return [Call(context.data["target"], DomainLook(vm=vm.pk, uuid=vm.uuid))]


def is_there(context: Context[Any], results: Sequence[DomainWhereabouts | None]) -> Verdict:
    seen = results[0]
    if seen is None:
        return "unclear"
    return "done" if seen.defined else "not_done"


def bears_out(context: Context[Any], outcome: str, results: Sequence[DomainWhereabouts | None]) -> bool:
    seen = results[0]
    if seen is None:
        return outcome == "done"  # it may run there: then it belongs there
    return seen.defined if outcome == "done" else seen.state == "absent"


def start(context: Context[RestartParams], key: str) -> Call | None:
    vm = vm_of(context)
    if context.data["was"] not in RUNS:
        return None
    return Call(context.data["target"], DomainStart(vm=vm.pk, uuid=vm.uuid))


def finish(context: Context[RestartParams], key: str) -> None:
    taken_over(context, key, DomainWhereabouts(state="shutoff"))  # where an administrator has said so
    vm = vm_of(context)
    if vm.state == VmState.UNKNOWN:
        states.move(vm, VmState.STOPPED)


GOES_FORWARD = NoUndo(_("the VM belongs to the other node"))

VmRestartElsewhere.steps = (
    Step("reserve", _("Reserve memory"), do=done, undo=release),
    Step(
        "fence",
        _("Shut the old node out of the disk"),
        do=fence,
        undo=NoUndo(_("it stays shut out until it is taken back")),
        each=fenced_disks,
    ),
    Step("plug_nic", _("Lease and filter on the other node"), do=plug_nic, undo=unplug_nic, each=nic_ids, beside=True),
    Step(
        "take_over",
        _("Define the VM on the other node"),
        do=define,
        undo=undefine,
        after=taken_over,
        pivot=True,
        settle=Settle(look_there, is_there, bears_out),
        undone_by=FOREIGN,
    ),
    Step("start", _("Start the guest"), do=start, undo=GOES_FORWARD, after=show),
    Step("finish", _("Note the new place"), do=finish, undo=NoUndo(_("nothing can fail after it"))),
)
