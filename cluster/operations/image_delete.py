"""Delete an image or an ISO that the panel keeps, with its copies on nodes; refused while any disk rests on it."""

from collections.abc import Sequence
from typing import Any

from django.db import transaction
from django.utils.translation import gettext_lazy as _

from cluster import library
from cluster.models import Image, Iso
from cluster.refusals import Refusal, Refused
from cluster.saga import locks
from cluster.saga.steps import Call, Context, LockName, NoParams, NoUndo, Operation, Settle, Step, Verdict
from nodes.contract.messages import FileDelete, FileState

from .image_distribute import File, fetch, file_of, forget_copy, is_here, is_image, look, named, remember_copy


def _obstacles(file: File) -> list[Refusal]:
    if coming := is_here(file):
        return coming
    if not file.stored:
        return [Refusal("file_found", {"name": file.name})]
    # Counted with the list, where there is one.
    used = file.disks_count if hasattr(file, "disks_count") else file.disks.exists()
    return [Refusal("file_has_disks", {"name": file.name}, status=409)] if used else []


class _Delete(Operation[NoParams]):
    label = _("Delete")
    hint = _("from the panel and from every node that has a copy")
    icon = "trash"
    danger = True
    Params = NoParams

    @classmethod
    def obstacles(cls, target: File) -> list[Refusal]:
        return _obstacles(target)

    @classmethod
    def locks(cls, context: Context[NoParams]) -> Sequence[LockName]:
        return [LockName(context.job.subject)]

    @classmethod
    def recheck(cls, context: Context[NoParams]) -> list[Refusal]:
        return _obstacles(file_of(context))

    # The table of steps stands below the functions that it names.


class ImageDelete(_Delete):
    code = "image.delete"
    noun = "images"


class IsoDelete(_Delete):
    code = "iso.delete"
    noun = "isos"


def nodes_of(context: Context[Any]) -> list[str]:
    return sorted(file_of(context).copies.values_list("node", flat=True))


def ask(context: Context[Any], node: str) -> Call:
    return look(context, node)[0]


def answered(context: Context[Any], node: str, result: FileState) -> None:
    context.data.setdefault("used_by", []).extend(result.used_by)


def close(context: Context[Any], key: str) -> None:
    """From now on no disk is made from it: whoever makes one looks at the state, serial to this transaction."""
    locks.serialise()
    reasons = _obstacles(file_of(context))
    if context.data.get("used_by"):
        reasons.append(Refusal("file_in_use", {"used_by": context.data["used_by"]}))
    if reasons:
        raise Refused(*reasons)
    _row(context).update(state="removing")


def open_again(context: Context[Any], key: str) -> None:
    _row(context).update(state="active")


def _row(context: Context[Any]) -> Any:
    return (Image if is_image(context) else Iso).objects.filter(pk=context.subject_id)


def delete(context: Context[Any], node: str) -> Call:
    return Call(node, FileDelete(**named(context)))


def deleted(context: Context[Any], node: str, result: Any) -> None:
    forget_copy(context, node)


def is_gone(context: Context[Any], results: Sequence[FileState | None]) -> Verdict:
    seen = results[0] if results else None
    if seen is None:
        return "unclear"
    return "not_done" if seen.ours else "done"


def bring_back(context: Context[Any], node: str) -> Call:
    remember_copy(context, node)
    return fetch(context, node)


def forget(context: Context[Any], key: str) -> None:
    _row(context).delete()
    # A panel that dies in between leaves a stray file, which goes within the hour.
    transaction.on_commit(lambda: library.drop(context.subject_id))


_Delete.steps = (
    Step("ask", _("Ask the node who uses it"), do=ask, undo=NoUndo(_("it only looks")), each=nodes_of, after=answered),
    Step("close", _("Let no new disk begin from it"), do=close, undo=open_again),
    Step(
        "delete",
        _("Delete the copy"),
        do=delete,
        undo=bring_back,
        each=nodes_of,
        beside=True,
        after=deleted,
        settle=Settle(look, is_gone),
        undone_by=("exists_not_ours",),
    ),
    Step("forget", _("Delete the panel's file"), do=forget, undo=NoUndo(_("nothing can fail after it"))),
)
