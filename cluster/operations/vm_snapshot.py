"""Keep the content of all disks of a VM at one instant; a running guest stands still for that moment.

Where an agent answers inside the guest, its file systems are written out first, so that the disks are whole. With the
memory the guest can go on from it as if nothing had happened.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from django.conf import settings
from django.db.models import F, Prefetch, prefetch_related_objects
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from pydantic import Field

from cluster import placement, states
from cluster.domain_specs import volume_of
from cluster.models import Consistency, Disk, Pending, Pool, Snapshot, SnapshotDisk, SnapshotState, Vm, VmState
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, LockName, NoUndo, Operation, Params, Plan, Step, done
from nodes.contract.messages import (
    DiskRevert,
    DiskSnapshot,
    DiskSnapshotDelete,
    DomainFreeze,
    DomainResume,
    DomainSave,
    DomainSuspend,
    DomainThaw,
    FrozenDomain,
    KeptVolume,
    Quiesce,
)

from .vm_power import GUEST_IS_OFF, state_obstacles, vm_id_of, vm_of
from .vm_settle import look_at_disk

NEEDS = (VmState.STOPPED, VmState.RUNNING, VmState.PAUSED)


class SnapshotParams(Params):
    name: Annotated[str, Field(max_length=100)] = ""
    """Empty: the time."""
    quiesce: Quiesce = "auto"
    """Whether the file systems of a guest that runs are let stand still by its agent: auto: where that answers."""
    memory: bool = False
    """Keep the memory of the guest that runs, too."""


class VmSnapshot(Operation[SnapshotParams]):
    code = "vm.snapshot"
    noun = "vms"
    label = _("Take a snapshot")
    hint = _("all disks as they are at this moment")
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
        for number, disk in enumerate(disks_of(target)):
            memory_bytes = target.memory_bytes if params.memory and number == 0 else 0
            disk_bytes = disk.size_bytes if disk.pool and disk.pool.facts.get("snapshots_take_room") else 0
            if disk.pool and disk_bytes + memory_bytes:
                room[disk.pool] = room.get(disk.pool, 0) + disk_bytes + memory_bytes
        return Plan(
            refusals=_cannot(target, params)
            + [
                placement.no_room(pool, target.node, size_bytes)
                for pool, size_bytes in room.items()
                if size_bytes > placement.free_room_bytes(pool)
            ],
            data={"room": {pool.pk: size_bytes for pool, size_bytes in room.items()}} | disk_ids(target),
        )

    @classmethod
    def begin(cls, actor: Actor, target: Vm, params: SnapshotParams, plan: Plan) -> Vm:
        for pool, size_bytes in plan.data["room"].items():
            placement.reserve_room(pool, size_bytes)
        name = params.name.strip() or f"{timezone.localtime():%Y-%m-%d %H:%M:%S}"
        hardware = hardware_of(target) if params.memory else {}
        snapshot = Snapshot.objects.create(vm=target, name=name, parent_id=target.snapshot_id, hardware=hardware)
        SnapshotDisk.objects.bulk_create(
            SnapshotDisk(snapshot=snapshot, disk=disk, size_bytes=disk.size_bytes) for disk in disks_of(target)
        )
        plan.data["snapshot"] = snapshot.pk
        return target

    @classmethod
    def locks(cls, context: Context[SnapshotParams]) -> Sequence[LockName]:
        return locks_of(context)

    @classmethod
    def recheck(cls, context: Context[SnapshotParams]) -> list[Refusal]:
        vm = vm_of(context)
        return disks_changed(vm, context.data["disks"]) + _obstacles(vm) + _cannot(vm, context.params)

    # The table of steps stands below the functions that it names.


def _obstacles(vm: Vm) -> list[Refusal]:
    reasons = state_obstacles(vm, NEEDS)
    disks = disks_of(vm)
    if not disks:
        reasons.append(Refusal("no_disks", {"vm": vm.name}))
    if any(disk.pending == Pending.DETACH for disk in disks):
        reasons.append(Refusal("disks_pending", {"vm": vm.name}, status=409))
    for disk in disks:
        if disk.pool is None or disk.format not in disk.pool.facts.get("snapshot_formats", ()):
            reasons.append(Refusal("snapshots_unsupported", about(disk)))
        else:
            reasons += stop_obstacles(disk)
    return reasons


def _cannot(vm: Vm, params: SnapshotParams) -> list[Refusal]:
    """Why it cannot be as it was asked for."""
    reasons = quiesce_obstacles(vm, params.quiesce)
    if not params.memory:
        return reasons
    if vm.state != VmState.RUNNING:
        reasons.append(Refusal("memory_needs_running", {"vm": vm.name}, field="memory", status=409))
    if any(disk.pending for disk in disks_of(vm)):
        reasons.append(Refusal("disks_pending", {"vm": vm.name}, field="memory", status=409))
    return reasons + [
        Refusal("memory_unsupported", about(disk), field="memory")
        for disk in disks_of(vm)
        if disk.pool is None or disk.format not in disk.pool.facts.get("memory_formats", ())
    ]


# --- parts that the operations on snapshots share ---------------------------------------------------------


def disks_of(vm: Vm) -> list[Disk]:
    """With their pools; asked for once for a VM that is at hand."""
    prefetch_related_objects([vm], Prefetch("disks", Disk.objects.select_related("pool")))
    return [disk for disk in vm.disks.all() if disk.device == "disk"]


def disks_changed(vm: Vm, asked: Iterable[str]) -> list[Refusal]:
    """For a job that had to wait: its locks and its rows are named after the disks of the moment when it was asked."""
    if {disk.pk for disk in disks_of(vm)} == set(asked):
        return []
    return [Refusal("disks_changed", {"vm": vm.name}, status=409)]


def disk_ids(vm: Vm) -> dict[str, Any]:
    """For the job's data: what its locks are named after."""
    return {"disks": [disk.pk for disk in disks_of(vm)]}


def locks_of(context: Context[Any]) -> list[LockName]:
    """The VM, which gets no further disk while this is held, and each of its disks."""
    return [LockName("vm:" + vm_id_of(context)), *(LockName("disk:" + pk) for pk in context.data["disks"])]


def stop_obstacles(disk: Disk) -> list[Refusal]:
    """Where snapshots of a disk change only while its guest is off."""
    assert disk.vm
    if disk.vm.state == VmState.STOPPED or disk.pool is None or disk.pool.facts.get("snapshots_online"):
        return []
    return [Refusal("snapshot_needs_stop", about(disk), status=409)]


def hardware_of(vm: Vm) -> dict[str, Any]:
    """What a guest that goes on from its memory must find as it was."""
    disks = [[disk.device, disk.pk, disk.bus] for disk in vm.disks.order_by("position", "pk")]
    nics = [[nic.pk, nic.model, nic.mac] for nic in vm.nics.all()]
    return {"vcpus": vm.vcpus, "memory_bytes": vm.memory_bytes, "disks": disks, "nics": nics}


def quiesce_obstacles(vm: Vm, quiesce: str) -> list[Refusal]:
    """A guest that is paused cannot be asked; of one that is off the disks are whole anyway."""
    if quiesce != "required" or vm.state != VmState.PAUSED:
        return []
    return [Refusal("quiesce_needs_running", {"vm": vm.name}, field="quiesce", status=409)]


def asks_guest(vm: Vm, quiesce: str, *, known: bool) -> bool:
    """
    :param known: its node's agent is new enough; where it is not, only who insists hears of that.
    """
    return vm.state == VmState.RUNNING and (quiesce == "required" or (quiesce == "auto" and known))


def about(disk: Disk) -> dict[str, Any]:
    """For a refusal."""
    return {"disk": disk.name, "pool": disk.pool.name if disk.pool else "", "format": disk.format}


def keys_of(snapshots: Iterable[str]) -> list[str]:
    """``<snapshot>.<disk>`` of each volume that they keep."""
    rows = SnapshotDisk.objects.filter(snapshot__in=snapshots).order_by("snapshot__created", "disk__position")
    return [f"{snapshot}.{disk}" for snapshot, disk in rows.values_list("snapshot_id", "disk_id")]


def disk_call(message: type[DiskSnapshot] | type[DiskSnapshotDelete] | type[DiskRevert], **more: Any) -> Any:
    """A step's ``do`` or ``undo`` whose key is of :func:`keys_of`. ``more``: further fields of the message."""

    def do(context: Context[Any], key: str) -> Call:
        snapshot, _dot, disk_id = key.partition(".")
        disk = Disk.objects.select_related("pool", "vm").get(pk=disk_id)
        assert disk.vm
        return Call(disk.vm.node_id, message(**volume_of(disk), snapshot=snapshot, **more))

    return do


def look(context: Context[Any], key: str) -> Sequence[Call]:
    return look_at_disk(context, key.partition(".")[2])


# --- the steps ------------------------------------------------------------------------------------------------


def forget(context: Context[SnapshotParams], key: str) -> None:
    if Snapshot.objects.filter(pk=context.data["snapshot"]).delete()[0]:
        _release(context)


def _release(context: Context[SnapshotParams]) -> None:
    for pool, size_bytes in context.data["room"].items():
        placement.release_room(pool, size_bytes)


def freeze(context: Context[SnapshotParams], key: str) -> Call | None:
    vm, params = vm_of(context), context.params
    context.data.setdefault("was", vm.state)
    # Of one disk its own message does it all, so that the guest stands still for a moment only.
    at_once = len(context.data["disks"]) == 1 and "quiesce" in vm.node.verbs.get(DiskSnapshot.verb, ())
    asks = not params.memory and asks_guest(vm, params.quiesce, known=at_once or DomainFreeze.verb in vm.node.verbs)
    context.data.setdefault("quiesces", params.quiesce if asks and at_once else "no")
    if not context.data.setdefault("freezes", asks and not at_once):
        return None
    more = {"required": True} if params.quiesce == "required" else {}
    return Call(vm.node_id, DomainFreeze(vm=vm.pk, uuid=vm.uuid, **more))


def frozen(context: Context[SnapshotParams], key: str, result: FrozenDomain) -> None:
    context.data["frozen"] = result.frozen


def thaw(context: Context[SnapshotParams], key: str) -> Call | None:
    if not context.data.get("freezes"):
        return None
    vm = vm_of(context)
    return Call(vm.node_id, DomainThaw(vm=vm.pk, uuid=vm.uuid))


def thaw_frozen(context: Context[SnapshotParams], key: str) -> Call | None:
    return thaw(context, key) if context.data.get("frozen") else None


def thawed(context: Context[SnapshotParams], key: str, result: FrozenDomain) -> None:
    """Only what stood still until now stood still at the instant of the snapshot."""
    context.data["quiesced"] = result.frozen


def pause(context: Context[SnapshotParams], key: str) -> Call | None:
    vm = vm_of(context)
    # Several disks are kept one after the other; each by itself is kept at one instant, under a guest that runs too.
    # While it keeps the memory, QEMU lets the guest stand still by itself.
    several = len(context.data["disks"]) > 1
    if not context.data.setdefault("pauses", several and vm.state == VmState.RUNNING and not context.params.memory):
        return None
    return Call(vm.node_id, DomainSuspend(vm=vm.pk, uuid=vm.uuid))


def go_on(context: Context[SnapshotParams], key: str) -> Call | None:
    if not context.data.get("pauses"):
        return None
    vm = vm_of(context)
    return Call(vm.node_id, DomainResume(vm=vm.pk, uuid=vm.uuid))


def keep(context: Context[SnapshotParams], key: str) -> Call | None:
    if context.params.memory:
        return None
    quiesce = context.data.get("quiesces", "no")
    call: Call = disk_call(DiskSnapshot, **({} if quiesce == "no" else {"quiesce": quiesce}))(context, key)
    return call


def kept(context: Context[SnapshotParams], key: str, result: KeptVolume) -> None:
    if result.quiesced:
        context.data["quiesced"] = True


def save(context: Context[SnapshotParams], key: str) -> Call | None:
    if not context.params.memory:
        return None
    vm, disks = vm_of(context), tuple(each.partition(".")[2] for each in kept_keys(context))
    return Call(vm.node_id, DomainSave(vm=vm.pk, uuid=vm.uuid, snapshot=context.data["snapshot"], disks=disks))


def kept_keys(context: Context[SnapshotParams]) -> list[str]:
    return keys_of([context.data["snapshot"]])


def finish(context: Context[SnapshotParams], key: str) -> None:
    Snapshot.objects.filter(pk=context.data["snapshot"]).update(
        state=SnapshotState.READY, consistency=_consistency(context), version=F("version") + 1
    )
    _release(context)
    states.touch(context.subject_id, snapshot=context.data["snapshot"])


def _consistency(context: Context[SnapshotParams]) -> Consistency:
    if context.params.memory:
        return Consistency.MEMORY
    if context.data.get("was") == VmState.STOPPED:
        return Consistency.OFF
    return Consistency.QUIESCED if context.data.get("quiesced") else Consistency.CRASH


VmSnapshot.steps = (
    Step("reserve", _("Reserve room"), do=done, undo=forget),
    Step(
        "freeze",
        _("Let the guest's file systems stand still"),
        do=freeze,
        undo=thaw,
        after=frozen,
        undone_by=GUEST_IS_OFF,
    ),
    Step("pause", _("Let the guest stand still"), do=pause, undo=go_on, undone_by=GUEST_IS_OFF),
    Step(
        "keep",
        _("Keep the disk's content"),
        do=keep,
        undo=disk_call(DiskSnapshotDelete),
        each=kept_keys,
        after=kept,
    ),
    Step("save", _("Keep the guest's memory"), do=save, undo=NoUndo(_("it goes with the disks' content"))),
    Step("go_on", _("Let the guest go on"), do=go_on, undo=NoUndo(_("its pause is taken back already"))),
    Step("thaw", _("Let its file systems go on"), do=thaw_frozen, undo=NoUndo(_("they go on already")), after=thawed),
    Step("finish", _("Note the snapshot"), do=finish, undo=NoUndo(_("nothing can fail after it"))),
)
