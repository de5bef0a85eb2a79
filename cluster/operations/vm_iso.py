"""Put an ISO into a VM's CD-ROM drive, change it or take it out, also while the guest runs."""

from collections.abc import Sequence
from typing import Any

from django.db.models import F
from django.utils.translation import gettext_lazy as _

from cluster import states
from cluster.domain_specs import domain_disk
from cluster.models import Disk, Iso, Pending, Vm
from cluster.permissions import Actor, visible
from cluster.refusals import Refusal
from cluster.saga import locks
from cluster.saga.steps import Call, Context, Id, LockName, NoUndo, Operation, Params, Plan, Step
from nodes.contract.messages import DomainMedium

from .disk_attach import NEEDS, next_position, seen
from .vm_create import check_stays
from .vm_plan import not_usable
from .vm_power import define, state_obstacles, vm_of


class IsoParams(Params):
    iso: Id | None
    """None: the drive is emptied."""


class VmIso(Operation[IsoParams]):
    code = "vm.iso"
    noun = "vms"
    label = _("Change the CD-ROM")
    hint = _("a guest that runs sees it at once, if it has a drive")
    icon = "disc"
    Params = IsoParams

    @classmethod
    def obstacles(cls, target: Vm) -> list[Refusal]:
        return state_obstacles(target, NEEDS)

    @classmethod
    def plan(cls, actor: Actor, target: Vm, params: IsoParams) -> Plan:
        if params.iso is None:
            empty = not target.disks.filter(device="cdrom", iso__isnull=False).exists()
            return Plan(refusals=[Refusal("drive_empty", {"vm": target.name}, field="iso")] if empty else [])
        iso = visible(Iso.objects.all(), actor).filter(pk=params.iso).first()
        if iso is None:
            return Plan(refusals=[Refusal("iso_unknown", field="iso")])
        if iso.state != "active":
            return Plan(refusals=[not_usable(iso, "iso")])
        if not iso.copies.filter(node=target.node_id).exists():
            return Plan(refusals=[Refusal("image_absent", {"image": iso.name, "node": target.node.name}, field="iso")])
        return Plan()

    @classmethod
    def locks(cls, context: Context[IsoParams]) -> Sequence[LockName]:
        return [LockName("vm:" + context.subject_id)]

    @classmethod
    def recheck(cls, context: Context[IsoParams]) -> list[Refusal]:
        return cls.obstacles(vm_of(context))

    # The table of steps stands below the functions that it names.


def take(context: Context[IsoParams], key: str) -> None:
    locks.serialise()
    check_stays(Iso, context.params.iso)
    vm = vm_of(context)
    drive = vm.disks.filter(device="cdrom").first()
    if drive is None:
        drive = Disk.objects.create(
            vm=vm,
            tenant_id=vm.tenant_id,
            owner_id=vm.owner_id,
            device="cdrom",
            format="raw",
            bus="ide",
            position=next_position(vm),
            state="ready",
        )
        context.data["made"] = True
    context.data |= {"drive": drive.pk, "before": drive.iso_id}
    Disk.objects.filter(pk=drive.pk).update(iso=context.params.iso, version=F("version") + 1)


def give_back(context: Context[IsoParams], key: str) -> None:
    drive = Disk.objects.filter(pk=context.data["drive"])
    if context.data.get("made"):
        drive.delete()
    else:
        drive.update(iso=context.data["before"], version=F("version") + 1)


def define_as_before(context: Context[IsoParams], key: str) -> Call:
    give_back(context, key)
    return define(context, key)


def change(before: bool) -> Any:
    def do(context: Context[IsoParams], key: str) -> Call:
        vm = vm_of(context)
        drive = Disk.objects.get(pk=context.data["drive"])
        drive.iso = Iso.objects.filter(pk=context.data["before"] if before else context.params.iso).first()
        return Call(vm.node_id, DomainMedium(vm=vm.pk, uuid=vm.uuid, disk=domain_disk(drive)))

    return do


def finish(context: Context[IsoParams], key: str) -> None:
    pending = Pending.ATTACH if context.data.get("has") is False else ""
    Disk.objects.filter(pk=context.data["drive"]).update(pending=pending, version=F("version") + 1)
    states.touch(context.subject_id)


VmIso.steps = (
    Step("take", _("Note what lies in the drive"), do=take, undo=give_back),
    Step("define", _("Write it into the VM's definition"), do=define, undo=define_as_before),
    Step("change", _("Change it for the guest that runs"), do=change(False), undo=change(True), after=seen),
    Step("finish", _("Hand over"), do=finish, undo=NoUndo(_("nothing can fail after it"))),
)
