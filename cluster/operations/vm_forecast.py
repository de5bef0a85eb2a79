"""Say how long a move of a VM would take, and how long its guest would stand still: measured, before it begins.

The guest's load is looked at for a second, and real bytes go over the way that its memory would take.
"""

from collections.abc import Sequence
from typing import Any

from django.utils.translation import gettext_lazy as _

from cluster import links
from cluster.forecast import Load, forecast
from cluster.models import Node, Vm
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, LockName, NoUndo, Operation, Plan, Step
from nodes.contract.messages import DomainDismiss, DomainMeasure, GuestLoad, PathFacts, PathMeasure, PathOpen, PathPort

from .vm_migrate import MigrateParams, VmMigrate
from .vm_power import moved_meanwhile, vm_of

WAYS: dict[str, dict[str, bool]] = {
    "live": {},
    "auto_converge": {"auto_converge": True},
    "post_copy": {"post_copy": True},
    "paused": {"paused": True},
}


def measure(context: Context[MigrateParams], key: str) -> Call:
    vm = vm_of(context)
    return Call(vm.node_id, DomainMeasure(vm=vm.pk, uuid=vm.uuid, disks=tuple(context.data["copied"])))


def measured(context: Context[MigrateParams], key: str, result: GuestLoad) -> None:
    context.data["load"] = result.model_dump(mode="json")


def open_path(context: Context[MigrateParams], key: str) -> Call:
    vm, source = vm_of(context), Node.objects.get(pk=context.data["source"])
    return Call(context.data["target"], PathOpen(vm=vm.pk, uuid=vm.uuid, source_address=source.address))


def opened(context: Context[MigrateParams], key: str, result: PathPort) -> None:
    context.data["port"] = result.port


def close_path(context: Context[MigrateParams], key: str) -> Call:
    vm = vm_of(context)
    return Call(context.data["target"], DomainDismiss(vm=vm.pk, uuid=vm.uuid))


def probe(context: Context[MigrateParams], key: str) -> Call:
    vm, target = vm_of(context), Node.objects.get(pk=context.data["target"])
    way = {"target": target.name, "target_address": target.address, "port": context.data["port"]}
    return Call(context.data["source"], PathMeasure(vm=vm.pk, uuid=vm.uuid, **way))


def probed(context: Context[MigrateParams], key: str, result: PathFacts) -> None:
    context.data["path"] = result.model_dump(mode="json")
    links.note(context.data["source"], context.data["target"], result.bandwidth_bytes)


def conclude(context: Context[MigrateParams], key: str) -> None:
    load, path, asked = context.data["load"], context.data["path"], context.params
    usable = min(path["bandwidth_bytes"], asked.bandwidth_bytes or path["bandwidth_bytes"])
    disk_bytes = sum(load["allocated"].values())
    seen = Load(load["memory_bytes"], load["dirty_bytes"] or 0, disk_bytes, usable)
    context.data["result"] = {
        "node": context.data["target"],
        "memory_bytes": seen.memory_bytes,
        "dirty_bytes": load["dirty_bytes"],
        "disk_bytes": disk_bytes,
        "bandwidth_bytes": usable,
        "round_trip_us": path["round_trip_us"],
        "ways": [_way(name, seen, asked) for name in WAYS],
    }


def _way(name: str, load: Load, asked: MigrateParams) -> dict[str, Any]:
    expected = forecast(load, max_pause_ms=asked.max_pause_ms, **WAYS[name])
    duration_ms = round(expected.duration_s * 1000)
    return {"way": name, "duration_ms": duration_ms, "pause_ms": expected.pause_ms, "ends": expected.ends}


class VmForecast(Operation[MigrateParams]):
    code = "vm.forecast"
    noun = "vms"
    label = _("Forecast of a move")
    icon = "clock"
    button = False
    Params = MigrateParams
    steps = (
        Step(
            "measure",
            _("Look at how fast the guest changes"),
            do=measure,
            undo=NoUndo(_("it only reads")),
            after=measured,
        ),
        Step("open", _("Open the other node"), do=open_path, undo=close_path, after=opened, beside=True),
        Step("probe", _("Send something over"), do=probe, undo=NoUndo(_("it leaves nothing behind")), after=probed),
        Step("close", _("Close the other node"), do=close_path, undo=NoUndo(_("it is closed"))),
        Step("conclude", _("Work out how long it takes"), do=conclude, undo=NoUndo(_("nothing can fail after it"))),
    )

    @classmethod
    def obstacles(cls, target: Vm) -> list[Refusal]:
        return VmMigrate.obstacles(target)

    @classmethod
    def plan(cls, actor: Actor, target: Vm, params: MigrateParams) -> Plan:
        return VmMigrate.plan(actor, target, params)

    @classmethod
    def locks(cls, context: Context[MigrateParams]) -> Sequence[LockName]:
        # Closing the other node would end a guest that is on its way there: no move of this VM may be under way.
        return [LockName("vm:" + context.subject_id)]

    @classmethod
    def recheck(cls, context: Context[MigrateParams]) -> list[Refusal]:
        vm = vm_of(context)
        return cls.obstacles(vm) + moved_meanwhile(vm, context.data["source"])
