"""Write a VM's definition again as the panel has it; also the way back of one that was deleted or moved by hand.

Its disks are not touched, and a guest that runs goes on: what is different it takes part in from its next start on.
"""

from collections.abc import Sequence
from typing import Any, Literal

from django.utils.translation import gettext_lazy as _

from cluster import states
from cluster.domain_specs import domain_spec
from cluster.models import Node, NodeState, PoolOnNode, Vm, VmState
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, LockName, NoParams, NoUndo, Operation, Step
from nodes.contract.messages import DomainAdopt, DomainLeave

from .vm_create import nic_ids, plug_nic, unplug
from .vm_power import claimed, define, show, state_obstacles, vm_of
from .vm_settle import settle_defined

S = VmState
NEEDS = (S.STOPPED, S.RUNNING, S.PAUSED, S.ERROR)
ON: dict[str, Literal["running", "paused"]] = {S.RUNNING: "running", S.PAUSED: "paused"}


class VmReapply(Operation[NoParams]):
    code = "vm.reapply"
    noun = "vms"
    label = _("Write its definition again")
    hint = _("what was changed on the node by hand becomes as the panel has it; disks are not touched")
    icon = "rotate"
    dialog = True
    Params = NoParams

    @classmethod
    def obstacles(cls, target: Vm) -> list[Refusal]:
        return state_obstacles(target, NEEDS) or [*claimed(target), *_could_be_elsewhere(target)]

    @classmethod
    def locks(cls, context: Context[NoParams]) -> Sequence[LockName]:
        return [LockName("vm:" + context.subject_id)]

    @classmethod
    def recheck(cls, context: Context[NoParams]) -> list[Refusal]:
        return cls.obstacles(vm_of(context))

    # The table of steps stands below the functions that it names.


def _could_be_elsewhere(vm: Vm) -> list[Refusal]:
    """A guest that is gone may run on a node that is silent, if that sees its disks."""
    if vm.state_reason != states.GONE:
        return []
    shared = PoolOnNode.objects.filter(pool__disks__vm=vm, node__state=NodeState.OFFLINE).exclude(node=vm.node_id)
    names = sorted(set(shared.exclude(node__redis_password_sha256="").values_list("node__name", flat=True)))
    return [Refusal("could_be_elsewhere", {"vm": vm.name, "node": names}, status=409)] if names else []


def write(context: Context[NoParams], key: str) -> Call:
    """One that was moved by hand is also started by the next boot of its new node."""
    vm = vm_of(context)
    if vm.moved_from_id and vm.state in ON:
        return Call(vm.node_id, DomainAdopt(domain=domain_spec(vm), state=ON[vm.state]))
    return define(context, key)


def _old_node(context: Context[Any]) -> str | None:
    """Where it was, if anything of it is there still; one that was removed since holds nothing."""
    vm = vm_of(context)
    old = Node.objects.filter(pk=vm.moved_from_id).exclude(pk=vm.node_id).exclude(redis_password_sha256="").first()
    return old.pk if old else None


def leave(context: Context[NoParams], key: str) -> Call | None:
    vm, old = vm_of(context), _old_node(context)
    return Call(old, DomainLeave(vm=vm.pk, uuid=vm.uuid)) if old else None


def unplug_nic(context: Context[NoParams], nic_id: str) -> Call | None:
    old = _old_node(context)
    return unplug(old, nic_id) if old else None


def finish(context: Context[NoParams], key: str) -> None:
    states.touch(context.subject_id, drift={}, moved_from=None)


AS_IT_SHOULD_BE = NoUndo(_("it is as the panel has it"))

VmReapply.steps = (
    Step("plug_nic", _("Lease and filter"), do=plug_nic, undo=AS_IT_SHOULD_BE, each=nic_ids),
    Step("define", _("Define the domain"), do=write, undo=AS_IT_SHOULD_BE, after=show, settle=settle_defined),
    Step("leave", _("Clear the old node"), do=leave, undo=AS_IT_SHOULD_BE),
    Step(
        "unplug_nic", _("Remove lease and filter from the old node"), do=unplug_nic, undo=AS_IT_SHOULD_BE, each=nic_ids
    ),
    Step("finish", _("Hand over"), do=finish, undo=NoUndo(_("nothing can fail after it"))),
)
