"""What a storage driver is. Its facts are data: callers read them and never ask for a driver's name."""

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import TypeAdapter, ValidationError

from nodes.contract.errors import NodeError
from nodes.contract.messages import DiskState, VolumeFacts
from nodes.contract.sizes import granule_of, round_up
from nodes.contract.specs import (
    DiskFormat,
    DiskSource,
    DiskSpec,
    FileName,
    PoolFacts,
    PoolKind,
    PoolOffer,
    PoolPlace,
    Stranger,
    VolumeSpec,
)
from nodes.shell import Cancellation, Shell

COPY_TIMEOUT_S = 24 * 3600.0
_NAME: TypeAdapter[str] = TypeAdapter(FileName)

Users = Callable[[str], Iterable[str]]
"""A volume's path -> the domains of this node that use it, active or only defined."""


@dataclass(frozen=True)
class Volume:
    """Something in a pool that carries our mark, or has the name of a part."""

    name: str
    disk: str | None
    """The id in the owner mark; None: no mark."""


@dataclass(frozen=True)
class Secret:
    """What libvirt is to keep of a pool's key, so that guests can open its volumes."""

    uuid: str
    name: str


@dataclass(frozen=True)
class QemuImage:
    """A volume or a snapshot of one, as qemu-img opens it."""

    format: DiskFormat
    address: str
    snapshot: str | None = None
    """A snapshot inside the file."""
    zeroed: bool = False
    """Nothing was written to it yet, and it reads as zeros."""


@dataclass(frozen=True)
class Readable:
    image: QemuImage
    size_bytes: int


Fill = Callable[[QemuImage], None]
"""Writes the content of a new volume while that has not yet its final name."""


class Driver(ABC):
    """Each method makes something so: it looks first, does what is missing, and may be repeated after a crash.

    Errors are certain unless said otherwise. ``exists_not_ours``: something of that name does not carry the mark of
    exactly this disk, and was not touched. ``disk_absent``: the volume is missing.
    """

    KIND: ClassVar[PoolKind]
    SNAPSHOTS_ONLINE: ClassVar[bool] = False
    """Snapshots can be made and deleted while a guest runs on the volume."""
    QEMU_GROWS: ClassVar[bool] = False
    """While a QEMU has the volume open, only that QEMU can make it larger."""
    QEMU_SNAPSHOTS: ClassVar[bool] = False
    """While a QEMU has the volume open, only that QEMU can make and delete its snapshots, and nobody can read them."""

    def __init__(self, pool: PoolPlace, shell: Shell, keys: Path) -> None:
        """
        :param keys: the folder of secret keys that belong to pools.
        """
        self.pool = pool
        self.shell = shell
        self.keys = keys

    @abstractmethod
    def identity(self) -> str:
        """What is found at the pool's place; where there is none, ``none`` and why."""

    def claim(self) -> str:
        """Make a pool of what is there, where that takes something. Returns its identity. Raises ``pool_absent``."""
        found = self.identity()
        if found.startswith("none"):
            raise NodeError("pool_absent", f"there is no pool at {self.pool.path}: {found}")
        return found

    def check_identity(self) -> None:
        """Raises ``pool_identity`` unless this is the pool that the panel means."""
        found = self.identity()
        if found != self.pool.identity:
            raise NodeError(
                "pool_identity",
                f"{self.pool.path} is not the pool that was meant: its identity is {found}, not {self.pool.identity}",
                "Is the right storage there?",
            )

    @abstractmethod
    def facts(self) -> PoolFacts: ...

    def keep_key(self, key: str) -> Secret:
        """Remember the key that opens the pool, for this driver and for guests. Raises ``unsupported``."""
        raise NodeError("unsupported", f"a {self.KIND} pool needs no key")

    def fence(self, disk_id: str, node: str, addresses: Sequence[str]) -> None:
        """Shut a node out of the pool, and see that nobody is left at the volume; or, by the facts, hold it back.

        :raises NodeError: ``unsupported``, ``fences_itself``, ``fence_denied``, ``disk_watched``.
        """
        raise NodeError("unsupported", f"a {self.KIND} pool cannot shut a node out")

    def unfence(self, node: str, addresses: Sequence[str]) -> None:
        """Let it in again.

        :raises NodeError: ``unsupported``, ``fence_denied``.
        """
        raise NodeError("unsupported", f"a {self.KIND} pool cannot shut a node out")

    @classmethod
    def offers(cls, shell: Shell) -> list[PoolOffer]:
        """What this node has of which a pool could be made."""
        return []

    # --- volumes ------------------------------------------------------------------------------------------

    @abstractmethod
    def create(self, disk: DiskSpec, cancellation: Cancellation, fill: Fill | None = None) -> VolumeFacts:
        """Make the volume: owner mark first, final name last.

        :raises NodeError: ``exists_other_size``, ``no_room``, ``backing_invalid``.
        """

    @abstractmethod
    def delete(self, disk_id: str, disk_format: DiskFormat, users: Users) -> None:
        """Remove the volume that has exactly this disk's mark; absent is done.

        :raises NodeError: ``disk_in_use``: by a domain, an overlay, a clone, a snapshot, another client.
        """

    @abstractmethod
    def rename(self, disk_id: str, disk_format: DiskFormat, new_id: str, users: Users) -> None:
        """Make it another disk's volume, its snapshots with it: mark first, name last. Under the new name: done.

        :raises NodeError: ``disk_in_use``.
        """

    @abstractmethod
    def resize(self, disk_id: str, disk_format: DiskFormat, size_bytes: int, *, leave_to_qemu: bool) -> VolumeFacts:
        """Grow the volume.

        :param leave_to_qemu: check only; the QEMU that has it open will make it larger.
        :raises NodeError: ``would_shrink``, ``no_room``, ``snapshots_hinder``.
        """

    @abstractmethod
    def look(self, disk_id: str, disk_format: DiskFormat, users: Users) -> DiskState: ...

    @abstractmethod
    def source(self, disk_id: str, disk_format: DiskFormat) -> DiskSource:
        """How a domain opens the volume."""

    @abstractmethod
    def volumes(self) -> list[Volume]:
        """Everything of ours in the pool."""

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Disk -> bytes of its volume, for every one that carries the disk's mark. Quick for thousands of them."""

    # --- what is nobody's ---------------------------------------------------------------------------------

    def strangers(self) -> list[Stranger]:
        """Volumes that are no disk of ours and could become one, by name. Quick for thousands of them."""
        return []

    def examine(self, name: str, users: Users) -> Stranger:
        """One of them, looked at closely.

        :raises NodeError: ``volume_absent``; ``volume_taken``: it is a disk's already; ``disk_in_use``: by a domain, a
            snapshot, a process, another client; ``volume_unfit`` and others: it can be no disk.
        """
        raise volume_absent(f"volume {self.pool.path}/{name}")

    def take(self, disk_id: str, disk_format: DiskFormat, name: str, users: Users) -> VolumeFacts:
        """Make it the disk's volume: mark first, name last. Under the disk's name: done. Raises as ``examine``."""
        raise volume_absent(f"volume {self.pool.path}/{name}")

    def give_back(self, disk_id: str, disk_format: DiskFormat, name: str) -> None:
        """The undo of ``take``: name first, mark last. What never was taken stays as it is.

        Where its name was given to something else meanwhile, it only loses the mark.
        """
        return None

    # --- copies -------------------------------------------------------------------------------------------

    def clone(
        self, disk: DiskSpec, origin: "Driver", volume: VolumeSpec, snapshot: str | None, cancellation: Cancellation
    ) -> VolumeFacts:
        """Make the volume with the content of another one, which may be in a pool of another kind.

        :raises NodeError: as ``create``; ``would_shrink``, ``snapshot_absent``.
        """
        with origin.readable(volume.id, volume.format, snapshot) as source:
            check_holds(disk, source.size_bytes)
            return self.create(disk, cancellation, lambda new: self.copy(source.image, new, cancellation))

    def link(self, disk: DiskSpec, volume: VolumeSpec, snapshot: str | None) -> VolumeFacts:
        """Make the volume share its content with another one of this pool, until either is written to.

        :raises NodeError: as ``clone``; ``unsupported``.
        """
        raise NodeError("unsupported", f"a {self.KIND} pool has no linked clones", "Ask for a full copy.")

    def flatten(
        self, disk_id: str, disk_format: DiskFormat, progress: Callable[[int], None], cancellation: Cancellation
    ) -> None:
        """Let a linked clone rest on nothing any more. One that stands by itself is done.

        :param progress: hears percentages.
        """
        raise NodeError("unsupported", f"a {self.KIND} pool has no volumes that rest on others")

    @abstractmethod
    def readable(
        self, disk_id: str, disk_format: DiskFormat, snapshot: str | None
    ) -> AbstractContextManager[Readable]: ...

    def copy(self, source: QemuImage, target: QemuImage, cancellation: Cancellation) -> None:
        """Write the content of one into the other, which is there and large enough."""
        inside = ["-l", f"snapshot.name={source.snapshot}"] if source.snapshot else []
        zeroed = ["--target-is-zero"] if target.zeroed else []
        # writeback: without it qemu-img leaves the flush to chance.
        options = ["-n", "-q", "-t", "writeback", "-f", source.format, "-O", target.format, *inside, *zeroed]
        self.shell.run(
            ["qemu-img", "convert", *options, source.address, target.address],
            timeout_s=COPY_TIMEOUT_S,
            cancellation=cancellation,
        )

    # --- snapshots ----------------------------------------------------------------------------------------

    @abstractmethod
    def snapshot(self, disk_id: str, disk_format: DiskFormat, snapshot: str, room_bytes: int | None) -> None:
        """Keep the volume as it is now.

        :param room_bytes: for how much written data, where that is a choice; None: always enough.
        :raises NodeError: ``unsupported``, ``no_room``.
        """

    @abstractmethod
    def delete_snapshot(self, disk_id: str, disk_format: DiskFormat, snapshot: str) -> None:
        """Absent is done. Raises ``disk_in_use``."""

    @abstractmethod
    def revert(self, disk_id: str, disk_format: DiskFormat, snapshot: str) -> VolumeFacts:
        """Give the volume the content of the snapshot, which stays. The caller has seen that no guest runs on it.

        :raises NodeError: ``snapshot_absent``, ``disk_in_use``.
        """

    # --- what drivers share -------------------------------------------------------------------------------

    def rounded(self, size_bytes: int, disk_format: DiskFormat, facts: PoolFacts) -> int:
        """The size that a volume gets. Raises ``unsupported`` where the pool cannot hold the format."""
        try:
            return round_up(size_bytes, granule_of(facts, disk_format))
        except ValueError as error:
            raise NodeError("unsupported", f"the pool {self.pool.path}: {error}") from None


def not_ours(what: object) -> NodeError:
    return NodeError(
        "exists_not_ours",
        f"{what} exists and is not this disk: it was left untouched",
        "Look at it on the node, and move it away if nobody needs it.",
    )


def no_room(pool: PoolPlace, what: str, free_bytes: int, needed_bytes: int, way_out: str) -> NodeError:
    """
    :param what: how the pool is called before its path.
    :param way_out: what gives it more room.
    """
    return NodeError(
        "no_room",
        f"the {what} {pool.path} has {free_bytes} bytes free; needed: {needed_bytes}",
        f"Choose another pool or a smaller disk, or {way_out}.",
        pool=pool.path,
        node=socket.gethostname(),
        free=free_bytes,
        needed=needed_bytes,
    )


def can_be_told(name: str) -> bool:
    """Whether a volume of this name can be spoken of with the panel."""
    try:
        _NAME.validate_python(name)
    except ValidationError:
        return False
    return True


def unfit(what: object, why: str) -> NodeError:
    return NodeError("volume_unfit", f"{what} cannot become a disk: {why}")


def is_a_disk(what: object) -> NodeError:
    return NodeError(
        "volume_taken", f"{what} is a disk or an image already: it was left untouched", "Choose another volume."
    )


def volume_absent(what: object) -> NodeError:
    return NodeError("volume_absent", f"there is no {what}", "Look at the names on the node.")


def absent(what: object) -> NodeError:
    return NodeError("disk_absent", f"{what} is missing")


def snapshot_absent(what: object, snapshot: str) -> NodeError:
    return NodeError("snapshot_absent", f"{what} has no snapshot {snapshot}")


def check_unused(what: object, users: Iterable[str]) -> None:
    """Raises ``disk_in_use``."""
    if used_by := ", ".join(users):
        raise NodeError("disk_in_use", f"{what} is used by {used_by}", "Detach or delete that first.", used_by=used_by)


def check_same_size(what: object, size_bytes: int, wanted_bytes: int) -> None:
    """Raises ``exists_other_size``: an earlier attempt made this disk otherwise."""
    if size_bytes != wanted_bytes:
        raise NodeError("exists_other_size", f"{what} is this disk, but has {size_bytes} bytes, not {wanted_bytes}")


def check_grows(what: object, size_bytes: int, wanted_bytes: int) -> None:
    """Raises ``would_shrink``."""
    if wanted_bytes < size_bytes:
        raise NodeError(
            "would_shrink",
            f"{what} has {size_bytes} bytes and was asked to have {wanted_bytes}: what lies behind would be lost",
            "Ask for at least the present size.",
            size=size_bytes,
            asked=wanted_bytes,
        )


def check_holds(disk: DiskSpec, source_bytes: int) -> None:
    """Raises ``would_shrink``: a copy must not be cut."""
    check_grows(f"the source of disk {disk.id}", source_bytes, disk.size_bytes)
