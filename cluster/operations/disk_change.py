"""Change how a VM sees its disk (bus, cache, boot order) while it is off, and what people call it at any time."""

from collections.abc import Sequence
from typing import Any

from django.db.models import F
from django.utils.translation import gettext_lazy as _

from cluster import states
from cluster.models import Disk, VmState
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, LockName, NoUndo, Operation, Params, Plan, Step
from nodes.contract.specs import DiskBus, DiskCache, Title

from .disk_attach import define, disk_of, is_ready, locks_of
from .vm_power import state_obstacles

NEEDS = (VmState.STOPPED, VmState.ERROR)
SEEN_BY_GUEST = ("bus", "cache", "boot_first")


class ChangeParams(Params):
    """What is left out stays as it is."""

    title: Title | None = None
    bus: DiskBus | None = None
    cache: DiskCache | None = None
    boot_first: bool = False
    """The VM boots from it; the others follow in their order."""


class DiskChange(Operation[ChangeParams]):
    code = "disk.change"
    noun = "disks"
    label = _("Change the disk's settings")
    hint = _("bus, cache and boot order of a VM that is off; the title at any time")
    icon = "settings"
    dialog = True
    Params = ChangeParams

    @classmethod
    def obstacles(cls, target: Disk) -> list[Refusal]:
        return is_ready(target)

    @classmethod
    def plan(cls, actor: Actor, target: Disk, params: ChangeParams) -> Plan:
        return Plan(refusals=_hindered(target, params), data={"vm": target.vm_id})

    @classmethod
    def locks(cls, context: Context[ChangeParams]) -> Sequence[LockName]:
        return locks_of(context)

    @classmethod
    def recheck(cls, context: Context[ChangeParams]) -> list[Refusal]:
        disk = disk_of(context)
        return cls.obstacles(disk) + _hindered(disk, context.params)

    # The table of steps stands below the functions that it names.


def _for_the_guest(params: ChangeParams) -> bool:
    return any(getattr(params, name) for name in SEEN_BY_GUEST)


def _hindered(disk: Disk, params: ChangeParams) -> list[Refusal]:
    if not _for_the_guest(params):
        return []
    if disk.vm is None:
        return [Refusal("disk_unattached", {"disk": disk.name}, status=409)]
    return state_obstacles(disk.vm, NEEDS)


def change(context: Context[ChangeParams], key: str) -> None:
    disk, params = disk_of(context), context.params
    rows = [disk, *Disk.objects.filter(vm=disk.vm).exclude(pk=disk.pk)] if disk.vm else [disk]
    context.data["before"] = [
        [row.pk, {"title": row.title, "bus": row.bus, "cache": row.cache, "boot_order": row.boot_order}] for row in rows
    ]
    asked = {"title": params.title, "bus": params.bus, "cache": params.cache}
    changes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    Disk.objects.filter(pk=disk.pk).update(**changes, version=F("version") + 1)
    if params.boot_first and disk.vm:
        others = Disk.objects.filter(vm=disk.vm, boot_order__isnull=False).exclude(pk=disk.pk).order_by("boot_order")
        for order, row in enumerate([disk, *others], start=1):
            Disk.objects.filter(pk=row.pk).update(boot_order=order)


def change_back(context: Context[ChangeParams], key: str) -> None:
    for pk, values in context.data["before"]:
        Disk.objects.filter(pk=pk).update(**values, version=F("version") + 1)


def write(context: Context[ChangeParams], key: str) -> Call | None:
    return define(context, key) if _for_the_guest(context.params) else None


def write_back(context: Context[ChangeParams], key: str) -> Call | None:
    change_back(context, key)
    return write(context, key)


def finish(context: Context[ChangeParams], key: str) -> None:
    if context.data["vm"]:
        states.touch(context.data["vm"])


DiskChange.steps = (
    Step("change", _("Note the settings"), do=change, undo=change_back),
    Step("define", _("Write them into the VM's definition"), do=write, undo=write_back),
    Step("finish", _("Hand over"), do=finish, undo=NoUndo(_("nothing can fail after it"))),
)
