"""Make a new VM with copies of the disks of one that is off. Addresses are new, and so are MAC addresses."""

from collections.abc import Sequence
from typing import Any

from django.utils.translation import gettext_lazy as _

from cluster.models import Vm, VmState
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Context, LockName, Operation, Plan

from .backup_restore import COPIED, RestoreParams, as_create
from .vm_backup import settings_of
from .vm_create import VmCreate
from .vm_plan import Planning
from .vm_power import state_obstacles
from .vm_snapshot import disks_changed, disks_of

NEEDS = (VmState.STOPPED,)


class VmClone(Operation[RestoreParams]):
    code = "vm.clone"
    noun = "vms"
    makes = "vms"
    label = _("Clone")
    hint = _("a new VM with copies of the disks, on the same node")
    icon = "copy"
    Params = RestoreParams

    @classmethod
    def obstacles(cls, target: Vm) -> list[Refusal]:
        return state_obstacles(target, NEEDS)

    @classmethod
    def plan(cls, actor: Actor, target: Vm, params: RestoreParams) -> Plan:
        disks = disks_of(target)
        create = as_create(params, settings_of(target), target.tenant_id, disks)
        plan = Planning(actor, create, only_on={target.node_id}, group=target.node_group).plan()
        plan.data |= {"source": target.pk, "copies": [disk.pk for disk in disks]}
        return plan

    @classmethod
    def begin(cls, actor: Actor, target: Vm, params: RestoreParams, plan: Plan) -> Vm:
        create = as_create(params, settings_of(target), target.tenant_id, disks_of(target))
        return VmCreate.begin(actor, None, create, plan)

    @classmethod
    def locks(cls, context: Context[Any]) -> Sequence[LockName]:
        disks = [LockName("disk:" + pk) for pk in context.data["copies"]]
        return [*VmCreate.locks(context), LockName("vm:" + context.data["source"]), *disks]

    @classmethod
    def recheck(cls, context: Context[Any]) -> list[Refusal]:
        source = Vm.objects.get(pk=context.data["source"])
        return disks_changed(source, context.data["copies"]) + cls.obstacles(source)


VmClone.steps = COPIED
