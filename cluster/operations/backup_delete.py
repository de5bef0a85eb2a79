"""Delete a backup with its copies, after every node that sees them was asked."""

from collections.abc import Sequence
from typing import Any

from django.db.models import F
from django.utils.translation import gettext_lazy as _

from cluster.domain_specs import volume_of
from cluster.models import Backup, BackupState, Disk
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, LockName, NoParams, NoUndo, Operation, Plan, Settle, Step
from nodes.contract.messages import DiskDelete, DiskLook, DiskUnused

from .disk_create import at_hand
from .vm_settle import settle_disk_gone


class BackupDelete(Operation[NoParams]):
    code = "backup.delete"
    noun = "backups"
    label = _("Delete the backup")
    hint = _("its copies cannot be brought back")
    icon = "trash"
    danger = True
    Params = NoParams

    @classmethod
    def obstacles(cls, target: Backup) -> list[Refusal]:
        return not_ready(target)

    @classmethod
    def plan(cls, actor: Actor, target: Backup, params: NoParams) -> Plan:
        asks, nodes, nowhere = [], {}, []
        for disk in target.disks.select_related("pool"):
            assert disk.pool
            asks += [f"{disk.pk}.{node}" for node in sorted(disk.pool.places.values_list("node_id", flat=True))]
            nodes[disk.pk] = at_hand(disk.pool)
            nowhere += [] if nodes[disk.pk] else [Refusal("pool_nowhere", {"pool": disk.pool.name})]
        return Plan(refusals=nowhere, data={"asks": asks, "nodes": nodes})

    @classmethod
    def locks(cls, context: Context[NoParams]) -> Sequence[LockName]:
        return [LockName("backup:" + context.subject_id)]

    @classmethod
    def recheck(cls, context: Context[NoParams]) -> list[Refusal]:
        return cls.obstacles(Backup.objects.get(pk=context.subject_id))

    # The table of steps stands below the functions that it names.


def not_ready(backup: Backup) -> list[Refusal]:
    if backup.state == BackupState.READY:
        return []
    return [Refusal("backup_not_ready", {"backup": backup.name, "state": backup.state}, status=409)]


def _mark(state: BackupState) -> Any:
    def do(context: Context[NoParams], key: str) -> None:
        Backup.objects.filter(pk=context.subject_id).update(state=state, version=F("version") + 1)

    return do


def _call(message: Any, node: str, disk_id: str) -> Call:
    return Call(node, message(**volume_of(Disk.objects.select_related("pool").get(pk=disk_id))))


def asks(context: Context[NoParams]) -> list[str]:
    return list(context.data["asks"])


def ask(context: Context[NoParams], key: str) -> Call:
    disk, _dot, node = key.partition(".")
    return _call(DiskUnused, node, disk)


def doomed(context: Context[NoParams]) -> list[str]:
    return list(context.data["nodes"])


def delete(context: Context[NoParams], disk: str) -> Call:
    return _call(DiskDelete, context.data["nodes"][disk], disk)


def look(context: Context[NoParams], disk: str) -> Sequence[Call]:
    return [_call(DiskLook, context.data["nodes"][disk], disk)]


def forget(context: Context[NoParams], key: str) -> None:
    Disk.objects.filter(backup=context.subject_id).delete()
    Backup.objects.filter(pk=context.subject_id).delete()


BackupDelete.steps = (
    Step("mark", _("Mark the backup"), do=_mark(BackupState.DELETING), undo=_mark(BackupState.READY)),
    Step("ask", _("Ask whether anything uses it"), do=ask, undo=NoUndo(_("it only looks")), each=asks),
    Step(
        "delete",
        _("Delete the copy"),
        do=delete,
        undo=NoUndo(_("a deleted disk is gone")),
        each=doomed,
        pivot=True,
        settle=Settle(look, settle_disk_gone.verdict),
    ),
    Step("forget", _("Forget the backup"), do=forget, undo=NoUndo(_("nothing can fail after it"))),
)
