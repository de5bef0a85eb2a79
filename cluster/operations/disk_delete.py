"""Delete a disk that no VM has, after every node that sees its pool was asked."""

from collections.abc import Sequence

from django.utils.translation import gettext_lazy as _

from cluster.domain_specs import volume_of
from cluster.models import Disk
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, LockName, NoParams, NoUndo, Operation, Plan, Step
from nodes.contract.messages import DiskUnused

from .disk_attach import disk_of, is_loose
from .disk_create import delete, nodes_with
from .vm_settle import settle_disk_gone


class DiskDelete(Operation[NoParams]):
    code = "disk.delete"
    noun = "disks"
    label = _("Delete the disk")
    hint = _("its content cannot be brought back")
    icon = "trash"
    danger = True
    Params = NoParams

    @classmethod
    def obstacles(cls, target: Disk) -> list[Refusal]:
        return is_loose(target) + has_clones(target)

    @classmethod
    def plan(cls, actor: Actor, target: Disk, params: NoParams) -> Plan:
        if target.pool is None:
            return Plan()
        nodes = nodes_with(target.pool)
        nowhere = [] if nodes else [Refusal("pool_nowhere", {"pool": target.pool.name})]
        # The one that deletes asks its own domains as it deletes.
        return Plan(refusals=nowhere, data={"nodes": nodes[1:], "node": next(iter(nodes), None)})

    @classmethod
    def locks(cls, context: Context[NoParams]) -> Sequence[LockName]:
        return [LockName("disk:" + context.subject_id)]

    @classmethod
    def recheck(cls, context: Context[NoParams]) -> list[Refusal]:
        return cls.obstacles(disk_of(context))

    # The table of steps stands below the functions that it names.


def has_clones(disk: Disk, without_vm: str = "") -> list[Refusal]:
    """Linked clones that rest on it keep it; those of the VM that goes with it do not."""
    clones = sorted(clone.name for clone in disk.clones.all() if not without_vm or clone.vm_id != without_vm)
    return [Refusal("disk_has_clones", {"disk": disk.name, "clones": clones})] if clones else []


def nodes_of(context: Context[NoParams]) -> list[str]:
    return list(context.data["nodes"])


def ask(context: Context[NoParams], node: str) -> Call:
    return Call(node, DiskUnused(**volume_of(disk_of(context))))


def forget(context: Context[NoParams], key: str) -> None:
    Disk.objects.filter(pk=context.subject_id).delete()


DiskDelete.steps = (
    # Law 3: on a shared pool another node may have a domain that was defined behind the panel's back.
    Step(
        "ask",
        _("Ask the other nodes whether anything uses it"),
        do=ask,
        undo=NoUndo(_("it only looks")),
        each=nodes_of,
        beside=True,
    ),
    Step(
        "delete",
        _("Delete the volume"),
        do=delete,
        undo=NoUndo(_("a deleted disk is gone")),
        pivot=True,
        settle=settle_disk_gone,
    ),
    Step("forget", _("Forget the disk"), do=forget, undo=NoUndo(_("nothing can fail after it"))),
)
