"""What travels: one frozen model per verb to a node, and the entries of a node's stream back.

Messages only grow, and only by optional fields: a golden JSON of each is read back by every later version.
A message that changes something names exactly one object of its node.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from .errors import ErrorInfo
from .sizes import MAX_BYTES
from .specs import (
    Address,
    BackupDisk,
    Check,
    DiskSpec,
    DomainDisk,
    DomainFacts,
    DomainSpec,
    DomainState,
    FileFacts,
    FileName,
    Id,
    LeaseFacts,
    MovedDisk,
    Name,
    NicSpec,
    NodeFacts,
    Outline,
    PoolFacts,
    PoolOffer,
    PoolSpec,
    SelfFencingAfter,
    Spec,
    Uuid,
    VolumeSpec,
    VolumesSeen,
)

PROTOCOL = 1
"""Raised only when an agent of another number could not be understood at all."""


class Result(BaseModel):
    """The useful part of a reply. Unknown fields are ignored: an older panel may hear a newer agent."""

    model_config = ConfigDict(frozen=True)


class Nothing(Result):
    pass


class Message(Spec):
    """The body of a verb."""

    verb: ClassVar[str]
    changes: ClassVar[bool] = True
    long: ClassVar[bool] = False
    """May hold a thread of the agent for more than a few seconds; the panel keeps at most 16 of them on a node."""
    move: ClassVar[bool] = False
    """Not a plain "make it so": run again, it first looks (design 4, rule 2)."""
    result: ClassVar[type[Result]] = Nothing

    @property
    def object(self) -> str:
        """The one object of the node that this names: ``<kind>:<id>``."""
        raise NotImplementedError


# --- disks ------------------------------------------------------------------------------------------------


class VolumeFacts(Result):
    size_bytes: Annotated[int, Field(ge=0, le=MAX_BYTES)]
    """As the driver measured it after creation."""


class DiskCreate(Message):
    """Make the volume, owner mark first, final name last. On a volume without this disk's mark: ``exists_not_ours``."""

    verb = "disk.create"
    result = VolumeFacts
    disk: DiskSpec

    @property
    def object(self) -> str:
        return "disk:" + self.disk.id


class _Volume(Message):
    id: Id
    pool: PoolSpec
    format: Literal["qcow2", "raw"]

    @property
    def object(self) -> str:
        return "disk:" + self.id


class DiskDelete(_Volume):
    """Remove the volume with exactly this disk's mark; refused (``disk_in_use``) while the node sees any user of it."""

    verb = "disk.delete"


class DiskRename(_Volume):
    """Make it the volume of another disk, which has none: so the source of a move is kept until it is deleted.

    Under the new name already: done. Refused (``disk_in_use``) while the node sees any user of it.
    """

    verb = "disk.rename"
    new: Id


class DiskState(Result):
    exists: bool
    ours: bool = False
    size_bytes: int | None = None
    used_by: tuple[str, ...] = ()
    """Domains of this node, and what in the pool rests on the volume: overlays, clones, snapshots, other clients."""
    snapshots: tuple[str, ...] = ()
    independent: bool | None = None
    """It rests on no other volume; None: the node does not say."""


class DiskLook(_Volume):
    verb = "disk.look"
    changes = False
    result = DiskState


class DiskUnused(_Volume):
    """Refused (``disk_in_use``) while the node sees any user of the volume: asked of every node before a deletion."""

    verb = "disk.unused"
    changes = False


class DiskTake(_Volume):
    """Make a volume that is nobody's this disk's: owner mark first, final name last. Its content is not touched.

    Taken already: done. Certain ``volume_absent``, ``volume_taken`` (it is a disk's, or an image's), ``disk_in_use``
    while the node sees any user of it, ``image_...`` and ``unsupported`` for what cannot be a disk.
    """

    verb = "disk.take"
    result = VolumeFacts
    name: FileName
    """Of the volume in its pool."""
    user: Uuid | None = None
    """Of a domain of this node that has it and is to keep it; while it runs: a certain ``domain_active``."""


class DiskGiveBack(_Volume):
    """The undo of ``disk.take``: the volume gets back its name, and loses the mark."""

    verb = "disk.give_back"
    name: FileName


class DiskResize(_Volume):
    """Grow the volume, then tell the guest that runs on it. Never shrinks: certain ``would_shrink``."""

    verb = "disk.resize"
    result = VolumeFacts
    size_bytes: Annotated[int, Field(gt=0, le=MAX_BYTES)]


class DiskClone(Message):
    """Make a volume with the content of another one, or of a snapshot of it; the source may be in another pool.

    Without a snapshot, and where snapshots lie inside the file, no guest may run on the source. ``linked``: only where
    the pool's facts say so.
    """

    verb = "disk.clone"
    long = True
    result = VolumeFacts
    disk: DiskSpec
    source: VolumeSpec
    snapshot: Id | None = None
    linked: bool = False

    @property
    def object(self) -> str:
        return "disk:" + self.disk.id


class DiskFlatten(_Volume):
    """Give a linked clone all that it has from its source, also while a guest runs on it: it rests on nothing then.

    A cancel stops it where no guest runs on it; else the guest's QEMU does it, and lets nobody stop it.
    """

    verb = "disk.flatten"
    long = True


Quiesce = Literal["auto", "no", "required"]


class KeptVolume(Result):
    quiesced: bool = False
    """The guest's file systems stood still at that instant."""


class DiskSnapshot(_Volume):
    """Keep the volume as it is now, under an id that the panel made."""

    verb = "disk.snapshot"
    long = True
    result = KeptVolume
    snapshot: Id
    quiesce: Quiesce = "no"
    """Whether the agent inside the guest that runs on it is asked to let the file systems stand still meanwhile.

    ``required``: a guest that does not do it is a certain ``guest_agent_silent``.
    """
    room_bytes: Annotated[int, Field(gt=0, le=MAX_BYTES)] | None = None
    """Where ``snapshots_take_room``: for how many written bytes; None: for the whole volume, which is always enough."""


class DiskSnapshotDelete(_Volume):
    verb = "disk.snapshot_delete"
    long = True
    snapshot: Id


class DiskRevert(_Volume):
    """The volume gets back the content of the snapshot, which stays. No guest may run on it."""

    verb = "disk.revert"
    long = True
    result = VolumeFacts
    snapshot: Id


class DiskFence(_Volume):
    """Shut a node, which has these addresses, out of the volume's pool until ``pool.unfence``.

    Where the pool's facts say ``fences``: from the answer on nothing that runs there can write to the volume, whatever
    it may have been asked to do; somebody elsewhere who has it open is a certain ``disk_watched``. Where they say
    ``holds_back``: the node starts no guest with a disk in that pool at its boot, before the panel has answered.
    """

    verb = "disk.fence"
    long = True
    node: Id
    addresses: Annotated[tuple[Address, ...], Field(min_length=1)]


# --- pools ------------------------------------------------------------------------------------------------


class AttachedPool(Result):
    facts: PoolFacts


class PoolAttach(Message):
    """From now on the node tells of this pool in its inventory. An empty identity asks for the one that is found."""

    verb = "pool.attach"
    result = AttachedPool
    pool: PoolSpec
    key: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/=]*$", repr=False)] = ""
    """RBD: the Ceph user's key. Secret."""

    @property
    def object(self) -> str:
        return "pool:" + self.pool.id


class FoundVolume(Result):
    format: Literal["qcow2", "raw"]
    size_bytes: Annotated[int, Field(ge=0, le=MAX_BYTES)]


class PoolFind(Message):
    """Look at a volume of the pool that is nobody's disk. Refused as ``disk.take`` would be."""

    verb = "pool.find"
    changes = False
    result = FoundVolume
    pool: PoolSpec
    name: FileName
    user: Uuid | None = None
    """As in ``disk.take``."""

    @property
    def object(self) -> str:
        return "pool:" + self.pool.id


class PoolDetach(Message):
    """Forget the pool; its volumes stay."""

    verb = "pool.detach"
    id: Id

    @property
    def object(self) -> str:
        return "pool:" + self.id


class PoolUnfence(Message):
    """Let the node, which has these addresses, in again."""

    verb = "pool.unfence"
    pool: PoolSpec
    node: Id
    addresses: tuple[Address, ...]

    @property
    def object(self) -> str:
        return "pool:" + self.pool.id


# --- images and ISOs that the panel keeps -----------------------------------------------------------------


class _File(Message):
    """A file in the node's folder of images or of ISOs, with the id of the panel's as its owner mark."""

    id: Id
    kind: Literal["image", "iso"]
    name: FileName

    @property
    def object(self) -> str:
        return "file:" + self.id


class FileFetch(_File):
    """Get the file from the panel, compare its checksum, and only then give it its name.

    A file of that name without this mark: ``exists_not_ours``. An attempt that was cut is gone on with.
    """

    verb = "file.fetch"
    long = True
    url: Annotated[str, Field(max_length=300, pattern=r"^https://[!-~]+$")]
    """On the listener with the certificate of the cluster's CA itself."""
    token: Annotated[str, Field(max_length=500, pattern=r"^[!-~]+$", repr=False)]
    """Good for this file while the job is open. Secret."""
    size_bytes: Annotated[int, Field(gt=0, le=MAX_BYTES)]
    checksum: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class FileContent(Result):
    """What a file of which only the node knew turned out to be."""

    size_bytes: Annotated[int, Field(gt=0, le=MAX_BYTES)]
    virtual_size_bytes: Annotated[int, Field(ge=0, le=MAX_BYTES)]
    format: Literal["qcow2", "raw", "iso"]
    checksum: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class FileDownload(_File):
    """Get the file from the web, look at it, and only then give it its name. As ``FileFetch`` otherwise."""

    verb = "file.download"
    long = True
    result = FileContent
    url: Annotated[str, Field(max_length=2000, pattern=r"^https?://[!-~]+$", repr=False)]
    """May let in whoever has it. Secret."""
    checksum: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""
    """Empty: nobody knows it beforehand."""
    most_bytes: Annotated[int, Field(gt=0, le=MAX_BYTES)]
    networks: tuple[str, ...] = ()
    """Beside public addresses it may come from these (:mod:`nodes.contract.origin`)."""


class FileMake(_File):
    """Make an image with the content of a volume, on which no guest may run. An attempt that was cut is begun anew."""

    verb = "file.make"
    long = True
    result = FileContent
    source: VolumeSpec
    generalise: bool = False
    """Take out of it what only one machine may have. No Linux in it: certain ``guest_unsupported``."""


class FileSend(_File):
    """Give the panel a file that this node has; one of which a part is there already is gone on with."""

    verb = "file.send"
    long = True
    url: Annotated[str, Field(max_length=300, pattern=r"^https://[!-~]+$")]
    token: Annotated[str, Field(max_length=500, pattern=r"^[!-~]+$", repr=False)]
    """Both as in ``FileFetch``; the token lets this file be written."""
    size_bytes: Annotated[int, Field(gt=0, le=MAX_BYTES)]
    checksum: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class FileDelete(_File):
    """Remove the file with exactly this mark; refused (``file_in_use``) while the node sees any user of it."""

    verb = "file.delete"


class FileState(Result):
    exists: bool
    ours: bool = False
    used_by: tuple[str, ...] = ()
    """Domains of this node, and volumes that rest on the file."""


class FileLook(_File):
    verb = "file.look"
    changes = False
    result = FileState


# --- NICs -------------------------------------------------------------------------------------------------


class NicPlug(Message):
    """Lease and filter chain of a NIC, before its tap exists."""

    verb = "nic.plug"
    nic: NicSpec

    @property
    def object(self) -> str:
        return "nic:" + self.nic.id


class NicUnplug(Message):
    verb = "nic.unplug"
    id: Id
    bridge: str

    @property
    def object(self) -> str:
        return "nic:" + self.id


# --- domains ----------------------------------------------------------------------------------------------


class DomainWhereabouts(Result):
    """Law 1's columns: what one side shows."""

    state: DomainState
    job_active: bool = False
    """A migration (or another background job of libvirt) is under way."""
    paused_by_migration: bool = False
    post_copy: bool = False
    """It stands still because its memory is on both nodes: nobody can undo that."""
    defined: bool = False


class _Domain(Message):
    result: ClassVar[type[Result]] = DomainWhereabouts
    vm: Id
    uuid: Uuid

    @property
    def object(self) -> str:
        return "domain:" + self.vm


class DomainDefine(Message):
    """Write the domain's definition; never libvirt's autostart (law 5)."""

    verb = "domain.define"
    result = DomainWhereabouts
    domain: DomainSpec

    @property
    def object(self) -> str:
        return "domain:" + self.domain.id


class DomainTake(Message):
    """Make a domain that somebody else defined ours: it gets our name and our definition. What it had is kept.

    Its volumes are taken first. Certain ``domain_active`` while it runs, ``domain_keeps_state`` while libvirt keeps
    snapshots or a saved memory of it: those would still name what it had.
    """

    verb = "domain.take"
    result = DomainWhereabouts
    domain: DomainSpec
    name: Annotated[str, Field(min_length=1, max_length=255)]
    """As it is called until then."""

    @property
    def object(self) -> str:
        return "domain:" + self.domain.id


class DomainGiveBack(_Domain):
    """The undo of ``domain.take``: it is defined again as it was, under the name that it had."""

    verb = "domain.give_back"
    name: Annotated[str, Field(min_length=1, max_length=255)]


class DomainUndefine(_Domain):
    """Forget the definition of a domain that is shut off; a running one is a certain ``domain_active``."""

    verb = "domain.undefine"


class DomainStart(_Domain):
    verb = "domain.start"
    paused: bool = False
    for_now: bool = False
    """Only for what follows: a boot of the node does not start it again. ``paused``, too: to be moved and ended."""


class DomainShutdown(_Domain):
    """Press the power button (ACPI) and wait. Not off in time: certain ``guest_did_not_shut_down``."""

    verb = "domain.shutdown"
    long = True
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 120.0


class DomainStop(_Domain):
    """Pull the plug (libvirt: destroy)."""

    verb = "domain.stop"


class DomainSuspend(_Domain):
    verb = "domain.suspend"


class DomainResume(_Domain):
    verb = "domain.resume"


class DomainReboot(_Domain):
    """Ask the guest to reboot (ACPI), or its agent where it answers."""

    verb = "domain.reboot"


class DomainReset(_Domain):
    """The reset button: no word to the guest."""

    verb = "domain.reset"


class PluggedDisk(DomainWhereabouts):
    has: bool | None = None
    """Whether the guest that runs has the disk; None: no guest runs, and its definition alone counts."""


class DomainPlug(_Domain):
    """Give a guest that runs one more disk. Its definition is another message's business."""

    verb = "domain.plug"
    result = PluggedDisk
    disk: DomainDisk


class DomainUnplug(_Domain):
    """Take a disk from a guest that runs. One that does not let go in time keeps it until it is off: no failure."""

    verb = "domain.unplug"
    long = True
    result = PluggedDisk
    disk: Id
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 15.0


class DomainMedium(_Domain):
    """Change what lies in the CD-ROM drive of a guest that runs; a guest that locked its drive is not asked."""

    verb = "domain.medium"
    result = PluggedDisk
    disk: DomainDisk


"""Whether the guest's own agent is asked to let its file systems stand still: where it answers, never, or else not."""


class FrozenDomain(DomainWhereabouts):
    frozen: bool = False
    """Freeze: its file systems stand still. Thaw: they did until now."""


class DomainFreeze(_Domain):
    """Ask the agent in a guest that runs to let its file systems stand still; the node thaws them after a minute.

    Where none answers, nothing happens; ``required``: that is a certain ``guest_agent_silent``.
    """

    verb = "domain.freeze"
    long = True
    result = FrozenDomain
    required: bool = False


class DomainThaw(_Domain):
    """Let them go on. A guest that does not answer is asked again by the node until it does, or is off: no failure."""

    verb = "domain.thaw"
    result = FrozenDomain


class DomainSave(_Domain):
    """Keep the memory of a guest that runs and the content of its disks, under an id that the panel made.

    All of its disks are named, the first has to keep the memory too; the guest stands still meanwhile. Certain
    ``snapshot_failed``.
    """

    verb = "domain.save"
    long = True
    snapshot: Id
    disks: tuple[Id, ...]


class DomainLoad(_Domain):
    """Let a guest go on from where ``domain.save`` kept it; one that runs is ended first.

    Certain ``memory_not_loaded``: the guest is off.
    """

    verb = "domain.load"
    long = True
    snapshot: Id
    disks: tuple[Id, ...]


class BackedUpDomain(DomainWhereabouts):
    quiesced: bool = False
    """Its file systems stood still at the instant of the copy."""


class DomainBackup(_Domain):
    """Copy disks of a guest that runs into volumes that are there, all of them as they are at one instant.

    One that is under way is ended first, and its copies are begun anew. Without disks it is only ended.
    """

    verb = "domain.backup"
    long = True
    result = BackedUpDomain
    disks: tuple[BackupDisk, ...] = ()
    quiesce: Quiesce = "no"


class DomainMirror(_Domain):
    """Copy a disk of a guest that runs into a volume that is there and as large, and write to both from then on.

    Done when the two are alike. One that is under way is gone on with. Without a target it is ended, and the guest
    stays where it was.
    """

    verb = "domain.mirror"
    long = True
    disk: Id
    target: VolumeSpec | None = None


class DomainPivot(_Domain):
    """The guest leaves the volume from which its disk is mirrored, and goes on with the target alone.

    A guest, or the definition of one that is off, that is there already: done. Certain ``mirror_lost`` where there is
    no mirror that is ready: the guest is where it was.
    """

    verb = "domain.pivot"
    disk: Id
    target: VolumeSpec


# --- domains that move to another node ----------------------------------------------------------------------


class ExpectedDomain(DomainWhereabouts):
    disks: tuple[MovedDisk, ...] = ()
    """Where each of its disks is on this node."""


class DomainExpect(Message):
    """Let a domain come in from another node: this one opens itself for that node's address, until told otherwise.

    A domain with this uuid that is here already: a certain ``domain_here``. Its volumes, leases and filters have to
    stand before.
    """

    verb = "domain.expect"
    result = ExpectedDomain
    domain: DomainSpec
    source_address: Annotated[str, Field(max_length=45)]

    @property
    def object(self) -> str:
        return "domain:" + self.domain.id


class DomainDismiss(_Domain):
    """The undo of ``domain.expect``: whatever waits here for a migration goes, and the node closes itself.

    A domain that runs here, or is defined, is never touched: a certain ``domain_here``.
    """

    verb = "domain.dismiss"


class DomainMove(_Domain):
    """Move a guest that runs or is paused to another node, peer to peer; the domain here is gone when it is done.

    Run again it only looks: ``move_unknown``, uncertain, unless the guest is seen to have stayed. A certain failure
    means that it has stayed here and goes on. Source: libvirt.org/migration.html
    """

    verb = "domain.move"
    long = True
    move = True
    target: Name
    """The name of the other node, as /etc/hosts and its certificate have it."""
    target_address: Annotated[str, Field(max_length=45)]
    disks: tuple[MovedDisk, ...] = ()
    bandwidth_bytes: Annotated[int, Field(ge=1 << 20, le=MAX_BYTES)] | None = None
    """A second; None: whatever the link gives."""
    max_pause_ms: Annotated[int, Field(ge=1, le=2_000_000)] | None = None
    auto_converge: bool = False
    """Slow down the guest's CPUs for as long as it writes faster than the link takes."""
    compressed: bool = False
    post_copy: bool = False
    """After the first pass the guest goes on over there, and what it misses is fetched: then there is no way back."""
    time_limit_s: Annotated[int, Field(ge=1, le=7 * 86400)] | None = None
    on_time_limit: Literal["abort", "force"] = "abort"
    """force: the guest is paused until it has arrived."""


class DomainKeep(_Domain):
    """The undo of ``domain.move``: the guest is here, and is as it was before.

    ``domain_absent`` where it is not here; a migration that has not ended: ``domain_migrating``.
    """

    verb = "domain.keep"
    paused: bool = False


class DomainAdopt(Message):
    """A guest has arrived: it gets its definition and its power state, and the node closes itself again."""

    verb = "domain.adopt"
    result = DomainWhereabouts
    domain: DomainSpec
    state: Literal["running", "paused", "shutoff"]

    @property
    def object(self) -> str:
        return "domain:" + self.domain.id


class DomainLeave(_Domain):
    """A guest has gone to another node: what a migration left behind here goes.

    One that runs here is never touched: a certain ``domain_active``.
    """

    verb = "domain.leave"


class GuestLoad(Result):
    """What a guest would have to be sent, and how fast it changes."""

    memory_bytes: Annotated[int, Field(ge=0)]
    """Of the guest, as much as it has ever touched; 0 of one that is off."""
    dirty_bytes: Annotated[int, Field(ge=0)] | None
    """Of memory that it changes in a second; None: its QEMU cannot tell."""
    allocated: dict[Id, Annotated[int, Field(ge=0)]] = {}
    """Disk -> bytes that its volume holds."""


class DomainMeasure(_Domain):
    """Look for a second at how fast a guest changes its memory. Source: QEMU, docs/about, ``calc-dirty-rate``."""

    verb = "domain.measure"
    changes = False
    result = GuestLoad
    disks: tuple[Id, ...] = ()
    """Of which it says how much their volumes hold."""


class PathPort(Result):
    port: int


class PathOpen(_Domain):
    """Take what another node sends for a moment, so that it can measure; ``domain.dismiss`` closes the node again."""

    verb = "domain.open_path"
    result = PathPort
    source_address: Annotated[str, Field(max_length=45)]


class PathFacts(Result):
    bandwidth_bytes: Annotated[int, Field(ge=0)]
    """A second."""
    round_trip_us: Annotated[int, Field(ge=0)]


class PathMeasure(_Domain):
    """How fast another node takes what this one sends over TLS."""

    verb = "domain.measure_path"
    changes = False
    result = PathFacts
    target: Name
    target_address: Annotated[str, Field(max_length=45)]
    port: Annotated[int, Field(ge=1, le=65535)]


class ReadDomain(DomainWhereabouts):
    outline: Outline | None = None
    """None: it is not here."""


class DomainRead(_Domain):
    """What a domain's definition says now."""

    verb = "domain.read"
    changes = False
    result = ReadDomain
    name: Annotated[str, Field(max_length=255)] = ""
    """Of one that is none of ours yet."""


class DomainLook(_Domain):
    """Whereabouts of one domain on this node; after an uncertain answer, both nodes of a move are asked."""

    verb = "domain.look"
    changes = False


# --- the node itself --------------------------------------------------------------------------------------


class NodeInspect(Message):
    """Run the preflight again and send a full inventory."""

    verb = "node.inspect"
    changes = False
    long = True
    peers: dict[str, str] | None = None
    """name -> address of every node of the cluster: each must resolve the others. None: as the node knows them."""
    volumes: bool = False
    """Tell of the volumes too, although they were told of not long ago."""

    @property
    def object(self) -> str:
        return "node"


class NodeSelfFencing(Message):
    """After how long without the panel the node ends its guests that could be started elsewhere; None: never."""

    verb = "node.self_fencing"
    after_s: SelfFencingAfter | None = None

    @property
    def object(self) -> str:
        return "node:self_fencing"


class DemoMark(Message):
    """The demo operation's harmless effect: a small file in the agent's state folder."""

    verb = "demo.mark"
    id: Id

    @property
    def object(self) -> str:
        return "demo:" + self.id


class DemoUnmark(Message):
    verb = "demo.unmark"
    id: Id

    @property
    def object(self) -> str:
        return "demo:" + self.id


VERBS: dict[str, type[Message]] = {
    m.verb: m
    for m in (
        DiskCreate,
        DiskDelete,
        DiskRename,
        DiskLook,
        DiskUnused,
        DiskTake,
        DiskGiveBack,
        DiskResize,
        DiskClone,
        DiskFlatten,
        DiskSnapshot,
        DiskSnapshotDelete,
        DiskRevert,
        DiskFence,
        PoolAttach,
        PoolFind,
        PoolDetach,
        PoolUnfence,
        FileFetch,
        FileDownload,
        FileMake,
        FileSend,
        FileDelete,
        FileLook,
        NicPlug,
        NicUnplug,
        DomainDefine,
        DomainGiveBack,
        DomainTake,
        DomainUndefine,
        DomainStart,
        DomainShutdown,
        DomainStop,
        DomainSuspend,
        DomainResume,
        DomainReboot,
        DomainReset,
        DomainPlug,
        DomainUnplug,
        DomainMedium,
        DomainFreeze,
        DomainThaw,
        DomainSave,
        DomainLoad,
        DomainBackup,
        DomainMirror,
        DomainPivot,
        DomainExpect,
        DomainDismiss,
        DomainMove,
        DomainKeep,
        DomainAdopt,
        DomainLeave,
        DomainRead,
        DomainLook,
        DomainMeasure,
        PathOpen,
        PathMeasure,
        NodeInspect,
        NodeSelfFencing,
        DemoMark,
        DemoUnmark,
    )
}


class Envelope(Spec):
    """The keyword argument ``envelope`` of a verb's Celery task.

    ``dispatch`` grows for ever per (node, object); None for a verb that only reads. The rest rides along
    for the logs and so that a reply finds its step.
    """

    verb: str
    object: str
    dispatch: int | None
    job: str
    step: str
    phase: Literal["do", "undo", "settle"]
    attempt: int
    body: dict[str, Any]


class Control(BaseModel):
    """Not a verb. Unknown fields are ignored: an older agent must hear a newer panel at least this far."""

    model_config = ConfigDict(frozen=True)


class Cancel(Control):
    """The keyword argument ``cancel`` of the control message; names the number.

    Early, it is remembered; for a finished verb it changes nothing and the reply says so.
    """

    object: str
    dispatch: int
    job: str
    step: str


class Welcome(Control):
    """The panel's answer to a hello, on the welcome list: nothing runs on the node before it.

    ``raises``: object -> lowest number that may still run here. ``placed``: uuids of the guests that the panel
    places on this node; ``wanted running`` is cleared for every raised domain that is not among them.
    """

    incarnation: int
    raises: dict[str, int] = {}
    placed: tuple[Uuid, ...] = ()
    pools: tuple[PoolSpec, ...] = ()
    self_fencing_after_s: SelfFencingAfter | None = None


# --- the node's stream: entries {"e": <JSON>} ---------------------------------------------------------------

Outcome = Literal["done", "failed", "uncertain", "cancelled", "superseded"]


class Entry(BaseModel):
    model_config = ConfigDict(frozen=True)

    incarnation: int
    counter: int
    """The agent's counter, taken when reading began (reports) or after the effect (replies). It never shrinks."""


class Reply(Entry):
    type: Literal["reply"] = "reply"
    verb: str
    object: str
    dispatch: int | None
    job: str
    step: str
    phase: Literal["do", "undo", "settle"]
    attempt: int
    outcome: Outcome
    result: dict[str, Any] = {}
    error: ErrorInfo | None = None


class Progress(Entry):
    type: Literal["progress"] = "progress"
    object: str
    dispatch: int | None
    job: str
    step: str
    percent: Annotated[int, Field(ge=0, le=100)]
    facts: dict[str, int] = {}
    """Of a move: how much is left, how fast it goes (``nodes.hypervisor.migration.Progress``)."""


class Hello(Entry):
    type: Literal["hello"] = "hello"
    protocol: int
    version: str
    verbs: dict[str, tuple[str, ...]]
    """verb -> names of the fields it knows."""
    facts: NodeFacts


class Heartbeat(Entry):
    type: Literal["heartbeat"] = "heartbeat"
    load_1m: float
    memory_available_bytes: int
    wall_clock: float
    """The node's time, seconds since the epoch: for the clock skew check."""
    libvirt_ok: bool = True


class Inventory(Entry):
    """Everything: after a hello, after a restart of libvirtd, each minute, and when asked."""

    type: Literal["inventory"] = "inventory"
    facts: NodeFacts
    checks: tuple[Check, ...]
    domains: tuple[DomainFacts, ...]
    pools: tuple[PoolFacts, ...]
    offers: tuple[PoolOffer, ...] = ()
    images: tuple[FileFacts, ...]
    isos: tuple[FileFacts, ...]
    leases: tuple[LeaseFacts, ...] = ()
    volumes: VolumesSeen | None = None
    """None: they were not looked at. They are told of more rarely than the rest, for there may be thousands."""


class DomainChanged(Entry):
    """One or more domains changed their state or their definition (gathered for a few milliseconds)."""

    type: Literal["domains"] = "domains"
    domains: tuple[DomainFacts, ...]


StreamEntry = Annotated[Reply | Progress | Hello | Heartbeat | Inventory | DomainChanged, Field(discriminator="type")]

_ENTRIES: TypeAdapter[Any] = TypeAdapter(StreamEntry)


def read_entry(raw: str | bytes) -> Reply | Progress | Hello | Heartbeat | Inventory | DomainChanged:
    """Parse one stream entry. Raises ``pydantic.ValidationError`` on what no known version sends."""
    entry: Reply | Progress | Hello | Heartbeat | Inventory | DomainChanged = _ENTRIES.validate_json(raw)
    return entry


def known_fields(verb: str) -> tuple[str, ...]:
    return tuple(VERBS[verb].model_fields)


def body_of(message: Message) -> dict[str, Any]:
    """The message as JSON with unset fields left out, so that an older agent is not asked what it cannot know."""
    return message.model_dump(mode="json", exclude_unset=True)


# --- enrolment: POST https://<panel>:8101/api/v1/enrol/ ------------------------------------------------------


class EnrolRequest(Control):
    """What a stranger says. The panel gives the digest to Redis, where one user that it refuses is an error for all."""

    token: str
    certificate_request_pem: str
    redis_password_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    version: Annotated[str, Field(max_length=32)]
    hostname: Annotated[str, Field(pattern=r"^[!-~]{1,255}$")]
    host_uuid: Annotated[str, Field(max_length=36)]


class EnrolAnswer(Control):
    node: Id
    name: str
    certificate_pem: str
    ca_pem: str
    redis_host: str
    redis_port: int
    peers: dict[str, str] = {}
    """name -> address of every node of the cluster, for /etc/hosts."""
