"""Volumes as files in a folder: ``<disk id>.qcow2`` or ``<disk id>.raw``.

A volume carries its owner mark, the user xattr ``user.ulei.disk`` with the disk's id, before it has any name:
the file begins as an unnamed one (O_TMPFILE), is marked, becomes ``<disk id>.part``, is filled there, and only
then is linked to its final name, which fails if that name is taken. A crash at any line leaves nothing that a
repetition could mistake.
"""

import errno
import fcntl
import json
import os
import re
import socket
import struct
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nodes.contract.errors import NodeError
from nodes.contract.faults import point
from nodes.contract.image_file import SUFFIXES, Unfit, describe
from nodes.contract.messages import DiskState, VolumeFacts
from nodes.contract.sizes import round_up
from nodes.contract.specs import DiskFormat, DiskSpec, FileSource, PoolFacts, PoolPlace, Stranger
from nodes.files import (
    fsync,
    fsync_folder,
    give_name,
    is_rotational,
    mark_of,
    unnamed_file,
    write_atomically,
)
from nodes.images import MARK as IMAGE_MARK
from nodes.shell import Cancellation, Cancelled, Shell
from nodes.storage import qcow2
from nodes.storage.base import (
    Driver,
    Fill,
    QemuImage,
    Readable,
    Users,
    Volume,
    absent,
    can_be_told,
    check_grows,
    check_same_size,
    check_unused,
    is_a_disk,
    not_ours,
    snapshot_absent,
    unfit,
    volume_absent,
)

MARK = "user.ulei.disk"
IDENTITY_FILE = ".ulei-pool"
SHUT_OUT = ".ulei-shut-out"
"""A folder with a file for each node that was declared dead."""
GRANULES: dict[DiskFormat, int] = {"qcow2": 64 << 10, "raw": 512}
QCOW2_OVERHEAD_BYTES = 1 << 20
"""A new qcow2 volume takes less than this, whatever its size, until something is written to it."""
QEMU_IMG_TIMEOUT_S = 60.0
_FINAL = re.compile(r"([a-z2-7]{13})\.(qcow2|raw)")


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
        with unnamed_file(folder) as descriptor:
            os.setxattr(descriptor, MARK, b"probe")
    except OSError as error:
        raise NodeError(
            "pool_unfit",
            f"{folder}: files there cannot carry an owner mark ({error.strerror})",
            "Use a file system with user extended attributes and unnamed files: ext4, XFS or Btrfs.",
        ) from None


def may_be_shut_out(volume: Path, node: str) -> bool:
    """Whether this node must not start a guest on the volume by itself; a folder that is not mounted yet cannot say."""
    return not volume.exists() or (volume.parent / SHUT_OUT / node).exists()


class DirectoryDriver(Driver):
    KIND = "directory"
    QEMU_GROWS = True
    QEMU_SNAPSHOTS = True

    def __init__(self, pool: PoolPlace, shell: Shell, keys: Path) -> None:
        super().__init__(pool, shell, keys)
        self.folder = Path(pool.path)

    def identity(self) -> str:
        try:
            return (self.folder / IDENTITY_FILE).read_text().strip()
        except OSError as error:
            return f"none ({error.strerror})"

    def claim(self) -> str:
        return make_pool(self.folder)

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
            snapshots=True,
            snapshot_formats=("qcow2",),
            snapshots_online=True,
            memory_formats=("qcow2",),
            clones=("full",),
            takes_backups=True,
            holds_back=True,
        )

    def fence(self, disk_id: str, node: str, addresses: Sequence[str]) -> None:
        # A shared folder asks nobody who he is: this only holds back a node that boots, where its agent finds it.
        write_atomically(self.folder / SHUT_OUT / node, "", mode=0o644)

    def unfence(self, node: str, addresses: Sequence[str]) -> None:
        (self.folder / SHUT_OUT / node).unlink(missing_ok=True)

    # --- create -------------------------------------------------------------------------------------------

    def create(self, disk: DiskSpec, cancellation: Cancellation, fill: Fill | None = None) -> VolumeFacts:
        final, part = self._final(disk.id, disk.format), self._part(disk.id)
        wanted_bytes = round_up(disk.size_bytes, GRANULES[disk.format])
        if os.path.lexists(final):
            size_bytes = self._measured(final, disk.id, disk.format)
            check_same_size(final, size_bytes, wanted_bytes)
            fsync_folder(self.folder)
            self._remove_part(part, disk.id)
            return VolumeFacts(size_bytes=size_bytes)
        if disk.backing is not None:
            self._check_backing(Path(disk.backing), disk)
        self._check_room(wanted_bytes, disk.format)
        self._remove_part(part, disk.id)
        self._make_part(part, disk.id)
        try:
            self._lay_out(part, disk, wanted_bytes, cancellation)
            if fill is not None:
                fill(QemuImage(disk.format, str(part), zeroed=True))
            point("disk.filled", disk.id)
            fsync(part)
            os.link(part, final)
        except FileExistsError:
            part.unlink()
            raise not_ours(final) from None
        except (OSError, NodeError, Cancelled) as error:
            # The part carries our mark, so it may go; after a kill -9 the repetition or the undo removes it.
            part.unlink(missing_ok=True)
            if isinstance(error, Cancelled) or not says_no_room(error):
                raise
            raise self._no_room(wanted_bytes) from None
        point("disk.linked", disk.id)
        part.unlink()
        fsync_folder(self.folder)
        point("disk.unlinked", disk.id)
        return VolumeFacts(size_bytes=self._size(final, disk.format))

    def _make_part(self, part: Path, disk_id: str) -> None:
        with unnamed_file(self.folder) as descriptor:
            os.setxattr(descriptor, MARK, disk_id.encode())
            point("disk.marked", disk_id)
            try:
                give_name(descriptor, part)
            except FileExistsError:
                raise not_ours(part) from None
        point("disk.part-made", disk_id)

    def _lay_out(self, part: Path, disk: DiskSpec, size_bytes: int, cancellation: Cancellation) -> None:
        if disk.format == "raw":
            os.truncate(part, size_bytes)
            return
        backing = ["-b", disk.backing, "-F", disk.backing_format or "qcow2"] if disk.backing else []
        self.shell.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(part), str(size_bytes)],
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

    def _check_room(self, size_bytes: int, disk_format: DiskFormat) -> None:
        # Volumes are sparse, so this refuses what never fits, and qemu-img what does not fit now.
        room = os.statvfs(self.folder)
        free_bytes = room.f_bavail * room.f_frsize
        needed_bytes = size_bytes if disk_format == "raw" else QCOW2_OVERHEAD_BYTES
        if needed_bytes > free_bytes or size_bytes > room.f_blocks * room.f_frsize:
            raise self._no_room(size_bytes)

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

    # --- delete, grow and look ----------------------------------------------------------------------------

    def delete(self, disk_id: str, disk_format: DiskFormat, users: Users) -> None:
        final = self._final(disk_id, disk_format)
        if os.path.lexists(final):
            if _mark(final) != disk_id:
                self._remove_part(self._part(disk_id), disk_id)  # ours, left by an attempt before that file came
                raise not_ours(final)
            check_unused(final, [*self._users(final, users), *self._inside(final)])
            final.unlink()
            point("disk.unlinked", disk_id)
        self._remove_part(self._part(disk_id), disk_id)
        fsync_folder(self.folder)

    def rename(self, disk_id: str, disk_format: DiskFormat, new_id: str, users: Users) -> None:
        old, new = self._final(disk_id, disk_format), self._final(new_id, disk_format)
        if not os.path.lexists(old):
            self._measured(new, new_id, disk_format)
            fsync_folder(self.folder)
            return
        mark = _mark(old)
        if mark not in (disk_id, new_id):
            raise not_ours(old)
        if os.path.lexists(new) and not (mark == new_id and os.path.samefile(old, new)):
            raise not_ours(new)
        check_unused(old, self._users(old, users))
        self._hand_over(old, new, new_id)

    def _hand_over(self, old: Path, new: Path, new_id: str) -> None:
        """The file gets the mark of a disk, then its name."""
        os.setxattr(old, MARK, new_id.encode())
        point("disk.marked", new_id)
        if not os.path.lexists(new):
            try:
                os.link(old, new)
            except FileExistsError:
                raise not_ours(new) from None
        point("disk.linked", new_id)
        old.unlink()
        fsync_folder(self.folder)
        point("disk.unlinked", new_id)

    # --- what is nobody's ---------------------------------------------------------------------------------

    def strangers(self) -> list[Stranger]:
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                try:
                    if can_be_told(entry.name) and entry.is_file(follow_symlinks=False):
                        found.append(self._described(self.folder / entry.name))
                except (FileNotFoundError, NodeError):
                    continue  # it went meanwhile, or cannot become a disk
        return sorted(found, key=lambda stranger: stranger.name)

    def examine(self, name: str, users: Users) -> Stranger:
        stranger = self._described(path := self.folder / name)
        check_unused(path, [*self._users(path, users), *_loops(path), *_lockers(path)])
        return stranger

    def _described(self, path: Path) -> Stranger:
        """A file of the folder itself, with one name, no link to anything, and all that it holds in itself."""
        if "/" in path.name or not os.path.lexists(path):
            raise volume_absent(f"file {path}")
        if _mark(path) is not None or mark_of(path, IMAGE_MARK) is not None:
            raise is_a_disk(path)
        if path.is_symlink() or not path.is_file() or path.stat().st_nlink != 1:
            raise unfit(path, "no plain file with one name")
        if not path.name.lower().endswith(SUFFIXES["image"]):
            raise unfit(path, f"its name ends in none of {', '.join(SUFFIXES['image'])}")
        try:
            described = describe(path, "image", path.name)
        except Unfit as error:
            facts: Any = error.facts
            raise NodeError(error.code, f"{path} cannot be a disk: {error.code}", **facts) from None
        size_bytes = described.virtual_size_bytes
        if described.format == "iso" or not size_bytes or size_bytes % GRANULES["raw"]:
            raise unfit(path, f"{size_bytes} bytes are no whole number of sectors")
        return Stranger(name=path.name, format=described.format, size_bytes=size_bytes)

    def take(self, disk_id: str, disk_format: DiskFormat, name: str, users: Users) -> VolumeFacts:
        old, new = self.folder / name, self._final(disk_id, disk_format)
        # Killed before its last line it leaves the file with two names.
        if _mark(old) != disk_id and (os.path.lexists(old) or not os.path.lexists(new)):
            found = self.examine(name, users)
            if found.format != disk_format:
                raise unfit(old, f"it is {found.format} by now")
            if os.path.lexists(new):
                raise not_ours(new)
        if os.path.lexists(old):
            if os.path.lexists(new) and not os.path.samefile(old, new):
                raise not_ours(new)
            self._hand_over(old, new, disk_id)
        size_bytes = self._measured(new, disk_id, disk_format)
        fsync_folder(self.folder)
        return VolumeFacts(size_bytes=size_bytes)

    def give_back(self, disk_id: str, disk_format: DiskFormat, name: str) -> None:
        old, new = self.folder / name, self._final(disk_id, disk_format)
        if os.path.lexists(new) and _mark(new) == disk_id:
            if not os.path.lexists(old):
                os.link(new, old)
                point("disk.linked", disk_id)
            if not os.path.samefile(old, new):
                os.removexattr(new, MARK)
                return
            new.unlink()
            point("disk.unlinked", disk_id)
        if os.path.lexists(old) and _mark(old) == disk_id:
            os.removexattr(old, MARK)
        fsync_folder(self.folder)

    def resize(self, disk_id: str, disk_format: DiskFormat, size_bytes: int, *, leave_to_qemu: bool) -> VolumeFacts:
        final = self._final(disk_id, disk_format)
        wanted_bytes = round_up(size_bytes, GRANULES[disk_format])
        present_bytes = self._measured(final, disk_id, disk_format)
        check_grows(final, present_bytes, wanted_bytes)
        if present_bytes < wanted_bytes:
            self._check_room(wanted_bytes, disk_format)
            if not leave_to_qemu:
                # Refused while a QEMU has the file open: qemu-img takes the same lock.
                argv = ["qemu-img", "resize", "-q", "-f", disk_format, str(final), str(wanted_bytes)]
                self.shell.run(argv, timeout_s=QEMU_IMG_TIMEOUT_S)
                fsync(final)
                point("disk.grown", disk_id)
        return VolumeFacts(size_bytes=self._size(final, disk_format))

    def look(self, disk_id: str, disk_format: DiskFormat, users: Users) -> DiskState:
        final = self._final(disk_id, disk_format)
        if not os.path.lexists(final):
            return DiskState(exists=False)
        if _mark(final) != disk_id:
            return DiskState(exists=True)
        return DiskState(
            exists=True,
            ours=True,
            size_bytes=self._size(final, disk_format),
            used_by=(*self._users(final, users), *self._inside(final)),
            snapshots=tuple(self._snapshots(final)) if self._inside(final) else (),
        )

    def source(self, disk_id: str, disk_format: DiskFormat) -> FileSource:
        final = self._final(disk_id, disk_format)
        self._measured(final, disk_id, disk_format)
        return FileSource(path=str(final), direct_io=_takes_direct_io(final))

    # --- copies and snapshots -----------------------------------------------------------------------------

    @contextmanager
    def readable(self, disk_id: str, disk_format: DiskFormat, snapshot: str | None) -> Iterator[Readable]:
        final = self._final(disk_id, disk_format)
        size_bytes = self._measured(final, disk_id, disk_format)
        if snapshot is not None and snapshot not in self._snapshots(final):
            raise snapshot_absent(final, snapshot)
        yield Readable(QemuImage(disk_format, str(final), snapshot), size_bytes)

    def snapshot(self, disk_id: str, disk_format: DiskFormat, snapshot: str, room_bytes: int | None) -> None:
        final = self._snapshotable(disk_id, disk_format)
        if snapshot not in self._snapshots(final):
            self._change_snapshots("-c", snapshot, final)

    def delete_snapshot(self, disk_id: str, disk_format: DiskFormat, snapshot: str) -> None:
        final = self._snapshotable(disk_id, disk_format)
        if snapshot in self._snapshots(final):
            self._change_snapshots("-d", snapshot, final)

    def revert(self, disk_id: str, disk_format: DiskFormat, snapshot: str) -> VolumeFacts:
        final = self._snapshotable(disk_id, disk_format)
        if snapshot not in self._snapshots(final):
            raise snapshot_absent(final, snapshot)
        check_unused(final, self.resting_on(final))
        self._change_snapshots("-a", snapshot, final)
        return VolumeFacts(size_bytes=self._size(final, disk_format))

    def _snapshotable(self, disk_id: str, disk_format: DiskFormat) -> Path:
        if disk_format != "qcow2":
            raise NodeError("unsupported", f"a {disk_format} file can have no snapshots", "Use a qcow2 volume.")
        final = self._final(disk_id, disk_format)
        self._measured(final, disk_id, disk_format)
        return final

    def _change_snapshots(self, change: str, snapshot: str, final: Path) -> None:
        self.shell.run(["qemu-img", "snapshot", "-q", change, snapshot, str(final)], timeout_s=QEMU_IMG_TIMEOUT_S)
        fsync(final)
        point("disk.snapshots-changed", snapshot)

    def _snapshots(self, final: Path) -> list[str]:
        # -U: also while a QEMU has it open.
        argv = ["qemu-img", "info", "-U", "-f", "qcow2", "--output=json", str(final)]
        info = json.loads(self.shell.run(argv, timeout_s=QEMU_IMG_TIMEOUT_S).stdout)
        return [each["name"] for each in info.get("snapshots", [])]

    def _inside(self, final: Path) -> list[str]:
        """What lies in the file beside the volume; told without starting a program."""
        header = qcow2.read_header(final)
        return [f"{header.snapshots} snapshots in it"] if header and header.snapshots else []

    def volumes(self) -> list[Volume]:
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                mark = _mark(Path(entry.path)) if entry.is_file(follow_symlinks=False) else None
                if mark is not None or entry.name.endswith(".part"):
                    found.append(Volume(entry.name, mark))
        return sorted(found, key=lambda volume: volume.name)

    def sizes(self) -> dict[str, int]:
        found = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                name = _FINAL.fullmatch(entry.name)
                if name is None or not entry.is_file(follow_symlinks=False):
                    continue
                try:
                    if _mark(Path(entry.path)) == name[1]:
                        found[name[1]] = self._size(Path(entry.path), "raw" if name[2] == "raw" else "qcow2")
                except FileNotFoundError:
                    continue  # deleted meanwhile
                except NodeError:
                    found[name[1]] = 0  # what it should hold cannot be read in it
        return found

    def _users(self, final: Path, users: Users) -> list[str]:
        """Domains of this node, and volumes of this pool that rest on the file."""
        return [*users(str(final)), *self.resting_on(final)]

    def resting_on(self, final: Path) -> list[str]:
        """Names of the files of this folder whose backing file it is."""
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
        return resting

    def _remove_part(self, part: Path, disk_id: str) -> None:
        if not os.path.lexists(part):
            return
        if _mark(part) != disk_id:
            raise not_ours(part)
        part.unlink()

    def _measured(self, final: Path, disk_id: str, disk_format: DiskFormat) -> int:
        """The size of a volume that is there and ours. Raises ``disk_absent``, ``exists_not_ours``."""
        if not os.path.lexists(final):
            raise absent(final)
        if _mark(final) != disk_id:
            raise not_ours(final)
        return self._size(final, disk_format)

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


def _mark(path: Path) -> str | None:
    return mark_of(path, MARK)


def _loops(path: Path) -> list[str]:
    """Loop devices that lie on the file."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if os.path.samefile(backing.read_text().rstrip("\n"), path):
                found.append(f"/dev/{backing.parts[-3]}")
        except OSError:
            continue  # let go of meanwhile, or a file that has no name any more
    return found


def _lockers(path: Path) -> list[str]:
    """Whether a QEMU of any node has the file open. Source: QEMU, file-posix.c, RAW_LOCK_PERM_BASE."""
    kind_first_length = (fcntl.F_WRLCK, os.SEEK_SET, 100, 200)
    with path.open("rb") as file:
        said = fcntl.fcntl(file, fcntl.F_OFD_GETLK, struct.pack("hhqqi4x", *kind_first_length, 0))
    return [] if struct.unpack_from("h", said)[0] == fcntl.F_UNLCK else ["a QEMU that has it open"]


def _takes_direct_io(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        return False
    return True


def says_no_room(error: OSError | NodeError) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return os.strerror(errno.ENOSPC) in error.info.cause
