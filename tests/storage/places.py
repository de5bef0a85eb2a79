"""One pool of each kind, and beside each driver the bare tool that says what is really there."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nodes.contract.specs import DiskFormat, DiskSpec, PoolPlace, PoolSpec, VolumeSpec
from nodes.shell import Cancellation, Shell
from nodes.storage import driver_at, driver_of, lvm
from nodes.storage.base import Driver, QemuImage
from nodes.storage.directory import make_pool
from tests.storage.ceph import POOL, Ceph

DISK, OTHER, SNAPSHOT = "d" * 13, "e" * 13, "s" * 13
MIB = 1 << 20


def nobody(path: str) -> list[str]:
    """No domain uses the volume."""
    return []


@dataclass
class Place:
    """A pool of one kind; what is asked of the bare tool stands in the classes below."""

    name: str
    pool: PoolSpec
    format: DiskFormat
    keys: Path
    devices: bool = True
    """Its volumes can be read and written on this machine."""

    def driver(self, **changes: object) -> Driver:
        return driver_of(self.pool.model_copy(update=changes), Shell(), self.keys)

    def disk(self, disk_id: str = DISK, size_bytes: int = 8 * MIB) -> DiskSpec:
        return DiskSpec(id=disk_id, pool=self.pool, format=self.format, size_bytes=size_bytes)

    def volume(self, disk_id: str = DISK) -> VolumeSpec:
        return VolumeSpec(id=disk_id, pool=self.pool, format=self.format)

    def create(self, disk_id: str = DISK, size_bytes: int = 8 * MIB) -> int:
        return self.driver().create(self.disk(disk_id, size_bytes), Cancellation()).size_bytes

    def names(self) -> list[str]:
        return [volume.name for volume in self.driver().volumes()]

    def clear(self) -> None:
        """Take away what a test left, ours or not."""
        raise NotImplementedError

    def measured(self, disk_id: str = DISK) -> int:
        raise NotImplementedError

    def grow_by_hand(self, disk_id: str, size_bytes: int) -> None:
        raise NotImplementedError

    def delete_by_hand(self, disk_id: str) -> None:
        raise NotImplementedError

    def make_foreign(self, name: str) -> None:
        """A volume that does not carry our mark, with something in it where volumes have a content."""
        raise NotImplementedError

    def foreign_is_there(self, name: str) -> bool:
        raise NotImplementedError

    def make_stranger(self, size_bytes: int = 8 * MIB) -> str:
        """A whole volume that somebody else made; returns its name in the pool."""
        raise NotImplementedError

    def final(self, disk_id: str = DISK) -> str:
        """The name of a disk's volume in the pool."""
        return disk_id

    # --- content ------------------------------------------------------------------------------------------

    def write(self, pattern: int, disk_id: str = DISK, offset: int = 0) -> None:
        with self.image(disk_id) as image:
            _qemu_io(image, f"write -P {pattern} {offset} 64k")

    def holds(self, pattern: int, disk_id: str = DISK, offset: int = 0) -> bool:
        with self.image(disk_id) as image:
            return "Pattern verification failed" not in _qemu_io(image, f"read -P {pattern} {offset} 64k")

    @contextmanager
    def image(self, disk_id: str) -> Iterator[QemuImage]:
        with self.driver().readable(disk_id, self.format, None) as readable:
            yield readable.image


class DirectoryPlace(Place):
    @property
    def folder(self) -> Path:
        return Path(self.pool.path)

    def clear(self) -> None:
        for file in self.folder.iterdir():
            if file.name != ".ulei-pool":
                file.unlink()

    def measured(self, disk_id: str = DISK) -> int:
        argv = ["qemu-img", "info", "-f", self.format, "--output=json", str(self.folder / self.final(disk_id))]
        return int(json.loads(_output(argv))["virtual-size"])

    def grow_by_hand(self, disk_id: str, size_bytes: int) -> None:
        _output(
            ["qemu-img", "resize", "-q", "-f", self.format, str(self.folder / self.final(disk_id)), str(size_bytes)]
        )

    def delete_by_hand(self, disk_id: str) -> None:
        (self.folder / self.final(disk_id)).unlink()

    def make_foreign(self, name: str) -> None:
        (self.folder / name).write_text("somebody's")

    def foreign_is_there(self, name: str) -> bool:
        return (self.folder / name).read_text() == "somebody's"

    def make_stranger(self, size_bytes: int = 8 * MIB) -> str:
        name = f"their web.{self.format}"
        _output(["qemu-img", "create", "-q", "-f", self.format, str(self.folder / name), str(size_bytes)])
        return name

    def final(self, disk_id: str = DISK) -> str:
        return f"{disk_id}.{self.format}"


class LvmPlace(Place):
    @property
    def group(self) -> str:
        return self.pool.path.partition("/")[0]

    def clear(self) -> None:
        pools = [lv.name for lv in lvm.read_groups(Shell(), self.group)[0].volumes.values() if lv.thin_pool]
        others = " && ".join(f'lv_name!="{name}"' for name in ["", *pools])
        _output(["lvremove", "--yes", "--force", "--select", others, self.group])

    def measured(self, disk_id: str = DISK) -> int:
        argv = ["lvs", "--noheadings", "--units", "b", "--nosuffix", "-o", "lv_size", f"{self.group}/{disk_id}"]
        return int(_output(argv))

    def grow_by_hand(self, disk_id: str, size_bytes: int) -> None:
        _output(["lvextend", "--size", f"{size_bytes}b", f"{self.group}/{disk_id}"])

    def delete_by_hand(self, disk_id: str) -> None:
        _output(["lvremove", "--yes", f"{self.group}/{disk_id}"])

    def make_foreign(self, name: str) -> None:
        _output(["lvcreate", "--yes", "--addtag", "theirs", "--size", "4m", "--name", name, self.group])

    def foreign_is_there(self, name: str) -> bool:
        found = _output(["lvs", "--noheadings", "-o", "lv_tags", f"{self.group}/{name}"])
        return found.strip() == "theirs"

    def make_stranger(self, size_bytes: int = 8 * MIB) -> str:
        where = ["--type", "thin", "--thinpool", self.pool.path.partition("/")[2], "--virtualsize"]
        where = where if self.pool.kind == "lvmthin" else ["--size"]
        _output(["lvcreate", "--yes", *where, f"{size_bytes}b", "--name", "their-web", self.group])
        return "their-web"


class RbdPlace(Place):
    ceph: Ceph

    def clear(self) -> None:
        # The last first: a clone's name comes after its origin's.
        for name in sorted(json.loads(self.ceph.rbd("ls", "--format", "json")), reverse=True):
            self.ceph.rbd("snap", "purge", name)
            self.ceph.rbd("rm", name)

    def measured(self, disk_id: str = DISK) -> int:
        return int(json.loads(self.ceph.rbd("info", "--format", "json", disk_id))["size"])

    def grow_by_hand(self, disk_id: str, size_bytes: int) -> None:
        self.ceph.rbd("resize", "--no-progress", "--size", f"{size_bytes // MIB}M", disk_id)

    def delete_by_hand(self, disk_id: str) -> None:
        self.ceph.rbd("rm", "--no-progress", disk_id)

    def make_foreign(self, name: str) -> None:
        self.ceph.rbd("create", "--size", "4M", name)
        self.ceph.rbd("bench", "--io-type", "write", "--io-size", "4K", "--io-total", "4K", name)

    def foreign_is_there(self, name: str) -> bool:
        used = json.loads(self.ceph.rbd("du", "--format", "json", name))["images"][0]["used_size"]
        return int(used) > 0

    def make_stranger(self, size_bytes: int = 8 * MIB) -> str:
        self.ceph.rbd("create", "--size", f"{size_bytes // MIB}M", "--image-feature", "layering", "their-web")
        return "their-web"


# --- making them ------------------------------------------------------------------------------------------


def directory(folder: Path, disk_format: DiskFormat) -> DirectoryPlace:
    folder.mkdir()
    pool = PoolSpec(id="p" * 13, kind="directory", identity=make_pool(folder), path=str(folder))
    return DirectoryPlace(f"directory-{disk_format}", pool, disk_format, folder / "keys")


def has_device_mapper() -> bool:
    return subprocess.run(["dmsetup", "version"], capture_output=True).returncode == 0


@contextmanager
def volume_group(folder: Path, name: str = "uleitest") -> Iterator[str]:
    """On two loop devices, by a configuration of our own; without device-mapper there is only what LVM writes down."""
    images = [folder / "pv0", folder / "pv1"]
    devices = []
    for image in images:
        image.touch()
        os.truncate(image, 512 * MIB)
        devices.append(_output(["losetup", "--find", "--show", str(image)]).strip())
    accepted = ", ".join(f'"a|^{device}$|"' for device in devices)
    activation = "" if has_device_mapper() else "global { activation = 0 }\n"
    (folder / "etc").mkdir()
    (folder / "etc/lvm.conf").write_text(
        f'{activation}devices {{\n use_devicesfile = 0\n filter = [ {accepted}, "r|.*|" ]\n}}\n'
        "activation {\n udev_sync = 0\n udev_rules = 0\n monitoring = 0\n}\n"
        "backup {\n backup = 0\n archive = 0\n}\n"
    )
    os.environ["LVM_SYSTEM_DIR"] = str(folder / "etc")
    os.environ["LVM_SUPPRESS_FD_WARNINGS"] = "1"
    try:
        _output(["pvcreate", "--yes", *devices])
        _output(["vgcreate", name, *devices])
        yield name
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            _output(["vgremove", "--yes", "--force", name])
        del os.environ["LVM_SYSTEM_DIR"]
        for device in devices:
            _output(["losetup", "--detach", device])


def logical(group: str, keys: Path, *, stripes: int = 1) -> LvmPlace:
    place = PoolPlace(kind="lvm", path=group, stripes=stripes)
    name = "lvm" if stripes == 1 else "lvm-striped"
    return LvmPlace(name, _found(place, keys), "raw", keys, has_device_mapper())


def thin(group: str, keys: Path) -> LvmPlace:
    if not lvm.read_groups(Shell(), group)[0].volumes.get("thin"):
        _output(["lvcreate", "--yes", "--type", "thin-pool", "--size", "200m", "--name", "thin", group])
    return LvmPlace("lvmthin", _found(PoolPlace(kind="lvmthin", path=f"{group}/thin"), keys), "raw", keys)


def rbd(ceph: Ceph, keys: Path) -> RbdPlace:
    place = PoolPlace(kind="rbd", path=POOL, monitors=ceph.monitors, user="ulei")
    driver = driver_at(place, Shell(), keys)
    driver.keep_key(ceph.key)
    pool = PoolSpec(id="p" * 13, **place.model_dump(exclude={"identity"}), identity=driver.identity())
    made = RbdPlace("rbd", pool, "raw", keys)
    made.ceph = ceph
    return made


def _found(place: PoolPlace, keys: Path) -> PoolSpec:
    identity = driver_at(place, Shell(), keys).identity()
    return PoolSpec(id="p" * 13, **place.model_dump(exclude={"identity"}), identity=identity)


def _output(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


def _qemu_io(image: QemuImage, command: str) -> str:
    return _output_of_both(["qemu-io", "-f", image.format, "-c", command, image.address])


def _output_of_both(argv: list[str]) -> str:
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0 or "Pattern verification failed" in done.stdout, done.stdout
    return done.stdout
