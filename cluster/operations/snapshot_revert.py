"""Give a VM's disks the content of a snapshot; what they have now is lost."""

from collections.abc import Sequence

from django.db.models import F
from django.utils.translation import gettext_lazy as _

from cluster import states
from cluster.models import Disk, Snapshot, Vm, VmState
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Context, LockName, NoUndo, Operation, Params, Plan, Settle, Step
from nodes.contract.messages import DiskRevert, DomainStop, DomainWhereabouts, VolumeFacts

from .snapshot_delete import keys, not_ready, snapshot_of
from .vm_power import RUNS, call, mark, start_again, state_obstacles, unmark, vm_of
from .vm_snapshot import disk_call, disk_ids, locks_of

NEEDS = (VmState.STOPPED, VmState.RUNNING, VmState.PAUSED, VmState.ERROR)


class RevertParams(Params):
    stop: bool = False
    """Pull the plug of a guest that runs: what it has in memory belongs to the content that goes."""


class SnapshotRevert(Operation[RevertParams]):
    code = "snapshot.revert"
    noun = "snapshots"
    label = _("Revert to the snapshot")
    hint = _("what the disks have now is lost")
    icon = "history"
    danger = True
    Params = RevertParams

    @classmethod
    def obstacles(cls, target: Snapshot) -> list[Refusal]:
        reasons = [*not_ready(target), *state_obstacles(target.vm, NEEDS)]
        if target.vm.protected:
            reasons.append(Refusal("protected", {"vm": target.vm.name}))
        return reasons

    @classmethod
    def plan(cls, actor: Actor, target: Snapshot, params: RevertParams) -> Plan:
        return Plan(refusals=_needs_stop(target.vm, params), data={"vm": target.vm_id} | disk_ids(target.vm))

    @classmethod
    def locks(cls, context: Context[RevertParams]) -> Sequence[LockName]:
        return locks_of(context)

    @classmethod
    def recheck(cls, context: Context[RevertParams]) -> list[Refusal]:
        snapshot = snapshot_of(context)
        return cls.obstacles(snapshot) + _needs_stop(snapshot.vm, context.params)

    # The table of steps stands below the functions that it names.


def _needs_stop(vm: Vm, params: RevertParams) -> list[Refusal]:
    if vm.state not in RUNS or params.stop:
        return []
    return [Refusal("revert_needs_stop", {"vm": vm.name}, field="stop", status=409)]


def stopped(context: Context[RevertParams], key: str, result: DomainWhereabouts) -> None:
    states.move(vm_of(context), VmState.STOPPED)


def measured(context: Context[RevertParams], key: str, result: VolumeFacts) -> None:
    _snapshot, _dot, disk = key.partition(".")
    # A disk that has grown since is as large again as it was.
    Disk.objects.filter(pk=disk).update(size_bytes=result.size_bytes, drift={}, version=F("version") + 1)


def finish(context: Context[RevertParams], key: str) -> None:
    states.touch(context.data["vm"], snapshot=context.subject_id)


SnapshotRevert.steps = (
    Step("mark", _("Mark the VM"), do=mark(None), undo=unmark),
    # Also for a VM that looks stopped: a guest that somebody started must not lose its disks while it runs.
    Step("stop", _("Stop the guest"), do=call(DomainStop), undo=start_again, after=stopped),
    # From here on only forward: a volume does not show whether it was reverted, but once more does no harm, and a VM
    # of which one disk went back and another did not is of no use to anybody.
    Step(
        "begin",
        _("Begin to go back"),
        do=lambda context, key: None,
        undo=NoUndo(_("nothing has happened yet")),
        pivot=True,
        settle=Settle(lambda context, key: [], lambda context, results: "done"),
    ),
    Step(
        "revert",
        _("Give the disk its content of then"),
        do=disk_call(DiskRevert),
        undo=NoUndo(_("its content of before is gone")),
        each=keys,
        after=measured,
    ),
    Step("finish", _("Note the place in the tree"), do=finish, undo=NoUndo(_("nothing can fail after it"))),
)
