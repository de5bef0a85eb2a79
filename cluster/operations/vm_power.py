"""Power: start, shut down, stop, suspend, resume, reboot, reset. Jobs of one verb each."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from django.utils.translation import gettext_lazy as _
from pydantic import Field

from cluster import states
from cluster.domain_specs import domain_spec
from cluster.models import Node, Vm, VmState
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, LockName, NoParams, NoUndo, Operation, Params, Plan, Step
from nodes.contract.messages import (
    DomainDefine,
    DomainReboot,
    DomainReset,
    DomainResume,
    DomainShutdown,
    DomainStart,
    DomainStop,
    DomainSuspend,
    DomainWhereabouts,
)

from .vm_settle import settle_power

S = VmState
RUNS = (S.RUNNING, S.PAUSED)

GUEST_IS_OFF = ("domain_not_active", "domain_absent")
"""A guest that went off meanwhile has no pause that could be taken back."""


def moved_meanwhile(vm: Vm, source: str) -> list[Refusal]:
    """Asked when a job has got its locks: where it is not on the node of which the plan was made."""
    if vm.node_id == source:
        return []
    return [Refusal("moved_meanwhile", {"vm": vm.name, "node": vm.node.name}, status=409)]


class Power(Operation[Any]):
    """What the seven have in common: the VM is marked, one verb runs, the state becomes what the node then shows."""

    noun = "vms"
    Params: ClassVar[type[Params]] = NoParams
    needs: ClassVar[tuple[VmState, ...]]
    busy: ClassVar[VmState | None] = None

    @classmethod
    def obstacles(cls, target: Vm) -> list[Refusal]:
        return state_obstacles(target, cls.needs)

    @classmethod
    def plan(cls, actor: Actor, target: Vm, params: Any) -> Plan:
        return Plan()

    @classmethod
    def locks(cls, context: Context[Any]) -> Sequence[LockName]:
        return [LockName("vm:" + context.subject_id)]

    @classmethod
    def recheck(cls, context: Context[Any]) -> list[Refusal]:
        return state_obstacles(vm_of(context), cls.needs)


def state_obstacles(vm: Vm, needs: Sequence[VmState]) -> list[Refusal]:
    if vm.state in needs:
        return []
    if vm.state == S.UNKNOWN:
        return [Refusal("vm_unknown_state", {"vm": vm.name, "node": vm.node.name}, status=409)]
    facts = {"vm": vm.name, "state": vm.state, "needed": list(needs)}
    return [Refusal("state", facts, status=409)]


def claimed(vm: Vm) -> list[Refusal]:
    """Where another node shows the guest: what is begun here could make it run twice."""
    if not vm.claims:
        return []
    # One that was removed from the cluster is not heard any more, and its claim would never end.
    nodes = Node.objects.filter(pk__in=vm.claims).exclude(redis_password_sha256="")
    names = sorted(nodes.values_list("name", flat=True))
    return [Refusal("vm_claimed", {"vm": vm.name, "node": names}, status=409)] if names else []


def unsettled(vm: Vm) -> list[Refusal]:
    """Where more nodes than its own have something of it."""
    if vm.moved_from is None:
        return claimed(vm)
    facts = {"vm": vm.name, "node": vm.moved_from.name}
    return [*claimed(vm), Refusal("vm_moved_by_hand", facts, status=409)]


def vm_id_of(context: Context[Any]) -> str:
    """The VM that the job is about, or to which its subject belongs."""
    return str(context.data.get("vm", context.subject_id))


def vm_of(context: Context[Any]) -> Vm:
    return Vm.objects.get(pk=vm_id_of(context))


def mark(busy: VmState | None) -> Any:
    def do(context: Context[Any], key: str) -> None:
        vm = vm_of(context)
        context.data.setdefault("was", vm.state)
        if busy:
            states.move(vm, busy)

    return do


def unmark(context: Context[Any], key: str) -> None:
    vm = Vm.objects.filter(pk=vm_id_of(context)).first()
    was = context.data.get("was")
    if vm and was and vm.state != was:
        states.move(vm, VmState(was))


def start_again(context: Context[Any], key: str) -> Call | None:
    """The undo of a stop: the guest is as it was when the VM was marked."""
    if context.data.get("was") not in RUNS:
        return None
    vm = vm_of(context)
    return Call(vm.node_id, DomainStart(vm=vm.pk, uuid=vm.uuid, paused=context.data["was"] == S.PAUSED))


def show(context: Context[Any], key: str, result: DomainWhereabouts) -> None:
    """The state becomes what the node saw after the verb."""
    seen = states.SEEN.get(result.state)
    if seen:
        states.move(vm_of(context), seen)


def call(message: type, **fields: Any) -> Any:
    def do(context: Context[Any], key: str) -> Call:
        vm = vm_of(context)
        return Call(vm.node_id, message(vm=vm.pk, uuid=vm.uuid, **fields))

    return do


def define(context: Context[Any], key: str) -> Call:
    """Write the domain's definition as the rows have it now."""
    vm = vm_of(context)
    return Call(vm.node_id, DomainDefine(domain=domain_spec(vm)))


def _mark_step(busy: VmState | None) -> Step:
    return Step("mark", _("Mark the VM"), do=mark(busy), undo=unmark)


class VmStart(Power):
    code = "vm.start"
    label = _("Start")
    icon = "player-play"
    needs = (S.STOPPED, S.ERROR)
    busy = S.STARTING

    @classmethod
    def obstacles(cls, target: Vm) -> list[Refusal]:
        gone = [Refusal("state_gone", status=409)] if target.state_reason == states.GONE else []
        return super().obstacles(target) + gone + claimed(target)

    @classmethod
    def recheck(cls, context: Context[Any]) -> list[Refusal]:
        return cls.obstacles(vm_of(context))

    steps = (
        _mark_step(S.STARTING),
        Step("start", _("Start the guest"), do=call(DomainStart), undo=call(DomainStop), after=show,
             settle=settle_power("running")),
    )  # fmt: skip


class ShutdownParams(Params):
    timeout_s: Annotated[int, Field(ge=1, le=3600)] = 120


def _shut_down(context: Context[ShutdownParams], key: str) -> Call:
    vm = vm_of(context)
    return Call(vm.node_id, DomainShutdown(vm=vm.pk, uuid=vm.uuid, timeout_s=context.params.timeout_s))


class VmShutdown(Power):
    """ACPI; a guest that does not listen stays up and the job says so, offering to stop it by force."""

    code = "vm.shutdown"
    label = _("Shut down")
    hint = _("press the power button and wait for the guest")
    icon = "power"
    Params = ShutdownParams
    needs = (S.RUNNING,)
    steps = (
        _mark_step(S.STOPPING),
        Step("shut_down", _("Ask the guest to shut down"), do=_shut_down, after=show,
             undo=NoUndo(_("a pressed power button cannot be taken back; the guest's state is shown as it is")),
             settle=settle_power("shutoff", "absent")),
    )  # fmt: skip


class VmStop(Power):
    code = "vm.stop"
    label = _("Stop by force")
    hint = _("pull the plug: what the guest has not written is lost")
    icon = "player-stop"
    danger = True
    needs = (S.RUNNING, S.PAUSED, S.ERROR)
    steps = (
        _mark_step(S.STOPPING),
        Step("stop", _("Stop the guest"), do=call(DomainStop), after=show, pivot=True,
             undo=NoUndo(_("a pulled plug cannot be put back; the VM can be started again")),
             settle=settle_power("shutoff", "absent")),
    )  # fmt: skip


class VmSuspend(Power):
    code = "vm.suspend"
    label = _("Suspend")
    icon = "player-pause"
    needs = (S.RUNNING,)
    steps = (
        _mark_step(None),
        Step("suspend", _("Suspend the guest"), do=call(DomainSuspend), undo=call(DomainResume), after=show,
             settle=settle_power("paused"), undone_by=GUEST_IS_OFF),
    )  # fmt: skip


class VmResume(Power):
    code = "vm.resume"
    label = _("Resume")
    icon = "player-track-next"
    needs = (S.PAUSED,)
    steps = (
        _mark_step(None),
        Step("resume", _("Resume the guest"), do=call(DomainResume), undo=call(DomainSuspend), after=show,
             settle=settle_power("running"), undone_by=GUEST_IS_OFF),
    )  # fmt: skip


class VmReboot(Power):
    code = "vm.reboot"
    label = _("Reboot")
    hint = _("ask the guest to reboot")
    icon = "refresh"
    needs = (S.RUNNING,)
    steps = (
        _mark_step(None),
        Step("reboot", _("Ask the guest to reboot"), do=call(DomainReboot), after=show,
             undo=NoUndo(_("a reboot cannot be taken back"))),
    )  # fmt: skip


class VmReset(Power):
    code = "vm.reset"
    label = _("Reset")
    hint = _("press the reset button: what the guest has not written is lost")
    icon = "rotate"
    danger = True
    needs = (S.RUNNING, S.PAUSED)
    steps = (
        _mark_step(None),
        Step("reset", _("Reset the guest"), do=call(DomainReset), after=show,
             undo=NoUndo(_("a reset cannot be taken back"))),
    )  # fmt: skip
