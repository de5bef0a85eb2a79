"""What stands for a simulated node's disks and network: rows that say what would be there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nodes.contract.errors import NodeError
from nodes.contract.messages import DiskState, VolumeFacts
from nodes.contract.specs import DiskFormat, DiskSpec, FileFacts, FileSource, NicSpec, PoolFacts, PoolPlace
from nodes.network import Network
from nodes.node import Node
from nodes.shell import Cancellation, Shell
from nodes.simulated.memory import Memory
from nodes.storage.base import (
    Driver,
    Fill,
    QemuImage,
    Readable,
    Users,
    Volume,
    absent,
    check_grows,
    check_unused,
    snapshot_absent,
)

GRANULE_BYTES = 64 * 1024
CAPACITY_BYTES = 4 << 40
BRIDGES = ("br0",)
FOLDER = "/var/lib/libvirt/images"
MICRO = FileFacts(name="micro.qcow2", format="qcow2", size_bytes=8 << 20, virtual_size_bytes=64 << 20, modified=0)
"""The one image that every simulated node has, so that disks can be made from an image."""


class SimulatedDriver(Driver):
    """A directory pool whose volumes are rows."""

    KIND = "directory"

    def __init__(self, node_id: str, memory: Memory, shell: Shell) -> None:
        identity = f"simulated:{node_id}"
        super().__init__(PoolPlace(kind="directory", identity=identity, path=FOLDER), shell, Path(FOLDER))
        self._memory = memory

    def identity(self) -> str:
        return self.pool.identity

    def facts(self) -> PoolFacts:
        return PoolFacts(
            kind=self.KIND,
            identity=self.pool.identity,
            path=FOLDER,
            capacity_bytes=CAPACITY_BYTES,
            free_bytes=max(0, CAPACITY_BYTES - self._memory.allocated_bytes()),
            granules={"qcow2": GRANULE_BYTES, "raw": 512},
        )

    def create(self, disk: DiskSpec, cancellation: Cancellation, fill: Fill | None = None) -> VolumeFacts:
        cancellation.check()
        size_bytes = self.rounded(disk.size_bytes, disk.format, self.facts())
        if self._memory.volume_bytes(volume_name(disk.id, disk.format)) is None:
            self._memory.keep_volume(volume_name(disk.id, disk.format), disk.id, size_bytes)
        return VolumeFacts(size_bytes=size_bytes)

    def delete(self, disk_id: str, disk_format: DiskFormat, users: Users) -> None:
        used_by = list(users(volume_path(disk_id, disk_format)))
        if used_by:
            raise NodeError("disk_in_use", f"{disk_id} is used by {', '.join(used_by)}", "Delete those first.")
        self._memory.drop_volume(volume_name(disk_id, disk_format))

    def rename(self, disk_id: str, disk_format: DiskFormat, new_id: str, users: Users) -> None:
        check_unused(disk_id, users(volume_path(disk_id, disk_format)))
        size_bytes = self._memory.volume_bytes(volume_name(disk_id, disk_format))
        if size_bytes is not None:
            self._memory.keep_volume(volume_name(new_id, disk_format), new_id, size_bytes)
            self._memory.drop_volume(volume_name(disk_id, disk_format))
        elif self._memory.volume_bytes(volume_name(new_id, disk_format)) is None:
            raise absent(disk_id)

    def look(self, disk_id: str, disk_format: DiskFormat, users: Users) -> DiskState:
        name = volume_name(disk_id, disk_format)
        size_bytes = self._memory.volume_bytes(name)
        if size_bytes is None:
            return DiskState(exists=False)
        return DiskState(
            exists=True, ours=True, size_bytes=size_bytes, used_by=tuple(users(volume_path(disk_id, disk_format)))
        )

    def resize(self, disk_id: str, disk_format: DiskFormat, size_bytes: int, *, leave_to_qemu: bool) -> VolumeFacts:
        name = volume_name(disk_id, disk_format)
        present_bytes = self._memory.volume_bytes(name)
        if present_bytes is None:
            raise absent(name)
        wanted_bytes = self.rounded(size_bytes, disk_format, self.facts())
        check_grows(name, present_bytes, wanted_bytes)
        self._memory.keep_volume(name, disk_id, wanted_bytes)
        return VolumeFacts(size_bytes=wanted_bytes)

    def source(self, disk_id: str, disk_format: DiskFormat) -> FileSource:
        return FileSource(path=volume_path(disk_id, disk_format))

    @contextmanager
    def readable(self, disk_id: str, disk_format: DiskFormat, snapshot: str | None) -> Iterator[Readable]:
        name = volume_name(disk_id, disk_format)
        size_bytes = self._memory.volume_bytes(name)
        if size_bytes is None:
            raise absent(name)
        yield Readable(QemuImage(disk_format, name), size_bytes)

    def snapshot(self, disk_id: str, disk_format: DiskFormat, snapshot: str, room_bytes: int | None) -> None:
        raise NodeError("unsupported", "a simulated node has no snapshots")

    def delete_snapshot(self, disk_id: str, disk_format: DiskFormat, snapshot: str) -> None:
        pass

    def revert(self, disk_id: str, disk_format: DiskFormat, snapshot: str) -> VolumeFacts:
        raise snapshot_absent(volume_name(disk_id, disk_format), snapshot)

    def volumes(self) -> list[Volume]:
        return [Volume(name, disk) for name, disk, _size in self._memory.volumes()]

    def sizes(self) -> dict[str, int]:
        return {disk: size_bytes for _name, disk, size_bytes in self._memory.volumes()}


def volume_name(disk_id: str, disk_format: DiskFormat) -> str:
    return f"{disk_id}.{disk_format}"


def volume_path(disk_id: str, disk_format: DiskFormat) -> str:
    return f"{FOLDER}/{volume_name(disk_id, disk_format)}"


class SimulatedNetwork(Network):
    """Remembers what is plugged; no lease is given, no rule is loaded."""

    def __init__(self, folder: Path, memory: Memory, shell: Shell) -> None:
        super().__init__(folder, folder, (), shell)
        self._memory = memory

    def plugged(self) -> list[NicSpec]:
        return [NicSpec.model_validate_json(spec) for spec in self._memory.nics()]

    def plug(self, nic: NicSpec) -> None:
        if nic.bridge not in BRIDGES:
            raise NodeError("bridge_absent", f"this node has no bridge {nic.bridge}", "Make it, or choose another.")
        self._memory.keep_nic(nic.id, nic.model_dump_json())

    def unplug(self, nic_id: str) -> None:
        self._memory.drop_nic(nic_id)


class SimulatedNode(Node):
    """A node whose one pool is simulated."""

    def __init__(self, driver: SimulatedDriver, *parts: Any) -> None:
        super().__init__(*parts)
        self._driver = driver

    def folder(self, kind: str) -> Path:
        raise NodeError("unsupported", "a simulated node keeps no files")

    def driver(self, pool: PoolPlace) -> Driver:
        if pool.identity != self._driver.identity():
            raise NodeError("pool_identity", f"the pool here is {self._driver.identity()}, not {pool.identity}")
        return self._driver
