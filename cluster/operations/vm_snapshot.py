"""Keep the content of all disks of a VM at one instant; a running guest stands still for that moment."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from django.conf import settings
from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from pydantic import Field

from cluster import events, placement
from cluster.domain_specs import pool_spec
from cluster.models import Disk, Pool, Snapshot, SnapshotDisk, SnapshotState, Vm, VmState
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, LockName, NoUndo, Operation, Params, Plan, Step, done
from nodes.contract.messages import DiskSnapshot, DiskSnapshotDelete, DomainResume, DomainSuspend

from .vm_power import GUEST_IS_OFF, state_obstacles, vm_of

NEEDS = (VmState.STOPPED, VmState.RUNNING, VmState.PAUSED)


class SnapshotParams(Params):
    name: Annotated[str, Field(max_length=100)] = ""
    """Empty: the time."""


class VmSnapshot(Operation[SnapshotParams]):
    code = "vm.snapshot"
    noun = "vms"
    label = _("Take a snapshot")
    hint = _("all disks as they are at this moment, without the memory")
    icon = "camera"
    dialog = True
    Params = SnapshotParams

    @classmethod
    def obstacles(cls, target: Vm) -> list[Refusal]:
        reasons = _obstacles(target)
        most = settings.INSTALLATION.snapshots_of_a_vm
        if target.snapshots.count() >= most:
            reasons.append(Refusal("too_many_snapshots", {"vm": target.name, "most": most}))
        return reasons

    @classmethod
    def plan(cls, actor: Actor, target: Vm, params: SnapshotParams) -> Plan:
        room: dict[Pool, int] = {}
        for disk in disks_of(target):
            if disk.pool and disk.pool.facts.get("snapshots_take_room"):
                room[disk.pool] = room.get(disk.pool, 0) + disk.size_bytes
        return Plan(
            refusals=[
                placement.no_room(pool, target.node, size_bytes)
                for pool, size_bytes in room.items()
                if size_bytes > placement.free_room_bytes(pool)
            ],
            data={"room": {pool.pk: size_bytes for pool, size_bytes in room.items()}},
        )

    @classmethod
    def begin(cls, actor: Actor, target: Vm, params: SnapshotParams, plan: Plan) -> Vm:
        for pool, size_bytes in plan.data["room"].items():
            placement.reserve_room(pool, size_bytes)
        name = params.name.strip() or f"{timezone.localtime():%Y-%m-%d %H:%M:%S}"
        snapshot = Snapshot.objects.create(vm=target, name=name, parent_id=target.snapshot_id)
        SnapshotDisk.objects.bulk_create(
            SnapshotDisk(snapshot=snapshot, disk=disk, size_bytes=disk.size_bytes) for disk in disks_of(target)
        )
        plan.data["snapshot"] = snapshot.pk
        return target

    @classmethod
    def locks(cls, context: Context[SnapshotParams]) -> Sequence[LockName]:
        return locks_of(context.subject_id)

    @classmethod
    def recheck(cls, context: Context[SnapshotParams]) -> list[Refusal]:
        return _obstacles(vm_of(context))

    # The table of steps stands below the functions that it names.


def disks_of(vm: Vm) -> list[Disk]:
    """With their pools; without a question where a page has read them already."""
    if "disks" in getattr(vm, "_prefetched_objects_cache", {}):
        return [disk for disk in vm.disks.all() if disk.device == "disk"]
    return list(Disk.objects.filter(vm=vm, device="disk").select_related("pool", "vm"))


def locks_of(vm_id: str) -> list[LockName]:
    disks = Disk.objects.filter(vm=vm_id, device="disk").values_list("pk", flat=True)
    return [LockName("vm:" + vm_id), *(LockName("disk:" + pk) for pk in disks)]


def _obstacles(vm: Vm) -> list[Refusal]:
    reasons = state_obstacles(vm, NEEDS)
    disks = disks_of(vm)
    if not disks:
        reasons.append(Refusal("no_disks", {"vm": vm.name}))
    for disk in disks:
        facts: dict[str, Any] = disk.pool.facts if disk.pool else {}
        about = {"disk": disk.name, "pool": disk.pool.name if disk.pool else "", "format": disk.format}
        if disk.format not in facts.get("snapshot_formats", ()):
            reasons.append(Refusal("snapshots_unsupported", about))
        elif vm.state != VmState.STOPPED and not facts.get("snapshots_online"):
            reasons.append(Refusal("snapshot_needs_stop", about, status=409))
    return reasons


# --- parts that the operations on snapshots share ---------------------------------------------------------


def keys_of(snapshots: Iterable[str]) -> list[str]:
    """``<snapshot>.<disk>`` of each volume that they keep."""
    rows = SnapshotDisk.objects.filter(snapshot__in=snapshots).order_by("snapshot__created", "disk__position")
    return [f"{snapshot}.{disk}" for snapshot, disk in rows.values_list("snapshot_id", "disk_id")]


def disk_of(key: str) -> tuple[str, Disk]:
    """Snapshot's id, and the disk with its VM and pool."""
    snapshot, _dot, disk = key.partition(".")
    return snapshot, Disk.objects.select_related("pool", "vm").get(pk=disk)


def drop(context: Context[Any], key: str) -> Call:
    snapshot, disk = disk_of(key)
    assert disk.vm
    assert disk.pool
    message = DiskSnapshotDelete(id=disk.pk, pool=pool_spec(disk.pool), format=disk.format, snapshot=snapshot)
    return Call(disk.vm.node_id, message)


def tell_of_vm(vm_id: str, **changes: Any) -> None:
    """The VM's card shows its snapshots."""
    Vm.objects.filter(pk=vm_id).update(version=F("version") + 1, **changes)
    events.vm_changed(Vm.objects.get(pk=vm_id))


# --- the steps ------------------------------------------------------------------------------------------------


def forget(context: Context[SnapshotParams], key: str) -> None:
    if Snapshot.objects.filter(pk=context.data["snapshot"]).delete()[0]:
        _release(context)


def _release(context: Context[SnapshotParams]) -> None:
    for pool, size_bytes in context.data["room"].items():
        placement.release_room(pool, size_bytes)


def pause(context: Context[SnapshotParams], key: str) -> Call | None:
    vm = vm_of(context)
    if not context.data.setdefault("pauses", vm.state == VmState.RUNNING):
        return None
    return Call(vm.node_id, DomainSuspend(vm=vm.pk, uuid=vm.uuid))


def go_on(context: Context[SnapshotParams], key: str) -> Call | None:
    if not context.data.get("pauses"):
        return None
    vm = vm_of(context)
    return Call(vm.node_id, DomainResume(vm=vm.pk, uuid=vm.uuid))


def kept_keys(context: Context[SnapshotParams]) -> list[str]:
    return keys_of([context.data["snapshot"]])


def keep(context: Context[SnapshotParams], key: str) -> Call:
    snapshot, disk = disk_of(key)
    assert disk.vm
    assert disk.pool
    message = DiskSnapshot(id=disk.pk, pool=pool_spec(disk.pool), format=disk.format, snapshot=snapshot)
    return Call(disk.vm.node_id, message)


def finish(context: Context[SnapshotParams], key: str) -> None:
    Snapshot.objects.filter(pk=context.data["snapshot"]).update(state=SnapshotState.READY, version=F("version") + 1)
    _release(context)
    tell_of_vm(context.subject_id, snapshot=context.data["snapshot"])


VmSnapshot.steps = (
    Step("reserve", _("Reserve room"), do=done, undo=forget),
    Step("pause", _("Let the guest stand still"), do=pause, undo=go_on, undone_by=GUEST_IS_OFF),
    Step("keep", _("Keep the disk's content"), do=keep, undo=drop, each=kept_keys),
    Step("go_on", _("Let the guest go on"), do=go_on, undo=NoUndo(_("its pause is taken back already"))),
    Step("finish", _("Note the snapshot"), do=finish, undo=NoUndo(_("nothing can fail after it"))),
)
