"""The domain's XML against golden files, and what no text may do to it. ``ULEI_GOLDEN=write`` writes them anew."""

import os
from pathlib import Path

import pytest
from lxml import etree

from nodes.contract.specs import (
    BlockSource,
    DomainDisk,
    DomainSpec,
    FileSource,
    MovedDisk,
    NicSpec,
    PoolSpec,
    RbdSource,
)
from nodes.domain_xml import build, moved_xml

GOLDEN = Path(__file__).parent / "golden" / "domain"
POOL = PoolSpec(id="p" * 13, kind="directory", identity="x", path="/pool")
LOGS = Path("/var/log/libvirt/qemu")


def spec(**changes):
    values = {"id": "v" * 13, "uuid": "11111111-2222-3333-4444-555555555555", "name": "web", "vcpus": 1}
    return DomainSpec(**{**values, "memory_bytes": 1 << 30, **changes})


def disk(letter, **changes):
    values = {"id": letter * 13, "bus": "virtio", "pool": POOL, "format": "qcow2"}
    return DomainDisk(**{**values, **changes})


def nic(letter, **changes):
    return NicSpec(**{"id": letter * 13, "bridge": "br0", "mac": "52:54:00:00:00:01", **changes})


SOURCES = {letter * 13: FileSource(path=f"/pool/{letter * 13}.qcow2") for letter in "abcdef"}

CASES = {
    "least": (spec(), "qemu", {}),
    "typical-kvm": (
        spec(title="Веб-сервер", vcpus=2, disks=(disk("a", boot_order=1),), nics=(nic("n"),)),
        "kvm",
        SOURCES,
    ),
    "iso-boots-first": (
        spec(
            disks=(
                disk("a", boot_order=2),
                DomainDisk(id="c" * 13, device="cdrom", bus="ide", iso="install.iso", boot_order=1),
                DomainDisk(id="d" * 13, device="cdrom", bus="sata"),
            )
        ),
        "qemu",
        {"a" * 13: SOURCES["a" * 13], "c" * 13: FileSource(path="/isos/install.iso")},
    ),
    "every-bus-and-model": (
        spec(
            memory_bytes=(1 << 30) + 1,
            disks=(
                disk("a", bus="virtio"),
                disk("b", bus="scsi"),
                disk("c", bus="sata"),
                disk("d", bus="ide", format="raw"),
                disk("e", bus="virtio"),
            ),
            nics=(nic("n"), nic("o", model="rtl8139"), nic("q", model="e1000")),
        ),
        "qemu",
        {**SOURCES, "b" * 13: FileSource(path="/tmpfs/b.qcow2", direct_io=False)},
    ),
    "every-kind-of-storage": (
        spec(disks=(disk("a", format="raw"), disk("b", format="raw", bus="scsi"), disk("c"))),
        "kvm",
        {
            "a" * 13: BlockSource(path="/dev/vg0/" + "a" * 13),
            "b" * 13: RbdSource(
                name="rbd/" + "b" * 13,
                monitors=("10.0.0.1:6789", "[fd00::1]:3300"),
                user="ulei",
                secret_uuid="11111111-2222-3333-4444-666666666666",
            ),
            "c" * 13: FileSource(path="/pool/" + "c" * 13 + ".qcow2"),
        },
    ),
    "hostile-title": (spec(title="</title><x a='\"'>&amp;;$(reboot) " + "я" * 200), "qemu", {}),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name):
    domain, virt_type, sources = CASES[name]
    xml = build(domain, virt_type, sources, LOGS)
    file = GOLDEN / f"{name}.xml"
    if os.environ.get("ULEI_GOLDEN") == "write":
        file.parent.mkdir(exist_ok=True)
        file.write_text(xml)
    assert xml == file.read_text()


def test_a_title_is_text_and_nothing_else():
    title = CASES["hostile-title"][0].title
    tree = etree.fromstring(build(spec(title=title), "qemu", {}, LOGS))
    assert tree.findtext("title") == title
    assert tree.find("x") is None


def test_a_title_of_an_older_panel_cannot_spoil_the_definition():
    tree = etree.fromstring(build(spec(title="a\x0bb\nc\uffff"), "qemu", {}, LOGS))
    assert tree.findtext("title") == "a b c "


def test_many_disks_are_named_as_linux_counts_them():
    disks = tuple(
        DomainDisk(id=f"{index:013b}".replace("0", "a").replace("1", "b"), bus="virtio") for index in range(28)
    )
    tree = etree.fromstring(build(spec(disks=disks), "qemu", {}, LOGS))
    names = [target.get("dev") for target in tree.findall("devices/disk/target")]
    assert names[:2] + names[25:] == ["vda", "vdb", "vdz", "vdaa", "vdab"]


def test_memory_is_rounded_up_to_whole_kibibytes():
    tree = etree.fromstring(build(spec(memory_bytes=(1 << 30) + 1), "qemu", {}, LOGS))
    assert tree.findtext("memory") == str((1 << 20) + 1)


def test_the_vm_id_stands_in_the_metadata():
    tree = etree.fromstring(build(spec(), "qemu", {}, LOGS))
    assert tree.find("metadata/{*}vm").get("id") == "v" * 13


def test_a_domain_on_its_way_has_its_disks_where_they_are_over_there_and_all_else_as_it_was():
    here = build(
        spec(disks=(disk("a"), disk("b"), DomainDisk(id="c" * 13, device="cdrom", bus="ide"))), "qemu", SOURCES, LOGS
    )
    there = moved_xml(
        here,
        {
            "vda": MovedDisk(id="a" * 13, source=BlockSource(path="/dev/vg0/a"), format="raw", copied=True),
            "vdb": MovedDisk(id="b" * 13, source=FileSource(path="/other/b.qcow2", direct_io=False), format="qcow2"),
            "hda": MovedDisk(id="c" * 13, source=FileSource(path="/isos/x.iso")),
        },
    )
    disks = etree.fromstring(there).findall("devices/disk")
    assert [(one.get("type"), dict(one.find("source").attrib)) for one in disks] == [
        ("block", {"dev": "/dev/vg0/a"}),
        ("file", {"file": "/other/b.qcow2"}),
        ("file", {"file": "/isos/x.iso"}),
    ]
    drivers = [(one.find("driver").get("type"), one.find("driver").get("cache")) for one in disks]
    assert drivers == [("raw", "none"), ("qcow2", "writeback"), ("raw", None)]
    assert _without_disks(there) == _without_disks(here)


def _without_disks(xml):
    domain = etree.fromstring(xml, etree.XMLParser(remove_blank_text=True))
    for each in domain.findall("devices/disk"):
        each.getparent().remove(each)
    return etree.tostring(domain)
