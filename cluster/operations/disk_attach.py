"""Give a disk to a VM. A guest that runs gets it at once where it can take it, else when it starts next."""

from collections.abc import Sequence
from typing import Any

from django.db.models import F, Max
from django.utils.translation import gettext_lazy as _

from cluster import selectors, states
from cluster.domain_specs import domain_disk, domain_spec
from cluster.models import Disk, Pending, Pool, Vm, VmState
from cluster.permissions import Actor
from cluster.refusals import NotKnown, Refusal
from cluster.saga.steps import Call, Context, Id, LockName, NoUndo, Operation, Params, Plan, Step
from nodes.contract.messages import DomainDefine, DomainPlug, DomainUnplug, PluggedDisk
from nodes.contract.specs import DiskBus

from .vm_power import define as define_vm
from .vm_power import state_obstacles, vm_of

NEEDS = (VmState.STOPPED, VmState.RUNNING, VmState.PAUSED, VmState.ERROR)
MOST_DISKS = 16


class AttachParams(Params):
    vm: Id
    bus: DiskBus = "virtio"


class DiskAttach(Operation[AttachParams]):
    code = "disk.attach"
    noun = "disks"
    label = _("Attach to a VM")
    hint = _("a guest that runs sees it at once, where it can")
    icon = "plug"
    Params = AttachParams

    @classmethod
    def obstacles(cls, target: Disk) -> list[Refusal]:
        return is_loose(target)

    @classmethod
    def plan(cls, actor: Actor, target: Disk, params: AttachParams) -> Plan:
        vm = vm_asked(actor, params.vm)
        if vm is None or target.pool is None:
            return Plan(refusals=[Refusal("vm_unknown", field="vm")], data={"vm": None})
        refusals = cannot_take(vm, target.pool)
        if vm.tenant_id != target.tenant_id:
            refusals.append(Refusal("disk_of_other_tenant", {"disk": target.name, "vm": vm.name}, field="vm"))
        return Plan(refusals=refusals, data={"vm": vm.pk, "bus": params.bus})

    @classmethod
    def locks(cls, context: Context[AttachParams]) -> Sequence[LockName]:
        return locks_of(context)

    @classmethod
    def recheck(cls, context: Context[AttachParams]) -> list[Refusal]:
        disk = disk_of(context)
        assert disk.pool
        return is_loose(disk) + cannot_take(vm_of(context), disk.pool)

    # The table of steps stands below the functions that it names.


# --- parts that the operations on disks share -----------------------------------------------------------------


def disk_of(context: Context[Any]) -> Disk:
    return Disk.objects.select_related("pool").get(pk=context.subject_id)


def locks_of(context: Context[Any]) -> list[LockName]:
    """The disk, and the VM that has it or gets it."""
    vms = [LockName("vm:" + context.data["vm"])] if context.data["vm"] else []
    return [LockName("disk:" + context.subject_id), *vms]


def is_ready(disk: Disk) -> list[Refusal]:
    if disk.state == "ready":
        return []
    if disk.state == "trash":
        return [Refusal("disk_in_trash", {"disk": disk.name}, status=409)]
    return [Refusal("disk_not_ready", {"disk": disk.name, "state": disk.state}, status=409)]


def is_loose(disk: Disk) -> list[Refusal]:
    """Also where it lies in the trash."""
    if disk.vm is None:
        return [] if disk.state == "trash" else is_ready(disk)
    return [Refusal("disk_attached", {"disk": disk.name, "vm": disk.vm.name}, status=409)]


def vm_asked(actor: Actor, pk: str) -> Vm | None:
    try:
        return selectors.get(selectors.vms(actor).select_related("node"), pk)
    except NotKnown:
        return None


def cannot_take(vm: Vm, pool: Pool) -> list[Refusal]:
    """Why a VM can have no further disk in this pool."""
    reasons = state_obstacles(vm, NEEDS)
    if not pool.places.filter(node=vm.node_id).exists():
        reasons.append(Refusal("pool_elsewhere", {"pool": pool.name, "node": vm.node.name}, field="vm"))
    if vm.disks.filter(device="disk").count() >= MOST_DISKS:
        reasons.append(Refusal("too_many_disks", {"vm": vm.name, "most": MOST_DISKS}))
    return reasons


def next_position(vm: Vm) -> int:
    """Behind all that the VM has."""
    last = vm.disks.aggregate(last=Max("position"))["last"]
    return 0 if last is None else last + 1


# --- the steps ------------------------------------------------------------------------------------------------


def take(context: Context[Any], key: str) -> None:
    if not context.data["vm"]:
        return
    vm = vm_of(context)
    Disk.objects.filter(pk=context.subject_id, vm=None).update(
        vm=vm,
        bus=context.data["bus"],
        position=next_position(vm),
        tenant=vm.tenant_id,
        owner=vm.owner_id,
        version=F("version") + 1,
    )


def let_go(context: Context[Any], key: str) -> None:
    if context.data["vm"]:
        states.loosen(Disk.objects.filter(pk=context.subject_id))


def define(context: Context[Any], key: str) -> Call | None:
    return define_vm(context, key) if context.data["vm"] else None


def define_without(context: Context[Any], key: str) -> Call | None:
    if not context.data["vm"]:
        return None
    vm = vm_of(context)
    return Call(vm.node_id, DomainDefine(domain=domain_spec(vm, without=context.subject_id)))


def plug(context: Context[Any], key: str) -> Call | None:
    """Also for a VM that looks stopped: somebody may have started its guest."""
    if not context.data["vm"]:
        return None
    vm = vm_of(context)
    return Call(vm.node_id, DomainPlug(vm=vm.pk, uuid=vm.uuid, disk=domain_disk(disk_of(context))))


def unplug(context: Context[Any], key: str) -> Call | None:
    if not context.data["vm"]:
        return None
    vm = vm_of(context)
    return Call(vm.node_id, DomainUnplug(vm=vm.pk, uuid=vm.uuid, disk=context.subject_id))


def seen(context: Context[Any], key: str, result: PluggedDisk) -> None:
    context.data["has"] = result.has


def finish(context: Context[Any], key: str) -> None:
    if not context.data["vm"]:
        return
    pending = Pending.ATTACH if context.data.get("has") is False else ""
    out_of_trash = {"state": "ready", "delete_after": None, "trashed_by": None}
    Disk.objects.filter(pk=context.subject_id).update(pending=pending, version=F("version") + 1, **out_of_trash)
    states.touch(context.data["vm"])


ATTACH = (
    Step("take", _("Note whose it is"), do=take, undo=let_go),
    Step("define", _("Write it into the VM's definition"), do=define, undo=define_without),
    Step("plug", _("Give it to the guest that runs"), do=plug, undo=unplug, after=seen),
)
DiskAttach.steps = (
    *ATTACH,
    Step("finish", _("Hand over"), do=finish, undo=NoUndo(_("nothing can fail after it"))),
)
