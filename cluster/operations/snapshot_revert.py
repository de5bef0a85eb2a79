"""Give a VM's disks the content of a snapshot; what they have now is lost."""

from collections.abc import Sequence

from django.db.models import F
from django.utils.translation import gettext_lazy as _

from cluster import states
from cluster.models import Disk, Snapshot, Vm, VmState
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, LockName, NoUndo, Operation, Plan, Settle, Step
from nodes.contract.messages import DiskRevert, DomainLoad, DomainStart, DomainStop, DomainWhereabouts, VolumeFacts

from . import snapshot_first
from .snapshot_delete import keys, not_ready, snapshot_of
from .snapshot_first import SnapshotFirst
from .vm_power import RUNS, call, mark, show, start_again, state_obstacles, unmark, vm_of
from .vm_snapshot import disk_call, disk_ids, hardware_of, keys_of, locks_of

NEEDS = (VmState.STOPPED, VmState.RUNNING, VmState.PAUSED, VmState.ERROR)


class RevertParams(SnapshotFirst):
    stop: bool = False
    """Pull the plug of a guest that runs: what it has in memory belongs to the content that goes."""
    memory: bool = True
    """Where the snapshot keeps the memory, the guest goes on from there; False: the disks alone, and the VM is off."""


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
        refusals = _needs_stop(target.vm, params) + _other_hardware(target, params)
        refusals += snapshot_first.hindered(actor, target.vm, params)
        return Plan(refusals=refusals, data={"vm": target.vm_id} | disk_ids(target.vm))

    @classmethod
    def locks(cls, context: Context[RevertParams]) -> Sequence[LockName]:
        return locks_of(context)

    @classmethod
    def recheck(cls, context: Context[RevertParams]) -> list[Refusal]:
        snapshot = snapshot_of(context)
        reasons = cls.obstacles(snapshot) + _needs_stop(snapshot.vm, context.params)
        return reasons + _other_hardware(snapshot, context.params)

    # The table of steps stands below the functions that it names.


def _needs_stop(vm: Vm, params: RevertParams) -> list[Refusal]:
    if vm.state not in RUNS or params.stop:
        return []
    return [Refusal("revert_needs_stop", {"vm": vm.name}, field="stop", status=409)]


def _other_hardware(snapshot: Snapshot, params: RevertParams) -> list[Refusal]:
    """A guest that goes on from its memory finds the machine that it was on."""
    if not (snapshot.memory and params.memory) or hardware_of(snapshot.vm) == snapshot.hardware:
        return []
    return [Refusal("hardware_changed", {"vm": snapshot.vm.name, "snapshot": snapshot.name}, field="memory")]


def stopped(context: Context[RevertParams], key: str, result: DomainWhereabouts) -> None:
    states.move(vm_of(context), VmState.STOPPED)


def measured(context: Context[RevertParams], key: str, result: VolumeFacts) -> None:
    _snapshot, _dot, disk = key.partition(".")
    # A disk that has grown since is as large again as it was.
    Disk.objects.filter(pk=disk).update(size_bytes=result.size_bytes, drift={}, version=F("version") + 1)


def load(context: Context[RevertParams], key: str) -> Call | None:
    if not (snapshot_of(context).memory and context.params.memory):
        return None
    vm, disks = vm_of(context), tuple(each.partition(".")[2] for each in keys_of([context.subject_id]))
    return Call(vm.node_id, DomainLoad(vm=vm.pk, uuid=vm.uuid, snapshot=context.subject_id, disks=disks))


def without_memory(context: Context[RevertParams], key: str, why: Refusal) -> bool:
    """The disks are as they were then, and what was before is gone: it is better to begin from them than to stand."""
    context.data["memory_lost"] = why.code == "memory_not_loaded"
    return bool(context.data["memory_lost"])


def start(context: Context[RevertParams], key: str) -> Call | None:
    if not context.data.get("memory_lost"):
        return None
    vm = vm_of(context)
    return Call(vm.node_id, DomainStart(vm=vm.pk, uuid=vm.uuid))


def finish(context: Context[RevertParams], key: str) -> None:
    states.touch(context.data["vm"], snapshot=context.subject_id)


SnapshotRevert.steps = (
    snapshot_first.TAKEN,
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
    Step(
        "load",
        _("Let the guest go on from its memory of then"),
        do=load,
        undo=NoUndo(_("its content of before is gone")),
        after=show,
        without=without_memory,
    ),
    Step(
        "start",
        _("Start the guest from its disks, if its memory was not to be had"),
        do=start,
        undo=NoUndo(_("its content of before is gone")),
        after=show,
    ),
    Step("finish", _("Note the place in the tree"), do=finish, undo=NoUndo(_("nothing can fail after it"))),
)
