"""Bring an image or an ISO from the web: a node fetches it, looks at it, and gives it to the panel, which keeps it."""

from collections.abc import Sequence
from typing import Annotated, Any

from django.conf import settings
from django.db import transaction
from django.utils.translation import gettext_lazy as _
from pydantic import StringConstraints, TypeAdapter, ValidationError

from cluster import library, uploads
from cluster.models import Image, Iso, Node, NodeState
from cluster.os_catalogue import CATALOGUE
from cluster.permissions import Actor
from cluster.refusals import Refusal, Refused
from cluster.saga.steps import Call, Context, Id, LockName, Lost, NoUndo, Operation, Params, Plan, Settle, Step, done
from nodes.contract import image_file, origin
from nodes.contract.messages import FileContent, FileDelete, FileDownload, FileSend
from nodes.contract.specs import FileName

from .image_distribute import File, file_of, is_image, is_there, look, named, remember_copy
from .node_inspect import node_must_answer

FOREIGN = ("exists_not_ours", "file_in_use")
"""Somebody else's file stays, and so does one that is in use by now."""


class DownloadParams(Params):
    url: Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=r"^[!-~]+$")]
    """http:// or https://"""
    name: FileName | None = None
    """None: as the URL has it."""
    os: Annotated[str, StringConstraints(max_length=40)] = ""
    checksum: Annotated[str, StringConstraints(to_lower=True, pattern=r"^((sha256:)?[0-9A-Fa-f]{64})?$")] = ""
    node: Id | None = None
    """Which fetches it; None: the first one that is online."""


class _Download(Operation[DownloadParams]):
    creates = True
    label = _("Download by URL")
    hint = _("a node fetches the file and gives it to the panel; it goes on where it was cut")
    icon = "world-download"
    secret = ("url",)
    """It may let in whoever has it."""
    Params = DownloadParams

    @classmethod
    def plan(cls, actor: Actor, target: None, params: DownloadParams) -> Plan:
        kind = _kind(cls)
        name = params.name or origin.name_of(params.url)
        refusals = [Refusal("url_unfit", field="url")] if origin.parse(params.url) is None else []
        if params.name is None and not _is_name(name):
            refusals.append(Refusal("name_needed", {"found": name}, field="name"))
        else:
            refusals += uploads.name_unfit(kind, name) + uploads.name_taken(kind, name)
        if params.os and params.os not in CATALOGUE:
            refusals.append(Refusal("os_unknown", {"os": params.os}, field="os"))
        node, reasons = _node(params)
        digest = params.checksum.removeprefix("sha256:")
        checksum = digest and "sha256:" + digest
        data = {"node": node.pk if node else "", "name": name, "os": params.os, "checksum": checksum}
        return Plan(refusals=refusals + reasons, data=data)

    @classmethod
    def begin(cls, actor: Actor, target: None, params: DownloadParams, plan: Plan) -> File:
        return begin_file(_kind(cls), plan)

    @classmethod
    def locks(cls, context: Context[DownloadParams]) -> Sequence[LockName]:
        return [LockName(context.job.subject), LockName("node:" + context.data["node"], exclusive=False)]

    @classmethod
    def recheck(cls, context: Context[DownloadParams]) -> list[Refusal]:
        return []

    # The table of steps stands below the functions that it names.


class ImageDownload(_Download):
    code = "image.download"
    noun = "images"


class IsoDownload(_Download):
    code = "iso.download"
    noun = "isos"


def _kind(operation: type[Operation[Any]]) -> image_file.Kind:
    return "image" if operation.noun == "images" else "iso"


def _is_name(name: str) -> bool:
    try:
        TypeAdapter(FileName).validate_python(name)
    except ValidationError:
        return False
    return True


def _node(params: DownloadParams) -> tuple[Node | None, list[Refusal]]:
    if params.node:
        node = Node.objects.filter(pk=params.node).first()
        return node, node_must_answer(node) if node else [Refusal("node_unknown", field="node")]
    nodes = Node.objects.filter(state=NodeState.ONLINE).exclude(redis_password_sha256="")
    node = nodes.order_by("name").first()
    return node, [] if node else [Refusal("no_node_online", field="node")]


# --- parts that all operations share by which a node makes a file for the library ---------------------------


def begin_file(kind: image_file.Kind, plan: Plan) -> File:
    """The row of a file that is on its way; ``data``: its ``name``, ``os`` and promised ``checksum``."""
    data = plan.data
    if uploads.is_name_taken(kind, data["name"]):
        raise Lost(data["name"])
    fields: dict[str, Any] = {"name": data["name"], "os": data["os"], "checksum": data.get("checksum", "")}
    if kind == "image":
        return Image.objects.create(**fields, state="adding", stored=True, size_bytes=0, virtual_size_bytes=0)
    return Iso.objects.create(**fields, state="adding", stored=True, size_bytes=0)


def _rows(context: Context[Any]) -> Any:
    return (Image if is_image(context) else Iso).objects.filter(pk=context.subject_id)


def forget(context: Context[Any], key: str) -> None:
    _rows(context).delete()
    transaction.on_commit(lambda: library.drop(context.subject_id))


def take_away(context: Context[Any], key: str) -> Call:
    return Call(context.data["node"], FileDelete(**named(context)))


def look_there(context: Context[Any], key: str) -> Sequence[Call]:
    return look(context, context.data["node"])


def learn(context: Context[Any], key: str, result: FileContent) -> None:
    about: dict[str, Any] = {"size_bytes": result.size_bytes, "checksum": result.checksum}
    if is_image(context):
        about |= {"format": result.format, "virtual_size_bytes": result.virtual_size_bytes}
    _rows(context).update(**about)


def send(context: Context[Any], key: str) -> Call:
    file = file_of(context)
    message = FileSend(
        **named(context),
        url=f"{settings.INSTALLATION.enrol_url}/api/v1/files/{file.pk}/",
        token=library.token_for(context.job, file.pk, "put"),
        size_bytes=file.size_bytes,
        checksum=file.checksum,
    )
    return Call(context.data["node"], message)


def drop(context: Context[Any], key: str) -> None:
    transaction.on_commit(lambda: library.drop(context.subject_id))


def finish(context: Context[Any], key: str) -> None:
    """What a node says of a file is not enough: before disks are made of it on other nodes, the panel looks itself."""
    file = file_of(context)
    try:
        image_file.describe(library.file_of(file.pk), "image" if is_image(context) else "iso", file.name)
    except image_file.Unfit as unfit:
        raise Refused(Refusal(unfit.code, unfit.facts)) from None
    _rows(context).update(state="active")
    remember_copy(context, context.data["node"])


KEPT = (
    Step("send", _("Give it to the panel"), do=send, undo=drop),
    Step("finish", _("Put it into the library"), do=finish, undo=NoUndo(_("nothing can fail after it"))),
)
"""How a file that is whole on a node becomes one of the library."""


# --- the steps ------------------------------------------------------------------------------------------------


def download(context: Context[DownloadParams], key: str) -> Call:
    promised = {"checksum": context.data["checksum"]} if context.data["checksum"] else {}
    message = FileDownload(
        **named(context),
        **promised,
        url=context.params.url,
        most_bytes=settings.INSTALLATION.upload_most_bytes,
        networks=origin.networks_of(settings.INSTALLATION.download_networks),
    )
    return Call(context.data["node"], message)


_Download.steps = (
    Step("reserve", _("Reserve the name"), do=done, undo=forget),
    Step(
        "download",
        _("Download the file"),
        do=download,
        undo=take_away,
        after=learn,
        settle=Settle(look_there, is_there),
        undone_by=FOREIGN,
    ),
    *KEPT,
)
