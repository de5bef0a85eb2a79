"""A guest that has booted: its file systems stand still when asked to, and its memory is kept and comes back."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.lab import micro
from nodes import domain_xml, quiesce
from nodes.contract.errors import NodeError
from nodes.contract.messages import (
    DiskRevert,
    DiskSnapshot,
    DiskSnapshotDelete,
    DomainBackup,
    DomainFreeze,
    DomainLoad,
    DomainReboot,
    DomainResume,
    DomainSave,
    DomainStop,
    DomainSuspend,
    DomainThaw,
)
from nodes.contract.specs import BackupDisk, DomainDisk, DomainSpec, VolumeSpec
from nodes.node import Node
from tests.storage.places import DISK, MIB, OTHER, SNAPSHOT, DirectoryPlace, directory
from tests.storage.test_guests import UUID, VM, perform

PATIENCE_S = 90.0
OURS = {"vm": VM, "uuid": UUID}


class Booted:
    def __init__(self, place: DirectoryPlace, console: Path) -> None:
        self.place = place
        self._console = console

    def said(self) -> str:
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def ticks(self) -> list[int]:
        return [int(line[5:]) for line in self.said().splitlines() if line.startswith("tick ") and line[5:].isdigit()]

    def wait(self, what: Callable[[], object], why: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not what():
            assert time.monotonic() < deadline, f"{why}: {self.said()[-800:]}"
            time.sleep(0.1)

    def wait_tick(self) -> int:
        """The first tick from now on."""
        seen = len(self.ticks())
        self.wait(lambda: len(self.ticks()) > seen, "no tick")
        return self.ticks()[-1]


@pytest.fixture(scope="module")
def booted(node: Node, folder: Path) -> Iterator[Booted]:
    """The micro guest, from a whole copy of its image, with the channel of a guest agent."""
    state = Path(os.environ.get("ULEI_STATE") or "var").absolute()
    image, _iso = micro.build(state / "cache")
    place = directory(folder / "booted", "qcow2")
    place.create(DISK, 64 * MIB)
    volume = place.folder / place.final()
    argv = ["qemu-img", "convert", "-n", "-f", "qcow2", "-O", "qcow2", str(image), str(volume)]
    subprocess.run(argv, check=True)
    disk = DomainDisk(id=DISK, bus="virtio", pool=place.pool, format="qcow2", boot_order=1)
    spec = DomainSpec(id=VM, uuid=UUID, name="web", vcpus=1, memory_bytes=128 * MIB, disks=(disk,))
    node.hypervisor.define(domain_xml.build(spec, "qemu", {DISK: place.driver().source(DISK, "qcow2")}, folder))
    guest = Booted(place, folder / f"{spec.domain_name}.console.log")
    try:
        node.hypervisor.create(UUID, paused=False)
        guest.wait(lambda: node.hypervisor.guest_agent_listens(UUID) and guest.ticks(), "the guest did not come up")
        yield guest
    finally:
        if node.hypervisor.whereabouts(UUID).state != "shutoff":
            node.hypervisor.destroy(UUID)
        node.hypervisor.undefine(UUID)


def stands_still(guest: Booted) -> bool:
    time.sleep(0.3)  # a tick that was being printed
    before = len(guest.ticks())
    time.sleep(2.5)
    return len(guest.ticks()) == before


def features(volume: Path) -> str:
    """Of the file system in a copy of the guest's disk, as whoever mounts it finds it."""
    raw = volume.with_suffix(".raw")
    place = ["skip=40", "bs=1M", f"if={volume}", f"of={raw}"]
    subprocess.run(["qemu-img", "dd", "-f", "qcow2", "-O", "raw", *place], check=True)
    said = subprocess.run(["dumpe2fs", "-h", str(raw)], check=True, capture_output=True, text=True).stdout
    raw.unlink()
    return next(line for line in said.splitlines() if line.startswith("Filesystem features:"))


def test_a_guest_stands_still_from_freeze_to_thaw(booted: Booted, node: Node) -> None:
    assert perform(node, DomainFreeze(**OURS, required=True)).frozen
    assert stands_still(booted)
    assert perform(node, DomainThaw(**OURS)).frozen
    booted.wait_tick()
    assert not perform(node, DomainThaw(**OURS)).frozen
    assert list(node.paths.frozen_dir.iterdir()) == []


def test_what_a_killed_agent_has_frozen_the_next_one_thaws(booted: Booted, node: Node) -> None:
    assert perform(node, DomainFreeze(**OURS)).frozen
    quiesce.thaw_left_over(node.paths.frozen_dir, node.hypervisor)
    booted.wait_tick()
    assert not perform(node, DomainThaw(**OURS)).frozen


def test_nobody_has_to_thaw_a_guest_before_its_time_is_over(
    booted: Booted, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiesce, "LIMIT_S", 1.0)
    assert perform(node, DomainFreeze(**OURS)).frozen
    booted.wait_tick()
    booted.wait(lambda: not list(node.paths.frozen_dir.iterdir()), "its note stayed")  # it goes behind the thaw


def test_one_that_is_paused_when_its_time_is_over_is_thawed_when_it_goes_on(
    booted: Booted, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiesce, "LIMIT_S", 1.0)
    assert perform(node, DomainFreeze(**OURS)).frozen
    perform(node, DomainSuspend(**OURS))
    time.sleep(3)
    assert len(list(node.paths.frozen_dir.iterdir())) == 1
    perform(node, DomainResume(**OURS))
    booted.wait_tick()


def test_a_backup_is_of_an_instant_at_which_the_guest_stood_still(booted: Booted, node: Node) -> None:
    place, frozen = booted.place, booted.said().count("AGENT-freeze")
    place.create(OTHER, 64 * MIB)
    target = VolumeSpec(id=OTHER, pool=place.pool, format="qcow2")
    copied, copy = {"disks": (BackupDisk(disk=DISK, target=target),)}, place.folder / place.final(OTHER)
    assert perform(node, DomainBackup(**OURS, **copied, quiesce="required")).quiesced
    booted.wait_tick()
    assert booted.said().count("AGENT-freeze") == frozen + 1 == booted.said().count("AGENT-thaw")
    assert "needs_recovery" not in features(copy)
    assert not perform(node, DomainBackup(**OURS, **copied)).quiesced
    assert "needs_recovery" in features(copy)
    place.driver().delete(OTHER, "qcow2", lambda path: ())


def test_a_snapshot_of_one_disk_asks_the_guest_by_itself(booted: Booted, node: Node) -> None:
    place, asked = booted.place, booted.said().count("AGENT-freeze")
    volume = {"id": DISK, "pool": place.pool, "format": "qcow2"}
    try:
        assert perform(node, DiskSnapshot(**volume, snapshot=SNAPSHOT, quiesce="required")).quiesced
        booted.wait_tick()
        assert booted.said().count("AGENT-freeze") == asked + 1 == booted.said().count("AGENT-thaw")
        copy = place.folder / "kept.qcow2"
        kept = ["-U", "-l", f"snapshot.name={SNAPSHOT}", "-f", "qcow2", "-O", "qcow2"]
        subprocess.run(["qemu-img", "convert", *kept, str(place.folder / place.final()), str(copy)], check=True)
        assert "needs_recovery" not in features(copy)
    finally:
        perform(node, DiskSnapshotDelete(**volume, snapshot=SNAPSHOT))


def test_a_guest_whose_agent_cannot_do_it_reboots_by_its_power_button(booted: Booted, node: Node) -> None:
    boots = booted.said().count("GUEST-UP")
    perform(node, DomainReboot(**OURS))
    booted.wait(lambda: booted.said().count("GUEST-UP") == boots + 1, "it did not reboot")
    booted.wait(lambda: node.hypervisor.guest_agent_listens(UUID), "its agent did not come back")


def test_a_guest_goes_on_from_where_its_memory_was_kept(booted: Booted, node: Node) -> None:
    place, kept = booted.place, {"snapshot": SNAPSHOT, "disks": (DISK,)}
    booted.wait_tick()
    perform(node, DomainSave(**OURS, **kept))
    assert node.hypervisor.whereabouts(UUID).state == "running"
    then = booted.wait_tick()
    perform(node, DomainSave(**OURS, **kept))
    assert place.driver().look(DISK, "qcow2", lambda path: ()).snapshots == (SNAPSHOT,)
    booted.wait(lambda: booted.ticks()[-1] > then + 3, "the guest went on")
    perform(node, DomainStop(**OURS))
    volume = {"id": DISK, "pool": place.pool, "format": "qcow2", "snapshot": SNAPSHOT}
    perform(node, DiskRevert(**volume))
    for _ in range(2):
        where = perform(node, DomainLoad(**OURS, **kept))
        assert where.state == "running"
        assert booted.wait_tick() <= then + 3
        # Its console begins anew with its QEMU: it did not boot.
        assert "GUEST-UP" not in booted.said()
    perform(node, DiskSnapshotDelete(**volume))
    assert place.driver().look(DISK, "qcow2", lambda path: ()).snapshots == ()
    with pytest.raises(NodeError, match="memory_not_loaded"):
        perform(node, DomainLoad(**OURS, **kept))
    assert node.hypervisor.whereabouts(UUID).state == "shutoff"
