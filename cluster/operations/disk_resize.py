"""Grow a disk, also while its guest runs; a disk never shrinks."""

from collections.abc import Sequence
from typing import Annotated, Any

from django.db.models import F
from django.utils.translation import gettext_lazy as _
from pydantic import Field

from cluster import placement, states
from cluster.domain_specs import volume_of
from cluster.models import Disk, VmState
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, LockName, NoUndo, Operation, Plan, Settle, Step, Verdict, done
from nodes.contract import messages
from nodes.contract.messages import DiskState, VolumeFacts
from nodes.contract.sizes import MAX_BYTES, round_up

from . import snapshot_first
from .snapshot_first import SnapshotFirst
from .vm_power import state_obstacles
from .vm_settle import look_at_disk

S = VmState
NEEDS = (S.STOPPED, S.RUNNING, S.PAUSED, S.ERROR)


class ResizeParams(SnapshotFirst):
    size_bytes: Annotated[int, Field(ge=1, le=MAX_BYTES)]


class DiskResize(Operation[ResizeParams]):
    code = "disk.resize"
    noun = "disks"
    label = _("Grow the disk")
    hint = _("the guest sees the new size at once; its file system is grown from inside")
    icon = "arrows-maximize"
    Params = ResizeParams

    @classmethod
    def obstacles(cls, target: Disk) -> list[Refusal]:
        if target.vm is None or target.pool is None:
            return [Refusal("disk_unattached", {"disk": target.pk}, status=409)]
        if target.state != "ready":
            return [Refusal("disk_not_ready", {"disk": target.pk, "state": target.state}, status=409)]
        return state_obstacles(target.vm, NEEDS)

    @classmethod
    def plan(cls, actor: Actor, target: Disk, params: ResizeParams) -> Plan:
        pool = target.pool
        if pool is None:
            return Plan()
        granule_bytes = pool.granules.get(target.format)
        if granule_bytes is None:
            lacks = {"pool": pool.name, "format": target.format, "formats": sorted(pool.granules)}
            return Plan(refusals=[Refusal("format_unsupported", lacks)], data={"vm": target.vm_id})
        size_bytes = round_up(params.size_bytes, granule_bytes)
        refusals = []
        if size_bytes < target.size_bytes:
            facts = {"size": target.size_bytes, "asked": params.size_bytes}
            refusals.append(Refusal("would_shrink", facts, field="size_bytes"))
        refusals += placement.off_grid(pool, params.size_bytes, granule_bytes, "size_bytes")
        needed = size_bytes - target.size_bytes
        if needed > placement.free_room_bytes(pool):
            node = target.vm.node if target.vm else None
            refusals.append(placement.no_room(pool, node, needed, "size_bytes"))
        if params.snapshot_first and pool.facts.get("snapshots_take_room"):
            refusals.append(Refusal("snapshots_hinder", field="snapshot_first"))
        refusals += snapshot_first.hindered(actor, target.vm, params)
        row: dict[str, Any] = {
            "pool": None if actor.is_tenant_side else pool.pk,
            "asked_bytes": params.size_bytes,
            "size_bytes": size_bytes,
            "granule_bytes": granule_bytes,
        }
        return Plan(
            refusals=refusals,
            quote={"disks": [row], "price": None},
            data={"size_bytes": size_bytes, "grows_by_bytes": needed, "vm": target.vm_id, "pool": pool.pk},
        )

    @classmethod
    def begin(cls, actor: Actor, target: Disk, params: ResizeParams, plan: Plan) -> Disk:
        placement.reserve_room(plan.data["pool"], plan.data["grows_by_bytes"])
        return target

    @classmethod
    def locks(cls, context: Context[ResizeParams]) -> Sequence[LockName]:
        vms = [LockName("vm:" + context.data["vm"])] if context.data["vm"] else []
        return [LockName("disk:" + context.subject_id), *vms]

    @classmethod
    def recheck(cls, context: Context[ResizeParams]) -> list[Refusal]:
        disk = _disk(context)
        reasons = cls.obstacles(disk)
        if disk.size_bytes > context.data["size_bytes"]:
            facts = {"size": disk.size_bytes, "asked": context.params.size_bytes}
            reasons.append(Refusal("would_shrink", facts, field="size_bytes"))
        return reasons

    # The table of steps stands below the functions that it names.


def _disk(context: Context[Any]) -> Disk:
    return Disk.objects.select_related("vm", "pool").get(pk=context.subject_id)


def release(context: Context[ResizeParams], key: str) -> None:
    placement.release_room(context.data["pool"], context.data["grows_by_bytes"])


def grow(context: Context[ResizeParams], key: str) -> Call:
    disk = _disk(context)
    assert disk.vm
    message = messages.DiskResize(**volume_of(disk), size_bytes=context.data["size_bytes"])
    return Call(disk.vm.node_id, message)


def measured(context: Context[ResizeParams], key: str, result: VolumeFacts | DiskState) -> None:
    context.data["measured_bytes"] = result.size_bytes


def look(context: Context[Any], key: str) -> Sequence[Call]:
    return look_at_disk(context, context.subject_id)


def has_grown(context: Context[ResizeParams], results: Sequence[DiskState | None]) -> Verdict:
    seen = results[0] if results else None
    if seen is None or not seen.ours or seen.size_bytes is None:
        return "unclear"
    return "done" if seen.size_bytes >= context.data["size_bytes"] else "not_done"


def finish(context: Context[ResizeParams], key: str) -> None:
    size_bytes = context.data.get("measured_bytes") or context.data["size_bytes"]
    Disk.objects.filter(pk=context.subject_id).update(size_bytes=size_bytes, drift={}, version=F("version") + 1)
    release(context, key)
    states.touch(context.data["vm"])


DiskResize.steps = (
    Step("reserve", _("Reserve room"), do=done, undo=release),
    snapshot_first.TAKEN,
    Step(
        "grow",
        _("Grow the volume"),
        do=grow,
        undo=NoUndo(_("a disk never shrinks")),
        after=measured,
        pivot=True,
        settle=Settle(look, has_grown),
    ),
    Step("finish", _("Note the size"), do=finish, undo=NoUndo(_("nothing can fail after it"))),
)
