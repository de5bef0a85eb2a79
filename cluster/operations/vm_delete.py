"""Delete a VM: stop, undefine, then its snapshots and disks. The first of these is the point of no return."""

from collections.abc import Sequence
from typing import Any

from django.utils.translation import gettext_lazy as _

from cluster import placement, states
from cluster.models import Disk, Pending, Snapshot, Vm, VmState
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, LockName, NoUndo, Operation, Params, Plan, Settle, Step, Verdict
from nodes.contract.messages import DiskSnapshotDelete, DiskState, DomainStop, DomainUndefine

from .disk_delete import has_clones
from .vm_create import delete_disk, disk_ids, nic_ids, plug_nic, unplug_nic
from .vm_power import define, mark, start_again, state_obstacles, unmark, unsettled, vm_of
from .vm_settle import settle_disk_gone, settle_power, settle_undefined
from .vm_snapshot import disk_call, keys_of, look

NEEDS = (VmState.STOPPED, VmState.RUNNING, VmState.PAUSED, VmState.ERROR)


class DeleteParams(Params):
    disks: bool | None = None
    """Whether the volumes go too; must be said when the VM has any."""


class VmDelete(Operation[DeleteParams]):
    code = "vm.delete"
    noun = "vms"
    label = _("Delete")
    icon = "trash"
    danger = True
    Params = DeleteParams

    @classmethod
    def obstacles(cls, target: Vm) -> list[Refusal]:
        reasons = state_obstacles(target, NEEDS) + unsettled(target)
        if target.protected:
            reasons.append(Refusal("protected", {"vm": target.name}))
        return reasons

    @classmethod
    def plan(cls, actor: Actor, target: Vm, params: DeleteParams) -> Plan:
        if params.disks is None and target.disks.filter(device="disk").exists():
            return Plan(refusals=[Refusal("disks_param", field="disks")])
        if params.disks and (kept := _clones(target)):
            return Plan(refusals=kept)
        if not params.disks and target.snapshots.exists():
            return Plan(refusals=[Refusal("has_snapshots", {"vm": target.name}, field="disks")])
        return Plan()

    @classmethod
    def locks(cls, context: Context[DeleteParams]) -> Sequence[LockName]:
        disks = [LockName("disk:" + pk) for pk in disk_ids(context)]
        return [LockName("vm:" + context.subject_id), *disks]

    @classmethod
    def recheck(cls, context: Context[DeleteParams]) -> list[Refusal]:
        vm = vm_of(context)
        # The steps name the disks of the moment at which this was asked; a further one would be left over.
        asked = set(context.job.steps.filter(name="delete_disk").values_list("key", flat=True))
        changed = asked != set(doomed_disks(context))
        reasons = [Refusal("disks_changed", {"vm": vm.name}, status=409)] if changed else []
        return reasons + (_clones(vm) if context.params.disks else []) + cls.obstacles(vm)

    # The table of steps stands below the functions that it names.


def _clones(vm: Vm) -> list[Refusal]:
    """What of other VMs rests on its disks."""
    disks = vm.disks.filter(clones__isnull=False).exclude(pending=Pending.DETACH).distinct()
    disks = disks.select_related("vm").prefetch_related("clones__vm")
    return [reason for disk in disks for reason in has_clones(disk, without_vm=vm.pk)]


def stop(context: Context[DeleteParams], key: str) -> Call:
    # Also for a VM that looks stopped: a guest that was started behind the panel's back must not lose its disks
    # while it runs, and stopping what is off is nothing.
    vm = vm_of(context)
    return Call(vm.node_id, DomainStop(vm=vm.pk, uuid=vm.uuid))


def undefine(context: Context[DeleteParams], key: str) -> Call:
    vm = vm_of(context)
    return Call(vm.node_id, DomainUndefine(vm=vm.pk, uuid=vm.uuid))


def doomed_disks(context: Context[DeleteParams]) -> list[str]:
    """Without those that were taken from the VM and that only its guest still holds: they stay."""
    if not context.params.disks:
        return []
    disks = Disk.objects.filter(vm=context.subject_id, device="disk").exclude(pending=Pending.DETACH)
    parents = dict(disks.values_list("pk", "parent"))
    return sorted(parents, key=lambda disk: _depth(disk, parents), reverse=True)


def _depth(disk: str, parents: dict[str, str | None]) -> int:
    """On how many of them it rests: a clone goes before its source."""
    parent = parents.get(disk)
    return 1 + _depth(parent, parents) if parent else 0


def doomed_snapshots(context: Context[DeleteParams]) -> list[str]:
    kept = Snapshot.objects.filter(vm=context.subject_id).values_list("pk", flat=True)
    return keys_of(kept) if context.params.disks else []


def snapshots_gone(context: Context[DeleteParams], results: Sequence[DiskState | None]) -> Verdict:
    """Before the pivot it is the first that is asked for; after it whatever is left is deleted once more."""
    seen = results[0] if results else None
    if seen is None:
        return "unclear"
    doomed = [key.partition(".")[0] for key in doomed_snapshots(context)]
    asked = doomed if context.job.past_pivot else doomed[:1]
    return "not_done" if set(asked) & set(seen.snapshots) else "done"


def delete_row(context: Context[Any], disk_id: str, result: Any) -> None:
    Disk.objects.filter(pk=disk_id).update(state="deleted")


def forget(context: Context[DeleteParams], key: str) -> None:
    vm = Vm.objects.filter(pk=context.subject_id).first()
    if vm is None:
        return
    placement.release(vm.node_id, vm)
    states.loosen(vm.disks.filter(pending=Pending.DETACH))
    if context.params.disks:
        vm.disks.update(parent=None)
        vm.disks.all().delete()
    else:
        vm.disks.filter(device="cdrom").delete()
        states.loosen(vm.disks.all())
    states.forget(vm)


VmDelete.steps = (
    Step("mark", _("Mark the VM"), do=mark(VmState.DELETING), undo=unmark),
    Step("stop", _("Stop the guest"), do=stop, undo=start_again, settle=settle_power("shutoff", "absent")),
    Step("undefine", _("Undefine the domain"), do=undefine, undo=define, settle=settle_undefined),
    Step(
        "drop_snapshot",
        _("Give back what a snapshot kept"),
        do=disk_call(DiskSnapshotDelete),
        undo=NoUndo(_("what was given back is gone")),
        each=doomed_snapshots,
        pivot=True,
        settle=Settle(look, snapshots_gone),
    ),
    Step(
        "delete_disk",
        _("Delete the disk"),
        do=delete_disk,
        undo=NoUndo(_("a deleted disk is gone")),
        each=doomed_disks,
        after=delete_row,
        pivot=True,
        settle=settle_disk_gone,
    ),
    Step("unplug_nic", _("Remove lease and filter"), do=unplug_nic, undo=plug_nic, each=nic_ids),
    Step("forget", _("Forget the VM"), do=forget, undo=NoUndo(_("nothing can fail after it"))),
)
