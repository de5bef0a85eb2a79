"""Take over the size to which somebody has made a disk's volume larger by hand; nothing changes on the node."""

from collections.abc import Sequence
from typing import Any

from django.db.models import F
from django.utils.translation import gettext_lazy as _

from cluster import drift, states
from cluster.domain_specs import volume_of
from cluster.models import Disk
from cluster.permissions import Actor
from cluster.refusals import Refusal, Refused
from cluster.saga.steps import Call, Context, LockName, NoParams, NoUndo, Operation, Plan, Step
from nodes.contract.messages import DiskLook, DiskState
from nodes.contract.sizes import MAX_BYTES

from .disk_attach import disk_of, is_ready, locks_of
from .disk_create import at_hand


class DiskAdopt(Operation[NoParams]):
    code = "disk.adopt"
    noun = "disks"
    label = _("Take over the node's size")
    hint = _("the volume was made larger by hand, and that was meant")
    icon = "check"
    dialog = True
    Params = NoParams

    @classmethod
    def obstacles(cls, target: Disk) -> list[Refusal]:
        return is_ready(target) or cannot_be_adopted(target, target.drift.get(drift.FIELD, target.size_bytes))

    @classmethod
    def plan(cls, actor: Actor, target: Disk, params: NoParams) -> Plan:
        node = target.vm.node_id if target.vm else at_hand(target.pool) if target.pool else None
        nowhere = [] if node else [Refusal("pool_nowhere", {"pool": target.pool.name if target.pool else ""})]
        return Plan(refusals=nowhere, data={"vm": target.vm_id, "node": node})

    @classmethod
    def locks(cls, context: Context[NoParams]) -> Sequence[LockName]:
        return locks_of(context)

    @classmethod
    def recheck(cls, context: Context[NoParams]) -> list[Refusal]:
        return is_ready(disk_of(context))

    # The table of steps stands below the functions that it names.


def cannot_be_adopted(disk: Disk, seen_bytes: int | None) -> list[Refusal]:
    """Why the size that a node sees is not taken over."""
    facts = {"disk": disk.name, "size": disk.size_bytes, "seen": seen_bytes}
    if seen_bytes is None:
        return [Refusal("volume_gone", facts, status=409)]
    if seen_bytes == disk.size_bytes:
        return [Refusal("no_drift", facts, status=409)]
    if not disk.size_bytes < seen_bytes <= MAX_BYTES:
        return [Refusal("volume_shrunk", facts, status=409)]
    return []


def look(context: Context[NoParams], key: str) -> Call:
    return Call(context.data["node"], DiskLook(**volume_of(disk_of(context))))


def seen(context: Context[NoParams], key: str, result: DiskState) -> None:
    context.data["seen_bytes"] = result.size_bytes if result.ours else None


def take(context: Context[Any], key: str) -> None:
    disk, size_bytes = disk_of(context), context.data["seen_bytes"]
    if size_bytes != disk.size_bytes and (reasons := cannot_be_adopted(disk, size_bytes)):
        raise Refused(*reasons)
    Disk.objects.filter(pk=disk.pk).update(size_bytes=size_bytes, drift={}, version=F("version") + 1)
    if disk.vm_id:
        states.touch(disk.vm_id)


DiskAdopt.steps = (
    # What was reported may be minutes old: it is measured again, while nothing else works on the disk.
    Step("look", _("Measure the volume"), do=look, undo=NoUndo(_("it only looks")), after=seen),
    Step("take", _("Note the size"), do=take, undo=NoUndo(_("nothing can fail after it"))),
)
