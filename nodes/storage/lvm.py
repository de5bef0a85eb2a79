"""Volumes as logical volumes: ``<disk id>``, made with the owner mark, the tag ``ulei.disk=<disk id>``.

A copy in the making is ``<disk id>.part``; a snapshot is ``<disk id>.<snapshot id>`` and carries the tag
``ulei.snapshot=<snapshot id>`` too. Each change is one command of LVM, which writes its metadata as a whole, and a
removal selects by the mark, so that a foreign volume of the name survives it.
Source: lvm(8), lvcreate(8), lvconvert(8), lvmreport(7).
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from nodes.contract.errors import NodeError
from nodes.contract.faults import point
from nodes.contract.messages import DiskState, VolumeFacts
from nodes.contract.sizes import round_up
from nodes.contract.specs import BlockSource, CloneKind, DiskFormat, DiskSpec, PoolFacts, PoolKind, PoolOffer, Stranger
from nodes.shell import Cancellation, Cancelled, Shell
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
    no_room,
    not_ours,
    snapshot_absent,
    unfit,
    volume_absent,
)

TIMEOUT_S = 120.0
MERGE_TIMEOUT_S = 24 * 3600.0
DISK_TAG, SNAPSHOT_TAG, REVERT_TAG = "ulei.disk=", "ulei.snapshot=", "ulei.revert="
SNAPSHOT_CHUNK_BYTES = 4096
"""lvcreate's own choice for a snapshot that is not thin."""

PLAIN = "-oV"
"""Types of volumes that may become disks: linear or striped, one that has snapshots, thin. Source: lvs(8), lv_attr."""

GROUP_FIELDS = "vg_name,vg_uuid,vg_size,vg_free,vg_extent_size,vg_extent_count,vg_free_count,pv_count"
VOLUME_FIELDS = (
    "lv_name,lv_uuid,lv_size,lv_tags,lv_attr,lv_path,lv_device_open,origin,pool_lv,data_percent,metadata_percent,"
    "lv_when_full"
)
NO_ROOM = ("insufficient free space", "insufficient suitable", "not enough free", "too large", "not enough pvs")


@dataclass(frozen=True)
class Lv:
    """A logical volume as ``lvs`` shows it."""

    name: str
    uuid: str
    size_bytes: int
    tags: frozenset[str]
    attr: str
    path: str
    open: bool
    origin: str
    pool: str
    data_percent: float | None
    metadata_percent: float | None
    chunk_bytes: int
    queues_when_full: bool

    def tagged(self, prefix: str) -> str | None:
        return next((tag.removeprefix(prefix) for tag in sorted(self.tags) if tag.startswith(prefix)), None)

    @property
    def thin_pool(self) -> bool:
        return self.attr.startswith("t")


@dataclass(frozen=True)
class Group:
    """A volume group with everything in it."""

    name: str
    uuid: str
    size_bytes: int
    free_bytes: int
    extent_bytes: int
    extents: int
    extents_free: int
    physical_volumes: int
    volumes: Mapping[str, Lv]


def read_groups(shell: Shell, *names: str) -> list[Group]:
    """What LVM knows, in one command. Raises ``command_failed`` also where a group is absent."""
    argv = ["lvm", "fullreport", "--reportformat", "json", "--units", "b", "--nosuffix", "--all"]
    for report, fields in (
        ("vg", GROUP_FIELDS),
        ("lv", VOLUME_FIELDS),
        ("seg", "lv_name,chunk_size"),
        ("pv", "pv_name"),
        ("pvseg", "pvseg_start"),
    ):
        argv += ["--configreport", report, "--options", fields]
    text = shell.run([*argv, *names], timeout_s=TIMEOUT_S).stdout
    return [_group(each) for each in json.loads(text)["report"] if each["vg"] and each["vg"][0]["vg_name"]]


def _group(report: Mapping[str, list[dict[str, str]]]) -> Group:
    vg = report["vg"][0]
    chunks = {each["lv_name"]: int(each["chunk_size"] or 0) for each in report["seg"]}
    return Group(
        name=vg["vg_name"],
        uuid=vg["vg_uuid"],
        size_bytes=int(vg["vg_size"]),
        free_bytes=int(vg["vg_free"]),
        extent_bytes=int(vg["vg_extent_size"]),
        extents=int(vg["vg_extent_count"]),
        extents_free=int(vg["vg_free_count"]),
        physical_volumes=int(vg["pv_count"]),
        volumes={each["lv_name"]: _volume(each, chunks.get(each["lv_name"], 0)) for each in report["lv"]},
    )


def _volume(row: Mapping[str, str], chunk_bytes: int) -> Lv:
    return Lv(
        name=row["lv_name"],
        uuid=row["lv_uuid"],
        size_bytes=int(row["lv_size"]),
        tags=frozenset(filter(None, row["lv_tags"].split(","))),
        attr=row["lv_attr"],
        path=row["lv_path"],
        open=row["lv_device_open"] == "open",
        origin=row["origin"].strip("[]"),
        pool=row["pool_lv"],
        data_percent=float(row["data_percent"]) if row["data_percent"] else None,
        metadata_percent=float(row["metadata_percent"]) if row["metadata_percent"] else None,
        chunk_bytes=chunk_bytes,
        queues_when_full=row["lv_when_full"] == "queue",
    )


class LvmDriver(Driver):
    KIND: ClassVar[PoolKind] = "lvm"
    SNAPSHOTS_ONLINE = True
    CLONES: ClassVar[tuple[CloneKind, ...]] = ("full",)

    def __init__(self, *place: object) -> None:
        super().__init__(*place)  # type: ignore[arg-type]
        self.group_name = self.pool.path.partition("/")[0]
        self._looked: Group | None = None

    # --- the pool -----------------------------------------------------------------------------------------

    def identity(self) -> str:
        try:
            self._looked = read_groups(self.shell, self.group_name)[0]
        except NodeError as error:
            if error.info.code != "command_failed":
                raise
            return f"none ({error.info.cause})"
        return self._identity_in(self._looked)

    def _identity_in(self, group: Group) -> str:
        return group.uuid

    def _group(self) -> Group:
        """As it is now; what the check of the identity has just read is as good."""
        group, self._looked = self._looked, None
        return group or read_groups(self.shell, self.group_name)[0]

    def facts(self) -> PoolFacts:
        group = self._group()
        return PoolFacts(
            kind=self.KIND,
            identity=self._identity_in(group),
            names=group.uuid,
            path=self.pool.path,
            capacity_bytes=group.size_bytes,
            free_bytes=group.free_bytes,
            granules={"raw": self._granule(group)},
            snapshots=True,
            snapshot_formats=("raw",),
            snapshots_online=True,
            snapshots_take_room=True,
            clones=self.CLONES,
            takes_backups=True,
            extent_bytes=group.extent_bytes,
            extents_total=group.extents,
            extents_free=group.extents_free,
            stripes=self.pool.stripes,
        )

    def _granule(self, group: Group) -> int:
        return group.extent_bytes * self.pool.stripes

    @classmethod
    def offers(cls, shell: Shell) -> list[PoolOffer]:
        return [
            PoolOffer(
                kind=cls.KIND,
                path=group.name,
                identity=group.uuid,
                capacity_bytes=group.size_bytes,
                free_bytes=group.free_bytes,
                extent_bytes=group.extent_bytes,
                extents_total=group.extents,
                extents_free=group.extents_free,
                most_stripes=group.physical_volumes,
            )
            for group in read_groups(shell)
        ]

    # --- create and delete --------------------------------------------------------------------------------

    def create(self, disk: DiskSpec, cancellation: Cancellation, fill: Fill | None = None) -> VolumeFacts:
        if disk.format != "raw" or disk.backing is not None:
            raise NodeError("unsupported", f"a {self.KIND} pool holds raw volumes without a backing image")
        group, part = self._group(), f"{disk.id}.part"
        wanted_bytes = round_up(disk.size_bytes, self._granule(group))
        if disk.id in group.volumes:
            volume = self._ours(group, disk.id)
            check_same_size(volume.path, volume.size_bytes, wanted_bytes)
            self._remove_part(group, disk.id)
            self._activate(volume)
            return VolumeFacts(size_bytes=volume.size_bytes)
        self._remove_part(group, disk.id)
        self._check_room(group, wanted_bytes)
        if fill is None:
            self._make(disk.id, disk.id, wanted_bytes)
            point("disk.linked", disk.id)
        else:
            self._make(part, disk.id, wanted_bytes)
            self._fill(disk.id, part, fill)
        return VolumeFacts(size_bytes=self._measured_bytes(disk.id))

    def _measured_bytes(self, disk_id: str) -> int:
        """As the device says: one more command of LVM would take as long as the making did."""
        try:
            device = os.open(f"/dev/{self.group_name}/{disk_id}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # a group whose volumes are not activated
            return self._ours(self._group(), disk_id).size_bytes
        try:
            return os.lseek(device, 0, os.SEEK_END)
        finally:
            os.close(device)

    def _fill(self, disk_id: str, part: str, fill: Fill) -> None:
        """A copy gets its final name when it is whole."""
        point("disk.part-made", disk_id)
        try:
            fill(QemuImage("raw", self._device(part)))
        except (NodeError, Cancelled):
            # After a kill -9 the repetition or the undo removes it.
            self._remove(part, [DISK_TAG + disk_id])
            raise
        point("disk.filled", disk_id)
        self._rename(part, disk_id)
        point("disk.linked", disk_id)

    def _rename(self, part: str, disk_id: str) -> None:
        try:
            self._run("lvrename", self.group_name, part, disk_id)
        except NodeError as error:
            if "already exists" in error.info.cause:
                raise not_ours(f"{self.group_name}/{disk_id}") from None
            raise

    def _make(self, name: str, disk_id: str, size_bytes: int) -> None:
        # The mark is in the same write of LVM's metadata as the name. --yes: old signatures are wiped unasked.
        argv = ["lvcreate", "--yes", "--addtag", DISK_TAG + disk_id, "--name", name, *self._layout(size_bytes)]
        try:
            self._run(*argv)
        except NodeError as error:
            if "already exists" in error.info.cause:
                raise not_ours(f"{self.group_name}/{name}") from None
            if any(words in error.info.cause.lower() for words in NO_ROOM):
                raise self._no_room(self._group().free_bytes, size_bytes) from None
            raise

    def _layout(self, size_bytes: int) -> list[str]:
        stripes = ["--stripes", str(self.pool.stripes)] if self.pool.stripes > 1 else []
        return ["--type", "striped", *stripes, "--size", f"{size_bytes}b", self.group_name]

    def _check_room(self, group: Group, needed_bytes: int) -> None:
        if needed_bytes > group.free_bytes:
            raise self._no_room(group.free_bytes, needed_bytes)

    def _no_room(self, free_bytes: int, needed_bytes: int) -> NodeError:
        return no_room(self.pool, "pool", free_bytes, needed_bytes, "add a physical volume")

    def delete(self, disk_id: str, disk_format: DiskFormat, users: Users) -> None:
        group = self._group()
        self._remove_part(group, disk_id)
        if disk_id not in group.volumes:
            return
        volume = self._ours(group, disk_id)
        check_unused(volume.path, self._users(group, volume, users))
        self._remove(disk_id, [DISK_TAG + disk_id])
        point("disk.unlinked", disk_id)

    def _remove_part(self, group: Group, disk_id: str) -> None:
        part = f"{disk_id}.part"
        if part in group.volumes:
            if DISK_TAG + disk_id not in group.volumes[part].tags:
                raise not_ours(f"{self.group_name}/{part}")
            self._remove(part, [DISK_TAG + disk_id])

    def _remove(self, name: str, tags: Iterable[str]) -> None:
        marked = " && ".join(f'lv_tags="{tag}"' for tag in tags)
        self._run("lvremove", "--yes", "--select", f'lv_name="{name}" && {marked}', self.group_name)

    def _users(self, group: Group, volume: Lv, users: Users) -> list[str]:
        """Domains of this node, snapshots, and whoever has the device open."""
        found = [*users(volume.path), *self._snapshot_names(group, volume)]
        return found or (["a process that has the device open"] if volume.open else [])

    def _snapshot_names(self, group: Group, volume: Lv) -> list[str]:
        """Everything that LVM would remove with the volume, ours or not."""
        return [f"snapshot {lv.name}" for lv in group.volumes.values() if lv.origin == volume.name]

    def rename(self, disk_id: str, disk_format: DiskFormat, new_id: str, users: Users) -> None:
        group = self._group()
        if disk_id not in group.volumes:
            self._ours(group, new_id)
            return
        volume = group.volumes[disk_id]
        if not self._is_marked(volume, disk_id) and not self._is_marked(volume, new_id):
            raise not_ours(volume.path)
        if new_id in group.volumes:
            raise not_ours(f"{self.group_name}/{new_id}")
        hindering = [*users(volume.path)] or ["a process that has the device open"] * volume.open
        check_unused(volume.path, hindering)
        # The volume last: while it has its old name, something is still to be done.
        marks = {DISK_TAG + disk_id, DISK_TAG + new_id}
        kept = [lv for lv in group.volumes.values() if lv.name.startswith(f"{disk_id}.") and lv.tagged(SNAPSHOT_TAG)]
        for lv in (*(lv for lv in kept if lv.tags & marks), volume):
            name = new_id + lv.name.removeprefix(disk_id)
            change = ["--addtag", DISK_TAG + new_id, "--deltag", DISK_TAG + disk_id]
            self._run("lvchange", *change, f"{self.group_name}/{lv.name}")
            point("disk.marked", name)
            self._rename(lv.name, name)
            point("disk.linked", name)

    # --- what is nobody's ---------------------------------------------------------------------------------

    def strangers(self) -> list[Stranger]:
        lvs = self._group().volumes.values()
        found = [lv for lv in lvs if self._holds(lv) and self._is_plain(lv) and lv.tagged(DISK_TAG) is None]
        told = (Stranger(name=lv.name, format="raw", size_bytes=lv.size_bytes) for lv in found if can_be_told(lv.name))
        return sorted(told, key=lambda stranger: stranger.name)

    def _is_plain(self, lv: Lv) -> bool:
        """A volume with a content of its own: no snapshot, no mirror, nothing that LVM keeps for itself."""
        return lv.attr[0] in PLAIN and not lv.name.startswith("[")

    def examine(self, name: str, users: Users) -> Stranger:
        group = self._group()
        volume = self._found(group, name)
        if volume.tagged(DISK_TAG) is not None:
            raise is_a_disk(volume.path)
        # A domain may name it as device-mapper does, where each - in a name is two.
        mapped = "-".join(part.replace("-", "--") for part in (self.group_name, name))
        check_unused(volume.path, [*self._users(group, volume, users), *users(f"/dev/mapper/{mapped}")])
        return Stranger(name=name, format="raw", size_bytes=volume.size_bytes)

    def _found(self, group: Group, name: str) -> Lv:
        """Raises ``volume_absent``, ``volume_unfit``."""
        volume = group.volumes.get(name)
        if volume is None or not self._holds(volume):
            raise volume_absent(f"volume {self.pool.path}/{name}")
        if not self._is_plain(volume):
            raise unfit(volume.path or name, f"it is no plain volume ({volume.attr})")
        return volume

    def take(self, disk_id: str, disk_format: DiskFormat, name: str, users: Users) -> VolumeFacts:
        group = self._group()
        if disk_id in group.volumes and name not in group.volumes:
            return VolumeFacts(size_bytes=self._ours(group, disk_id).size_bytes)
        volume = self._found(group, name)
        if DISK_TAG + disk_id not in volume.tags:
            self.examine(name, users)
        if disk_id in group.volumes:
            raise not_ours(f"{self.group_name}/{disk_id}")
        self._run("lvchange", "--addtag", DISK_TAG + disk_id, f"{self.group_name}/{name}")
        point("disk.marked", disk_id)
        self._rename(name, disk_id)
        point("disk.linked", disk_id)
        return VolumeFacts(size_bytes=volume.size_bytes)

    def give_back(self, disk_id: str, disk_format: DiskFormat, name: str) -> None:
        group = self._group()
        taken = next((each for each in (disk_id, name) if self._marked_as(group, each, disk_id)), None)
        if taken == disk_id and name not in group.volumes:
            self._rename(disk_id, name)
            point("disk.linked", disk_id)
            taken = name
        if taken is not None:
            self._run("lvchange", "--deltag", DISK_TAG + disk_id, f"{self.group_name}/{taken}")

    def _marked_as(self, group: Group, name: str, disk_id: str) -> bool:
        return name in group.volumes and self._is_marked(group.volumes[name], disk_id)

    # --- grow and look ------------------------------------------------------------------------------------

    def resize(self, disk_id: str, disk_format: DiskFormat, size_bytes: int, *, leave_to_qemu: bool) -> VolumeFacts:
        group = self._group()
        volume = self._ours(group, disk_id)
        wanted_bytes = round_up(size_bytes, self._granule(group))
        check_grows(volume.path, volume.size_bytes, wanted_bytes)
        if volume.size_bytes == wanted_bytes:
            return VolumeFacts(size_bytes=wanted_bytes)
        self._check_can_grow(group, volume, wanted_bytes)
        self._extend(disk_id, wanted_bytes)
        point("disk.grown", disk_id)
        return VolumeFacts(size_bytes=self._ours(self._group(), disk_id).size_bytes)

    def _check_can_grow(self, group: Group, volume: Lv, wanted_bytes: int) -> None:
        if hindering := self._snapshot_names(group, volume):
            raise NodeError(
                "snapshots_hinder",
                f"LVM grows no volume that has snapshots: {volume.path} has {', '.join(hindering)}",
                "Delete its snapshots first.",
            )
        self._check_room(group, wanted_bytes - volume.size_bytes)

    def _extend(self, name: str, size_bytes: int) -> None:
        stripes = ["--stripes", str(self.pool.stripes)] if self.pool.stripes > 1 else []
        try:
            self._run("lvextend", *stripes, "--size", f"{size_bytes}b", f"{self.group_name}/{name}")
        except NodeError as error:
            if any(words in error.info.cause.lower() for words in NO_ROOM):
                raise self._no_room(self._group().free_bytes, size_bytes) from None
            raise

    def look(self, disk_id: str, disk_format: DiskFormat, users: Users) -> DiskState:
        group = self._group()
        volume = group.volumes.get(disk_id)
        if volume is None:
            return DiskState(exists=False)
        if not self._is_marked(volume, disk_id):
            return DiskState(exists=True)
        return DiskState(
            exists=True,
            ours=True,
            size_bytes=volume.size_bytes,
            used_by=tuple(self._users(group, volume, users)),
            snapshots=tuple(self._snapshots(group, disk_id)),
        )

    def source(self, disk_id: str, disk_format: DiskFormat) -> BlockSource:
        volume = self._ours(self._group(), disk_id)
        self._activate(volume)
        return BlockSource(path=volume.path)

    def volumes(self) -> list[Volume]:
        group = self._group()
        # A snapshot carries its disk's mark too, and belongs to that volume.
        own = (lv for lv in group.volumes.values() if self._holds(lv) and lv.tagged(SNAPSHOT_TAG) is None)
        found = [Volume(lv.name, lv.tagged(DISK_TAG)) for lv in own]
        return sorted(
            (volume for volume in found if volume.disk is not None or volume.name.endswith(".part")),
            key=lambda volume: volume.name,
        )

    def sizes(self) -> dict[str, int]:
        # A volume in the making and a snapshot have the mark too, and longer names.
        own = (lv for lv in self._group().volumes.values() if self._holds(lv) and DISK_TAG + lv.name in lv.tags)
        return {lv.name: lv.size_bytes for lv in own}

    def _holds(self, lv: Lv) -> bool:
        """A thin volume is its thin pool's."""
        return not lv.pool

    def _ours(self, group: Group, disk_id: str) -> Lv:
        """Raises ``disk_absent``, ``exists_not_ours``."""
        volume = group.volumes.get(disk_id)
        if volume is None:
            raise absent(f"{self.group_name}/{disk_id}")
        if not self._is_marked(volume, disk_id):
            raise not_ours(volume.path)
        return volume

    def _is_marked(self, volume: Lv, disk_id: str) -> bool:
        """All pools of a group share its names: a volume of another one is not this one's, whatever it is marked."""
        return self._holds(volume) and DISK_TAG + disk_id in volume.tags

    # --- copies and snapshots -----------------------------------------------------------------------------

    @contextmanager
    def readable(self, disk_id: str, disk_format: DiskFormat, snapshot: str | None) -> Iterator[Readable]:
        group = self._group()
        volume = self._ours(group, disk_id)
        size_bytes = volume.size_bytes
        if snapshot is not None:
            origin, volume = volume, self._snapshot_of(group, disk_id, snapshot)
            size_bytes = self._kept_bytes(origin, volume)
        self._activate(volume)
        yield Readable(QemuImage("raw", volume.path), size_bytes)

    def _kept_bytes(self, origin: Lv, snapshot: Lv) -> int:
        """The snapshot's own size is only the room for what is written; its origin does not grow while it is there."""
        return origin.size_bytes

    def snapshot(self, disk_id: str, disk_format: DiskFormat, snapshot: str, room_bytes: int | None) -> None:
        group = self._group()
        volume = self._ours(group, disk_id)
        name = _snapshot_name(disk_id, snapshot)
        if name in group.volumes:
            self._snapshot_of(group, disk_id, snapshot)
            return
        if self._reverting(volume, snapshot) is not None:
            raise NodeError("snapshot_absent", f"{volume.path} is just being reverted to {snapshot}", retryable=True)
        needed_bytes = self._room_of_snapshot(group, volume, room_bytes)
        self._check_room(group, needed_bytes)
        self._make_snapshot(volume, snapshot, needed_bytes)
        point("disk.snapshots-changed", snapshot)

    def _make_snapshot(self, volume: Lv, snapshot: str, needed_bytes: int) -> None:
        tags = ["--addtag", DISK_TAG + volume.name, "--addtag", SNAPSHOT_TAG + snapshot]
        name = ["--name", _snapshot_name(volume.name, snapshot)]
        size = ["--size", f"{needed_bytes}b"] if needed_bytes else ["--setactivationskip", "n"]
        self._run("lvcreate", "--yes", "--snapshot", *tags, *name, *size, f"{self.group_name}/{volume.name}")

    def _room_of_snapshot(self, group: Group, volume: Lv, room_bytes: int | None) -> int:
        """Written blocks are kept in chunks, each with 16 bytes about it. Source: the kernel's dm-snap-persistent.c."""
        if room_bytes is None:
            room_bytes = volume.size_bytes
        about_bytes = (room_bytes // SNAPSHOT_CHUNK_BYTES + 1) * 16 + 4 * SNAPSHOT_CHUNK_BYTES
        return round_up(room_bytes + about_bytes, group.extent_bytes)

    def delete_snapshot(self, disk_id: str, disk_format: DiskFormat, snapshot: str) -> None:
        group = self._group()
        if _snapshot_name(disk_id, snapshot) in group.volumes:
            volume = self._snapshot_of(group, disk_id, snapshot)
            check_unused(volume.path, ["a process that has the device open"] if volume.open else [])
            noted = self._reverting(self._ours(group, disk_id), snapshot)
            if noted is not None:  # of a revert that nobody finished
                self._run("lvchange", "--deltag", _revert_tag(snapshot, noted), f"{self.group_name}/{disk_id}")
            self._remove(volume.name, [DISK_TAG + disk_id, SNAPSHOT_TAG + snapshot])
            point("disk.snapshots-changed", snapshot)

    def revert(self, disk_id: str, disk_format: DiskFormat, snapshot: str) -> VolumeFacts:
        """LVM merges the snapshot into its volume and takes it away by that: so it is made again, as large as it was.

        Between the two the volume says by a tag what is under way, or a repetition would miss the snapshot.
        """
        group = self._group()
        volume = self._ours(group, disk_id)
        needed_bytes = self._reverting(volume, snapshot)
        if _snapshot_name(disk_id, snapshot) in group.volumes:
            kept = self._snapshot_of(group, disk_id, snapshot)
            check_unused(volume.path, ["a process that has the device open"] if volume.open else [])
            if needed_bytes is None:
                needed_bytes = self._room_of(kept)
                self._run("lvchange", "--addtag", _revert_tag(snapshot, needed_bytes), f"{self.group_name}/{disk_id}")
            point("disk.revert-noted", snapshot)
            self._merge(volume, kept)
            point("disk.merged", snapshot)
        elif needed_bytes is None:
            raise snapshot_absent(volume.path, snapshot)
        self._make_snapshot(self._ours(self._group(), disk_id), snapshot, needed_bytes)
        self._run("lvchange", "--deltag", _revert_tag(snapshot, needed_bytes), f"{self.group_name}/{disk_id}")
        return VolumeFacts(size_bytes=self._ours(self._group(), disk_id).size_bytes)

    def _room_of(self, snapshot: Lv) -> int:
        return snapshot.size_bytes

    def _reverting(self, volume: Lv, snapshot: str) -> int | None:
        """The room that the snapshot had, while the volume is being reverted to it; None: it is not."""
        noted = volume.tagged(f"{REVERT_TAG}{snapshot}:")
        return int(noted) if noted is not None else None

    def _merge(self, volume: Lv, snapshot: Lv) -> None:
        # In the foreground: it returns when the content is back and the snapshot gone.
        argv = ["lvconvert", "--yes", "--merge", "--interval", "1", f"{self.group_name}/{snapshot.name}"]
        self.shell.run(argv, timeout_s=MERGE_TIMEOUT_S)

    def _snapshots(self, group: Group, disk_id: str) -> list[str]:
        """Ours of this disk."""
        found = (lv.tagged(SNAPSHOT_TAG) for lv in group.volumes.values() if DISK_TAG + disk_id in lv.tags)
        return sorted(filter(None, found))

    def _snapshot_of(self, group: Group, disk_id: str, snapshot: str) -> Lv:
        """Raises ``snapshot_absent``, ``exists_not_ours``."""
        name = _snapshot_name(disk_id, snapshot)
        volume = group.volumes.get(name)
        if volume is None:
            raise snapshot_absent(f"{self.group_name}/{disk_id}", snapshot)
        if not {DISK_TAG + disk_id, SNAPSHOT_TAG + snapshot} <= volume.tags:
            raise not_ours(volume.path)
        return volume

    # --- devices ------------------------------------------------------------------------------------------

    def _activate(self, volume: Lv) -> None:
        """After a boot of the node a volume may have no device yet."""
        if volume.attr[4:5] != "a":
            self._run("lvchange", "--activate", "y", "--ignoreactivationskip", f"{self.group_name}/{volume.name}")

    def _device(self, name: str) -> str:
        return self._group().volumes[name].path

    def _run(self, *argv: str) -> None:
        self.shell.run(argv, timeout_s=TIMEOUT_S)


def _revert_tag(snapshot: str, needed_bytes: int) -> str:
    return f"{REVERT_TAG}{snapshot}:{needed_bytes}"


def _snapshot_name(disk_id: str, snapshot: str) -> str:
    return f"{disk_id}.{snapshot}"
