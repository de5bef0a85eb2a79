"""Take over what somebody has changed in a VM's definition by hand; nothing changes on the node."""

from collections.abc import Sequence
from typing import Annotated, Any

from django.db.models import F
from django.utils.translation import gettext_lazy as _
from pydantic import StringConstraints

from cluster import domain_drift, placement, states
from cluster.domain_drift import Drift
from cluster.models import Disk, Nic, Vm, VmState
from cluster.permissions import Actor
from cluster.refusals import Refusal, Refused
from cluster.saga.steps import Context, LockName, Lost, NoUndo, Operation, Params, Plan, Step
from nodes.contract.messages import DomainRead, ReadDomain
from nodes.contract.sizes import MAX_BYTES, MIB
from nodes.contract.specs import Outline

from .vm_power import call, state_obstacles, vm_of

NEEDS = (VmState.STOPPED, VmState.RUNNING, VmState.PAUSED)
MOST_VCPUS = 512


class AdoptParams(Params):
    field: Annotated[str, StringConstraints(max_length=100)] | None = None
    """One of ``drift``; None: all of them."""


class VmAdopt(Operation[AdoptParams]):
    code = "vm.adopt"
    noun = "vms"
    label = _("Take over what the node has")
    hint = _("what was changed on the node by hand was meant: the panel has it so from now on")
    icon = "check"
    dialog = True
    Params = AdoptParams

    @classmethod
    def obstacles(cls, target: Vm) -> list[Refusal]:
        none = [] if target.drift else [Refusal("vm_no_drift", {"vm": target.name}, status=409)]
        return state_obstacles(target, NEEDS) + none

    @classmethod
    def plan(cls, actor: Actor, target: Vm, params: AdoptParams) -> Plan:
        drift = _asked(params, target.drift)
        if not drift and target.drift:
            return Plan(refusals=[Refusal("vm_no_drift", {"vm": target.name}, field="field", status=409)])
        return Plan(refusals=cannot_be_held(target, drift))

    @classmethod
    def locks(cls, context: Context[AdoptParams]) -> Sequence[LockName]:
        return [LockName("vm:" + context.subject_id)]

    @classmethod
    def recheck(cls, context: Context[AdoptParams]) -> list[Refusal]:
        return state_obstacles(vm_of(context), NEEDS)

    # The table of steps stands below the functions that it names.


def _asked(params: AdoptParams, drift: Drift) -> Drift:
    if params.field is None:
        return drift
    return {params.field: drift[params.field]} if params.field in drift else {}


def cannot_be_held(vm: Vm, drift: Drift) -> list[Refusal]:
    """Why what is seen is not taken over: every reason."""
    found = [reason for field, values in drift.items() if (reason := _not_held(vm, field, values))]
    return found + _no_room(vm, drift)


def _not_held(vm: Vm, field: str, values: dict[str, Any]) -> Refusal | None:
    if domain_drift.can_be_held(field, values["seen"]):
        return None
    facts = {"vm": vm.name, "drift_field": field}
    if values["panel"] is None:
        return Refusal("drift_foreign", facts, field="field", status=409)
    return Refusal("drift_missing" if values["seen"] is None else "drift_not_held", facts, field="field", status=409)


def _no_room(vm: Vm, drift: Drift) -> list[Refusal]:
    found, node = [], vm.node
    vcpus, memory_bytes = (_seen(drift, name, getattr(vm, name)) for name in ("vcpus", "memory_bytes"))
    left = max(0, placement.free_cpus(node))
    if not vcpus <= max(vm.vcpus, min(node.cpus, MOST_VCPUS, vm.vcpus + left)):
        facts = {"node": node.name, "cpus": node.cpus, "left": left, "limit": node.cpus_limit, "vcpus": vcpus}
        found.append(Refusal("no_cpus", facts, field="field", status=507))
    more_bytes, free_bytes = memory_bytes - vm.memory_bytes, max(0, placement.free_memory_bytes(node))
    if more_bytes > free_bytes or not 16 * MIB <= memory_bytes <= MAX_BYTES:
        facts = {"node": node.name, "free": free_bytes, "whole": node.memory_limit_bytes, "needed": more_bytes}
        found.append(Refusal("no_memory", facts, field="field", status=507))
    return found


def _seen(drift: Drift, field: str, otherwise: int) -> int:
    return int(drift[field]["seen"]) if field in drift else otherwise


def read(context: Context[AdoptParams], key: str, result: ReadDomain) -> None:
    context.data["outline"] = result.outline.model_dump(mode="json") if result.outline else None


def take(context: Context[AdoptParams], key: str) -> None:
    vm = Vm.objects.select_related("node").get(pk=context.subject_id)
    if context.data["outline"] is None:
        raise Refused(Refusal("domain_absent", status=409))
    outline = Outline.model_validate(context.data["outline"])
    drift = _asked(context.params, domain_drift.differences(domain_drift.expected([vm.pk])[vm.pk], outline))
    if reasons := cannot_be_held(vm, drift):
        raise Refused(*reasons)
    _take_room(vm, drift)
    for field, values in drift.items():
        _hold(vm, field, values["seen"])
    left = domain_drift.differences(domain_drift.expected([vm.pk])[vm.pk], outline)
    states.touch(vm.pk, drift=left)


def _hold(vm: Vm, field: str, seen: Any) -> None:
    kind, _slash, rest = field.partition("/")
    key, _slash, about = rest.partition("/")
    if kind == "disk":
        Disk.objects.filter(pk=key, vm=vm).update(**{about: seen}, version=F("version") + 1)
    elif kind == "nic":
        Nic.objects.filter(mac=key, vm=vm).update(**{about: seen})
    else:
        Vm.objects.filter(pk=vm.pk).update(**{field: seen})


def _take_room(vm: Vm, drift: Drift) -> None:
    memory_bytes, vcpus = _seen(drift, "memory_bytes", vm.memory_bytes), _seen(drift, "vcpus", vm.vcpus)
    try:
        placement.reserve_more(vm.node_id, memory_bytes - vm.memory_bytes, vcpus - vm.vcpus)
    except Lost:
        raise Refused(*_no_room(vm, drift)) from None


VmAdopt.steps = (
    # What was reported may be old: it is read again, while nothing else works on the VM.
    Step("read", _("Read the definition"), do=call(DomainRead), undo=NoUndo(_("it only looks")), after=read),
    Step("take", _("Note what it says"), do=take, undo=NoUndo(_("nothing can fail after it"))),
)
