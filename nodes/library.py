"""Images and ISOs that the panel keeps, on their way into this node's folders and out of them.

A copy carries its owner mark, the user xattr ``user.ulei.file`` with the id of the panel's file, before it has any
name: it begins as ``<id>.part``, is filled there, and is linked to its final name only when its checksum was compared.
A crash at any line leaves a part that the next attempt goes on with and the undo removes.
"""

import errno
import hashlib
import http.client
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from nodes.contract.errors import NodeError
from nodes.contract.faults import point
from nodes.contract.image_file import Unfit, describe, is_volume
from nodes.contract.messages import FileDelete, FileFetch, FileLook, FileState
from nodes.contract.specs import PoolPlace
from nodes.enrol import trusted
from nodes.files import fsync, fsync_folder, give_name, mark_of, unnamed_file
from nodes.images import MARK
from nodes.log import Log
from nodes.node import Node
from nodes.storage.base import no_room
from nodes.storage.directory import DirectoryDriver, check_fit
from nodes.verbs.run import Run

log = Log("ulei.library")

PIECE_BYTES = 1 << 20
PATIENCE_S, AGAIN_S = 60.0, 2.0
"""How long the panel may be away in the middle (it is being restarted), and how often it is asked then."""
READABLE = 0o644
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Named = FileFetch | FileDelete | FileLook


def fetch(node: Node, message: FileFetch, run: Run) -> None:
    """Raises a certain ``exists_not_ours``, ``exists_other_size``, ``file_name_reserved``, ``no_room``, ``pool_unfit``,
    ``file_refused``, ``panel_unreachable``, ``checksum_differs``, or why it is no image."""
    final, part = _places(node, message)
    if is_volume(message.name):
        raise NodeError("file_name_reserved", f"{message.name} could be a disk's volume", "Upload it by another name.")
    if os.path.lexists(final):
        _check_ours(final, message)
        if final.stat().st_size != message.size_bytes:
            raise NodeError("exists_other_size", f"{final} is this file, but has another size")
        _remove_part(part, message)
        fsync_folder(final.parent)
        return
    final.parent.mkdir(parents=True, exist_ok=True)
    check_fit(final.parent)
    if not os.path.lexists(part):
        _make_part(part, message)
    elif mark_of(part, MARK) != message.id:
        raise _not_ours(part)
    _check_room(part, message)
    try:
        _fill(part, node.paths.ca_file, message, run)
        _check_content(part, message)
        os.chmod(part, READABLE)
        fsync(part)
        point("file.filled", message.id)
        os.link(part, final)
    except FileExistsError:
        part.unlink()
        raise _not_ours(final) from None
    point("file.linked", message.id)
    part.unlink()
    fsync_folder(final.parent)


def delete(node: Node, message: FileDelete) -> None:
    """Raises a certain ``exists_not_ours`` or ``file_in_use``; a part of ours goes in any case."""
    final, part = _places(node, message)
    if mark_of(part, MARK) == message.id:
        part.unlink()
    if not os.path.lexists(final):
        return
    _check_ours(final, message)
    if used_by := ", ".join(_users(node, final, message)):
        raise NodeError("file_in_use", f"{final} is used by {used_by}", "Delete those first.", used_by=used_by)
    final.unlink()
    point("file.unlinked", message.id)
    fsync_folder(final.parent)


def look(node: Node, message: FileLook) -> FileState:
    final, _part = _places(node, message)
    if not os.path.lexists(final):
        return FileState(exists=False)
    if mark_of(final, MARK) != message.id:
        return FileState(exists=True)
    return FileState(exists=True, ours=True, used_by=tuple(_users(node, final, message)))


def _places(node: Node, message: Named) -> tuple[Path, Path]:
    """The final name, and the one while it comes."""
    folder = node.folder(message.kind)
    return folder / message.name, folder / f"{message.id}.part"


def _users(node: Node, final: Path, message: Named) -> list[str]:
    users = node.users(str(final))
    if message.kind == "image":
        pool = PoolPlace(kind="directory", path=str(final.parent))
        users += DirectoryDriver(pool, node.shell, node.paths.keys_dir).resting_on(final)
    return users


def _check_ours(final: Path, message: Named) -> None:
    if mark_of(final, MARK) != message.id:
        raise _not_ours(final)


def _not_ours(path: Path) -> NodeError:
    return NodeError(
        "exists_not_ours",
        f"{path} exists and is not the panel's: it was left untouched",
        "Look at it on the node, and move it away if nobody needs it.",
    )


def _make_part(part: Path, message: FileFetch) -> None:
    with unnamed_file(part.parent) as descriptor:
        os.setxattr(descriptor, MARK, message.id.encode())
        try:
            give_name(descriptor, part)
        except FileExistsError:
            raise _not_ours(part) from None
    point("file.part-made", message.id)


def _remove_part(part: Path, message: Named) -> None:
    if os.path.lexists(part):
        if mark_of(part, MARK) != message.id:
            raise _not_ours(part)
        part.unlink()


def _check_room(part: Path, message: FileFetch) -> None:
    room = os.statvfs(part.parent)
    needed_bytes = message.size_bytes - part.stat().st_size
    if needed_bytes > room.f_bavail * room.f_frsize:
        raise _no_room(part.parent, needed_bytes)


def _no_room(folder: Path, needed_bytes: int) -> NodeError:
    room = os.statvfs(folder)
    return no_room(
        PoolPlace(kind="directory", path=str(folder)), "folder", room.f_bavail * room.f_frsize, needed_bytes, "free it"
    )


def _check_content(part: Path, message: FileFetch) -> None:
    """What is wrong for good goes at once: another attempt must begin anew."""
    try:
        with part.open("rb") as file:
            found = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        if found != message.checksum:
            raise NodeError(
                "checksum_differs",
                f"{part} has the checksum {found}, not {message.checksum}",
                "Start it again.",
                name=message.name,
                promised=message.checksum,
                found=found,
            )
        describe(part, message.kind, message.name)
    except Unfit as unfit:
        part.unlink()
        raise NodeError(unfit.code, f"{message.name}: {unfit.code}", **unfit.facts) from None  # type: ignore[arg-type]
    except NodeError:
        part.unlink()
        raise


# --- from the panel -------------------------------------------------------------------------------------------


def _fill(part: Path, ca_file: Path, message: FileFetch, run: Run) -> None:
    """Until the part is whole; a connection that breaks is made anew, and goes on where the part ends."""
    with part.open("r+b") as file:
        present_bytes = file.seek(0, os.SEEK_END)
        if present_bytes > message.size_bytes:
            file.truncate(0)
            present_bytes = 0
        until = time.monotonic() + PATIENCE_S
        while present_bytes < message.size_bytes:
            try:
                with _body(ca_file, message, present_bytes) as read:
                    file.seek(present_bytes)
                    for piece in iter(lambda: read(PIECE_BYTES), b""):
                        run.cancellation.check()
                        file.write(piece[: message.size_bytes - present_bytes])
                        file.flush()
                        present_bytes = file.tell()
                        until = time.monotonic() + PATIENCE_S
                        run.progress(min(99, present_bytes * 100 // message.size_bytes))
                        point("file.piece", message.id)
                        if present_bytes == message.size_bytes:
                            return
                raise http.client.HTTPException("the answer ended early")
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, OSError) and error.errno in _FULL:
                    raise _no_room(part.parent, message.size_bytes - present_bytes) from None
                log.warning("the panel broke off", file=message.name, at=present_bytes, cause=error)
                _wait_or_give_up(until, error, run)


def _wait_or_give_up(until: float, error: Exception, run: Run) -> None:
    run.cancellation.check()
    if time.monotonic() >= until:
        raise NodeError(
            "panel_unreachable",
            f"the panel's file listener: {error}",
            "Is that port of the panel open from this node?",
            retryable=True,
        ) from None
    asleep = threading.Condition()
    run.cancellation.wake(asleep)
    with asleep:
        asleep.wait(AGAIN_S)
    run.cancellation.check()


@contextmanager
def _body(ca_file: Path, message: FileFetch, offset: int) -> Iterator[Callable[[int], bytes]]:
    """The bytes from ``offset`` on. Raises OSError, HTTPException, or a certain ``file_refused``."""
    address = urlsplit(message.url)
    host, port = address.hostname or "", address.port or 443
    with trusted(host, port, _fingerprint(ca_file)) as connection:
        client = http.client.HTTPConnection(host, port)
        client.sock = connection
        headers = {"Authorization": f"Bearer {message.token}", "Range": f"bytes={offset}-"}
        client.request("GET", address.path, headers=headers)
        response = client.getresponse()
        if response.status >= 500:
            raise http.client.HTTPException(f"status {response.status}")
        if response.status != 206 or response.headers.get("Content-Range") != (
            f"bytes {offset}-{message.size_bytes - 1}/{message.size_bytes}"
        ):
            raise NodeError("file_refused", f"the panel answered with status {response.status}", "Start it again.")
        yield response.read


def _fingerprint(ca_file: Path) -> str:
    """The listener shows the certificate of the CA itself, as at the enrolment."""
    return x509.load_pem_x509_certificate(ca_file.read_bytes()).fingerprint(hashes.SHA256()).hex()
