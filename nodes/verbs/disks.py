"""Volumes. All the care is in the drivers; here stands what a running guest has to do with them."""

from nodes import quiesce
from nodes.contract.errors import NodeError
from nodes.contract.faults import point
from nodes.contract.messages import (
    DiskClone,
    DiskCreate,
    DiskDelete,
    DiskFence,
    DiskFlatten,
    DiskGiveBack,
    DiskLook,
    DiskRename,
    DiskResize,
    DiskRevert,
    DiskSnapshot,
    DiskSnapshotDelete,
    DiskState,
    DiskTake,
    DiskUnused,
    KeptVolume,
    Nothing,
    VolumeFacts,
)
from nodes.drain import CallLost
from nodes.hypervisor import Attached
from nodes.node import Node
from nodes.storage.base import Driver, check_unused
from nodes.verbs import handles
from nodes.verbs.run import Run


@handles(DiskCreate)
def create(node: Node, message: DiskCreate, run: Run) -> VolumeFacts:
    return node.driver(message.disk.pool).create(message.disk, run.cancellation)


@handles(DiskDelete)
def delete(node: Node, message: DiskDelete, run: Run) -> Nothing:
    node.driver(message.pool).delete(message.id, message.format, node.users)
    return Nothing()


@handles(DiskRename)
def rename(node: Node, message: DiskRename, run: Run) -> Nothing:
    node.driver(message.pool).rename(message.id, message.format, message.new, node.users)
    return Nothing()


@handles(DiskTake)
def take(node: Node, message: DiskTake, run: Run) -> VolumeFacts:
    users = node.users_beside(message.user)
    return node.driver(message.pool).take(message.id, message.format, message.name, users)


@handles(DiskGiveBack)
def give_back(node: Node, message: DiskGiveBack, run: Run) -> Nothing:
    node.driver(message.pool).give_back(message.id, message.format, message.name)
    return Nothing()


@handles(DiskLook)
def look(node: Node, message: DiskLook, run: Run) -> DiskState:
    return node.driver(message.pool).look(message.id, message.format, node.users)


@handles(DiskUnused)
def unused(node: Node, message: DiskUnused, run: Run) -> Nothing:
    state = node.driver(message.pool).look(message.id, message.format, node.users)
    check_unused(f"disk {message.id}", state.used_by)
    return Nothing()


@handles(DiskResize)
def resize(node: Node, message: DiskResize, run: Run) -> VolumeFacts:
    driver = node.driver(message.pool)
    guest = node.hypervisor.guest_on(message.id)
    if guest is None:
        return _grown(driver, message, leave_to_qemu=False)
    if node.hypervisor.may_be_moving(guest.uuid):
        raise NodeError("domain_migrating", "a migration of this domain has not ended", retryable=True)
    # The volume first: a guest that sees more than there is would write into nothing.
    present = _grown(driver, message, leave_to_qemu=driver.QEMU_GROWS)
    wanted_bytes = max(present.size_bytes, driver.rounded(message.size_bytes, message.format, driver.facts()))
    # Also where the volume was large enough: an earlier attempt may have died between the two.
    if not _told(node, guest, message.id, wanted_bytes):
        return _grown(driver, message, leave_to_qemu=False)
    return _grown(driver, message, leave_to_qemu=driver.QEMU_GROWS)


def _grown(driver: Driver, message: DiskResize, *, leave_to_qemu: bool) -> VolumeFacts:
    return driver.resize(message.id, message.format, message.size_bytes, leave_to_qemu=leave_to_qemu)


def _told(node: Node, guest: Attached, disk_id: str, size_bytes: int) -> bool:
    """False: the guest went off meanwhile, and with it whatever hindered growing its volume."""
    point("disk.before-call", disk_id)
    try:
        node.hypervisor.resize_disk(guest, size_bytes)
    except CallLost:
        raise
    except NodeError:
        if node.hypervisor.guest_on(disk_id) is not None:
            raise
        return False
    point("disk.after-call", disk_id)
    return True


@handles(DiskClone)
def clone(node: Node, message: DiskClone, run: Run) -> VolumeFacts:
    driver, source = node.driver(message.disk.pool), message.source
    if message.snapshot is None or node.driver(source.pool).QEMU_SNAPSHOTS:
        _no_guest_on(node, source.id)
    if not message.linked:
        return driver.clone(message.disk, node.driver(source.pool), source, message.snapshot, run.cancellation)
    if source.pool.identity != message.disk.pool.identity:
        raise NodeError("unsupported", "a linked clone lies in the pool of its source", "Ask for a full copy.")
    return driver.link(message.disk, source, message.snapshot)


@handles(DiskFlatten)
def flatten(node: Node, message: DiskFlatten, run: Run) -> Nothing:
    node.driver(message.pool).flatten(message.id, message.format, run.progress, run.cancellation)
    return Nothing()


@handles(DiskSnapshot)
def snapshot(node: Node, message: DiskSnapshot, run: Run) -> KeptVolume:
    driver = node.driver(message.pool)

    def keep() -> None:
        if not _changed_by_qemu(node, driver, message, wanted=True):
            driver.snapshot(message.id, message.format, message.snapshot, message.room_bytes)

    # Of one that was kept before this agent began nobody knows any more whether the guest stood still.
    asks = message.quiesce != "no" and not (run.repeats and _is_kept(driver, message))
    guest = node.hypervisor.guest_on(message.id) if asks else None
    if guest is None:
        if asks and message.quiesce == "required":
            raise quiesce.silent()
        keep()
        return KeptVolume()
    still = quiesce.during(node.paths.frozen_dir, node.hypervisor, guest.uuid, message.quiesce, keep)
    return KeptVolume(quiesced=still)


def _is_kept(driver: Driver, message: DiskSnapshot) -> bool:
    return message.snapshot in driver.look(message.id, message.format, lambda path: ()).snapshots


@handles(DiskSnapshotDelete)
def delete_snapshot(node: Node, message: DiskSnapshotDelete, run: Run) -> Nothing:
    driver = node.driver(message.pool)
    if not _changed_by_qemu(node, driver, message, wanted=False):
        driver.delete_snapshot(message.id, message.format, message.snapshot)
    return Nothing()


def _changed_by_qemu(node: Node, driver: Driver, message: DiskSnapshot | DiskSnapshotDelete, *, wanted: bool) -> bool:
    """Where only the QEMU that has the volume open can make or delete its snapshots; False: the driver can."""
    guest = None if driver.SNAPSHOTS_ONLINE else node.hypervisor.guest_on(message.id)
    if guest is None:
        return False
    if not driver.QEMU_SNAPSHOTS or message.format != "qcow2":
        check_unused(f"disk {message.id}", [guest.name])
    state = driver.look(message.id, message.format, lambda path: ())
    if not state.exists or not state.ours:
        return False  # the driver says it best
    if (message.snapshot in state.snapshots) is wanted:
        return True
    change = node.hypervisor.snapshot_disk if wanted else node.hypervisor.delete_disk_snapshot
    point("disk.before-call", message.id)
    try:
        change(guest, message.snapshot)
    except CallLost:
        raise
    except NodeError:
        if node.hypervisor.guest_on(message.id) is not None:
            raise
        return False  # it went off meanwhile
    point("disk.after-call", message.id)
    return True


@handles(DiskRevert)
def revert(node: Node, message: DiskRevert, run: Run) -> VolumeFacts:
    _no_guest_on(node, message.id)
    return node.driver(message.pool).revert(message.id, message.format, message.snapshot)


def _no_guest_on(node: Node, disk_id: str) -> None:
    """Raises ``disk_in_use``."""
    guest = node.hypervisor.guest_on(disk_id)
    check_unused(f"disk {disk_id}", [guest.name] if guest else [])


@handles(DiskFence)
def fence(node: Node, message: DiskFence, run: Run) -> Nothing:
    node.driver(message.pool).fence(message.id, message.node, message.addresses)
    return Nothing()
