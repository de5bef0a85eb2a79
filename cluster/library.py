"""Files of images and ISOs that the panel keeps: ``<id>.part`` while it comes, ``<id>`` when it was looked at.

Nodes get and give them at the listener of the enrolment, by a token that is good for one file while its job is open.
Files alone: rows, rights and the journal are in :mod:`cluster.services`.
"""

import errno
import fcntl
import hashlib
import io
import os
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal

from django.conf import settings
from django.core import signing

from .models import FINAL, Job
from .refusals import Refusal, Refused

PIECE_BYTES = 1 << 20
KEPT_FREE_BYTES = 1 << 30
"""Of the file system under the library: the panel's database lies there too."""
STRAY_AFTER_S = 3600.0
_SALT = "ulei.library"

Way = Literal["get", "put"]
"""From the panel to a node, or from a node to the panel."""


def folder() -> Path:
    return Path(settings.INSTALLATION.library_dir)


def file_of(pk: str) -> Path:
    return folder() / pk


def received_bytes(pk: str) -> int:
    """How much of an upload is here; 0 before the first chunk."""
    for path in (_part(pk), file_of(pk)):
        with suppress(FileNotFoundError):
            return path.stat().st_size
    return 0


def free_bytes() -> int:
    """Room for further uploads, beside what the panel itself needs."""
    _make_folder()
    room = os.statvfs(folder())
    return max(0, room.f_bavail * room.f_frsize - KEPT_FREE_BYTES)


@contextmanager
def held(pk: str) -> Iterator[BinaryIO]:
    """The file of an upload, for one writer at a time. Raises :class:`Refused` (``upload_busy``)."""
    _make_folder()
    # A panel that died between the last two lines of an upload has left the whole file under its final name.
    path = file_of(pk) if file_of(pk).exists() else _part(pk)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(Refusal("upload_busy", status=409)) from None
        yield file


def append(file: BinaryIO, offset: int, read: Callable[[int], bytes], most_bytes: int) -> int:
    """Write a chunk behind what is there, all of it or nothing; returns how much is there then.

    Raises :class:`Refused`: ``upload_wrong_offset``, ``upload_too_long``, ``no_room_on_panel``.
    """
    present_bytes = os.fstat(file.fileno()).st_size
    if offset != present_bytes:
        raise Refused(Refusal("upload_wrong_offset", {"offset": offset, "expected": present_bytes}, status=409))
    file.seek(offset)
    try:
        while piece := read(PIECE_BYTES):
            if file.tell() + len(piece) > most_bytes:
                raise Refused(Refusal("upload_too_long", {"most": most_bytes}))
            _write(file, piece)
        os.fdatasync(file.fileno())
    except BaseException as error:
        file.truncate(present_bytes)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise Refused(no_room(most_bytes - present_bytes)) from None
        raise
    return file.tell()


def _write(file: BinaryIO, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[file.write(rest) :]


def no_room(needed_bytes: int) -> Refusal:
    facts = {"free": free_bytes(), "needed": needed_bytes}
    return Refusal("no_room_on_panel", facts, field="size_bytes", status=507)


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def path_of(pk: str) -> Path:
    """Where the upload's bytes are now."""
    return _part(pk) if _part(pk).exists() else file_of(pk)


def keep(pk: str) -> None:
    """The upload is whole and was looked at: it gets its final name. Harmless to repeat."""
    with suppress(FileNotFoundError):
        _part(pk).rename(file_of(pk))
    descriptor = os.open(folder(), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def drop(pk: str) -> None:
    """Remove whatever there is of a file. Harmless to repeat."""
    _part(pk).unlink(missing_ok=True)
    file_of(pk).unlink(missing_ok=True)


def drop_strays(known: Container[str]) -> list[str]:
    """Remove files that belong to no row (a panel that died in the middle of a deletion); returns their names."""
    if not folder().is_dir():
        return []
    gone = []
    before = time.time() - STRAY_AFTER_S
    for path in sorted(folder().iterdir()):
        if path.name.removesuffix(".part") not in known and path.stat().st_mtime < before:
            path.unlink(missing_ok=True)
            gone.append(path.name)
    return gone


# --- for nodes --------------------------------------------------------------------------------------------------


def token_for(job: Job, pk: str, way: Way = "get") -> str:
    return signing.dumps([job.pk, pk], salt=f"{_SALT}.{way}")


def is_opened_by(token: str, pk: str, way: Way = "get") -> bool:
    """Whether the token is for this file and this way, and its job is still open."""
    try:
        job, named = signing.loads(token, salt=f"{_SALT}.{way}")
    except (signing.BadSignature, ValueError, TypeError):
        return False
    return named == pk and Job.objects.filter(pk=job).exclude(state__in=FINAL).exists()


def take(pk: str, offset: int, chunk: bytes, size_bytes: int, promised: str) -> tuple[bool, int]:
    """A chunk of a file that a node made. Returns whether the file is whole and kept, and how much of it is here.

    Raises :class:`Refused` as :func:`append`; ``upload_busy``, ``upload_too_large``; and of the whole file, which is
    then deleted, ``checksum_differs``.
    """
    most_bytes = settings.INSTALLATION.upload_most_bytes
    if size_bytes > most_bytes:
        raise Refused(Refusal("upload_too_large", {"size": size_bytes, "most": most_bytes}))
    with held(pk) as file:
        if file_of(pk).exists() and file_of(pk).stat().st_size != size_bytes:
            raise Refused(Refusal("file_name_taken", {"name": pk}, status=409))
        missing_bytes = size_bytes - os.fstat(file.fileno()).st_size
        if missing_bytes > free_bytes():
            raise Refused(no_room(missing_bytes))
        present_bytes = append(file, offset, io.BytesIO(chunk).read, size_bytes)
        if present_bytes < size_bytes:
            return False, present_bytes
        found = checksum(path_of(pk))
        if found != promised:
            drop(pk)
            raise Refused(Refusal("checksum_differs", {"name": pk, "promised": promised, "found": found}))
        keep(pk)
        return True, present_bytes


def _part(pk: str) -> Path:
    return folder() / f"{pk}.part"


def _make_folder() -> None:
    folder().mkdir(mode=0o700, parents=True, exist_ok=True)
