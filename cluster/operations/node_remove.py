"""Remove a node from the cluster: its Redis user and its certificate are withdrawn with its row."""

from collections.abc import Sequence

from django.db import transaction
from django.utils.translation import gettext_lazy as _

from cluster import events, wake
from cluster.models import Image, Iso, Node, Pool
from cluster.refusals import Refusal, Refused
from cluster.saga.steps import Context, LockName, NoParams, NoUndo, Operation, Step


def _has_vms(node: Node) -> list[Refusal]:
    count = node.vms.count()
    return [Refusal("node_has_vms", {"node": node.name, "count": count}, status=409)] if count else []


def withdraw(context: Context[NoParams], key: str) -> None:
    """The row is what the conductor makes Redis users from: without it the user goes, and with it every right."""
    node = Node.objects.filter(pk=context.subject_id).first()
    if node is None:
        return
    obstacles = _has_vms(node)
    if obstacles:
        raise Refused(*obstacles)
    node.version += 1
    events.node_changed(node, "deleted")
    Node.objects.filter(pk=node.pk).update(default_pool=None)
    node.delete()
    Pool.objects.filter(places__isnull=True, disks__isnull=True).delete()
    Image.objects.filter(copies__isnull=True, disks__isnull=True).delete()
    Iso.objects.filter(copies__isnull=True, disks__isnull=True).delete()
    transaction.on_commit(wake.conductor)


class NodeRemove(Operation[NoParams]):
    code = "node.remove"
    noun = "nodes"
    label = _("Remove from the cluster")
    icon = "trash"
    danger = True
    Params = NoParams
    steps = (
        Step("withdraw", _("Withdraw user and certificate"), do=withdraw, undo=NoUndo(_("it is one transaction"))),
    )  # fmt: skip

    @classmethod
    def obstacles(cls, target: Node) -> list[Refusal]:
        return _has_vms(target)

    @classmethod
    def locks(cls, context: Context[NoParams]) -> Sequence[LockName]:
        return [LockName("node:" + context.subject_id)]

    @classmethod
    def recheck(cls, context: Context[NoParams]) -> list[Refusal]:
        node = Node.objects.filter(pk=context.subject_id).first()
        return _has_vms(node) if node else []
