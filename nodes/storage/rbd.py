"""Volumes as images of a Ceph pool: ``<disk id>``, with the owner mark in the image's metadata, ``ulei.disk``.

Ceph cannot make an image and its metadata in one step, so an image begins as ``<disk id>.part``, is marked, filled,
and renamed last. A part that was not yet marked when its maker died is nobody's as long as nothing was written to it.

Ceph is spoken to by its own library inside this process: one connection serves every verb, and what it says of a
failure is a number and no text. Source: docs.ceph.com/en/pacific/rbd/api/librbdpy.
"""

import errno
import json
import re
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from nodes.contract.errors import NodeError
from nodes.contract.faults import point
from nodes.contract.messages import DiskState, VolumeFacts
from nodes.contract.sizes import round_up
from nodes.contract.specs import DiskFormat, DiskSpec, PoolFacts, PoolKind, PoolPlace, RbdSource, Stranger, VolumeSpec
from nodes.files import write_atomically
from nodes.shell import Cancellation, Cancelled, Shell
from nodes.storage.base import (
    Driver,
    Fill,
    QemuImage,
    Readable,
    Secret,
    Users,
    Volume,
    absent,
    can_be_told,
    check_grows,
    check_holds,
    check_same_size,
    check_unused,
    is_a_disk,
    no_room,
    not_ours,
    snapshot_absent,
    unfit,
    volume_absent,
)

MARK = "ulei.disk"
ORDER = 22
OBJECT_BYTES = 1 << ORDER
CONNECT_TIMEOUT_S = 10
OPERATION_TIMEOUT_S = 60
DEAD_WATCHER_TIMEOUT_S = 40.0
"""A client that was killed counts as a watcher for another 30 s. Source: Ceph, osd_client_watch_timeout."""
WATCHER_LOOK_S = 1.0
FENCED_FOR_S = 10 * 365 * 86400
"""Ceph forgets a blocked address by itself after an hour, unless told otherwise."""
CAPS_HINT = "Give it: mon 'profile rbd, allow command \"osd blocklist\" with blocklistop=rm'."
SECRETS = uuid.UUID("5b1f2f0e-3b0a-4c55-9d0c-5f3a1d0f7c11")
"""The namespace of our secrets' uuids: every node gives the same key the same uuid, so that a guest can move."""

SECTOR_BYTES = 512
CLONE = "clone-"
"""So begins the name of a snapshot that stands only while a linked clone of it is made."""
USER_NAMESPACE = 0
"""Source: Ceph, librbd.h, RBD_SNAP_NAMESPACE_TYPE_USER."""

_CLIENT = re.compile(r"(?P<address>\[[0-9a-f:.]+\]|[0-9.]+):\d+/\d+")
"""As Ceph writes a client."""
_VOLUME = re.compile(r"[a-z2-7]{13}(\.part)?")
_NO_SNAPSHOT = (1 << 64) - 2
"""The image itself. Source: Ceph, rados.h, CEPH_NOSNAP."""
_AT_ONCE = 256
_connections: dict[tuple[Any, ...], Any] = {}
_in_vain: dict[tuple[Any, ...], tuple[float, Exception]] = {}
"""Where a connection could not be made last: when (monotonic), and why."""
_connecting = threading.Lock()


class RbdDriver(Driver):
    KIND: ClassVar[PoolKind] = "rbd"
    SNAPSHOTS_ONLINE = True

    def __init__(self, pool: PoolPlace, shell: Shell, keys: Path) -> None:
        super().__init__(pool, shell, keys)
        self._fsid = pool.identity.partition("/")[0]

    # --- the cluster --------------------------------------------------------------------------------------

    @property
    def _secret_uuid(self) -> str:
        return str(uuid.uuid5(SECRETS, f"{self._fsid}/{self.pool.user}"))

    @property
    def _keyring(self) -> Path:
        return self.keys / f"{self._secret_uuid}.keyring"

    def keep_key(self, key: str) -> Secret:
        with self._errors():
            cluster = self._connected(key=key)
            self._fsid = cluster.get_fsid()
            cluster.shutdown()
        write_atomically(self._keyring, f"[client.{self.pool.user}]\n\tkey = {key}\n")
        self._forget_connection()
        return Secret(self._secret_uuid, f"ulei {self._fsid} client.{self.pool.user}")

    def _connected(self, **key: str) -> Any:
        rados, _ = _bindings()
        settings = {
            "mon_host": ",".join(self.pool.monitors),
            "client_mount_timeout": str(CONNECT_TIMEOUT_S),
            "rados_mon_op_timeout": str(CONNECT_TIMEOUT_S),
            "rados_osd_op_timeout": str(OPERATION_TIMEOUT_S),
            "log_to_stderr": "false",
            "err_to_stderr": "false",
            "rbd_default_clone_format": "2",
            **key,
        }
        cluster = rados.Rados(rados_id=self.pool.user, conf=settings)
        cluster.connect(timeout=CONNECT_TIMEOUT_S)
        return cluster

    @property
    def _place(self) -> tuple[Any, ...]:
        return (self.pool.monitors, self.pool.user, self._keyring)

    def _cluster(self) -> Any:
        if known := _connections.get(self._place):
            return known  # while somebody waits for another cluster
        asked = time.monotonic()
        with _connecting:
            if self._place not in _connections:
                if not self._keyring.exists():
                    raise NodeError("pool_absent", f"this node has no key of client.{self.pool.user} for {self._fsid}")
                tried, error = _in_vain.get(self._place, (asked, None))
                if error is not None and tried > asked:
                    raise error  # of those who waited for their turn each would wait as long again
                _connections[self._place] = self._first_connection()
            return _connections[self._place]

    def _first_connection(self) -> Any:
        try:
            return self._connected(keyring=str(self._keyring))
        except Exception as error:
            _in_vain[self._place] = time.monotonic(), error
            raise

    def _forget_connection(self) -> None:
        with _connecting:
            _connections.pop(self._place, None)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Ceph's errors that no line below foresaw. Never certain: what was asked may have happened, or happen yet."""
        rados, rbd = _bindings()
        try:
            yield
        except (rados.Error, rbd.Error) as error:
            self._forget_connection()
            raise self._unreachable(str(error)) from None

    def _unreachable(self, why: str) -> NodeError:
        return NodeError(
            "pool_unreachable",
            f"the Ceph pool {self.pool.path} at {', '.join(self.pool.monitors)}: {why}",
            "Look at the cluster: ceph status.",
            retryable=True,
            certain=False,
        )

    @contextmanager
    def _pool(self) -> Iterator[tuple[Any, ModuleType]]:
        """(the pool, Ceph's module of images)"""
        _, rbd = _bindings()
        with self._errors():
            pool = self._cluster().open_ioctx(self.pool.path)
            try:
                yield pool, rbd
            finally:
                pool.close()

    def identity(self) -> str:
        if not self._keyring.exists():
            return f"none (this node has no key of client.{self.pool.user} for it)"
        with self._errors():
            cluster = self._cluster()
            number = cluster.pool_lookup(self.pool.path)
            if number is None:
                return f"none (the cluster has no pool {self.pool.path})"
            return f"{cluster.get_fsid()}/{number}"

    def facts(self) -> PoolFacts:
        used_bytes, free_bytes = self._room()
        return PoolFacts(
            kind=self.KIND,
            identity=self.identity(),
            path=self.pool.path,
            capacity_bytes=used_bytes + free_bytes,
            free_bytes=free_bytes,
            granules={"raw": OBJECT_BYTES},
            shared=True,
            snapshots=True,
            snapshot_formats=("raw",),
            snapshots_online=True,
            clones=("full", "linked"),
            fences=True,
            client_address=self._own_address(),
            clones_rest=True,
        )

    def _own_address(self) -> str:
        own = _CLIENT.search(" ".join(self._own_clients()))
        return own["address"].strip("[]") if own else ""

    def _own_clients(self) -> set[str]:
        """This process, as Ceph lists it."""
        with self._errors():
            return {found[0] for found in _CLIENT.finditer(self._cluster().get_addrs())}

    def _room(self) -> tuple[int, int]:
        """(used, free) bytes, without the copies that Ceph keeps."""
        with self._errors():
            status, text, words = self._cluster().mon_command(json.dumps({"prefix": "df", "format": "json"}), b"")
        if status:
            raise self._unreachable(f"df: {words}")
        stats = next(each["stats"] for each in json.loads(text)["pools"] if each["name"] == self.pool.path)
        return int(stats["stored"]), int(stats["max_avail"])

    # --- shutting a node out --------------------------------------------------------------------------------

    def fence(self, disk_id: str, node: str, addresses: Sequence[str]) -> None:
        # Ceph refuses every client at the address, those too that come later. Source: Ceph, OSDMap::is_blocklisted.
        own = self._own_address()
        if own in addresses:
            raise NodeError("fences_itself", f"{own} is this node's own address in Ceph", address=own)
        for address in addresses:
            self._blocklist("add", address, expire=float(FENCED_FOR_S))
        left = {_entry(address) for address in addresses} - self._blocklisted()
        if left:
            raise NodeError("fence_denied", f"Ceph does not list {', '.join(sorted(left))} as blocked", certain=False)
        with self._pool() as (pool, rbd):
            # What this client and the guests that start from now on ask of an OSD waits until it knows of it, too.
            self._cluster().wait_for_latest_osdmap()
            self._size_of(pool, rbd, disk_id)
            self._await_no_watcher(pool, rbd, disk_id)
            with rbd.Image(pool, disk_id) as image:
                for held in list(image.lock_get_owners()):
                    image.lock_break(held["mode"], held["owner"])

    def unfence(self, node: str, addresses: Sequence[str]) -> None:
        for address in addresses:
            if _entry(address) in self._blocklisted():
                self._blocklist("rm", address)

    def _await_no_watcher(self, pool: Any, rbd: ModuleType, disk_id: str) -> None:
        """Who only looks at the image is soon gone."""
        deadline = time.monotonic() + DEAD_WATCHER_TIMEOUT_S
        while True:
            with rbd.Image(pool, disk_id, read_only=True) as image:
                others = sorted({each["addr"] for each in image.watchers_list()} - self._own_clients())
            if not others:
                return
            if time.monotonic() > deadline:
                clients = ", ".join(others)
                raise NodeError(
                    "disk_watched",
                    f"{self.pool.path}/{disk_id} is still open at the client {clients}",
                    "End that client, or block it: ceph osd blocklist add.",
                    disk=disk_id,
                    clients=clients,
                )
            time.sleep(WATCHER_LOOK_S)

    def _blocklist(self, change: str, address: str, **more: float) -> None:
        asked = {"prefix": "osd blocklist", "blocklistop": change, "addr": _entry(address), **more}
        with self._errors():
            status, _, words = self._cluster().mon_command(json.dumps(asked), b"")
        if status == -errno.EACCES:
            self._forget_connection()  # what a user may do is asked when he connects
            user = f"client.{self.pool.user}"
            raise NodeError("fence_denied", f"{user} may not do this: osd blocklist {change}", CAPS_HINT, user=user)
        if status:
            raise self._unreachable(f"osd blocklist {change}: {words}")

    def _blocklisted(self) -> set[str]:
        with self._errors():
            asked = {"prefix": "osd blocklist ls", "format": "json"}
            status, text, words = self._cluster().mon_command(json.dumps(asked), b"")
        if status:
            raise self._unreachable(f"osd blocklist ls: {words}")
        # Behind the list of addresses newer versions print another one, of ranges.
        entries, _ = json.JSONDecoder().raw_decode(text.decode())
        return {each["addr"] for each in entries}

    # --- create and delete --------------------------------------------------------------------------------

    def create(self, disk: DiskSpec, cancellation: Cancellation, fill: Fill | None = None) -> VolumeFacts:
        if disk.format != "raw" or disk.backing is not None:
            raise NodeError("unsupported", f"a {self.KIND} pool holds raw volumes without a backing image")

        def make(pool: Any, rbd: ModuleType, part: str, size_bytes: int) -> None:
            rbd.RBD().create(pool, part, size_bytes, order=ORDER, old_format=False, features=_features(rbd))

        return self._made(disk, make, fill)

    def link(self, disk: DiskSpec, volume: VolumeSpec, snapshot: str | None) -> VolumeFacts:
        # With clones of the second kind a snapshot may be deleted while clones rest on it: Ceph keeps what they need.
        kept = snapshot or _clone_snapshot(disk.id)

        def make(pool: Any, rbd: ModuleType, part: str, size_bytes: int) -> None:
            self._size_of(pool, rbd, volume.id)
            with rbd.Image(pool, volume.id) as origin:
                if kept not in _all_snapshots(origin):
                    if snapshot is not None:
                        raise snapshot_absent(f"{self.pool.path}/{volume.id}", snapshot)
                    origin.create_snap(kept)
            point("disk.snapshots-changed", kept)
            with rbd.Image(pool, volume.id, snapshot=kept, read_only=True) as origin:
                check_holds(disk, origin.size())
            rbd.RBD().clone(pool, volume.id, kept, pool, part, features=_features(rbd), order=ORDER)

        facts = self._made(disk, make, None)
        with self._pool() as (pool, rbd):
            self._drop_clone_snapshot(pool, rbd, volume.id, disk.id)
        return facts

    def flatten(
        self, disk_id: str, disk_format: DiskFormat, progress: Callable[[int], None], cancellation: Cancellation
    ) -> None:
        def so_far(done: int, whole: int) -> int:
            progress(min(99, done * 100 // max(1, whole)))
            return -errno.ECANCELED if cancellation.asked else 0

        with self._pool() as (pool, rbd):
            self._size_of(pool, rbd, disk_id)
            with rbd.Image(pool, disk_id) as image:
                if _is_clone(image, rbd):
                    try:
                        # Where a guest has it open, its client is asked to do it, and goes on whatever we say.
                        image.flatten(on_progress=so_far)
                    except rbd.OperationCanceled:
                        cancellation.check()
                        raise
        point("disk.flattened", disk_id)

    def _made(self, disk: DiskSpec, make: Any, fill: Fill | None) -> VolumeFacts:
        """Part, mark, content, name."""
        part, wanted_bytes = f"{disk.id}.part", round_up(disk.size_bytes, OBJECT_BYTES)
        with self._pool() as (pool, rbd):
            self._settle_rename(pool, rbd, f"{disk.id}.part", disk.id)
            if self._exists(pool, rbd, disk.id):
                size_bytes = self._size_of(pool, rbd, disk.id)
                check_same_size(f"{self.pool.path}/{disk.id}", size_bytes, wanted_bytes)
                self._remove_part(pool, rbd, disk.id)
                return VolumeFacts(size_bytes=size_bytes)
            self._check_room(wanted_bytes)
            self._remove_part(pool, rbd, disk.id)
            try:
                make(pool, rbd, part, wanted_bytes)
            except rbd.ImageExists:
                raise not_ours(f"{self.pool.path}/{part}") from None
            point("disk.part-made", disk.id)
            with rbd.Image(pool, part) as image:
                image.metadata_set(MARK, disk.id)
                if image.size() < wanted_bytes:
                    image.resize(wanted_bytes)
                size_bytes = int(image.size())
            point("disk.marked", disk.id)
            try:
                if fill is not None:
                    fill(QemuImage("raw", self._address(part), zeroed=True))
            except (NodeError, Cancelled):
                self._remove_part(pool, rbd, disk.id)
                raise
            point("disk.filled", disk.id)
            try:
                rbd.RBD().rename(pool, part, disk.id)
            except rbd.ImageExists:
                self._remove_part(pool, rbd, disk.id)
                raise not_ours(f"{self.pool.path}/{disk.id}") from None
            point("disk.linked", disk.id)
            return VolumeFacts(size_bytes=size_bytes)

    def _check_room(self, needed_bytes: int) -> None:
        # Images take room when they are written to: this refuses what never fits.
        used_bytes, free_bytes = self._room()
        if needed_bytes > used_bytes + free_bytes:
            raise no_room(self.pool, "Ceph pool", free_bytes, needed_bytes, "add an OSD")

    def delete(self, disk_id: str, disk_format: DiskFormat, users: Users) -> None:
        with self._pool() as (pool, rbd):
            self._settle_rename(pool, rbd, f"{disk_id}.part", disk_id)
            self._remove_part(pool, rbd, disk_id)
            name = f"{self.pool.path}/{disk_id}"
            try:
                image = rbd.Image(pool, disk_id, read_only=True)
            except rbd.ImageNotFound:
                return
            with image:
                if _mark(image) != disk_id:
                    raise not_ours(name)
                check_unused(name, self._users(image, disk_id, users))
                left_over = _all_snapshots(image)
                parent = _parent(image, rbd)
            for snapshot in left_over:  # of linked clones that were never finished
                with rbd.Image(pool, disk_id) as image:
                    image.remove_snap(snapshot)
            try:
                rbd.RBD().remove(pool, disk_id)
            except (rbd.ImageBusy, rbd.ImageHasSnapshots):
                check_unused(name, ["another client of the cluster"])
            if parent is not None:
                self._drop_clone_snapshot(pool, rbd, parent, disk_id)
            point("disk.unlinked", disk_id)

    def rename(self, disk_id: str, disk_format: DiskFormat, new_id: str, users: Users) -> None:
        with self._pool() as (pool, rbd):
            self._settle_rename(pool, rbd, disk_id, new_id)
            if not self._exists(pool, rbd, disk_id):
                self._size_of(pool, rbd, new_id)
                return
            name = f"{self.pool.path}/{disk_id}"
            with rbd.Image(pool, disk_id, read_only=True) as image:
                mark = _mark(image)
            if mark not in (disk_id, new_id):
                raise not_ours(name)
            if self._exists(pool, rbd, new_id):
                raise not_ours(f"{self.pool.path}/{new_id}")
            check_unused(name, users(name))
            if mark == disk_id:
                # Afterwards it would be our own attempt that is still seen there, for it was killed.
                self._check_unwatched(pool, rbd, disk_id)
                with rbd.Image(pool, disk_id) as image:
                    image.metadata_set(MARK, new_id)
            point("disk.marked", new_id)
            self._rename(pool, rbd, disk_id, new_id)
            point("disk.linked", new_id)

    def _rename(self, pool: Any, rbd: ModuleType, old: str, new: str) -> None:
        try:
            rbd.RBD().rename(pool, old, new)
        except rbd.ImageExists:
            raise not_ours(f"{self.pool.path}/{new}") from None

    def _users(self, image: Any, disk_id: str, users: Users) -> list[str]:
        return [
            *users(f"{self.pool.path}/{disk_id}"),
            *(f"client {each['addr']}" for each in image.watchers_list()),
            *(f"clone {each['image'] or each['id']}" for each in image.list_children2()),
            *(f"snapshot {name}" for name in _snapshots(image)),
        ]

    def _remove_part(self, pool: Any, rbd: ModuleType, disk_id: str) -> None:
        part = f"{disk_id}.part"
        if not self._exists(pool, rbd, part):
            return
        with rbd.Image(pool, part, read_only=True) as image:
            mark = _mark(image)
            # A clone begins with its origin's metadata.
            unmarked = mark is None or (mark != disk_id and _is_clone(image, rbd))
            if mark != disk_id and not (unmarked and _is_untouched(image)):
                raise not_ours(f"{self.pool.path}/{part}")
            parent = _parent(image, rbd)
        deadline = time.monotonic() + DEAD_WATCHER_TIMEOUT_S
        while True:
            try:
                rbd.RBD().remove(pool, part)
                break
            except rbd.ImageBusy:
                # Its maker was killed; Ceph forgets a dead client in time, and says nothing when it does.
                if time.monotonic() > deadline:
                    check_unused(f"{self.pool.path}/{part}", ["another client of the cluster"])
                time.sleep(WATCHER_LOOK_S)
        if parent is not None:
            self._drop_clone_snapshot(pool, rbd, parent, disk_id)

    def _settle_rename(self, pool: Any, rbd: ModuleType, old: str, new: str) -> None:
        """Ceph renames in three steps; a client that died between them leaves one image with two names.

        Source: Ceph, librbd/operation/RenameRequest.cc.
        """
        if not (self._exists(pool, rbd, old) and self._exists(pool, rbd, new)):
            return
        with rbd.Image(pool, old, read_only=True) as one, rbd.Image(pool, new, read_only=True) as other:
            if one.id() != other.id():
                return
        listed = rbd.RBD().list(pool)
        pool.remove_object(f"rbd_id.{old if new in listed else new}")

    # --- what is nobody's ---------------------------------------------------------------------------------

    def strangers(self) -> list[Stranger]:
        told = ((name, size_bytes) for name, size_bytes, mark in self._listed() if mark is None and can_be_told(name))
        found = [
            Stranger(name=name, format="raw", size_bytes=size_bytes)
            for name, size_bytes in told
            if not name.endswith(".part")
        ]
        return sorted(found, key=lambda stranger: stranger.name)

    def examine(self, name: str, users: Users) -> Stranger:
        full = f"{self.pool.path}/{name}"
        with self._pool() as (pool, rbd):
            try:
                image = rbd.Image(pool, name, read_only=True)
            except rbd.ImageNotFound:
                raise volume_absent(f"image {full}") from None
            with image:
                if _mark(image) is not None:
                    raise is_a_disk(full)
                if _is_clone(image, rbd):
                    raise unfit(full, "it rests on another image: flatten it first")
                if image.old_format() or not image.size() or image.size() % SECTOR_BYTES:
                    raise unfit(full, "an image of the first format, or of no whole number of sectors")
                check_unused(full, self._users(image, name, users))
                return Stranger(name=name, format="raw", size_bytes=image.size())

    def take(self, disk_id: str, disk_format: DiskFormat, name: str, users: Users) -> VolumeFacts:
        with self._pool() as (pool, rbd):
            self._settle_rename(pool, rbd, name, disk_id)
            if not self._exists(pool, rbd, name) and self._exists(pool, rbd, disk_id):
                return VolumeFacts(size_bytes=self._size_of(pool, rbd, disk_id))
            if not self._is_marked(pool, rbd, name, disk_id):
                self.examine(name, users)
                with rbd.Image(pool, name) as image:
                    image.metadata_set(MARK, disk_id)
            point("disk.marked", disk_id)
            with rbd.Image(pool, name) as image:
                if not image.features() & rbd.RBD_FEATURE_EXCLUSIVE_LOCK:
                    # Two nodes never write to one image.
                    image.update_features(rbd.RBD_FEATURE_EXCLUSIVE_LOCK, True)
            self._rename(pool, rbd, name, disk_id)
            point("disk.linked", disk_id)
            return VolumeFacts(size_bytes=self._size_of(pool, rbd, disk_id))

    def give_back(self, disk_id: str, disk_format: DiskFormat, name: str) -> None:
        with self._pool() as (pool, rbd):
            self._settle_rename(pool, rbd, disk_id, name)
            if self._is_marked(pool, rbd, disk_id, disk_id) and not self._exists(pool, rbd, name):
                self._rename(pool, rbd, disk_id, name)
                point("disk.linked", disk_id)
            for taken in (name, disk_id):
                if self._is_marked(pool, rbd, taken, disk_id):
                    with rbd.Image(pool, taken) as image:
                        image.metadata_remove(MARK)

    def _is_marked(self, pool: Any, rbd: ModuleType, name: str, disk_id: str) -> bool:
        try:
            with rbd.Image(pool, name, read_only=True) as image:
                return _mark(image) == disk_id
        except rbd.ImageNotFound:
            return False

    # --- grow and look ------------------------------------------------------------------------------------

    def resize(self, disk_id: str, disk_format: DiskFormat, size_bytes: int, *, leave_to_qemu: bool) -> VolumeFacts:
        wanted_bytes = round_up(size_bytes, OBJECT_BYTES)
        with self._pool() as (pool, rbd):
            present_bytes = self._size_of(pool, rbd, disk_id)
            check_grows(f"{self.pool.path}/{disk_id}", present_bytes, wanted_bytes)
            if present_bytes < wanted_bytes:
                self._check_room(wanted_bytes)
                with rbd.Image(pool, disk_id) as image:
                    image.resize(wanted_bytes, allow_shrink=False)
                point("disk.grown", disk_id)
            return VolumeFacts(size_bytes=self._size_of(pool, rbd, disk_id))

    def look(self, disk_id: str, disk_format: DiskFormat, users: Users) -> DiskState:
        with self._pool() as (pool, rbd):
            try:
                image = rbd.Image(pool, disk_id, read_only=True)
            except rbd.ImageNotFound:
                return DiskState(exists=False)
            with image:
                if _mark(image) != disk_id:
                    return DiskState(exists=True)
                return DiskState(
                    exists=True,
                    ours=True,
                    size_bytes=image.size(),
                    used_by=tuple(self._users(image, disk_id, users)),
                    snapshots=tuple(_snapshots(image)),
                    independent=not _is_clone(image, rbd),
                )

    def source(self, disk_id: str, disk_format: DiskFormat) -> RbdSource:
        with self._pool() as (pool, rbd):
            self._size_of(pool, rbd, disk_id)
        return RbdSource(
            name=f"{self.pool.path}/{disk_id}",
            monitors=self.pool.monitors,
            user=self.pool.user,
            secret_uuid=self._secret_uuid,
        )

    def volumes(self) -> list[Volume]:
        with self._pool() as (pool, rbd):
            found = []
            for name in filter(_VOLUME.fullmatch, sorted(rbd.RBD().list(pool))):
                try:
                    with rbd.Image(pool, name, read_only=True) as image:
                        mark = _mark(image)
                except rbd.ImageNotFound:
                    continue  # deleted meanwhile
                if mark is not None or name.endswith(".part"):
                    found.append(Volume(name, mark))
            return found

    def sizes(self) -> dict[str, int]:
        return {name: size_bytes for name, size_bytes, mark in self._listed() if mark == name}

    def _listed(self) -> Iterator[tuple[str, int, str | None]]:
        """(name, size, owner mark) of every image.

        Asks the images' headers, many at once: to open an image takes thirty times as long.
        """
        with self._pool() as (pool, rbd):
            images = list(rbd.RBD().list2(pool))
            for start in range(0, len(images), _AT_ONCE):
                asked = [
                    (each["name"], *(_ask(pool, each["id"], *question) for question in _SIZE_AND_MARK))
                    for each in images[start : start + _AT_ONCE]
                ]
                for name, size, mark in asked:
                    size_said, mark_said = size(), mark()
                    if size_said is not None:
                        # Each text has its length before it.
                        owner = mark_said[4:].decode(errors="replace") if mark_said is not None else None
                        yield name, struct.unpack_from("<BQ", size_said)[1], owner

    # --- copies and snapshots -----------------------------------------------------------------------------

    @contextmanager
    def readable(self, disk_id: str, disk_format: DiskFormat, snapshot: str | None) -> Iterator[Readable]:
        with self._pool() as (pool, rbd):
            size_bytes = self._size_of(pool, rbd, disk_id)
            if snapshot is not None:
                self._check_snapshot(pool, rbd, disk_id, snapshot)
                with rbd.Image(pool, disk_id, snapshot=snapshot, read_only=True) as image:
                    size_bytes = image.size()
            else:
                self._check_unwatched(pool, rbd, disk_id)
        yield Readable(QemuImage("raw", self._address(disk_id, snapshot)), size_bytes)

    def snapshot(self, disk_id: str, disk_format: DiskFormat, snapshot: str, room_bytes: int | None) -> None:
        with self._pool() as (pool, rbd):
            self._size_of(pool, rbd, disk_id)
            with rbd.Image(pool, disk_id) as image:
                if snapshot not in _snapshots(image):
                    image.create_snap(snapshot)
        point("disk.snapshots-changed", snapshot)

    def delete_snapshot(self, disk_id: str, disk_format: DiskFormat, snapshot: str) -> None:
        with self._pool() as (pool, rbd):
            self._size_of(pool, rbd, disk_id)
            with rbd.Image(pool, disk_id) as image:
                if snapshot in _snapshots(image):
                    try:
                        image.remove_snap(snapshot)
                    except rbd.ImageBusy:
                        check_unused(f"{self.pool.path}/{disk_id}@{snapshot}", ["clones of it"])
        point("disk.snapshots-changed", snapshot)

    def revert(self, disk_id: str, disk_format: DiskFormat, snapshot: str) -> VolumeFacts:
        with self._pool() as (pool, rbd):
            self._size_of(pool, rbd, disk_id)
            self._check_snapshot(pool, rbd, disk_id, snapshot)
            self._check_unwatched(pool, rbd, disk_id)
            with rbd.Image(pool, disk_id) as image:
                image.rollback_to_snap(snapshot)
            point("disk.reverted", snapshot)
            return VolumeFacts(size_bytes=self._size_of(pool, rbd, disk_id))

    def _check_snapshot(self, pool: Any, rbd: ModuleType, disk_id: str, snapshot: str) -> None:
        with rbd.Image(pool, disk_id, read_only=True) as image:
            if snapshot not in _snapshots(image):
                raise snapshot_absent(f"{self.pool.path}/{disk_id}", snapshot)

    def _check_unwatched(self, pool: Any, rbd: ModuleType, disk_id: str) -> None:
        """A guest of another node is seen here only as a client that watches the image."""
        with rbd.Image(pool, disk_id, read_only=True) as image:
            watchers = [f"client {each['addr']}" for each in image.watchers_list()]
        check_unused(f"{self.pool.path}/{disk_id}", watchers)

    def _drop_clone_snapshot(self, pool: Any, rbd: ModuleType, origin: str, disk_id: str) -> None:
        try:
            with rbd.Image(pool, origin) as image:
                if _clone_snapshot(disk_id) in _all_snapshots(image):
                    image.remove_snap(_clone_snapshot(disk_id))
        except rbd.ImageNotFound:
            pass

    # --- images -------------------------------------------------------------------------------------------

    def _exists(self, pool: Any, rbd: ModuleType, name: str) -> bool:
        rados, _ = _bindings()
        if not any(_is_there(pool, rados, thing) for thing in (f"rbd_id.{name}", f"{name}.rbd")):
            return False  # to open what is not there takes ten times as long
        try:
            rbd.Image(pool, name, read_only=True).close()
        except rbd.ImageNotFound:
            return False
        return True

    def _size_of(self, pool: Any, rbd: ModuleType, disk_id: str) -> int:
        """Of the volume, which is ours. Raises ``disk_absent``, ``exists_not_ours``."""
        name = f"{self.pool.path}/{disk_id}"
        try:
            with rbd.Image(pool, disk_id, read_only=True) as image:
                if _mark(image) != disk_id:
                    raise not_ours(name)
                return int(image.size())
        except rbd.ImageNotFound:
            raise absent(name) from None

    def _address(self, name: str, snapshot: str | None = None) -> str:
        """For qemu-img: the key stays in its file. Source: qemu-block-drivers(7)."""
        at = f"@{snapshot}" if snapshot else ""
        monitors = ";".join(monitor.replace(":", r"\:") for monitor in self.pool.monitors)
        options = f"id={self.pool.user}:mon_host={monitors}:keyring={self._keyring}"
        return f"rbd:{self.pool.path}/{name}{at}:{options}"


def _bindings() -> tuple[ModuleType, ModuleType]:
    """Loaded by the nodes that have such a pool only. Raises ``no_program``."""
    try:
        import rados
        import rbd
    except ImportError:
        raise NodeError("no_program", "Ceph's library is not installed", "Install python3-rbd on this node.") from None
    return rados, rbd


def _entry(address: str) -> str:
    """All clients at an address. The port and the number must be said: ``profile rbd`` permits nothing else."""
    return f"[{address}]:0/0" if ":" in address else f"{address}:0/0"


def _features(rbd: ModuleType) -> int:
    """exclusive-lock, so that two nodes never write to one image; the rest makes copies and deletions quick."""
    return int(
        rbd.RBD_FEATURE_LAYERING
        | rbd.RBD_FEATURE_EXCLUSIVE_LOCK
        | rbd.RBD_FEATURE_OBJECT_MAP
        | rbd.RBD_FEATURE_FAST_DIFF
        | rbd.RBD_FEATURE_DEEP_FLATTEN
    )


def _mark(image: Any) -> str | None:
    try:
        return str(image.metadata_get(MARK))
    except KeyError:
        return None


_SIZE_AND_MARK = (
    ("get_size", struct.pack("<Q", _NO_SNAPSHOT)),
    ("metadata_get", struct.pack("<I", len(MARK)) + MARK.encode()),
)
"""What an image's header is asked. Source: Ceph, cls_rbd_client.cc."""


def _ask(pool: Any, image_id: str, method: str, asked: bytes) -> Callable[[], bytes | None]:
    """Ask an image's header; the answer waits for Ceph's, and is None for what is not there."""
    said: list[bytes] = []
    completion = pool.aio_execute(
        f"rbd_header.{image_id}", "rbd", method, asked, oncomplete=lambda _, data: said.append(data)
    )

    def answer() -> bytes | None:
        completion.wait_for_complete_and_cb()
        status = completion.get_return_value()
        if status == -errno.ENOENT:
            return None
        if status < 0:
            rados, _ = _bindings()
            raise rados.make_ex(status, f"the image {image_id} was asked for {method}")
        return said[0]

    return answer


def _clone_snapshot(disk_id: str) -> str:
    return CLONE + disk_id


def _all_snapshots(image: Any) -> list[str]:
    """Without those that were deleted and that Ceph keeps for the clones that rest on them."""
    return [each["name"] for each in image.list_snaps() if each["namespace"] == USER_NAMESPACE]


def _snapshots(image: Any) -> list[str]:
    """Those that somebody asked for."""
    return [name for name in _all_snapshots(image) if not name.startswith(CLONE)]


def _is_there(pool: Any, rados: ModuleType, thing: str) -> bool:
    """Of the two objects by which an image is found, ``rbd_id.<name>`` is one, ``<name>.rbd`` that of the first format.

    Source: Ceph, include/rbd_types.h.
    """
    try:
        pool.stat(thing)
    except rados.ObjectNotFound:
        return False
    return True


def _parent(image: Any, rbd: ModuleType) -> str | None:
    """The name of the image that a clone rests on."""
    try:
        return str(image.parent_info()[1])
    except rbd.ImageNotFound:
        return None


def _is_clone(image: Any, rbd: ModuleType) -> bool:
    return _parent(image, rbd) is not None


def _is_untouched(image: Any) -> bool:
    """Nothing was ever written to it, it has no snapshot, and nobody has it open."""
    written: list[int] = []
    image.diff_iterate(0, image.size(), None, lambda offset, length, exists: written.append(offset), False)
    return not written and not list(image.list_snaps()) and not list(image.watchers_list())
