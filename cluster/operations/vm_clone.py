"""Make a new VM with copies of the disks of one that is off. Addresses are new, and so are MAC addresses.

A linked clone shares what its source had with it until either writes to it; where the storage lets it rest on its
source, that cannot be deleted before the clone is flattened (:mod:`cluster.operations.disk_flatten`) or deleted.
"""

from collections.abc import Sequence
from typing import Any

from django.utils.translation import gettext_lazy as _

from cluster.models import Disk, Vm, VmState
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Context, LockName, Operation, Plan

from .backup_restore import COPIED, RestoreParams, as_create
from .vm_backup import settings_of
from .vm_create import VmCreate
from .vm_plan import Planning
from .vm_power import state_obstacles
from .vm_snapshot import about, disks_changed, disks_of

NEEDS = (VmState.STOPPED,)


class CloneParams(RestoreParams):
    linked: bool = False
    """Share the content with the source instead of copying it, in the pools where that lies."""


class VmClone(Operation[CloneParams]):
    code = "vm.clone"
    noun = "vms"
    makes = "vms"
    label = _("Clone")
    hint = _("a new VM with copies of the disks, on the same node")
    icon = "copy"
    Params = CloneParams

    @classmethod
    def obstacles(cls, target: Vm) -> list[Refusal]:
        return state_obstacles(target, NEEDS)

    @classmethod
    def plan(cls, actor: Actor, target: Vm, params: CloneParams) -> Plan:
        disks = disks_of(target)
        planning = Planning(
            actor, _create(target, params), only_on={target.node_id}, pools_given=params.linked, group=target.node_group
        )
        plan = planning.plan()
        if params.linked:
            plan.refusals += _cannot_be_linked(disks, params)
        plan.data |= {"source": target.pk, "copies": [disk.pk for disk in disks], "linked": params.linked}
        return plan

    @classmethod
    def begin(cls, actor: Actor, target: Vm, params: CloneParams, plan: Plan) -> Vm:
        return VmCreate.begin(actor, None, _create(target, params), plan)

    @classmethod
    def locks(cls, context: Context[Any]) -> Sequence[LockName]:
        disks = [LockName("disk:" + pk) for pk in context.data["copies"]]
        return [*VmCreate.locks(context), LockName("vm:" + context.data["source"]), *disks]

    @classmethod
    def recheck(cls, context: Context[Any]) -> list[Refusal]:
        source = Vm.objects.get(pk=context.data["source"])
        return disks_changed(source, context.data["copies"]) + cls.obstacles(source)


def _create(source: Vm, params: CloneParams) -> VmCreate.Params:
    return as_create(params, settings_of(source), source.tenant_id, disks_of(source), in_place=params.linked)


def _cannot_be_linked(disks: Sequence[Disk], params: CloneParams) -> list[Refusal]:
    if params.pool:
        return [Refusal("linked_stays", field="pool")]
    return [
        Refusal("linked_unsupported", about(disk), field="linked")
        for disk in disks
        if disk.pool is None or "linked" not in disk.pool.facts.get("clones", ())
    ]


VmClone.steps = COPIED
