"""Move a disk to another pool, also while its guest runs: it is copied there, and the old volume goes to the trash.

Of a guest that runs its QEMU copies the disk and writes to both volumes until it goes over to the new one, which is the
point of no return. A volume of a disk that nobody runs on is copied whole, and its VM is defined anew.
"""

from collections.abc import Sequence
from typing import Any

from django.db.models import F
from django.utils.translation import gettext_lazy as _

from cluster import placement, states
from cluster.domain_specs import disk_spec, domain_spec, elsewhere, volume_of
from cluster.models import POOL_AT_REST, Disk, Node, NodeState, Pool, VmState
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, Id, LockName, NoUndo, Operation, Params, Plan, Settle, Step, Verdict, done
from nodes.contract.messages import (
    DiskClone,
    DiskCreate,
    DiskDelete,
    DiskLook,
    DiskResize,
    DiskState,
    DomainDefine,
    DomainMirror,
    DomainPivot,
    VolumeFacts,
)
from nodes.contract.sizes import round_up
from nodes.contract.specs import DiskFormat, VolumeSpec

from . import trash
from .disk_attach import define as define_vm
from .disk_attach import disk_of, is_ready, locks_of
from .vm_create import FOREIGN
from .vm_power import RUNS, state_obstacles, vm_of

NEEDS = (VmState.STOPPED, VmState.RUNNING, VmState.PAUSED)


class MoveParams(Params):
    pool: Id
    format: DiskFormat | None = None
    """None: qcow2 where the pool holds it."""


class DiskMove(Operation[MoveParams]):
    code = "disk.move"
    noun = "disks"
    label = _("Move to another storage")
    hint = _("also while its guest runs; what it leaves behind rests in the trash")
    icon = "transfer"
    Params = MoveParams

    @classmethod
    def obstacles(cls, target: Disk) -> list[Refusal]:
        reasons = is_ready(target)
        if target.vm is not None:
            reasons += state_obstacles(target.vm, NEEDS)
            if target.pending:
                reasons.append(Refusal("disks_pending", {"vm": target.vm.name}, status=409))
        if snapshots := len(target.snapshots.all()):
            reasons.append(Refusal("move_leaves_snapshots", {"disk": target.name, "count": snapshots}))
        return reasons

    @classmethod
    def plan(cls, actor: Actor, target: Disk, params: MoveParams) -> Plan:
        source = target.pool
        pool = Pool.objects.filter(pk=params.pool, state__in=POOL_AT_REST).first()
        nowhere = {"vm": target.vm_id, "node": None}
        if pool is None or source is None:
            return Plan(refusals=[Refusal("pool_unknown", field="pool")], data=nowhere)
        chosen = params.format or pool.usual_format
        granule_bytes = pool.granules.get(chosen)
        if granule_bytes is None:
            facts = {"pool": pool.name, "format": chosen, "formats": sorted(pool.granules)}
            return Plan(refusals=[Refusal("format_unsupported", facts, field="format")], data=nowhere)
        both = placement.granule_of_both_bytes(target, pool, chosen)
        size_bytes = round_up(target.size_bytes, both)
        grows_by_bytes = size_bytes - target.size_bytes if _runs(target) else 0
        node = _node(target, pool)
        refusals = _hindered(target, source, pool, chosen) + placement.closed(pool, "pool")
        if node is None:
            where = target.vm.node.name if target.vm else ""
            code = "pool_elsewhere" if target.vm else "pools_apart"
            refusals.append(Refusal(code, {"pool": pool.name, "node": where, "source": source.name}, field="pool"))
        refusals += placement.off_grid(pool, target.size_bytes, granule_bytes, "pool")
        for each, needed_bytes in ((pool, size_bytes), (source, grows_by_bytes)):
            if needed_bytes > max(0, placement.free_room_bytes(each)):
                refusals.append(placement.no_room(each, node, needed_bytes, "pool"))
        row: dict[str, Any] = {
            "pool": pool.pk,
            "asked_bytes": target.size_bytes,
            "size_bytes": size_bytes,
            "granule_bytes": both,
            "grows_first": grows_by_bytes > 0,
        }
        return Plan(
            refusals=refusals,
            quote={"disks": [row], "price": None},
            data={
                "vm": target.vm_id,
                "node": node.pk if node else None,
                "asked": _place(target),
                "pool": pool.pk,
                "format": chosen,
                "size_bytes": size_bytes,
            },
        )

    @classmethod
    def begin(cls, actor: Actor, target: Disk, params: MoveParams, plan: Plan) -> Disk:
        placement.reserve_room(plan.data["pool"], plan.data["size_bytes"])
        plan.data["reserved_bytes"] = plan.data["size_bytes"]
        return target

    @classmethod
    def locks(cls, context: Context[MoveParams]) -> Sequence[LockName]:
        node = context.data["node"]
        return [*locks_of(context), *([LockName("node:" + node, exclusive=False)] if node else [])]

    @classmethod
    def recheck(cls, context: Context[MoveParams]) -> list[Refusal]:
        disk = disk_of(context)
        reasons = cls.obstacles(disk)
        if _place(disk) != context.data["asked"] or disk.vm_id != context.data["vm"]:
            reasons.append(Refusal("disk_changed", {"disk": disk.name}, status=409))
        return reasons

    # The table of steps stands below the functions that it names.


def _runs(disk: Disk) -> bool:
    return disk.vm is not None and disk.vm.state in RUNS


def _place(disk: Disk) -> list[Any]:
    """What the plan was made by."""
    return [disk.pool_id, disk.format, disk.size_bytes]


def _node(disk: Disk, pool: Pool) -> Node | None:
    """Which sees where the disk is and where it goes: its VM's; without a VM one that answers where there is one."""
    nodes = Node.objects.filter(pool_places__pool=pool)
    if disk.vm is not None:
        return nodes.filter(pk=disk.vm.node_id).first()
    both = nodes.filter(pk__in=Node.objects.filter(pool_places__pool=disk.pool_id)).order_by("name")
    return min(both, key=lambda node: node.state == NodeState.OFFLINE, default=None)


def _hindered(disk: Disk, source: Pool, pool: Pool, chosen: str) -> list[Refusal]:
    if (source.pk, disk.format) == (pool.pk, chosen):
        return [Refusal("disk_is_there", {"disk": disk.name, "pool": pool.name, "format": chosen}, field="pool")]
    if source.pk != pool.pk and source.facts.get("names") and source.facts.get("names") == pool.facts.get("names"):
        return [Refusal("pools_share_names", {"pool": pool.name, "source": source.name}, field="pool")]
    return []


# --- the steps ------------------------------------------------------------------------------------------------


def moved(context: Context[MoveParams]) -> Disk:
    """The disk as it will be; its row is as it was until the move is certain."""
    return elsewhere(disk_of(context), context.data)


def release(context: Context[MoveParams], key: str) -> None:
    placement.release_room(context.data["pool"], context.data.pop("reserved_bytes", 0))


def look(context: Context[MoveParams], key: str) -> None:
    disk = disk_of(context)
    context.data.setdefault("runs", _runs(disk))
    context.data.setdefault("left", trash.left_by(disk, context.data["node"]))


def grow(context: Context[MoveParams], key: str) -> Call | None:
    disk = disk_of(context)
    if not context.data["runs"] or disk.size_bytes == context.data["size_bytes"]:
        return None
    return Call(context.data["node"], DiskResize(**volume_of(disk), size_bytes=context.data["size_bytes"]))


def grown(context: Context[MoveParams], key: str, result: VolumeFacts) -> None:
    context.data["left"]["size_bytes"] = context.data["size_bytes"] = result.size_bytes
    Disk.objects.filter(pk=context.subject_id).update(size_bytes=result.size_bytes, drift={}, version=F("version") + 1)


def make(context: Context[MoveParams], key: str) -> Call:
    """Of a guest that runs its QEMU writes the content; of one that is off it is copied at once."""
    spec = disk_spec(moved(context))
    if context.data["runs"]:
        return Call(context.data["node"], DiskCreate(disk=spec))
    return Call(context.data["node"], DiskClone(disk=spec, source=VolumeSpec(**volume_of(disk_of(context)))))


def made(context: Context[MoveParams], key: str, result: VolumeFacts) -> None:
    release(context, key)
    context.data["size_bytes"] = result.size_bytes


def unmake(context: Context[MoveParams], key: str) -> Call:
    return Call(context.data["node"], DiskDelete(**volume_of(moved(context))))


def look_at_target(context: Context[MoveParams], key: str) -> Sequence[Call]:
    return [Call(context.data["node"], DiskLook(**volume_of(moved(context))))]


def is_made(context: Context[MoveParams], results: Sequence[DiskState | None]) -> Verdict:
    seen = results[0]
    if seen is None:
        return "unclear"
    return "done" if seen.exists and seen.ours else "not_done"


def mirror(context: Context[MoveParams], key: str) -> Call | None:
    if not context.data["runs"]:
        return None
    vm, target = vm_of(context), VolumeSpec(**volume_of(moved(context)))
    return Call(vm.node_id, DomainMirror(vm=vm.pk, uuid=vm.uuid, disk=context.subject_id, target=target))


def end_mirror(context: Context[MoveParams], key: str) -> Call | None:
    if not context.data["runs"]:
        return None
    vm = vm_of(context)
    return Call(vm.node_id, DomainMirror(vm=vm.pk, uuid=vm.uuid, disk=context.subject_id))


def go_over(context: Context[MoveParams], key: str) -> Call | None:
    if not context.data["vm"]:
        return None
    vm, disk = vm_of(context), moved(context)
    if not context.data["runs"]:
        return Call(vm.node_id, DomainDefine(domain=domain_spec(vm, moved=[disk])))
    target = VolumeSpec(**volume_of(disk))
    return Call(vm.node_id, DomainPivot(vm=vm.pk, uuid=vm.uuid, disk=disk.pk, target=target))


def define_back(context: Context[MoveParams], key: str) -> Call | None:
    return define_vm(context, key) if context.data["vm"] and not context.data["runs"] else None


def look_at_source(context: Context[MoveParams], key: str) -> Sequence[Call]:
    return [Call(context.data["node"], DiskLook(**volume_of(disk_of(context))))] if context.data["vm"] else []


def is_left(context: Context[MoveParams], results: Sequence[DiskState | None]) -> Verdict:
    """Neither the guest nor its definition names the old volume any more."""
    seen = results[0] if results else None
    if seen is None:
        return "unclear"
    return "not_done" if seen.used_by else "done"


def note(context: Context[MoveParams], key: str) -> None:
    disk = Disk.objects.filter(pk=context.subject_id)
    place = {"pool": context.data["pool"], "format": context.data["format"], "size_bytes": context.data["size_bytes"]}
    disk.update(**place, image=None, parent=None, drift={}, version=F("version") + 1)


def define(context: Context[MoveParams], key: str) -> Call | None:
    """Its QEMU knows already; the definition is written as for every other disk, with what suits its storage."""
    return define_vm(context, key) if context.data["runs"] else None


def throw_away(context: Context[MoveParams], key: str) -> Call:
    return trash.put(context.data["left"])


def finish(context: Context[MoveParams], key: str) -> None:
    release(context, key)  # this job was resolved as done before the volume was known to be made
    trash.rest(context, context.data["left"])
    if context.data["vm"]:
        states.touch(context.data["vm"])


DiskMove.steps = (
    Step("reserve", _("Reserve room"), do=done, undo=release),
    Step("look", _("See whether the guest runs"), do=look, undo=NoUndo(_("it only looks"))),
    Step(
        "grow",
        _("Grow the disk to a size that both storages can have"),
        do=grow,
        undo=NoUndo(_("a disk never shrinks")),
        after=grown,
    ),
    Step(
        "make",
        _("Make the new volume"),
        do=make,
        undo=unmake,
        after=made,
        settle=Settle(look_at_target, is_made),
        undone_by=FOREIGN,
    ),
    Step("mirror", _("Let the guest's QEMU copy the content"), do=mirror, undo=end_mirror),
    Step(
        "go_over",
        _("Go over to the new volume"),
        do=go_over,
        undo=define_back,
        pivot=True,
        settle=Settle(look_at_source, is_left),
    ),
    Step("note", _("Note where the disk is"), do=note, undo=NoUndo(_("the guest is there now"))),
    Step("define", _("Write it into the VM's definition"), do=define, undo=NoUndo(_("the guest is there now"))),
    Step("throw_away", _("Put the old volume into the trash"), do=throw_away, undo=NoUndo(_("it is not deleted"))),
    Step("finish", _("Hand over"), do=finish, undo=NoUndo(_("nothing can fail after it"))),
)
