"""What a running guest has to do with its volumes: a real QEMU under a libvirtd of the suite's own."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu
import pytest

from nodes import domain_xml
from nodes.contract.errors import NodeError
from nodes.contract.messages import (
    DiskClone,
    DiskDelete,
    DiskLook,
    DiskRename,
    DiskResize,
    DiskRevert,
    DiskSnapshot,
    DiskSnapshotDelete,
    DiskUnused,
    DomainMirror,
    DomainPivot,
    DomainPlug,
    DomainUnplug,
    PoolAttach,
)
from nodes.contract.specs import DomainDisk, DomainSpec
from nodes.node import Node
from nodes.shell import Cancelled
from nodes.verbs import HANDLERS
from nodes.verbs.run import Run
from tests.storage import places
from tests.storage.places import DISK, MIB, OTHER, SNAPSHOT, Place, RbdPlace

UUID, VM = "11111111-2222-3333-4444-555555555555", "v" * 13
PATIENCE_S = 30.0


def perform(node: Node, message: Any) -> Any:
    return HANDLERS[message.verb](node, message, Run(1, repeats=False, report=lambda percent, facts: None))


@pytest.fixture
def guest(on_device: Place, node: Node, folder: Path) -> Iterator[Place]:
    """A guest runs on the pool's one volume; it is paused before its first instruction, its QEMU is not."""
    place = on_device
    if isinstance(place, RbdPlace):
        perform(node, PoolAttach(pool=place.pool, key=place.ceph.key))
    place.create()
    disk = DomainDisk(id=DISK, bus="virtio", pool=place.pool, format=place.format)
    spec = DomainSpec(id=VM, uuid=UUID, name="web", vcpus=1, memory_bytes=64 * MIB, disks=(disk,))
    sources = {DISK: place.driver().source(DISK, place.format)}
    node.hypervisor.define(domain_xml.build(spec, "qemu", sources, folder))
    try:
        node.hypervisor.create(UUID, paused=True)
        yield place
    finally:
        if node.hypervisor.whereabouts(UUID).state != "shutoff":
            node.hypervisor.destroy(UUID)
        node.hypervisor.undefine(UUID)


def seen_by_guest(libvirt_uri: str) -> int:
    with_guest = libvirt.open(libvirt_uri)
    try:
        return int(with_guest.lookupByUUIDString(UUID).blockInfo("vda")[0])
    finally:
        with_guest.close()


def test_a_running_guest_sees_its_disk_grow(guest: Place, node: Node, libvirt_uri: str) -> None:
    assert seen_by_guest(libvirt_uri) == 8 * MIB
    message = DiskResize(id=DISK, pool=guest.pool, format=guest.format, size_bytes=40 * MIB)
    for _ in range(2):
        assert perform(node, message).size_bytes == 40 * MIB
        assert seen_by_guest(libvirt_uri) == 40 * MIB
    with pytest.raises(NodeError, match="would_shrink"):
        perform(node, message.model_copy(update={"size_bytes": 8 * MIB}))
    assert seen_by_guest(libvirt_uri) == 40 * MIB
    node.hypervisor.destroy(UUID)
    assert guest.measured() == 40 * MIB


def test_a_guest_that_was_not_told_is_told_by_the_repetition(guest: Place, node: Node, libvirt_uri: str) -> None:
    """As after a death between the volume and the guest. A file is grown by the guest's QEMU: there is no between."""
    driver = guest.driver()
    driver.resize(DISK, guest.format, 40 * MIB, leave_to_qemu=driver.QEMU_GROWS)
    perform(node, DiskResize(id=DISK, pool=guest.pool, format=guest.format, size_bytes=40 * MIB))
    assert seen_by_guest(libvirt_uri) == 40 * MIB


def test_what_a_running_guest_hinders(guest: Place, node: Node) -> None:
    volume = {"id": DISK, "pool": guest.pool, "format": guest.format}
    hindered: list[Any] = [
        DiskDelete(**volume),
        DiskRevert(**volume, snapshot=SNAPSHOT),
        DiskClone(disk=guest.disk(OTHER), source=guest.volume()),
    ]
    snapshot = DiskSnapshot(**volume, snapshot=SNAPSHOT)
    facts = guest.driver().facts()
    if guest.format in facts.snapshot_formats:
        assert facts.snapshots_online
        perform(node, snapshot)
        perform(node, snapshot)  # made so twice is done twice
        assert perform(node, DiskLook(**volume)).snapshots == (SNAPSHOT,)
        copy = DiskClone(disk=guest.disk(OTHER), source=guest.volume(), snapshot=SNAPSHOT)
        if guest.driver().QEMU_SNAPSHOTS:
            hindered.append(copy)
        else:
            perform(node, copy)
    for message in hindered:
        with pytest.raises(NodeError, match=r"disk_in_use.*web") as caught:
            perform(node, message)
        assert caught.value.info.certain
    assert node.hypervisor.whereabouts(UUID).state == "paused"
    if guest.format in facts.snapshot_formats:
        perform(node, DiskSnapshotDelete(**volume, snapshot=SNAPSHOT))
        perform(node, DiskSnapshotDelete(**volume, snapshot=SNAPSHOT))
        assert perform(node, DiskLook(**volume)).snapshots == ()


def test_a_guest_takes_a_second_disk_and_keeps_what_it_does_not_let_go_of(guest: Place, node: Node) -> None:
    guest.create(OTHER)
    other = DomainDisk(id=OTHER, bus="virtio", pool=guest.pool, format=guest.format)
    one = {"vm": VM, "uuid": UUID}
    for _ in range(2):
        assert perform(node, DomainPlug(**one, disk=other)).has is True
    assert set(node.hypervisor.devices(UUID).disks) == {DISK, OTHER}
    volume = {"id": OTHER, "pool": guest.pool, "format": guest.format}
    for message in (DiskUnused(**volume), DiskDelete(**volume)):
        with pytest.raises(NodeError, match=r"disk_in_use.*web"):
            perform(node, message)
    # It stands before its first instruction: nobody there hears of it.
    assert perform(node, DomainUnplug(**one, disk=OTHER, timeout_s=0.1)).has is True
    node.hypervisor.destroy(UUID)
    assert perform(node, DomainUnplug(**one, disk=OTHER)).has is None
    perform(node, DiskUnused(**volume))
    perform(node, DiskDelete(**volume))
    assert not perform(node, DiskLook(**volume)).exists


def test_a_bus_without_hotplug_waits_for_the_next_start(guest: Place, node: Node) -> None:
    guest.create(OTHER)
    for bus in ("sata", "ide", "scsi"):
        other = DomainDisk(id=OTHER, bus=bus, pool=guest.pool, format=guest.format)
        assert perform(node, DomainPlug(vm=VM, uuid=UUID, disk=other)).has is False
    assert set(node.hypervisor.devices(UUID).disks) == {DISK}


# --- to another pool while it runs ------------------------------------------------------------------------

ONE = {"vm": VM, "uuid": UUID}


@pytest.fixture(scope="session")
def folders(folder: Path) -> dict[str, Place]:
    """Pools of files beside those of the suite; volumes there are called as those that go there."""
    made = {f: places.directory(folder / f"elsewhere-{f}", f) for f in ("qcow2", "raw")}  # type: ignore[arg-type]
    return dict(made)


@pytest.fixture(params=["qcow2", "raw", "rbd"])
def elsewhere(
    guest: Place, request: pytest.FixtureRequest, folders: dict[str, Place], node: Node, folder: Path
) -> Iterator[Place]:
    """Where the guest's disk goes: a volume as large, which is there."""
    if request.param == "rbd":
        place: Place = places.rbd(request.getfixturevalue("ceph"), folder / "keys")
        perform(node, PoolAttach(pool=place.pool, key=request.getfixturevalue("ceph").key))
    else:
        place = folders[request.param]
    place.create()
    yield place
    if node.hypervisor.whereabouts(UUID).state != "shutoff":
        node.hypervisor.destroy(UUID)
    place.clear()


def mirror_to(place: Place) -> DomainMirror:
    return DomainMirror(**ONE, disk=DISK, target=place.volume())


def pivot_to(place: Place) -> DomainPivot:
    return DomainPivot(**ONE, disk=DISK, target=place.volume())


def used(node: Node, place: Place) -> bool:
    return bool(perform(node, DiskLook(id=DISK, pool=place.pool, format=place.format)).used_by)


def delete(node: Node, place: Place) -> None:
    perform(node, DiskDelete(id=DISK, pool=place.pool, format=place.format))


def test_a_guest_goes_over_to_a_copy_in_another_pool_and_its_definition_with_it(
    guest: Place, elsewhere: Place, node: Node
) -> None:
    write_in(node, 7)
    for _ in range(2):
        perform(node, mirror_to(elsewhere))
        assert used(node, guest)
        with pytest.raises(NodeError, match="disk_in_use"):
            delete(node, elsewhere)
    write_in(node, 8)  # to both
    for _ in range(2):
        perform(node, pivot_to(elsewhere))
        assert not used(node, guest)
        assert used(node, elsewhere)
    write_in(node, 9)
    perform(node, mirror_to(elsewhere))  # late: it is there already
    with pytest.raises(NodeError, match="disk_in_use"):
        delete(node, elsewhere)
    perform(node, DiskRename(id=DISK, pool=guest.pool, format=guest.format, new=OTHER))
    assert guest.names() == [guest.final(OTHER)]
    node.hypervisor.destroy(UUID)
    perform(node, pivot_to(elsewhere))  # of one that is off its definition says it
    assert not used(node, guest)
    assert elsewhere.holds(9)
    assert guest.holds(8, OTHER)


def test_a_mirror_that_is_ended_leaves_the_guest_where_it_was(guest: Place, elsewhere: Place, node: Node) -> None:
    perform(node, mirror_to(elsewhere))
    for _ in range(2):
        perform(node, DomainMirror(**ONE, disk=DISK))
    assert not used(node, elsewhere)
    with pytest.raises(NodeError, match="mirror_lost") as caught:
        perform(node, pivot_to(elsewhere))
    assert caught.value.info.certain
    delete(node, elsewhere)
    assert used(node, guest)
    assert node.hypervisor.whereabouts(UUID).state == "paused"


def test_what_cannot_be_mirrored_is_said_and_the_guest_stays(guest: Place, elsewhere: Place, node: Node) -> None:
    elsewhere.driver().resize(DISK, elsewhere.format, 16 * MIB, leave_to_qemu=False)
    with pytest.raises(NodeError):
        perform(node, mirror_to(elsewhere))
    perform(node, DomainMirror(**ONE, disk=DISK))
    delete(node, elsewhere)
    node.hypervisor.destroy(UUID)
    for message in (mirror_to(elsewhere), pivot_to(elsewhere)):
        with pytest.raises(NodeError) as caught:
            perform(node, message)
        assert caught.value.info.certain


def test_a_mirror_that_is_cancelled_is_ended(guest: Place, elsewhere: Place, node: Node) -> None:
    run = Run(1, repeats=False, report=lambda percent: None)
    run.cancellation.cancel()
    with pytest.raises(Cancelled):
        HANDLERS["domain.mirror"](node, mirror_to(elsewhere), run)
    assert not used(node, elsewhere)
    delete(node, elsewhere)


def write_in(node: Node, pattern: int) -> None:
    """Into the disk's beginning, by the guest's QEMU: nobody else may write there now."""
    connection = libvirt.open(node.hypervisor.uri)
    try:
        domain = connection.lookupByUUIDString(UUID)
        (drive,) = json.loads(libvirt_qemu.qemuMonitorCommand(domain, '{"execute": "query-block"}', 0))["return"]
        line = f'qemu-io -d {drive["qdev"]} "write -P {pattern} 0 64k"'
        command = {"execute": "human-monitor-command", "arguments": {"command-line": line}}
        libvirt_qemu.qemuMonitorCommand(domain, json.dumps(command), 0)
    finally:
        connection.close()
