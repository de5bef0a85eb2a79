"""Make a new VM from a backup; the backup stays. Addresses are new, and so are MAC addresses."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from django.utils.translation import gettext_lazy as _

from cluster.domain_specs import disk_spec, volume_of
from cluster.models import Backup, Disk, Network, NodeGroup, PoolOnNode, Vm
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, Id, LockName, Operation, Params, Plan
from nodes.contract.messages import DiskClone
from nodes.contract.specs import Name, Title, VolumeSpec

from .backup_delete import not_ready
from .vm_create import DiskAsked, NicAsked, VmCreate
from .vm_plan import Planning


class RestoreParams(Params):
    name: Name
    title: Title = ""
    node: Id | None = None
    pool: Id | None = None
    """Of all its disks; None: the default pool of the node."""
    start: bool = False


class BackupRestore(Operation[RestoreParams]):
    code = "backup.restore"
    noun = "backups"
    makes = "vms"
    label = _("Make a VM from it")
    hint = _("the backup stays; the new VM gets new addresses")
    icon = "restore"
    Params = RestoreParams

    @classmethod
    def obstacles(cls, target: Backup) -> list[Refusal]:
        return not_ready(target)

    @classmethod
    def plan(cls, actor: Actor, target: Backup, params: RestoreParams) -> Plan:
        copies = list(target.disks.order_by("position"))
        near = set(PoolOnNode.objects.filter(pool__in={c.pool_id for c in copies}).values_list("node_id", flat=True))
        bound_to = target.settings.get("group")
        group = NodeGroup.objects.filter(pk=bound_to).first() if bound_to else None
        create = as_create(params, target.settings, target.tenant_id, copies)
        plan = Planning(actor, create, only_on=near, group=group).plan()
        plan.data |= {"backup": target.pk, "copies": [copy.pk for copy in copies]}
        return plan

    @classmethod
    def begin(cls, actor: Actor, target: Backup, params: RestoreParams, plan: Plan) -> Vm:
        copies = list(target.disks.order_by("position"))
        return VmCreate.begin(actor, None, as_create(params, target.settings, target.tenant_id, copies), plan)

    @classmethod
    def locks(cls, context: Context[Any]) -> Sequence[LockName]:
        return [*VmCreate.locks(context), LockName("backup:" + context.data["backup"], exclusive=False)]

    @classmethod
    def recheck(cls, context: Context[Any]) -> list[Refusal]:
        return cls.obstacles(Backup.objects.get(pk=context.data["backup"]))


def as_create(
    params: RestoreParams, had: dict[str, Any], tenant: str, copies: Sequence[Disk], *, in_place: bool = False
) -> VmCreate.Params:
    """The create of a VM like another one.

    :param had: what that one had (``Backup.settings``). Networks that are no more are left out.
    :param in_place: each disk in the pool of the one that it is a copy of.
    """
    known = set(Network.objects.filter(pk__in=[nic["network"] for nic in had["nics"]]).values_list("pk", flat=True))
    disks = [
        {"pool": copy.pool_id if in_place else params.pool, "size_bytes": copy.size_bytes, "bus": copy.bus}
        for copy in copies
    ]
    return VmCreate.Params(
        name=params.name,
        title=params.title,
        tenant=tenant,
        node=params.node,
        os=had["os"] or None,
        vcpus=had["vcpus"],
        memory_bytes=had["memory_bytes"],
        disks=[DiskAsked.model_validate(disk) for disk in disks],
        nics=[NicAsked(**nic) for nic in had["nics"] if nic["network"] in known],
        start=params.start,
    )


def copy_disk(context: Context[Any], disk_id: str) -> Call:
    disk = Disk.objects.select_related("pool", "vm").get(pk=disk_id)
    source = Disk.objects.select_related("pool").get(pk=context.data["copies"][disk.position])
    assert disk.vm
    more = {"linked": True} if context.data.get("linked") else {}
    if more and source.pool and source.pool.facts.get("clones_rest"):
        # From now on nobody deletes the source: until now this job's lock has kept it.
        Disk.objects.filter(pk=disk.pk).update(parent=source)
    return Call(disk.vm.node_id, DiskClone(disk=disk_spec(disk), source=VolumeSpec(**volume_of(source)), **more))


COPIED = tuple(
    replace(step, do=copy_disk, label=_("Copy the disk")) if step.name == "create_disk" else step
    for step in VmCreate.steps
)
"""A create whose disks are copies of those that ``data["copies"]`` names."""

BackupRestore.steps = COPIED
