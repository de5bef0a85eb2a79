"""The file: a tar of the parts, before them a manifest with the size and the SHA-256 of each."""

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import IO, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.refusals import Refusal, Refused

FORMAT = 1
MANIFEST = "manifest.json"
MANIFEST_MOST_BYTES = 1 << 20
BLOCK_BYTES = 1 << 20
# Names of files to be written: never a way out of the folder they are unpacked to.
PartName = Annotated[str, Field(pattern=r"^(ca/)?[a-z0-9][a-z0-9.-]{0,60}$")]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: PartName
    size_bytes: int
    sha256: str


class Manifest(BaseModel):
    """What stands in the archive, and what must be known before any of it is used."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    version: str
    """Of the panel that made it."""
    made: datetime
    database: Literal["sqlite", "postgresql"]
    database_version: str
    migrations: tuple[str, ...]
    """``<app>.<name>`` of every one that the database has had."""
    parts: tuple[Part, ...] = ()


def pack(target: Path, manifest: Manifest, folder: Path) -> Manifest:
    """Write every file of ``folder`` to ``target``, which appears whole or not at all and is never overwritten.

    Raises :class:`Refused` (``file_exists``).
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    manifest = manifest.model_copy(update={"parts": tuple(_part(folder, name) for name in names)})
    part_file = target.with_name(f".{target.name}.part")
    part_file.unlink(missing_ok=True)
    descriptor = os.open(part_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                text = manifest.model_dump_json(indent=1).encode()
                tar.addfile(_member(MANIFEST, len(text), manifest.made), io.BytesIO(text))
                for part in manifest.parts:
                    with open(folder / part.name, "rb") as content:
                        tar.addfile(_member(part.name, part.size_bytes, manifest.made), content)
            file.flush()
            os.fsync(file.fileno())
        # A link, because a rename would silently replace what somebody else has put there meanwhile.
        os.link(part_file, target)
    except FileExistsError:
        raise Refused(Refusal("file_exists", {"file": str(target)})) from None
    finally:
        part_file.unlink(missing_ok=True)
    return manifest


def unpack(source: Path, folder: Path) -> Manifest:
    """Write the parts to ``folder``, every one of them as the manifest says.

    Raises :class:`Refused`: ``backup_unreadable``, ``backup_damaged`` (with the part).
    """
    try:
        with tarfile.open(source, mode="r:") as tar:
            members = iter(tar)
            manifest = _manifest(tar, next(members, None))
            _unpack_parts(tar, members, manifest, folder)
    except (OSError, tarfile.TarError) as error:
        raise Refused(Refusal("backup_unreadable", {"file": str(source)}, cause=str(error))) from None
    return manifest


def _unpack_parts(tar: tarfile.TarFile, members: Iterable[tarfile.TarInfo], manifest: Manifest, folder: Path) -> None:
    missing = {part.name: part for part in manifest.parts}
    for member in members:
        part = missing.pop(member.name, None)
        content = tar.extractfile(member) if part and member.isreg() else None
        if part is None or content is None:
            raise Refused(Refusal("backup_damaged", {"part": member.name}))
        path = folder / part.name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            _copy(content, file)
        if _part(folder, part.name) != part:
            raise Refused(Refusal("backup_damaged", {"part": part.name}))
    if missing:
        raise Refused(Refusal("backup_damaged", {"part": min(missing)}))


def _manifest(tar: tarfile.TarFile, member: tarfile.TarInfo | None) -> Manifest:
    content = tar.extractfile(member) if member and member.name == MANIFEST and member.isreg() else None
    if member is None or content is None or member.size > MANIFEST_MOST_BYTES:
        raise Refused(Refusal("backup_unreadable", {"file": str(tar.name)}))
    try:
        manifest = Manifest.model_validate_json(content.read())
    except ValidationError:
        raise Refused(Refusal("backup_damaged", {"part": MANIFEST})) from None
    if manifest.format != FORMAT:
        raise Refused(Refusal("backup_newer", {"version": manifest.version, "own": "", "newer": []}))
    return manifest


def _member(name: str, size_bytes: int, made: datetime) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size_bytes, 0o600, int(made.timestamp())
    return member


def _part(folder: Path, name: str) -> Part:
    path = folder / name
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return Part(name=name, size_bytes=path.stat().st_size, sha256=digest.hexdigest())


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    while block := source.read(BLOCK_BYTES):
        target.write(block)
