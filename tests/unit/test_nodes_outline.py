"""What an agent reads out of a definition, and what the panel finds different in it."""

from pathlib import Path

import pytest
from lxml import etree

from cluster.domain_drift import can_be_held, differences, place_of
from nodes.contract.specs import (
    BlockSource,
    DomainDisk,
    DomainSpec,
    FileSource,
    NicSpec,
    Outline,
    PoolSpec,
    RbdSource,
    SeenDisk,
    SeenNic,
)
from nodes.domain_xml import build
from nodes.hypervisor.outlines import Outlines
from nodes.outline import disk_in, measured, outline_of

FILE, VOLUME, IMAGE, DRIVE, NIC = "f" * 13, "v" * 13, "i" * 13, "d" * 13, "n" * 13
POOLS = [
    PoolSpec(id="p" * 13, kind=kind, identity="x", path=path)  # type: ignore[arg-type]
    for kind, path in (("directory", "/var/lib/libvirt/images"), ("lvmthin", "vg0/thin"), ("rbd", "rbd"))
]
SPEC = DomainSpec(
    id="v" * 13,
    uuid="11111111-2222-3333-4444-555555555555",
    name="web",
    title="Веб",
    vcpus=2,
    memory_bytes=256 << 20,
    disks=(
        DomainDisk(id=FILE, bus="virtio", pool=POOLS[0], format="qcow2", boot_order=2),
        DomainDisk(id=VOLUME, bus="scsi", pool=POOLS[1]),
        DomainDisk(id=IMAGE, bus="sata", pool=POOLS[2]),
        DomainDisk(id=DRIVE, device="cdrom", bus="ide", iso="rescue.iso", boot_order=1),
    ),
    nics=(NicSpec(id=NIC, bridge="br0", mac="52:54:00:00:00:01"),),
)
SOURCES = {
    FILE: FileSource(path=f"/var/lib/libvirt/images/{FILE}.qcow2"),
    VOLUME: BlockSource(path=f"/dev/vg0/{VOLUME}"),
    IMAGE: RbdSource(name=f"rbd/{IMAGE}", monitors=("10.0.0.1:6789",), user="ulei", secret_uuid="s"),
    DRIVE: FileSource(path="/var/lib/libvirt/boot/rescue.iso"),
}
XML = build(SPEC, "kvm", SOURCES, Path("/var/log"))
HERE = Outline(
    title="Веб",
    vcpus=2,
    vcpus_current=2,
    memory_bytes=256 << 20,
    memory_current_bytes=256 << 20,
    disks=(
        SeenDisk(name="", id=FILE, place=place_of("directory", POOLS[0].path, FILE, "qcow2"), bus="virtio"),
        SeenDisk(name="", id=VOLUME, place=place_of("lvmthin", POOLS[1].path, VOLUME, "raw"), bus="scsi"),
        SeenDisk(name="", id=IMAGE, place=place_of("rbd", POOLS[2].path, IMAGE, "raw"), bus="sata"),
        SeenDisk(name="", id=DRIVE, device="cdrom", place="rescue.iso", bus="ide"),
    ),
    nics=(SeenNic(mac="52:54:00:00:00:01", bridge="br0", model="virtio", tap="ul" + NIC),),
)


def changed(path: str, **attributes: str) -> Outline:
    """The outline of the definition with one element changed; ``text`` is its text."""
    domain = etree.fromstring(XML)
    [element] = domain.xpath(path)
    element.text = attributes.pop("text", element.text)
    for name, value in attributes.items():
        element.set(name, value)
    return outline_of(etree.tostring(domain, encoding="unicode"))


def without(path: str) -> Outline:
    domain = etree.fromstring(XML)
    [element] = domain.xpath(path)
    element.getparent().remove(element)
    return outline_of(etree.tostring(domain, encoding="unicode"))


def with_device(xml: str) -> Outline:
    domain = etree.fromstring(XML)
    domain.find("devices").append(etree.fromstring(xml))
    return outline_of(etree.tostring(domain, encoding="unicode"))


def test_what_the_panel_defines_differs_in_nothing() -> None:
    outline = outline_of(XML)
    assert differences(HERE, outline) == {}
    assert [(disk.name, disk.id, disk.boot_order) for disk in outline.disks] == [
        ("vda", FILE, 2),
        ("sda", VOLUME, None),
        ("sdb", IMAGE, None),
        ("hda", "", 1),
    ]


@pytest.mark.parametrize(
    ("seen", "field", "panel", "there"),
    [
        (changed("vcpu", text="4"), "vcpus", 2, 4),
        (changed("vcpu", current="1"), "vcpus_current", 2, 1),
        (changed("memory", text="1", unit="GiB"), "memory_bytes", 256 << 20, 1 << 30),
        (changed("devices/disk[1]/target", bus="sata"), f"disk/{FILE}/bus", "virtio", "sata"),
        (
            changed("devices/disk[1]/source", file=f"/mnt/{FILE}.qcow2"),
            f"disk/{FILE}/place",
            f"/var/lib/libvirt/images/{FILE}.qcow2",
            f"/mnt/{FILE}.qcow2",
        ),
        (without("devices/disk[2]"), f"disk/{VOLUME}", f"/dev/vg0/{VOLUME}", None),
        (changed("devices/disk[4]/source", file="/x/other.iso"), f"disk/{DRIVE}/medium", "rescue.iso", "other.iso"),
        (without("devices/disk[4]/source"), f"disk/{DRIVE}/medium", "rescue.iso", ""),
        (without("devices/disk[4]"), f"disk/{DRIVE}", "rescue.iso", None),
        (changed("devices/interface/model", type="e1000"), "nic/52:54:00:00:00:01/model", "virtio", "e1000"),
        (changed("devices/interface/source", bridge="br9"), "nic/52:54:00:00:00:01/bridge", "br0", "br9"),
        (without("devices/interface"), "nic/52:54:00:00:00:01", "br0", None),
        (
            with_device("<disk device='disk'><source file='/srv/theirs.img'/><target dev='vdz' bus='virtio'/></disk>"),
            "disk/vdz",
            None,
            "/srv/theirs.img",
        ),
        (
            with_device(
                "<interface type='network'><mac address='52:54:00:AA:00:01'/><source network='nat'/></interface>"
            ),
            "nic/52:54:00:aa:00:01",
            None,
            "nat",
        ),
        (outline_of(XML, autostart=True), "autostart", False, True),
        (outline_of(XML, persistent=False), "persistent", True, False),
    ],
    ids=lambda value: value if isinstance(value, str) and "/" not in value else "",
)
def test_each_change_is_one_field_with_both_values(seen: Outline, field: str, panel: object, there: object) -> None:
    assert differences(HERE, seen) == {field: {"panel": panel, "seen": there}}


def test_a_disk_that_leads_to_another_file_is_gone_and_a_foreign_one_is_there() -> None:
    seen = changed("devices/disk[1]/source", file="/srv/theirs.qcow2")
    assert set(differences(HERE, seen)) == {f"disk/{FILE}", "disk/vda"}


def test_a_title_is_the_panels_alone() -> None:
    assert differences(HERE, changed("title", text="Other")) == {}


def test_only_what_the_panel_keeps_itself_can_be_taken_over() -> None:
    yes = [
        ("vcpus", 4),
        ("memory_bytes", 1 << 30),
        (f"disk/{FILE}/bus", "sata"),
        ("nic/52:54:00:00:00:01/model", "e1000"),
    ]
    no = [("vcpus_current", 1), ("autostart", True), ("persistent", False), (f"disk/{FILE}/bus", "usb")]
    no += [("nic/52:54:00:00:00:01/model", "vmxnet3"), ("nic/52:54:00:00:00:01/bridge", "br9"), ("disk/vdz", "/srv/x")]
    assert [can_be_held(*each) for each in yes] == [True] * len(yes)
    assert [can_be_held(*each) for each in no] == [False] * len(no)


def test_a_volume_is_ours_by_its_name_alone() -> None:
    assert disk_in(f"/any/where/{FILE}.qcow2") == disk_in(f"rbd/{FILE}") == FILE
    assert disk_in("/srv/theirs.qcow2") == disk_in(f"/x/{FILE}-old.qcow2") == disk_in("") == ""


def test_of_what_is_none_of_ours_the_size_is_measured(tmp_path: Path) -> None:
    raw, qcow2 = tmp_path / "a.img", tmp_path / "b.qcow2"
    raw.write_bytes(bytes(4096))
    qcow2.write_bytes(b"QFI\xfb" + bytes(20) + (1 << 30).to_bytes(8, "big"))
    places = [str(raw), str(qcow2), str(tmp_path / "none"), f"/x/{FILE}.qcow2"]
    disks = tuple(SeenDisk(name=f"vd{n}", place=place, id=disk_in(place)) for n, place in enumerate(places))
    plain = {"vcpus": 1, "vcpus_current": 1, "memory_bytes": 1, "memory_current_bytes": 1}
    assert [disk.size_bytes for disk in measured(Outline(**plain, disks=disks)).disks] == [4096, 1 << 30, None, None]


class Domain:
    """As libvirt's binding has it; counts how often it is read."""

    reads = 0

    def UUIDString(self) -> str:
        return SPEC.uuid

    def name(self) -> str:
        return SPEC.domain_name

    def XMLDesc(self, flags: int) -> str:
        self.reads += 1
        return XML

    def autostart(self) -> int:
        return 0

    def isPersistent(self) -> int:
        return 1


def test_a_definition_is_read_again_only_when_its_file_is_another_one(tmp_path: Path) -> None:
    domain, outlines, file = Domain(), Outlines(tmp_path), tmp_path / f"{SPEC.domain_name}.xml"
    file.write_text("as libvirt keeps it")
    for _ in range(2):
        assert differences(HERE, outlines.of(domain)) == {}  # type: ignore[arg-type]
    assert (domain.reads, outlines.outdated()) == (1, [])

    (tmp_path / "new").write_text("changed by hand")
    (tmp_path / "new").replace(file)
    assert outlines.outdated() == [(SPEC.uuid, SPEC.domain_name)]
    outlines.of(domain)
    assert (domain.reads, outlines.outdated()) == (2, [])

    (tmp_path / "autostart").mkdir()
    (tmp_path / "autostart" / file.name).symlink_to(file)
    assert outlines.outdated() != []
    outlines.of(domain, anew=True)
    assert (domain.reads, outlines.outdated()) == (3, [])

    file.unlink()
    outlines.forget(SPEC.uuid)
    assert outlines.outdated() == []


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("<os firmware='efi'><type arch='x86_64'>hvm</type></os>", "firmware"),
        ("<os><type arch='x86_64'>hvm</type><loader>/usr/share/OVMF.fd</loader></os>", "firmware"),
        ("<os><type arch='aarch64'>hvm</type></os>", "architecture"),
        ("<os><type arch='x86_64'>hvm</type><kernel>/boot/vmlinuz</kernel></os>", "kernel"),
        ("<devices><hostdev mode='subsystem' type='pci'/></devices>", "hostdev"),
        ("<devices><tpm model='tpm-crb'/></devices>", "tpm"),
        ("<devices><filesystem type='mount'/></devices>", "filesystem"),
    ],
)
def test_what_no_definition_of_ours_has_is_named(part: str, name: str) -> None:
    outline = outline_of(f"<domain><memory>1</memory><vcpu>1</vcpu>{part}</domain>")
    assert outline.beyond == (name,)
    assert outline_of(XML).beyond == ()


def test_of_an_image_of_ceph_the_monitors_are_told() -> None:
    hosts = {disk.id: disk.hosts for disk in outline_of(XML).disks}
    assert (hosts[IMAGE], hosts[FILE]) == (("10.0.0.1",), ())
