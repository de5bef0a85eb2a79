"""Images and ISOs that the panel keeps, on their way into this node's folders and out of them.

A copy carries its owner mark, the user xattr ``user.ulei.file`` with the id of the panel's file, before it has any
name: it begins as ``<id>.part``, is filled there, and is linked to its final name only when its checksum was compared.
A crash at any line leaves a part that the next attempt goes on with and the undo removes.
"""

import hashlib
import os
from pathlib import Path

from nodes.contract.errors import NodeError
from nodes.contract.faults import point
from nodes.contract.image_file import Unfit, describe, is_volume
from nodes.contract.messages import (
    FileContent,
    FileDelete,
    FileDownload,
    FileFetch,
    FileLook,
    FileMake,
    FileSend,
    FileState,
)
from nodes.contract.sizes import round_up
from nodes.contract.specs import PoolPlace
from nodes.download import come_whole, get
from nodes.files import fsync, fsync_folder, give_name, mark_of, unnamed_file
from nodes.generalise import generalise
from nodes.images import MARK
from nodes.node import Node
from nodes.panel_files import fill
from nodes.panel_files import send as send_to_panel
from nodes.storage.base import QemuImage, check_unused
from nodes.storage.directory import GRANULES, QEMU_IMG_TIMEOUT_S, DirectoryDriver, check_fit, says_no_room
from nodes.transfer import check_room, no_room_in
from nodes.verbs.run import Run

READABLE = 0o644

_Coming = FileFetch | FileDownload | FileMake
Named = _Coming | FileSend | FileDelete | FileLook


def fetch(node: Node, message: FileFetch, run: Run) -> None:
    """Raises a certain ``exists_not_ours``, ``exists_other_size``, ``file_name_reserved``, ``no_room``, ``pool_unfit``,
    ``file_refused``, ``panel_unreachable``, ``checksum_differs``, or why it is no image."""
    final, part = _places(node, message)
    if _is_there(final, part, message):
        _check_whole(final, message)
        return
    check_room(part, message.size_bytes)
    fill(part, node.paths.ca_file, message, run)
    _finish(final, part, message, message.checksum)


def download(node: Node, message: FileDownload, run: Run) -> FileContent:
    """Raises as ``fetch``, and what :func:`nodes.download.get` raises."""
    final, part = _places(node, message)
    if _is_there(final, part, message):
        return _content(final, message, message.checksum)
    get(part, message, run)
    content = _finish(final, part, message, message.checksum)
    come_whole(final)
    return content


def make(node: Node, message: FileMake, run: Run) -> FileContent:
    """Raises as ``fetch``; ``disk_absent``, ``disk_in_use``, ``guest_unsupported``, ``no_guestfs``."""
    final, part = _places(node, message)
    if _is_there(final, part, message):
        return _content(final, message)
    guest = node.hypervisor.guest_on(message.source.id)
    check_unused(f"disk {message.source.id}", [guest.name] if guest else [])
    try:
        _copy_volume(node, part, message, run)
        point("file.copied", message.id)
        if message.generalise:
            generalise(node, part, run.cancellation)
    except NodeError:
        part.unlink(missing_ok=True)
        raise
    return _finish(final, part, message)


def send(node: Node, message: FileSend, run: Run) -> None:
    """Raises a certain ``file_absent``, ``exists_not_ours``, ``exists_other_size``; what the panel refuses it for."""
    final, _part = _places(node, message)
    if not os.path.lexists(final):
        raise NodeError("file_absent", f"{final} is missing")
    _check_ours(final, message)
    _check_whole(final, message)
    send_to_panel(final, node.paths.ca_file, message, run)


def _copy_volume(node: Node, part: Path, message: FileMake, run: Run) -> None:
    driver, source = node.driver(message.source.pool), message.source
    with driver.readable(source.id, source.format, None) as readable:
        size = str(round_up(readable.size_bytes, GRANULES["qcow2"]))
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", str(part), size]
        try:
            node.shell.run(argv, timeout_s=QEMU_IMG_TIMEOUT_S)
            driver.copy(readable.image, QemuImage("qcow2", str(part), zeroed=True), run.cancellation)
        except NodeError as error:
            raise no_room_in(part.parent, readable.size_bytes) if says_no_room(error) else error from None


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


def _make_part(part: Path, message: Named) -> None:
    with unnamed_file(part.parent) as descriptor:
        os.setxattr(descriptor, MARK, message.id.encode())
        try:
            give_name(descriptor, part)
        except FileExistsError:
            raise _not_ours(part) from None
    point("file.part-made", message.id)


def _is_there(final: Path, part: Path, message: _Coming) -> bool:
    """Whole and ours already? Else there is a part now, which carries our mark."""
    if is_volume(message.name):
        raise NodeError("file_name_reserved", f"{message.name} could be a disk's volume", "Give it another name.")
    if os.path.lexists(final):
        _check_ours(final, message)
        _remove_part(part, message)
        fsync_folder(final.parent)
        return True
    final.parent.mkdir(parents=True, exist_ok=True)
    check_fit(final.parent)
    if not os.path.lexists(part):
        _make_part(part, message)
    elif mark_of(part, MARK) != message.id:
        raise _not_ours(part)
    return False


def _finish(final: Path, part: Path, message: _Coming, promised: str = "") -> FileContent:
    """The part is whole: look at it, and give it its name. What is wrong for good goes at once."""
    try:
        content = _content(part, message, promised)
    except NodeError:
        part.unlink()
        raise
    os.chmod(part, READABLE)
    fsync(part)
    point("file.filled", message.id)
    try:
        os.link(part, final)
    except FileExistsError:
        part.unlink()
        raise _not_ours(final) from None
    point("file.linked", message.id)
    part.unlink()
    fsync_folder(final.parent)
    return content


def _remove_part(part: Path, message: Named) -> None:
    if os.path.lexists(part):
        if mark_of(part, MARK) != message.id:
            raise _not_ours(part)
        part.unlink()


def _content(path: Path, message: _Coming, promised: str = "") -> FileContent:
    """Raises ``checksum_differs``, or why it is no image."""
    with path.open("rb") as file:
        found = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    if promised not in ("", found):
        raise NodeError(
            "checksum_differs",
            f"{path} has the checksum {found}, not {promised}",
            "Start it again.",
            name=message.name,
            promised=promised,
            found=found,
        )
    try:
        described = describe(path, message.kind, message.name)
    except Unfit as unfit:
        raise NodeError(unfit.code, f"{message.name}: {unfit.code}", **unfit.facts) from None  # type: ignore[arg-type]
    return FileContent(
        size_bytes=path.stat().st_size,
        virtual_size_bytes=described.virtual_size_bytes,
        format=described.format,
        checksum=found,
    )


def _check_whole(final: Path, message: FileFetch | FileSend) -> None:
    """Raises ``exists_other_size``."""
    if final.stat().st_size != message.size_bytes:
        raise NodeError("exists_other_size", f"{final} is this file, but has another size")
