"""Volumes as files in a folder: ``<disk id>.qcow2`` or ``<disk id>.raw``.

A volume carries its owner mark, the user xattr ``user.ulei.disk`` with the disk's id, before it has any name:
the file begins as an unnamed one (O_TMPFILE), is marked, becomes ``<disk id>.part``, is filled there, and only
then is linked to its final name, which fails if that name is taken. A crash at any line leaves nothing that a
repetition could mistake.
"""

import errno
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nodes.contract.errors import NodeError
from nodes.contract.faults import point
from nodes.contract.messages import DiskState, VolumeFacts
from nodes.contract.specs import DiskFormat, DiskSpec, PoolFacts
from nodes.domain_xml import DiskSource
from nodes.files import fsync_folder, is_rotational, write_atomically
from nodes.shell import Cancellation, Cancelled, Shell
from nodes.storage import qcow2
from nodes.storage.base import Driver, Users, Volume

MARK = "user.ulei.disk"
IDENTITY_FILE = ".ulei-pool"
GRANULES: dict[DiskFormat, int] = {"qcow2": 64 << 10, "raw": 512}
QCOW2_OVERHEAD_BYTES = 1 << 20
"""A new qcow2 volume takes less than this, whatever its size, until something is written to it."""
QEMU_IMG_TIMEOUT_S = 60.0


def make_pool(folder: Path) -> str:
    """Give the folder an identity if it has none. Returns it. Raises ``pool_unfit``."""
    check_fit(folder)
    marker = folder / IDENTITY_FILE
    if not marker.exists():
        write_atomically(marker, f"{uuid.uuid4()}\n", mode=0o644)
    return marker.read_text().strip()


def check_fit(folder: Path) -> None:
    """Raises a certain ``pool_unfit``: files there cannot carry an owner mark."""
    try:
        with _unnamed_file(folder) as descriptor:
            os.setxattr(descriptor, MARK, b"probe")
    except OSError as error:
        raise NodeError(
            "pool_unfit",
            f"{folder}: files there cannot carry an owner mark ({error.strerror})",
            "Use a file system with user extended attributes and unnamed files: ext4, XFS or Btrfs.",
        ) from None


class DirectoryDriver(Driver):
    KIND = "directory"

    def __init__(self, path: str, shell: Shell) -> None:
        super().__init__(path, shell)
        self.folder = Path(path)

    def check_identity(self, identity: str) -> None:
        try:
            found = (self.folder / IDENTITY_FILE).read_text().strip()
        except OSError as error:
            found = f"none ({error.strerror})"
        if found != identity:
            raise NodeError(
                "pool_identity",
                f"{self.folder} is not the pool that was meant: its identity is {found}, not {identity}",
                "Is the right file system mounted there?",
            )

    def facts(self) -> PoolFacts:
        check_fit(self.folder)
        room = os.statvfs(self.folder)
        return PoolFacts(
            kind="directory",
            identity=(self.folder / IDENTITY_FILE).read_text().strip(),
            path=str(self.folder),
            capacity_bytes=room.f_blocks * room.f_frsize,
            free_bytes=room.f_bavail * room.f_frsize,
            granules=GRANULES,
            rotational=is_rotational(self.folder),
        )

    # --- create -------------------------------------------------------------------------------------------

    def create(self, disk: DiskSpec, cancellation: Cancellation) -> VolumeFacts:
        final, part = self._final(disk.id, disk.format), self._part(disk.id)
        if os.path.lexists(final):
            facts = self._existing(final, disk)
            self._remove_part(part, disk.id)
            return facts
        if disk.backing is not None:
            self._check_backing(Path(disk.backing), disk)
        self._check_room(disk)
        self._remove_part(part, disk.id)
        self._make_part(part, disk.id)
        try:
            self._fill(part, disk, cancellation)
            _fsync(part)
            os.link(part, final)
        except FileExistsError:
            part.unlink()
            raise _not_ours(final) from None
        except (OSError, NodeError, Cancelled) as error:
            # The part carries our mark, so it may go; after a kill -9 the repetition or the undo removes it.
            part.unlink(missing_ok=True)
            if isinstance(error, Cancelled) or not _says_no_room(error):
                raise
            raise self._no_room(disk.size_bytes) from None
        point("disk.linked", disk.id)
        part.unlink()
        fsync_folder(self.folder)
        point("disk.unlinked", disk.id)
        return VolumeFacts(size_bytes=self._size(final, disk.format))

    def _existing(self, final: Path, disk: DiskSpec) -> VolumeFacts:
        """A volume that an earlier attempt finished."""
        if _mark(final) != disk.id:
            raise _not_ours(final)
        size_bytes = self._size(final, disk.format)
        if size_bytes != disk.size_bytes:
            raise NodeError("exists_other_size", f"{final} is this disk, but has {size_bytes} bytes")
        fsync_folder(self.folder)
        return VolumeFacts(size_bytes=size_bytes)

    def _make_part(self, part: Path, disk_id: str) -> None:
        with _unnamed_file(self.folder) as descriptor:
            os.setxattr(descriptor, MARK, disk_id.encode())
            point("disk.marked", disk_id)
            # Naming folders by descriptor makes Python call linkat(2), which follows the link in /proc.
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.link(f"/proc/self/fd/{descriptor}", part.name, src_dir_fd=folder, dst_dir_fd=folder)
            except FileExistsError:
                raise _not_ours(part) from None
            finally:
                os.close(folder)
        point("disk.part-made", disk_id)

    def _fill(self, part: Path, disk: DiskSpec, cancellation: Cancellation) -> None:
        if disk.format == "raw":
            os.truncate(part, disk.size_bytes)
            return
        backing = ["-b", disk.backing, "-F", disk.backing_format or "qcow2"] if disk.backing else []
        self.shell.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(part), str(disk.size_bytes)],
            timeout_s=QEMU_IMG_TIMEOUT_S,
            cancellation=cancellation,
        )

    def _check_backing(self, backing: Path, disk: DiskSpec) -> None:
        """The image and whatever it rests on must lie in this folder, and nothing else is ever read."""
        if disk.format != "qcow2" or disk.backing_format is None:
            raise NodeError("backing_invalid", f"a {disk.format} volume cannot rest on {backing}")
        for _ in range(16):
            if backing.parent != self.folder or backing.is_symlink() or not backing.is_file():
                raise NodeError("backing_invalid", f"{backing} is not a file of the pool {self.folder}")
            header = qcow2.read_header(backing)
            if header is None or header.backing is None:
                return
            backing = self.folder / header.backing
        raise NodeError("backing_invalid", f"{disk.backing} rests on too many files")

    def _check_room(self, disk: DiskSpec) -> None:
        # Volumes are sparse, so this refuses what never fits, and qemu-img what does not fit now.
        room = os.statvfs(self.folder)
        free_bytes = room.f_bavail * room.f_frsize
        needed_bytes = disk.size_bytes if disk.format == "raw" else QCOW2_OVERHEAD_BYTES
        if needed_bytes > free_bytes or disk.size_bytes > room.f_blocks * room.f_frsize:
            raise self._no_room(disk.size_bytes)

    def _no_room(self, needed_bytes: int) -> NodeError:
        room = os.statvfs(self.folder)
        free_bytes = room.f_bavail * room.f_frsize
        return NodeError(
            "no_room",
            f"the pool {self.folder} has {free_bytes} bytes free of {room.f_blocks * room.f_frsize};"
            f" needed: {needed_bytes}",
            "Choose another pool or a smaller disk.",
            pool=str(self.folder),
            node=socket.gethostname(),
            free=free_bytes,
            needed=needed_bytes,
        )

    # --- delete and look ----------------------------------------------------------------------------------

    def delete(self, disk_id: str, disk_format: DiskFormat, users: Users) -> None:
        final = self._final(disk_id, disk_format)
        if os.path.lexists(final):
            if _mark(final) != disk_id:
                self._remove_part(self._part(disk_id), disk_id)  # ours, left by an attempt before that file came
                raise _not_ours(final)
            found = self._users(final, users)
            if found:
                used_by = ", ".join(found)
                raise NodeError(
                    "disk_in_use", f"{final} is used by {used_by}", "Detach or delete that first.", used_by=used_by
                )
            final.unlink()
            point("disk.unlinked", disk_id)
        self._remove_part(self._part(disk_id), disk_id)
        fsync_folder(self.folder)

    def look(self, disk_id: str, disk_format: DiskFormat, users: Users) -> DiskState:
        final = self._final(disk_id, disk_format)
        if not os.path.lexists(final):
            return DiskState(exists=False)
        if _mark(final) != disk_id:
            return DiskState(exists=True)
        size_bytes = self._size(final, disk_format)
        return DiskState(exists=True, ours=True, size_bytes=size_bytes, used_by=tuple(self._users(final, users)))

    def source(self, disk_id: str, disk_format: DiskFormat) -> DiskSource:
        final = self._final(disk_id, disk_format)
        if not os.path.lexists(final):
            raise NodeError("disk_absent", f"{final} is missing")
        if _mark(final) != disk_id:
            raise _not_ours(final)
        return DiskSource(str(final), direct_io=_takes_direct_io(final))

    def volumes(self) -> list[Volume]:
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                mark = _mark(Path(entry.path)) if entry.is_file(follow_symlinks=False) else None
                if mark is not None or entry.name.endswith(".part"):
                    found.append(Volume(entry.name, mark))
        return sorted(found, key=lambda volume: volume.name)

    def _users(self, final: Path, users: Users) -> list[str]:
        """Domains of this node, and volumes of this pool that rest on the file."""
        resting = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False) and entry.name != final.name:
                    try:
                        header = qcow2.read_header(Path(entry.path))
                    except FileNotFoundError:
                        continue  # deleted meanwhile
                    # By its last part: a backing file may be named relatively, or by a protocol's address.
                    if header and header.backing and final.name in header.backing:
                        resting.append(entry.name)
        return [*users(str(final)), *resting]

    def _remove_part(self, part: Path, disk_id: str) -> None:
        if not os.path.lexists(part):
            return
        if _mark(part) != disk_id:
            raise _not_ours(part)
        part.unlink()

    def _size(self, final: Path, disk_format: DiskFormat) -> int:
        if disk_format == "raw":
            return final.stat().st_size
        header = qcow2.read_header(final)
        if header is None:
            raise NodeError("disk_damaged", f"{final} is not a qcow2 file")
        return header.virtual_size_bytes

    def _final(self, disk_id: str, disk_format: DiskFormat) -> Path:
        return self.folder / f"{disk_id}.{disk_format}"

    def _part(self, disk_id: str) -> Path:
        return self.folder / f"{disk_id}.part"


@contextmanager
def _unnamed_file(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _mark(path: Path) -> str | None:
    """The disk id in a file's owner mark. A symlink has none: it is never ours."""
    try:
        return os.getxattr(path, MARK, follow_symlinks=False).decode(errors="replace")
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOENT, errno.EPERM, errno.ENOTSUP):
            return None
        raise


def _takes_direct_io(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        return False
    return True


def _says_no_room(error: OSError | NodeError) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return os.strerror(errno.ENOSPC) in error.info.cause


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _not_ours(path: Path) -> NodeError:
    return NodeError(
        "exists_not_ours",
        f"{path} exists and is not this disk: it was left untouched",
        "Look at that file on the node, and move it away if nobody needs it.",
    )
