"""Volumes of a thin pool: they take room when they are written to, and their snapshots and clones share it.

Names and marks are those of nodes.storage.lvm. Source: lvmthin(7).
"""

from typing import ClassVar

from nodes.contract.errors import NodeError
from nodes.contract.faults import point
from nodes.contract.messages import VolumeFacts
from nodes.contract.sizes import round_up
from nodes.contract.specs import CloneKind, DiskSpec, PoolFacts, PoolKind, PoolOffer, VolumeSpec
from nodes.shell import Shell
from nodes.storage.base import check_holds, check_same_size
from nodes.storage.lvm import DISK_TAG, Group, Lv, LvmDriver, read_groups


class LvmThinDriver(LvmDriver):
    KIND: ClassVar[PoolKind] = "lvmthin"
    CLONES: ClassVar[tuple[CloneKind, ...]] = ("full", "linked")

    def __init__(self, *place: object) -> None:
        super().__init__(*place)
        self.pool_name = self.pool.path.partition("/")[2]

    def _identity_in(self, group: Group) -> str:
        pool = group.volumes.get(self.pool_name)
        if pool is None or not pool.thin_pool:
            return f"none ({group.name} has no thin pool {self.pool_name!r})"
        return f"{group.uuid}/{pool.uuid}"

    def facts(self) -> PoolFacts:
        group = self._group()
        pool = self._thin_pool(group)
        return PoolFacts(
            kind=self.KIND,
            identity=self._identity_in(group),
            names=group.uuid,
            path=self.pool.path,
            capacity_bytes=pool.size_bytes,
            free_bytes=_free_bytes(pool),
            granules={"raw": self._granule(group)},
            snapshots=True,
            snapshot_formats=("raw",),
            snapshots_online=True,
            clones=self.CLONES,
            takes_backups=True,
            extent_bytes=group.extent_bytes,
            extents_total=group.extents,
            extents_free=group.extents_free,
            chunk_bytes=pool.chunk_bytes,
            data_percent=pool.data_percent,
            metadata_percent=pool.metadata_percent,
            queues_when_full=pool.queues_when_full,
        )

    def _holds(self, lv: Lv) -> bool:
        return lv.pool == self.pool.path.partition("/")[2]

    @classmethod
    def offers(cls, shell: Shell) -> list[PoolOffer]:
        return [
            PoolOffer(
                kind=cls.KIND,
                path=f"{group.name}/{pool.name}",
                identity=f"{group.uuid}/{pool.uuid}",
                capacity_bytes=pool.size_bytes,
                free_bytes=_free_bytes(pool),
                extent_bytes=group.extent_bytes,
                extents_total=group.extents,
                extents_free=group.extents_free,
                data_percent=pool.data_percent,
                metadata_percent=pool.metadata_percent,
            )
            for group in read_groups(shell)
            for pool in group.volumes.values()
            if pool.thin_pool
        ]

    def link(self, disk: DiskSpec, volume: VolumeSpec, snapshot: str | None) -> VolumeFacts:
        group, part = self._group(), f"{disk.id}.part"
        source = self._ours(group, volume.id)
        if snapshot is not None:
            source = self._snapshot_of(group, volume.id, snapshot)
        check_holds(disk, source.size_bytes)
        wanted_bytes = round_up(disk.size_bytes, self._granule(group))
        if disk.id in group.volumes:
            made = self._ours(group, disk.id)
            check_same_size(made.path, made.size_bytes, wanted_bytes)
            return VolumeFacts(size_bytes=made.size_bytes)
        self._remove_part(group, disk.id)
        name = ["--name", part, "--addtag", DISK_TAG + disk.id, "--setactivationskip", "n"]
        self._run("lvcreate", "--yes", "--snapshot", *name, f"{self.group_name}/{source.name}")
        point("disk.part-made", disk.id)
        if source.size_bytes < wanted_bytes:
            self._extend(part, wanted_bytes)
        point("disk.filled", disk.id)
        self._rename(part, disk.id)
        point("disk.linked", disk.id)
        return VolumeFacts(size_bytes=self._ours(self._group(), disk.id).size_bytes)

    # --- where a thin volume is unlike another ----------------------------------------------------------------

    def _thin_pool(self, group: Group) -> Lv:
        """Raises ``pool_absent``."""
        pool = group.volumes.get(self.pool_name)
        if pool is None or not pool.thin_pool:
            raise NodeError("pool_absent", f"{group.name} has no thin pool {self.pool_name!r}")
        return pool

    def _granule(self, group: Group) -> int:
        # LVM rounds a thin volume to extents too, however small the pool's chunk is.
        return group.extent_bytes

    def _layout(self, size_bytes: int) -> list[str]:
        return ["--type", "thin", "--virtualsize", f"{size_bytes}b", "--thinpool", self.pool_name, self.group_name]

    def _check_room(self, group: Group, needed_bytes: int) -> None:
        """A thin pool may promise more than it has, but no single volume may be larger than all of it."""
        pool = self._thin_pool(group)
        full = pool.data_percent is not None and pool.data_percent >= 100
        if needed_bytes > pool.size_bytes or full:
            raise self._no_room(_free_bytes(pool), needed_bytes)

    def _room_of(self, snapshot: Lv) -> int:
        return 0

    def _room_of_snapshot(self, group: Group, volume: Lv, room_bytes: int | None) -> int:
        return 0

    def _snapshot_names(self, group: Group, volume: Lv) -> list[str]:
        """A thin volume that began as another one's snapshot stands by itself: only snapshots of this disk count."""
        return [f"snapshot {name}" for name in self._snapshots(group, volume.name)]

    def _kept_bytes(self, origin: Lv, snapshot: Lv) -> int:
        return snapshot.size_bytes

    def _check_can_grow(self, group: Group, volume: Lv, wanted_bytes: int) -> None:
        self._check_room(group, wanted_bytes)


def _free_bytes(pool: Lv) -> int:
    return int(pool.size_bytes * (100 - (pool.data_percent or 0)) / 100)
