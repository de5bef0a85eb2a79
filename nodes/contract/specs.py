"""Values inside messages: what a disk, a NIC, a domain and a pool are to a node."""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

Id = Annotated[str, StringConstraints(pattern=r"^[a-z2-7]{13}$")]
"""13 lower-case base32 characters of a random 64-bit number; never reused."""

Uuid = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Mac = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""A DNS label (RFC 1123)."""

Title = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f\uFFFE\uFFFF]*$")]
"""Free text on one line: libvirt refuses line breaks, and XML the other control characters."""

MOST_NAME_BYTES = 200
"""A file system takes 255, and a node puts something behind the name while the file comes."""


def _short_enough(name: str) -> str:
    if len(name.encode()) > MOST_NAME_BYTES:
        raise ValueError(f"longer than {MOST_NAME_BYTES} bytes")
    return name


FileName = Annotated[
    str, StringConstraints(max_length=200, pattern=r"^[\w(+][\w .()+~,@=-]*$"), AfterValidator(_short_enough)
]
"""Of an uploaded image or ISO: the same in every folder, shell and log. No dot in front, so that it hides nowhere."""


def _is_address(text: str) -> str:
    return str(ipaddress.ip_address(text))


Address = Annotated[str, StringConstraints(max_length=45), AfterValidator(_is_address)]
SelfFencingAfter = Annotated[int, Field(ge=1, le=86400)]

PoolKind = Literal["directory", "lvm", "lvmthin", "rbd"]
DiskFormat = Literal["qcow2", "raw"]
CloneKind = Literal["full", "linked"]
DiskBus = Literal["virtio", "scsi", "sata", "ide"]
DiskCache = Literal["none", "writeback", "writethrough", "directsync"]
"""Not ``unsafe``: it takes the guest's flush for nothing. Source: qemu-system(1), -drive cache."""
NicModel = Literal["virtio", "rtl8139", "e1000"]
DomainState = Literal["running", "paused", "shutoff", "crashed", "incoming", "absent"]


class Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PoolPlace(Spec):
    """Where a pool is.

    ``identity`` is what the node must find there before it touches anything; empty: not yet known.
    """

    kind: PoolKind
    identity: str = ""
    path: str
    """Directory: its absolute path. LVM: the volume group. Thin LVM: ``<volume group>/<pool>``. RBD: the Ceph pool."""
    stripes: Annotated[int, Field(ge=1, le=128)] = 1
    """LVM: over how many physical volumes each new volume is laid."""
    monitors: tuple[str, ...] = ()
    """RBD: ``host:port`` of each Ceph monitor."""
    user: str = ""
    """RBD: the name of the Ceph user, without ``client.``. Its key came to the node by ``pool.attach``."""


class PoolSpec(PoolPlace):
    """A pool as the panel knows it."""

    id: Id
    identity: str


class PoolFacts(Spec):
    """What a driver says of a pool, as data: callers read facts and never ask for a driver's name."""

    kind: PoolKind
    identity: str
    path: str
    capacity_bytes: Annotated[int, Field(ge=0, lt=1 << 63)]
    free_bytes: Annotated[int, Field(ge=0, lt=1 << 63)]
    granules: Annotated[dict[DiskFormat, Annotated[int, Field(gt=0)]], Field(min_length=1)]
    """Sizes of volumes are multiples of this, for each format that the pool can hold."""
    shared: bool = False
    grows_online: bool = True
    snapshots: bool = False
    names: str = ""
    """Pools with the same one share the names of their volumes; empty: no other pool does."""
    rotational: bool | None = None
    """None: the node cannot tell whether it is an SSD."""
    snapshot_formats: tuple[DiskFormat, ...] = ()
    """Volumes of these formats can have snapshots."""
    snapshots_online: bool = False
    """Also while a guest runs on the volume."""
    snapshots_take_room: bool = False
    """A snapshot is given a size when it is made, and is lost when more than that is written to its volume."""
    memory_formats: tuple[DiskFormat, ...] = ()
    """Volumes of these formats can keep a running guest's memory beside their content."""
    clones: tuple[CloneKind, ...] = ()
    clones_rest: bool = False
    """A linked clone needs its source until it is flattened; False: it stands by itself from the beginning."""
    takes_backups: bool = False
    """The QEMU of a guest that runs can write a copy of its disks into volumes of this pool."""
    fences: bool = False
    """It can shut out a node, whatever still runs there (``disk.fence``)."""
    holds_back: bool = False
    """It can only tell a node that has no power to start nothing by itself when it boots (``disk.fence``)."""
    client_address: Address | Literal[""] = ""
    """Of this node, as the storage sees it; empty: the storage does not tell its clients apart."""
    extent_bytes: int | None = None
    extents_total: int | None = None
    extents_free: int | None = None
    stripes: int | None = None
    chunk_bytes: int | None = None
    """Thin pool: what it gives to a volume at a time."""
    data_percent: float | None = None
    metadata_percent: float | None = None
    """Thin pool: at 100 of either, guests stop with an I/O error."""
    queues_when_full: bool = False
    """Thin pool: a write that finds it full waits for room, for a minute as a rule, and only then fails."""
    problem: str = ""
    """The code of the error for which it cannot be used now; the numbers are then those of before."""


class Stranger(Spec):
    """A volume of a pool that is no disk of anybody's, and of which one could be made."""

    name: FileName
    format: DiskFormat
    size_bytes: Annotated[int, Field(ge=0, lt=1 << 63)]


class VolumesSeen(Spec):
    """The volumes of disks that a node finds in its pools."""

    counter: int
    """The agent's counter when their reading began."""
    sizes: dict[str, dict[Id, Annotated[int, Field(ge=0, lt=1 << 63)]]]
    """Identity of a pool -> disk -> bytes. A pool that cannot be read now is left out."""
    strangers: dict[str, tuple[Stranger, ...]] = {}
    """Identity of a pool -> the first of what is no disk of ours, by name."""


class PoolOffer(Spec):
    """Something on a node of which a pool could be made."""

    kind: PoolKind
    path: str
    identity: str
    capacity_bytes: int
    free_bytes: int
    extent_bytes: int | None = None
    extents_total: int | None = None
    extents_free: int | None = None
    most_stripes: int | None = None
    """LVM: the number of its physical volumes."""
    data_percent: float | None = None
    metadata_percent: float | None = None


class DiskSpec(Spec):
    """A volume to be made. ``backing`` is the absolute path of an image in the same pool."""

    id: Id
    pool: PoolSpec
    format: DiskFormat
    size_bytes: Annotated[int, Field(gt=0)]
    backing: str | None = None
    backing_format: DiskFormat | None = None


class VolumeSpec(Spec):
    """A volume that is there."""

    id: Id
    pool: PoolSpec
    format: DiskFormat


class FileSource(Spec):
    kind: Literal["file"] = "file"
    path: str
    direct_io: bool = True
    """The file system takes O_DIRECT."""


class BlockSource(Spec):
    """A block device of this node."""

    kind: Literal["block"] = "block"
    path: str


class RbdSource(Spec):
    """An image of a Ceph cluster, to which QEMU itself connects."""

    kind: Literal["rbd"] = "rbd"
    name: str
    """``<pool>/<image>``"""
    monitors: tuple[str, ...]
    """``host:port``"""
    user: str
    secret_uuid: str
    """The libvirt secret that holds the user's key."""


DiskSource = Annotated[FileSource | BlockSource | RbdSource, Field(discriminator="kind")]
"""Where a disk's bytes are, seen from one node."""


class MovedDisk(Spec):
    """A disk of a guest that goes to another node."""

    id: Id
    source: DiskSource | None = None
    """Where it is over there; None: a CD-ROM drive with nothing in it."""
    format: DiskFormat = "raw"
    cache: DiskCache | None = None
    """None: what suits the storage over there."""
    copied: bool = False
    """Its content goes along, into the volume that is there already; else both nodes see the same volume."""

    @property
    def pool(self) -> str:
        """What the other node calls the pool: a folder, a volume group, Ceph's pool."""
        if isinstance(self.source, RbdSource):
            return self.source.name.partition("/")[0]
        return str(Path(self.source.path).parent) if self.source else ""


class BackupDisk(Spec):
    """A disk of a guest and the volume, at least as large, that gets its content."""

    disk: Id
    target: VolumeSpec


class DomainDisk(Spec):
    """A disk as the domain sees it; ``boot_order`` counts from 1 over disks and CD-ROMs."""

    device: Literal["disk", "cdrom"] = "disk"
    id: Id
    bus: DiskBus
    pool: PoolSpec | None = None
    format: DiskFormat = "raw"
    iso: str | None = None
    """CD-ROM: the file's name inside the node's ISO folder, without a folder part."""
    boot_order: int | None = None
    cache: DiskCache | None = None
    """None: what suits the storage."""


class NicSpec(Spec):
    """A NIC with its lease and its filter chain. The tap is named ``ul`` + id, which fits into IFNAMSIZ."""

    id: Id
    bridge: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,15}$")]
    model: NicModel = "virtio"
    mac: Mac
    address: str | None = None
    prefix_length: int | None = None
    gateway: str | None = None
    nameservers: tuple[str, ...] = ()

    @property
    def tap(self) -> str:
        return "ul" + self.id


class DomainSpec(Spec):
    """A VM. Its domain is named ``<name>.<id>`` so that a foreign domain of the same name is never taken for ours."""

    id: Id
    uuid: Uuid
    name: Name
    title: str = ""
    vcpus: Annotated[int, Field(ge=1, le=512)]
    memory_bytes: Annotated[int, Field(gt=0)]
    disks: tuple[DomainDisk, ...] = ()
    nics: tuple[NicSpec, ...] = ()

    @property
    def domain_name(self) -> str:
        return f"{self.name}.{self.id}"

    @property
    def only_local_disks(self) -> bool:
        """Law 5: such a guest may start at boot before the panel has answered."""
        return all(d.pool is None or d.pool.kind in ("directory", "lvm", "lvmthin") for d in self.disks)


class Check(Spec):
    """One line of a node's preflight."""

    code: str
    level: Literal["ok", "warning", "error"]
    facts: dict[str, str | int | float | bool | None] = {}
    """Values for the text, which the panel says in the reader's language by ``code`` and ``level``."""


class HostCpu(Spec):
    """What a guest gets that is to have the host's CPU (libvirt's ``host-model``), without what cannot be moved."""

    vendor: str
    model: str
    """By which libvirt calls it; two hosts of one model may differ."""
    features: tuple[str, ...]
    """All of them, the model's own included, in order."""


class Platform(Spec):
    """What a guest that is started on a node becomes used to, and what the node has for guests of others."""

    cpu: HostCpu | None = None
    """None: its guests see nothing of the host's (TCG)."""
    machine: str = ""
    """The machine type of guests that are defined here, as libvirt writes it: ``pc-i440fx-7.2``."""
    machines: tuple[str, ...] = ()
    """All that its QEMU knows."""


class NodeFacts(Spec):
    """What a node is: reported with each hello and each inventory."""

    hostname: str
    cpus: int
    memory_bytes: int
    cpu_model: str
    virt_type: Literal["kvm", "qemu", "test"]
    virt_reason: str = ""
    libvirt_version: str
    qemu_version: str
    host_uuid: str
    bridges: tuple[str, ...] = ()
    simulated: bool = False
    platform: Platform | None = None
    """None: libvirt did not say."""


class SeenDisk(Spec):
    """A disk or a drive of a domain's definition."""

    name: str
    """By which the domain knows it: ``vda``."""
    device: str = "disk"
    id: str = ""
    """Of the panel's disk in whose volume it lies, by the volume's name; empty: it is none of ours."""
    place: str = ""
    """A path, or the ``<pool>/<image>`` of Ceph; empty: a drive with nothing in it."""
    bus: str = ""
    format: str = ""
    boot_order: int | None = None
    size_bytes: int | None = None
    """Of one that is none of ours, where the node can tell."""
    hosts: tuple[str, ...] = ()
    """Of an image of Ceph: the monitors at which the guest's QEMU looks for it, without their ports."""


class SeenNic(Spec):
    mac: str
    bridge: str = ""
    model: str = ""
    tap: str = ""


class Outline(Spec):
    """What a domain's definition says of that which the panel decides: what the guest is from its next start on."""

    title: str = ""
    vcpus: int
    vcpus_current: int
    """So many it starts with; the others could be given to it while it runs."""
    memory_bytes: int
    memory_current_bytes: int
    """So much it starts with: its balloon takes the rest."""
    autostart: bool = False
    persistent: bool = True
    """Defined; else it is gone when it goes off."""
    disks: tuple[SeenDisk, ...] = ()
    nics: tuple[SeenNic, ...] = ()
    beyond: tuple[str, ...] = ()
    """What a guest cannot do without, and no definition of ours has: ``firmware``, ``hostdev``, ``tpm``."""


class DomainFacts(Spec):
    """A domain that the node sees, ours or not."""

    uuid: Uuid
    name: str
    state: DomainState
    vm: Id | None = None
    """From the domain's name; None: it is not ours."""
    cpu_time_ns: int | None = None
    memory_bytes: int | None = None
    reason: str = ""
    """Why it is in its state, where people must know: ``io_error`` (paused by its QEMU)."""
    outline: Outline | None = None
    """None: nothing is said of its definition, which has not changed, or cannot be read."""


class LeaseFacts(Spec):
    """An address that this node gives to a NIC."""

    nic: Id
    bridge: str
    address: str


class FileFacts(Spec):
    """An image or an ISO found in one of the node's folders."""

    name: str
    format: str
    size_bytes: int
    virtual_size_bytes: int
    modified: float
    mark: str = ""
    """The id of the panel's file of which it is a copy; empty: somebody put it there."""
