"""Delete a snapshot: the storage merges what it kept, the disks stay as they are now, and its children move up."""

from collections.abc import Sequence
from typing import Any

from django.db.models import F
from django.utils.translation import gettext_lazy as _

from cluster import states
from cluster.models import Snapshot, SnapshotState, Vm, VmState
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Context, LockName, NoParams, NoUndo, Operation, Plan, Settle, Step, Verdict
from nodes.contract.messages import DiskSnapshotDelete, DiskState

from .vm_power import state_obstacles
from .vm_snapshot import disk_call, disk_ids, disks_of, keys_of, locks_of, look, stop_obstacles

NEEDS = (VmState.STOPPED, VmState.RUNNING, VmState.PAUSED, VmState.ERROR)


class SnapshotDelete(Operation[NoParams]):
    code = "snapshot.delete"
    noun = "snapshots"
    label = _("Delete the snapshot")
    hint = _("the disks stay as they are now")
    icon = "trash"
    danger = True
    Params = NoParams

    @classmethod
    def obstacles(cls, target: Snapshot) -> list[Refusal]:
        reasons = [*not_ready(target), *state_obstacles(target.vm, NEEDS)]
        return reasons + [reason for disk in disks_of(target.vm) for reason in stop_obstacles(disk)]

    @classmethod
    def plan(cls, actor: Actor, target: Snapshot, params: NoParams) -> Plan:
        return Plan(data={"vm": target.vm_id} | disk_ids(target.vm))

    @classmethod
    def locks(cls, context: Context[NoParams]) -> Sequence[LockName]:
        return locks_of(context)

    @classmethod
    def recheck(cls, context: Context[NoParams]) -> list[Refusal]:
        return cls.obstacles(snapshot_of(context))

    # The table of steps stands below the functions that it names.


def not_ready(snapshot: Snapshot) -> list[Refusal]:
    if snapshot.state == SnapshotState.READY:
        return []
    return [Refusal("snapshot_not_ready", {"snapshot": snapshot.name, "state": snapshot.state}, status=409)]


def snapshot_of(context: Context[Any]) -> Snapshot:
    return Snapshot.objects.select_related("vm").get(pk=context.subject_id)


def _mark(state: SnapshotState) -> Any:
    def do(context: Context[NoParams], key: str) -> None:
        Snapshot.objects.filter(pk=context.subject_id).update(state=state, version=F("version") + 1)
        states.touch(context.data["vm"])

    return do


def keys(context: Context[NoParams]) -> list[str]:
    return keys_of([context.subject_id])


def _gone(context: Context[Any], results: Sequence[DiskState | None]) -> Verdict:
    seen = results[0] if results else None
    if seen is None:
        return "unclear"
    return "not_done" if context.subject_id in seen.snapshots else "done"


def forget(context: Context[NoParams], key: str) -> None:
    snapshot = Snapshot.objects.filter(pk=context.subject_id).first()
    if snapshot is None:
        return
    Snapshot.objects.filter(parent=snapshot).update(parent=snapshot.parent_id)
    Vm.objects.filter(pk=snapshot.vm_id, snapshot=snapshot).update(snapshot=snapshot.parent_id)
    snapshot.delete()
    states.touch(context.data["vm"])


SnapshotDelete.steps = (
    Step("mark", _("Mark the snapshot"), do=_mark(SnapshotState.DELETING), undo=_mark(SnapshotState.READY)),
    Step(
        "drop",
        _("Give back what the disk kept"),
        do=disk_call(DiskSnapshotDelete),
        undo=NoUndo(_("what was given back is gone")),
        each=keys,
        pivot=True,
        settle=Settle(look, _gone),
    ),
    Step("forget", _("Forget the snapshot"), do=forget, undo=NoUndo(_("nothing can fail after it"))),
)
