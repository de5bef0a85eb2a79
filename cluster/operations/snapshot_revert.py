"""Give a VM's disks the content of a snapshot; what they have now is lost."""

from collections.abc import Sequence

from django.db.models import F
from django.utils.translation import gettext_lazy as _

from cluster import states
from cluster.domain_specs import pool_spec
from cluster.models import Disk, Snapshot, Vm, VmState
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, LockName, NoUndo, Operation, Params, Plan, Settle, Step
from nodes.contract.messages import DiskRevert, DomainStart, DomainStop, DomainWhereabouts, VolumeFacts

from .snapshot_delete import keys, not_ready, snapshot_of
from .vm_power import state_obstacles
from .vm_snapshot import disk_of, locks_of, tell_of_vm

NEEDS = (VmState.STOPPED, VmState.RUNNING, VmState.PAUSED, VmState.ERROR)
RUNS = (VmState.RUNNING, VmState.PAUSED)


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
        refusals = []
        if target.vm.state in RUNS and not params.stop:
            refusals.append(Refusal("revert_needs_stop", {"vm": target.vm.name}, field="stop", status=409))
        return Plan(refusals=refusals, data={"vm": target.vm_id})

    @classmethod
    def locks(cls, context: Context[RevertParams]) -> Sequence[LockName]:
        return locks_of(context.data["vm"])

    @classmethod
    def recheck(cls, context: Context[RevertParams]) -> list[Refusal]:
        snapshot = snapshot_of(context)
        reasons = cls.obstacles(snapshot)
        if snapshot.vm.state in RUNS and not context.params.stop:
            reasons.append(Refusal("revert_needs_stop", {"vm": snapshot.vm.name}, field="stop", status=409))
        return reasons

    # The table of steps stands below the functions that it names.


def _vm(context: Context[RevertParams]) -> Vm:
    return Vm.objects.get(pk=context.data["vm"])


def mark(context: Context[RevertParams], key: str) -> None:
    context.data.setdefault("was", _vm(context).state)


def stop(context: Context[RevertParams], key: str) -> Call:
    # Also for a VM that looks stopped: a guest that somebody started must not lose its disks while it runs.
    vm = _vm(context)
    return Call(vm.node_id, DomainStop(vm=vm.pk, uuid=vm.uuid))


def stopped(context: Context[RevertParams], key: str, result: DomainWhereabouts) -> None:
    states.move(_vm(context), VmState.STOPPED)


def start_again(context: Context[RevertParams], key: str) -> Call | None:
    if context.data.get("was") not in RUNS:
        return None
    vm = _vm(context)
    return Call(vm.node_id, DomainStart(vm=vm.pk, uuid=vm.uuid, paused=context.data["was"] == VmState.PAUSED))


def unmark(context: Context[RevertParams], key: str) -> None:
    was = context.data.get("was")
    if was and (vm := Vm.objects.filter(pk=context.data["vm"]).first()) and vm.state != was:
        states.move(vm, VmState(was))


def revert(context: Context[RevertParams], key: str) -> Call:
    snapshot, disk = disk_of(key)
    assert disk.vm
    assert disk.pool
    message = DiskRevert(id=disk.pk, pool=pool_spec(disk.pool), format=disk.format, snapshot=snapshot)
    return Call(disk.vm.node_id, message)


def measured(context: Context[RevertParams], key: str, result: VolumeFacts) -> None:
    _snapshot, _dot, disk = key.partition(".")
    # A disk that has grown since is as large again as it was.
    Disk.objects.filter(pk=disk).update(size_bytes=result.size_bytes, version=F("version") + 1)


def finish(context: Context[RevertParams], key: str) -> None:
    tell_of_vm(context.data["vm"], snapshot=context.subject_id)


SnapshotRevert.steps = (
    Step("mark", _("Mark the VM"), do=mark, undo=unmark),
    Step("stop", _("Stop the guest"), do=stop, undo=start_again, after=stopped),
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
        do=revert,
        undo=NoUndo(_("its content of before is gone")),
        each=keys,
        after=measured,
    ),
    Step("finish", _("Note the place in the tree"), do=finish, undo=NoUndo(_("nothing can fail after it"))),
)
