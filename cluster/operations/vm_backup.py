"""Copy all disks of a VM at one instant into another place, also while it runs: such a VM can be made of that again."""

from collections.abc import Sequence
from typing import Any

from django.db.models import F
from django.utils.translation import gettext_lazy as _

from cluster import placement, states
from cluster.domain_specs import disk_spec, pool_spec, volume_of
from cluster.models import POOL_AT_REST, Backup, BackupState, Consistency, Disk, Pool, Vm, VmState
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, Id, LockName, NoUndo, Operation, Params, Plan, Step, done
from nodes.contract.messages import BackedUpDomain, DiskClone, DiskCreate, DiskDelete, DomainBackup, Quiesce
from nodes.contract.sizes import round_up
from nodes.contract.specs import BackupDisk, Title, VolumeSpec

from .vm_create import FOREIGN, disk_created
from .vm_power import RUNS, state_obstacles, vm_of
from .vm_settle import settle_disk_exists
from .vm_snapshot import asks_guest, disks_changed, disks_of, quiesce_obstacles

NEEDS = (VmState.STOPPED, VmState.RUNNING, VmState.PAUSED)


class BackupParams(Params):
    pool: Id | None = None
    """Where the copies go; None: the default pool of the VM's node."""
    title: Title = ""
    quiesce: Quiesce = "auto"
    """As of a snapshot."""


class VmBackup(Operation[BackupParams]):
    code = "vm.backup"
    noun = "vms"
    label = _("Back up")
    hint = _("a full copy of all disks at this moment, also while the guest runs")
    icon = "archive"
    dialog = True
    Params = BackupParams

    @classmethod
    def obstacles(cls, target: Vm) -> list[Refusal]:
        reasons = state_obstacles(target, NEEDS)
        if not disks_of(target):
            reasons.append(Refusal("no_disks", {"vm": target.name}))
        if any(disk.pending for disk in disks_of(target)):
            reasons.append(Refusal("disks_pending", {"vm": target.name}, status=409))
        return reasons

    @classmethod
    def plan(cls, actor: Actor, target: Vm, params: BackupParams) -> Plan:
        pool = _pool(actor, target, params)
        if pool is None:
            return Plan(refusals=[Refusal("pool_unknown", field="pool")], data={"node": target.node_id, "sources": {}})
        chosen = pool.usual_format
        granule_bytes = pool.granules[chosen]
        rows = [
            {
                "pool": None if actor.is_tenant_side else pool.pk,
                "asked_bytes": disk.size_bytes,
                "size_bytes": round_up(disk.size_bytes, granule_bytes),
                "granule_bytes": granule_bytes,
            }
            for disk in disks_of(target)
        ]
        size_bytes = sum(row["size_bytes"] for row in rows)
        refusals = _hindered(target, pool) + quiesce_obstacles(target, params.quiesce) + placement.closed(pool, "pool")
        if not pool.places.filter(node=target.node_id).exists():
            facts = {"pool": pool.name, "node": target.node.name}
            refusals.append(Refusal("pool_elsewhere", facts, field="pool"))
        if size_bytes > placement.free_room_bytes(pool):
            refusals.append(placement.no_room(pool, target.node, size_bytes, "pool"))
        sources = {disk.pk: row["size_bytes"] for disk, row in zip(disks_of(target), rows, strict=True)}
        return Plan(
            refusals=refusals,
            quote={"disks": rows, "price": None},
            data={"node": target.node_id, "pool": pool.pk, "format": chosen, "sources": sources, "copies": {}},
        )

    @classmethod
    def begin(cls, actor: Actor, target: Vm, params: BackupParams, plan: Plan) -> Vm:
        data = plan.data
        placement.reserve_room(data["pool"], sum(data["sources"].values()))
        whose: dict[str, Any] = {"tenant_id": target.tenant_id, "owner_id": target.owner_id}
        backup = Backup.objects.create(
            vm=target,
            vm_name=target.name,
            title=params.title.strip(),
            settings=settings_of(target),
            **whose,
        )
        data["backup"] = backup.pk
        made = [
            Disk(
                backup=backup,
                pool_id=data["pool"],
                format=data["format"],
                size_bytes=data["sources"][disk.pk],
                bus=disk.bus,
                cache=disk.cache,
                position=position,
                title=disk.title,
                **whose,
            )
            for position, disk in enumerate(disks_of(target))
        ]
        Disk.objects.bulk_create(made)
        data["copies"] = {copy.pk: disk.pk for copy, disk in zip(made, disks_of(target), strict=True)}
        return target

    @classmethod
    def locks(cls, context: Context[BackupParams]) -> Sequence[LockName]:
        disks = [LockName("disk:" + pk) for pk in context.data["sources"]]
        node = LockName("node:" + context.data["node"], exclusive=False)
        return [LockName("vm:" + context.subject_id), *disks, node]

    @classmethod
    def recheck(cls, context: Context[BackupParams]) -> list[Refusal]:
        vm = vm_of(context)
        reasons = disks_changed(vm, context.data["sources"])
        return reasons + cls.obstacles(vm) + _hindered(vm, Pool.objects.get(pk=context.data["pool"]))

    # The table of steps stands below the functions that it names.


def settings_of(vm: Vm) -> dict[str, Any]:
    """What, beside its disks, such a VM is made of (``Backup.settings``)."""
    nics = [{"network": nic.network_id, "model": nic.model} for nic in vm.nics.all()]
    sizes = {"vcpus": vm.vcpus, "memory_bytes": vm.memory_bytes}
    return {**sizes, "os": vm.os, "nics": nics, "group": vm.node_group_id}


def _pool(actor: Actor, vm: Vm, params: BackupParams) -> Pool | None:
    if params.pool and not actor.is_tenant_side:
        return Pool.objects.filter(pk=params.pool, state__in=POOL_AT_REST).first()
    return vm.node.default_pool


def _hindered(vm: Vm, pool: Pool) -> list[Refusal]:
    if vm.state not in RUNS or pool.facts.get("takes_backups"):
        return []
    return [Refusal("backup_needs_stop", {"vm": vm.name, "pool": pool.name}, field="pool", status=409)]


def forget(context: Context[BackupParams], key: str) -> None:
    copies = Disk.objects.filter(backup=context.data["backup"])
    for copy in copies.filter(state="creating"):
        placement.release_room(context.data["pool"], copy.size_bytes)
    copies.delete()
    Backup.objects.filter(pk=context.data["backup"]).delete()


def look(context: Context[BackupParams], key: str) -> None:
    vm = vm_of(context)
    context.data["runs"] = vm.state in RUNS
    known = "quiesce" in vm.node.verbs.get(DomainBackup.verb, ())
    asks = asks_guest(vm, context.params.quiesce, known=known)
    context.data["quiesce"] = context.params.quiesce if asks else None


def copies(context: Context[BackupParams]) -> list[str]:
    return list(context.data["copies"])


def make(context: Context[BackupParams], copy_id: str) -> Call:
    """Of a guest that runs its QEMU writes the content; of one that is off it is copied at once."""
    copy = Disk.objects.select_related("pool").get(pk=copy_id)
    if context.data["runs"]:
        return Call(context.data["node"], DiskCreate(disk=disk_spec(copy)))
    source = Disk.objects.select_related("pool").get(pk=context.data["copies"][copy_id])
    message = DiskClone(disk=disk_spec(copy), source=VolumeSpec(**volume_of(source)))
    return Call(context.data["node"], message)


def unmake(context: Context[BackupParams], copy_id: str) -> Call:
    copy = Disk.objects.select_related("pool").get(pk=copy_id)
    return Call(context.data["node"], DiskDelete(**volume_of(copy)))


def copy_all(context: Context[BackupParams], key: str) -> Call | None:
    if not context.data["runs"]:
        return None
    vm = vm_of(context)
    pool = pool_spec(Pool.objects.get(pk=context.data["pool"]))
    targets = [
        BackupDisk(disk=source, target=VolumeSpec(id=copy, pool=pool, format=context.data["format"]))
        for copy, source in context.data["copies"].items()
    ]
    more = {"quiesce": context.data["quiesce"]} if context.data["quiesce"] else {}
    return Call(vm.node_id, DomainBackup(vm=vm.pk, uuid=vm.uuid, disks=tuple(targets), **more))


def copied(context: Context[BackupParams], key: str, result: BackedUpDomain) -> None:
    context.data["quiesced"] = result.quiesced


def end_copying(context: Context[BackupParams], key: str) -> Call | None:
    if not context.data["runs"]:
        return None
    vm = vm_of(context)
    return Call(vm.node_id, DomainBackup(vm=vm.pk, uuid=vm.uuid))


def finish(context: Context[BackupParams], key: str) -> None:
    whole = Consistency.QUIESCED if context.data.get("quiesced") else Consistency.CRASH
    consistency = whole if context.data["runs"] else Consistency.OFF
    Backup.objects.filter(pk=context.data["backup"]).update(
        state=BackupState.READY, consistency=consistency, version=F("version") + 1
    )
    states.touch(context.subject_id)


VmBackup.steps = (
    Step("reserve", _("Reserve room"), do=done, undo=forget),
    Step("look", _("See whether the guest runs"), do=look, undo=NoUndo(_("it only looks"))),
    Step(
        "make",
        _("Make the copy"),
        do=make,
        undo=unmake,
        each=copies,
        after=disk_created,
        settle=settle_disk_exists,
        undone_by=FOREIGN,
    ),
    Step("copy", _("Let the guest's QEMU write the content"), do=copy_all, undo=end_copying, after=copied),
    Step("finish", _("Note the backup"), do=finish, undo=NoUndo(_("nothing can fail after it"))),
)
