"""Moving a guest to another node: one blocking call of libvirt, watched from beside.

Peer to peer: the source's libvirtd drives it, so the move goes on when this process dies.
Source: libvirt.org/migration.html
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import libvirt

from nodes import domain_xml
from nodes.contract.errors import NodeError
from nodes.contract.messages import DomainMove, GuestLoad
from nodes.contract.specs import MovedDisk
from nodes.drain import CallLost
from nodes.hypervisor.connections import Connections
from nodes.shell import Cancellation

LOOK_S = 0.5
DIRTY_LOOK_S = 1
DIRTY_PATIENCE_S = 3.0
MIB = 1 << 20
FLAGS = (
    libvirt.VIR_MIGRATE_PEER2PEER
    | libvirt.VIR_MIGRATE_LIVE
    | libvirt.VIR_MIGRATE_TLS
    | libvirt.VIR_MIGRATE_PERSIST_DEST
    | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
)
SAFE_CACHES = ("none", "directsync")
"""The host keeps nothing of such a volume in its memory, so two nodes see the same. Source: qemu_migration.c"""


@dataclass
class Watch:
    """What becomes of a move while it is under way."""

    asked: DomainMove
    began: float = field(default_factory=time.monotonic)
    aborted: str = ""
    """Why we ended it: ``cancel`` or ``time_limit``."""
    forced: bool = False
    tuned: bool = False
    switched_to_post_copy: bool = False


class Migrating(Connections):
    def move(
        self,
        asked: DomainMove,
        disks: Mapping[str, MovedDisk],
        progress: Callable[[int, dict[str, int]], None],
        cancellation: Cancellation,
    ) -> str:
        """Returns when libvirt has ended it.

        :param disks: the message's, by their names in the guest: ``vda``.
        :param progress: gets per cent, and what is left and how fast it goes.
        :returns: why it was ended from here, ``cancel`` or ``time_limit``; empty: it has moved.
        :raises NodeError: what libvirt said; where the guest is now is not known by that.
        """
        watch = Watch(asked)
        self.copy_errors.pop(asked.uuid, None)
        cancellation.wake(self.changed)
        with ThreadPoolExecutor(1, thread_name_prefix=f"move {asked.uuid}") as beside:
            call = beside.submit(self._migrate, asked, disks)
            call.add_done_callback(lambda _: self._notify())
            while not call.done():
                self._watch(watch, progress, cancellation)
                with self.changed:
                    if not call.done():
                        self.changed.wait(LOOK_S)
        try:
            call.result()
        except CallLost:
            raise
        except NodeError as error:
            if not watch.aborted:
                raise self._with_copy_error(asked.uuid, error) from None
            return watch.aborted
        return ""

    def _with_copy_error(self, uuid: str, error: NodeError) -> NodeError:
        """Where the copy of a disk failed first, the other node's QEMU has nothing to say but that its end came."""
        said = self.copy_errors.pop(uuid, "")
        if not said or said in error.info.cause:
            return error
        known = error.info
        cause = f"the copy of a disk failed: {said}; {known.cause}"
        return NodeError(known.code, cause, known.hint, retryable=known.retryable, certain=known.certain)

    def _notify(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def _migrate(self, asked: DomainMove, disks: Mapping[str, MovedDisk]) -> None:
        with self._call() as connection:
            domain = connection.lookupByUUIDString(asked.uuid)
            domain.migrateToURI3(f"qemu+tls://{asked.target}/system", *_how(domain, asked, disks))

    def _watch(self, watch: Watch, progress: Callable[[int, dict[str, int]], None], cancellation: Cancellation) -> None:
        try:
            with self._call() as connection:
                domain = connection.lookupByUUIDString(watch.asked.uuid)
                stats = domain.jobStats()
                if stats.get("operation") != libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT:
                    return  # it has not begun, or it is over
                progress(*progress_of(stats))
                _tune(domain, watch)
                _steer(domain, watch, stats, cancellation.asked)
        except NodeError:
            # The guest may have gone in this moment, or libvirtd be away: the call itself says what came of it.
            return

    def load(self, uuid: str, devices: Mapping[str, str]) -> GuestLoad:
        """What a move would have to send, and how fast the guest changes it; it is looked at for a second.

        :param devices: disk -> its name in the guest: ``vda``.
        """
        with self._call() as connection:
            domain = connection.lookupByUUIDString(uuid)
            allocated = {disk: domain.blockInfo(device)[1] for disk, device in devices.items()}
            if not domain.isActive():
                return GuestLoad(memory_bytes=0, dirty_bytes=0, allocated=allocated)
            stats = domain.memoryStats()
            # What QEMU needs for itself is in the first, too.
            memory_bytes = min(stats.get("rss", stats["actual"]), stats["actual"]) << 10
            dirty_bytes = _dirty_bytes(connection, domain)
            return GuestLoad(memory_bytes=memory_bytes, dirty_bytes=dirty_bytes, allocated=allocated)

    def await_end_of_move(self, uuid: str) -> None:
        """Wait until no migration of this domain is under way here."""
        while True:
            with self._call() as connection:
                try:
                    stats = connection.lookupByUUIDString(uuid).jobStats()
                except libvirt.libvirtError as error:
                    if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
                        return
                    raise
            if stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) == libvirt.VIR_DOMAIN_JOB_NONE:
                return
            with self.changed:
                self.changed.wait(LOOK_S)


def _dirty_bytes(connection: Any, domain: Any) -> int | None:
    """Of memory that the guest changes in a second; None where its QEMU does not say."""
    domain.startDirtyRateCalc(DIRTY_LOOK_S, 0)
    until = time.monotonic() + DIRTY_LOOK_S + DIRTY_PATIENCE_S
    while time.monotonic() < until:
        time.sleep(DIRTY_LOOK_S / 4)  # libvirt has no event for its end
        [(_domain, stats)] = connection.domainListGetStats([domain], libvirt.VIR_DOMAIN_STATS_DIRTYRATE)
        if stats.get("dirtyrate.calc_status") == libvirt.VIR_DOMAIN_DIRTYRATE_MEASURED:
            return int(stats["dirtyrate.megabytes_per_second"]) * MIB
    return None


def _how(domain: Any, asked: DomainMove, disks: Mapping[str, MovedDisk]) -> tuple[dict[str, Any], int]:
    """The call's parameters and flags."""
    address = f"[{asked.target_address}]" if ":" in asked.target_address else asked.target_address
    qemu = f"tcp://{address}"
    copied = sorted(name for name, disk in disks.items() if disk.copied)
    parameters: dict[str, Any] = {
        libvirt.VIR_MIGRATE_PARAM_URI: qemu,
        libvirt.VIR_MIGRATE_PARAM_DEST_XML: domain_xml.moved_xml(
            domain.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE), disks
        ),
        libvirt.VIR_MIGRATE_PARAM_PERSIST_XML: domain_xml.moved_xml(
            domain.XMLDesc(
                libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE
            ),
            disks,
        ),
    }
    flags = FLAGS
    if copied:
        flags |= libvirt.VIR_MIGRATE_NON_SHARED_DISK
        parameters[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = copied
        parameters[libvirt.VIR_MIGRATE_PARAM_DISKS_URI] = qemu
    if asked.bandwidth_bytes:
        parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = max(1, asked.bandwidth_bytes // MIB)
    if asked.auto_converge:
        flags |= libvirt.VIR_MIGRATE_AUTO_CONVERGE
    if asked.compressed:
        flags |= libvirt.VIR_MIGRATE_COMPRESSED
    if asked.post_copy:
        flags |= libvirt.VIR_MIGRATE_POSTCOPY
    if _is_one_folder(disks):
        flags |= libvirt.VIR_MIGRATE_UNSAFE
    return parameters, flags


def _is_one_folder(disks: Mapping[str, MovedDisk]) -> bool:
    """Files that both nodes see, in a folder of which libvirt would not know that it is shared: the panel does, by the
    pool's identity. Only where no node keeps anything of them in its memory; else libvirt decides.
    """
    files = [d for d in disks.values() if not d.copied and d.source is not None and d.source.kind in ("file", "block")]
    volumes = [d for d in files if d.cache is not None]
    return bool(volumes) and all(d.cache in SAFE_CACHES for d in volumes)


def progress_of(stats: Mapping[str, Any]) -> tuple[int, dict[str, int]]:
    """(per cent, facts) of libvirt's job statistics.

    The facts: ``memory_left_bytes``, ``disk_left_bytes``, ``speed_bytes`` and ``dirty_bytes`` a second, ``elapsed_ms``,
    ``left_s`` where the speed is known, ``pass``.
    """
    total, left = int(stats.get("data_total", 0)), int(stats.get("data_remaining", 0))
    memory_left, disk_left = int(stats.get("memory_remaining", 0)), int(stats.get("disk_remaining", 0))
    speed = int(stats.get("memory_bps", 0)) + int(stats.get("disk_bps", 0))
    facts = {
        "memory_left_bytes": memory_left,
        "disk_left_bytes": disk_left,
        "speed_bytes": speed,
        "dirty_bytes": int(stats.get("memory_dirty_rate", 0)) * int(stats.get("memory_page_size", 4096)),
        "elapsed_ms": int(stats.get("time_elapsed", 0)),
        "pass": int(stats.get("memory_iteration", 0)),
    }
    if speed:
        facts["left_s"] = -(-(memory_left + disk_left) // speed)
    return (min(99, (total - left) * 100 // total) if total else 0), facts


def _tune(domain: Any, watch: Watch) -> None:
    """What libvirt takes only while the move is under way."""
    if watch.asked.max_pause_ms and not watch.tuned:
        domain.migrateSetMaxDowntime(watch.asked.max_pause_ms)
    watch.tuned = True


def _steer(domain: Any, watch: Watch, stats: Mapping[str, Any], cancelled: bool) -> None:
    if cancelled and not watch.aborted:
        domain.abortJob()
        watch.aborted = "cancel"
        return
    asked = watch.asked
    is_late = asked.time_limit_s is not None and time.monotonic() - watch.began >= asked.time_limit_s
    if is_late and asked.on_time_limit == "abort" and not watch.aborted:
        domain.abortJob()
        watch.aborted = "time_limit"
    elif is_late and asked.on_time_limit == "force" and not watch.forced:
        domain.suspend()
        watch.forced = True
    # The first pass has taken most of the memory along: the rest is what keeps changing.
    if asked.post_copy and not watch.switched_to_post_copy and int(stats.get("memory_iteration", 0)) >= 2:
        domain.migrateStartPostCopy()
        watch.switched_to_post_copy = True
