"""Images and ISOs that come from browsers, piece by piece, into the panel's library."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from nodes.contract import image_file

from . import audit, library
from .models import (
    Image,
    Iso,
    Upload,
)
from .os_catalogue import CATALOGUE
from .permissions import Actor
from .refusals import Refusal, Refused
from .saga.locks import serialise

UPLOAD_PATIENCE = timedelta(hours=24)
LIBRARY: dict[str, Any] = {"image": Image, "iso": Iso}


def begin(
    actor: Actor, kind: image_file.Kind, name: str, size_bytes: int, *, checksum: str = "", os: str = ""
) -> Upload:
    """Promise a file to the panel; its chunks follow by :func:`append`.

    :param checksum: ``sha256:<hex>``; empty: computed when the file is whole.

    Raises :class:`Forbidden`, :class:`Refused`: ``file_suffix``, ``file_name_taken``, ``upload_under_way``,
    ``upload_too_large``, ``no_room_on_panel``, ``os_unknown``.
    """
    actor.require("image.add")
    reasons = name_unfit(kind, name)
    if os and os not in CATALOGUE:
        reasons.append(Refusal("os_unknown", {"os": os}, field="os"))
    most_bytes = settings.INSTALLATION.upload_most_bytes
    if size_bytes > most_bytes:
        reasons.append(Refusal("upload_too_large", {"size": size_bytes, "most": most_bytes}, field="size_bytes"))
    with transaction.atomic():
        serialise()
        reasons += name_taken(kind, name)
        promised_bytes = sum(u.size_bytes - library.received_bytes(u.pk) for u in Upload.objects.all())
        if size_bytes > library.free_bytes() - promised_bytes:
            reasons.append(library.no_room(size_bytes + promised_bytes))
        if reasons:
            raise Refused(*reasons)
        return Upload.objects.create(
            kind=kind, name=name, size_bytes=size_bytes, checksum=checksum, os=os, user=actor.user
        )


def name_unfit(kind: image_file.Kind, name: str) -> list[Refusal]:
    """Where the name of an image or an ISO does not say what it is, or could be that of a disk's volume."""
    suffixes = image_file.SUFFIXES[kind]
    if name.lower().endswith(suffixes) and not image_file.is_volume(name):
        return []
    return [Refusal("file_suffix", {"name": name, "suffixes": list(suffixes)}, field="name")]


def name_taken(kind: str, name: str) -> list[Refusal]:
    """Where there is such a file already, or one is being uploaded."""
    reasons = _name_is_held(kind, name)
    if under_way := Upload.objects.filter(kind=kind, name=name).first():
        reasons.append(Refusal("upload_under_way", {"name": name, "upload": under_way.pk}, "name", status=409))
    return reasons


def is_name_taken(kind: str, name: str) -> bool:
    uploads = Upload.objects.filter(kind=kind, name=name).values("pk")
    return bool(uploads.union(LIBRARY[kind].objects.filter(name=name).values("pk")).exists())


def _name_is_held(kind: str, name: str) -> list[Refusal]:
    if LIBRARY[kind].objects.filter(name=name).exists():
        return [Refusal("file_name_taken", {"name": name}, field="name", status=409)]
    return []


def append(actor: Actor, upload: Upload, offset: int, read: Callable[[int], bytes]) -> Image | Iso | None:
    """Take the next chunk. Behind the last one the file is looked at and becomes an image or an ISO, which is returned.

    Raises :class:`Refused`: ``upload_wrong_offset`` (with the right one), ``upload_too_long``, ``upload_busy``,
    ``no_room_on_panel``; and of the whole file, which is then deleted, ``checksum_differs`` or why it is no image.
    """
    actor.require("image.add")
    with library.held(upload.pk) as file:
        present_bytes = library.append(file, offset, read, upload.size_bytes)
        Upload.objects.filter(pk=upload.pk).update(touched=timezone.now())
        return _kept(actor, upload) if present_bytes == upload.size_bytes else None


def _kept(actor: Actor, upload: Upload) -> Image | Iso:
    try:
        checksum, described = _looked_at(upload)
    except Refused as refused:
        with transaction.atomic():
            Upload.objects.filter(pk=upload.pk).delete()
            subject = f"{upload.kind}:{upload.pk}"
            codes = [reason.code for reason in refused.refusals]
            audit.write(actor, "image.add", "refused", subject=subject, subject_name=upload.name, codes=codes)
        library.drop(upload.pk)
        raise
    fields: dict[str, Any] = {"name": upload.name, "os": upload.os, "size_bytes": upload.size_bytes}
    if upload.kind == "image":
        fields |= {"format": described.format, "virtual_size_bytes": described.virtual_size_bytes}
    with transaction.atomic():
        serialise()
        taken = _name_is_held(upload.kind, upload.name)
        if taken:
            raise Refused(*taken)
        row: Image | Iso = LIBRARY[upload.kind].objects.create(pk=upload.pk, checksum=checksum, stored=True, **fields)
        Upload.objects.filter(pk=upload.pk).delete()
        audit.write(actor, "image.add", "done", subject=f"{upload.kind}:{row.pk}", subject_name=row.name)
        library.keep(upload.pk)
    return row


def _looked_at(upload: Upload) -> tuple[str, image_file.Described]:
    path = library.path_of(upload.pk)
    found = library.checksum(path)
    if upload.checksum and upload.checksum != found:
        raise Refused(Refusal("checksum_differs", {"name": upload.name, "promised": upload.checksum, "found": found}))
    try:
        return found, image_file.describe(path, "iso" if upload.kind == "iso" else "image", upload.name)
    except image_file.Unfit as unfit:
        raise Refused(Refusal(unfit.code, unfit.facts)) from None


def drop(actor: Actor, upload: Upload) -> None:
    """Give an upload up: what has come of it is deleted."""
    actor.require("image.add")
    with library.held(upload.pk):
        Upload.objects.filter(pk=upload.pk).delete()
        library.drop(upload.pk)


def forget_abandoned() -> None:
    """An upload of which nothing came for a day is given up, and files that belong to nothing go."""
    for upload in Upload.objects.filter(touched__lt=timezone.now() - UPLOAD_PATIENCE):
        with suppress(Refused), library.held(upload.pk):
            Upload.objects.filter(pk=upload.pk).delete()
            library.drop(upload.pk)
            audit.write(None, "image.add", "cancelled", subject=f"{upload.kind}:{upload.pk}", subject_name=upload.name)
    if audit.was_restored_before(timezone.now()):
        return  # what looks like a stray may be an image that the backup was too old to know
    rows = (Upload.objects.all(), Image.objects.filter(stored=True), Iso.objects.filter(stored=True))
    library.drop_strays({pk for found in rows for pk in found.values_list("pk", flat=True)})
