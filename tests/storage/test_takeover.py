"""A domain that somebody made by hand becomes ours with its volume, or is given back as it was: a real libvirtd."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lxml import etree

from nodes.config import Paths
from nodes.contract.errors import NodeError
from nodes.contract.messages import (
    DiskGiveBack,
    DiskTake,
    DomainGiveBack,
    DomainRead,
    DomainStart,
    DomainTake,
    DomainUndefine,
    PoolFind,
)
from nodes.contract.specs import DomainDisk, DomainSpec
from nodes.node import Node
from nodes.verbs import domains, takeover
from tests.storage.places import DISK, MIB, DirectoryPlace, directory
from tests.storage.test_guests import VM, perform

UUID = "22222222-2222-3333-4444-555555555555"
THEIRS = "Their web"
OURS = {"vm": VM, "uuid": UUID}
DEFINED = """\
<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<description>somebody's own words</description><os><type>hvm</type></os><devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{place}'/>
<target dev='vda' bus='virtio'/></disk>
<graphics type='vnc' passwd='secret'><listen type='socket'/></graphics></devices></domain>
"""


class Theirs:
    def __init__(self, node: Node, place: DirectoryPlace) -> None:
        self.node, self.place = node, place
        self.volume = place.make_stranger()
        node.hypervisor.define(DEFINED.format(name=THEIRS, uuid=UUID, place=place.folder / self.volume))
        node.hypervisor.set_autostart(UUID)
        self.was = self.shown()

    def shown(self) -> tuple[str, str, bool]:
        """(name, definition, whether libvirt starts it)"""
        domain = self.node.hypervisor.find(uuid=UUID)
        assert domain
        xml, autostart = self.node.hypervisor.definition(UUID)
        return domain.name, xml, autostart

    @property
    def spec(self) -> DomainSpec:
        disk = DomainDisk(id=DISK, bus="virtio", pool=self.place.pool, format="qcow2", boot_order=1)
        return DomainSpec(id=VM, uuid=UUID, name="web", vcpus=1, memory_bytes=64 * MIB, disks=(disk,))

    def find(self) -> Any:
        return perform(self.node, PoolFind(pool=self.place.pool, name=self.volume, user=UUID))

    def take_volume(self) -> None:
        its = {"id": DISK, "pool": self.place.pool, "format": "qcow2", "name": self.volume}
        perform(self.node, DiskTake(**its, user=UUID))

    def give_volume_back(self) -> None:
        perform(self.node, DiskGiveBack(id=DISK, pool=self.place.pool, format="qcow2", name=self.volume))

    def take(self) -> Any:
        return perform(self.node, DomainTake(domain=self.spec, name=THEIRS))

    def give_back(self) -> None:
        perform(self.node, DomainGiveBack(**OURS, name=THEIRS))

    def is_as_it_was(self) -> bool:
        return self.shown() == self.was and os.listdir(self.node.paths.taken_dir) == []


@pytest.fixture(scope="module")
def place(folder: Path) -> DirectoryPlace:
    return directory(folder / "theirs", "qcow2")


@pytest.fixture
def theirs(node: Node, folder: Path, place: DirectoryPlace) -> Iterator[Theirs]:
    node = replace(node, paths=Paths(state_dir=folder / "takeover", console_log_dir=folder))
    theirs = Theirs(node, place)
    yield theirs
    if node.hypervisor.whereabouts(UUID).state in ("running", "paused"):
        node.hypervisor.destroy(UUID)
    node.hypervisor.undefine(UUID)
    for file in node.paths.taken_dir.glob("*"):
        file.unlink()
    place.clear()


def refusal(call: Any) -> str:
    with pytest.raises(NodeError) as caught:
        call()
    assert caught.value.info.certain
    return str(caught.value.info.code)


def test_it_becomes_ours_under_our_name_with_our_definition_and_starts(theirs: Theirs) -> None:
    read = perform(theirs.node, DomainRead(**OURS, name=THEIRS))
    assert (read.state, read.outline.disks[0].size_bytes) == ("shutoff", 8 * MIB)
    assert theirs.find().size_bytes == 8 * MIB
    theirs.take_volume()
    assert theirs.take().state == "shutoff"
    name, xml, autostart = theirs.shown()
    assert (name, autostart) == (f"web.{VM}", False)
    assert "somebody's own words" not in xml
    sources = etree.fromstring(xml).xpath("devices/disk/source/@file")
    assert sources == [str(theirs.place.folder / theirs.place.final())]
    assert theirs.take().state == "shutoff"
    assert perform(theirs.node, DomainStart(**OURS, paused=True, for_now=True)).state == "paused"


def test_a_guest_that_runs_is_left_alone_with_its_volume(theirs: Theirs) -> None:
    theirs.node.hypervisor.create(UUID, paused=True)
    assert [refusal(call) for call in (theirs.find, theirs.take_volume)] == ["domain_active", "domain_active"]
    theirs.node.hypervisor.destroy(UUID)
    theirs.take_volume()
    theirs.give_volume_back()
    assert theirs.shown() == theirs.was


def test_a_volume_that_another_domain_has_too_is_left_alone(theirs: Theirs) -> None:
    another = "33333333-2222-3333-4444-555555555555"
    place = theirs.place.folder / theirs.volume
    theirs.node.hypervisor.define(DEFINED.format(name="another", uuid=another, place=place))
    try:
        assert [refusal(call) for call in (theirs.find, theirs.take_volume)] == ["disk_in_use", "disk_in_use"]
    finally:
        theirs.node.hypervisor.undefine(another)


def test_one_that_runs_by_now_or_has_another_name_is_not_taken(theirs: Theirs) -> None:
    theirs.take_volume()
    theirs.node.hypervisor.rename(UUID, "called otherwise")
    assert refusal(theirs.take) == "exists_not_ours"
    theirs.node.hypervisor.rename(UUID, THEIRS)
    theirs.give_volume_back()
    theirs.node.hypervisor.create(UUID, paused=True)
    assert refusal(theirs.take) == "domain_active"


def test_one_that_would_go_on_from_its_saved_memory_stays_as_it_is(theirs: Theirs, libvirt_uri: str) -> None:
    """That memory was written with the volume under its old name."""
    theirs.node.hypervisor.create(UUID, paused=True)
    connection = libvirt.open(libvirt_uri)
    connection.lookupByUUIDString(UUID).managedSave(0)
    connection.close()
    before = theirs.shown()
    theirs.take_volume()
    assert refusal(theirs.take) == "domain_keeps_state"
    theirs.give_back()
    theirs.give_volume_back()
    assert theirs.shown() == before


@pytest.mark.parametrize("moment", range(5))
def test_when_the_agent_dies_it_is_taken_by_repeating_it_or_given_back(
    theirs: Theirs, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after it was renamed, before and after it was defined."""
    left = moment

    def die(name: str, detail: str = "") -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt

    theirs.take_volume()
    with monkeypatch.context() as patched:
        for module in (domains, takeover):
            patched.setattr(module, "point", die)
        with pytest.raises(KeyboardInterrupt):
            theirs.take()
    assert theirs.take().defined
    assert theirs.shown()[0] == f"web.{VM}"

    left = moment
    with monkeypatch.context() as patched:
        patched.setattr(domains, "point", die)
        if moment < 4:
            with pytest.raises(KeyboardInterrupt):
                theirs.give_back()
    theirs.give_back()
    theirs.give_back()
    theirs.give_volume_back()
    assert theirs.is_as_it_was()


def test_what_was_kept_of_it_goes_with_the_vm(theirs: Theirs) -> None:
    theirs.take_volume()
    theirs.take()
    [kept] = theirs.node.paths.taken_dir.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    perform(theirs.node, DomainUndefine(**OURS))
    assert list(theirs.node.paths.taken_dir.iterdir()) == []
    theirs.node.hypervisor.define(theirs.was[1])
