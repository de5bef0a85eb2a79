"""Bring an image or an ISO that the panel keeps to nodes: each fetches it by itself and compares the checksum."""

from collections.abc import Sequence
from typing import Annotated, Any

from django.conf import settings
from django.utils.translation import gettext_lazy as _
from pydantic import Field

from cluster import library, placement
from cluster.models import Image, ImageCopy, Iso, IsoCopy, Node, NodeState, Pool
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, Id, LockName, Operation, Params, Plan, Settle, Step, Verdict
from nodes.contract.messages import FileDelete, FileFetch, FileLook, FileState, Nothing

from .node_inspect import node_must_answer

File = Image | Iso


class DistributeParams(Params):
    nodes: Annotated[list[Id], Field(max_length=1000)] = []
    """Empty: every node that is online and has no copy."""


class _Distribute(Operation[DistributeParams]):
    label = _("Bring it to nodes")
    hint = _("each node fetches it from the panel and compares the checksum")
    icon = "download"
    dialog = True
    Params = DistributeParams

    @classmethod
    def obstacles(cls, target: File) -> list[Refusal]:
        return is_here(target) or ([] if target.stored else [Refusal("file_not_stored", {"name": target.name})])

    @classmethod
    def plan(cls, actor: Actor, target: File, params: DistributeParams) -> Plan:
        known = Node.objects.in_bulk(params.nodes)
        refusals = [Refusal("node_unknown", field="nodes") for pk in params.nodes if pk not in known]
        without = nodes_without(target, params.nodes)
        missing = without if params.nodes else [node for node in without if node.state == NodeState.ONLINE]
        refusals += [reason for node in missing for reason in node_must_answer(node)]
        if not missing and len(known) == len(params.nodes):
            refusals.append(Refusal("copies_everywhere", {"name": target.name}, status=409))
        if isinstance(target, Image):
            refusals += _no_room(missing, target.size_bytes)
        return Plan(refusals=refusals, data={"nodes": [node.pk for node in missing]})

    @classmethod
    def locks(cls, context: Context[DistributeParams]) -> Sequence[LockName]:
        nodes = [LockName("node:" + pk, exclusive=False) for pk in context.data["nodes"]]
        return [LockName(context.job.subject), *nodes]

    @classmethod
    def recheck(cls, context: Context[DistributeParams]) -> list[Refusal]:
        return cls.obstacles(file_of(context))

    # The table of steps stands below the functions that it names.


class ImageDistribute(_Distribute):
    code = "image.distribute"
    noun = "images"


class IsoDistribute(_Distribute):
    code = "iso.distribute"
    noun = "isos"


def is_here(file: File) -> list[Refusal]:
    """Why it is not, where it is still on its way to the panel."""
    return [Refusal("file_coming", {"name": file.name}, status=409)] if file.state == "adding" else []


def nodes_without(file: File, among: Sequence[str] = ()) -> list[Node]:
    """Nodes that have joined and hold no copy, by name; of all, or of some."""
    nodes = Node.objects.exclude(pk__in=file.copies.values("node")).exclude(redis_password_sha256="")
    if among:
        nodes = nodes.filter(pk__in=among)
    return list(nodes.defer("facts", "platform", "checks", "verbs", "offers").order_by("name"))


def _no_room(nodes: Sequence[Node], size_bytes: int) -> list[Refusal]:
    """In their folders of images, which are pools that no person added."""
    names = {node.pk: node for node in nodes}
    pools = Pool.objects.filter(places__node__in=names, attached=False).prefetch_related("places")
    return [
        placement.no_room(pool, names[place.node_id], size_bytes, "nodes")
        for pool in pools.distinct()
        for place in pool.places.all()
        if place.node_id in names and size_bytes > placement.free_room_bytes(pool)
    ]


# --- parts that the operations on images and ISOs share ---------------------------------------------------


def file_of(context: Context[Any]) -> File:
    """What the job is about."""
    model: type[File] = Image if is_image(context) else Iso
    return model.objects.get(pk=context.subject_id)


def is_image(context: Context[Any]) -> bool:
    return context.job.subject.startswith("image:")


def named(context: Context[Any]) -> dict[str, Any]:
    """How messages about the file call it."""
    return {"id": context.subject_id, "kind": "image" if is_image(context) else "iso", "name": file_of(context).name}


def nodes_of(context: Context[Any]) -> list[str]:
    return list(context.data["nodes"])


def look(context: Context[Any], node: str) -> Sequence[Call]:
    return [Call(node, FileLook(**named(context)))]


def forget_copy(context: Context[Any], node: str) -> None:
    if is_image(context):
        ImageCopy.objects.filter(image=context.subject_id, node=node).delete()
    else:
        IsoCopy.objects.filter(iso=context.subject_id, node=node).delete()


def remember_copy(context: Context[Any], node: str) -> None:
    if is_image(context):
        ImageCopy.objects.get_or_create(image_id=context.subject_id, node_id=node)
    else:
        IsoCopy.objects.get_or_create(iso_id=context.subject_id, node_id=node)


# --- the steps ------------------------------------------------------------------------------------------------


def fetch(context: Context[Any], node: str) -> Call:
    file = file_of(context)
    return Call(
        node,
        FileFetch(
            **named(context),
            url=f"{settings.INSTALLATION.enrol_url}/api/v1/files/{file.pk}/",
            token=library.token_for(context.job, file.pk),
            size_bytes=file.size_bytes,
            checksum=file.checksum,
        ),
    )


def fetched(context: Context[DistributeParams], node: str, result: Nothing | FileState) -> None:
    remember_copy(context, node)


def take_back(context: Context[DistributeParams], node: str) -> Call:
    forget_copy(context, node)
    return Call(node, FileDelete(**named(context)))


def is_there(context: Context[DistributeParams], results: Sequence[FileState | None]) -> Verdict:
    seen = results[0] if results else None
    if seen is None:
        return "unclear"
    return "done" if seen.ours else "not_done"


_Distribute.steps = (
    Step(
        "fetch",
        _("Fetch the file"),
        do=fetch,
        undo=take_back,
        each=nodes_of,
        beside=True,
        after=fetched,
        settle=Settle(look, is_there),
        # Somebody else's file stays, and so does one on which a disk rests by now.
        undone_by=("exists_not_ours", "file_in_use"),
    ),
)
