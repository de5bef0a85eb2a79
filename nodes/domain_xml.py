"""DomainSpec -> libvirt's XML, by lxml's builder: nothing that a person typed is ever formatted into text."""

import itertools
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Literal

from lxml import etree
from lxml.builder import E  # type: ignore[import-not-found]  # its stubs leave the builder out

from nodes.contract.specs import (
    BlockSource,
    DiskBus,
    DiskFormat,
    DiskSource,
    DomainDisk,
    DomainSpec,
    FileSource,
    MovedDisk,
    NicSpec,
    RbdSource,
)

NAMESPACE = "https://ulei.local/xmlns/domain/1"

GUEST_AGENT = "org.qemu.guest_agent.0"
"""The channel to the agent inside the guest."""
ARCHITECTURE, MACHINE = "x86_64", "pc"
COMMON_CPU = "kvm64"
"""Of no vendor. Source: QEMU, docs/system/cpu-models-x86.rst"""

_DEVICE_PREFIX: dict[DiskBus, str] = {"virtio": "vd", "scsi": "sd", "sata": "sd", "ide": "hd"}


def build(
    spec: DomainSpec,
    virt_type: Literal["kvm", "qemu", "test"],
    sources: Mapping[str, DiskSource],
    console_log_dir: Path,
) -> str:
    """
    :param sources: disk id -> source; a CD-ROM without one is an empty drive.
    :param console_log_dir: what the guest writes to its serial console is kept there, ``<domain name>.console.log``.
    """
    domain = E.domain(
        E.name(spec.domain_name),
        E.uuid(spec.uuid),
        E.title(_one_line(spec.title)) if spec.title else "",
        E.metadata(etree.Element(etree.QName(NAMESPACE, "vm"), {"id": spec.id}, nsmap={"ulei": NAMESPACE})),
        E.memory(str(-(-spec.memory_bytes // 1024)), unit="KiB"),
        E.vcpu(str(spec.vcpus)),
        E.os(E.type("hvm", arch=ARCHITECTURE, machine=MACHINE)),
        E.features(E.acpi(), E.apic()),
        # TCG emulates what it can; a guest under KVM sees the host's CPU by a name that a migration can compare.
        E.cpu(mode="host-model" if virt_type == "kvm" else "maximum"),
        E.clock(
            E.timer(name="rtc", tickpolicy="catchup"),
            E.timer(name="pit", tickpolicy="delay"),
            E.timer(name="hpet", present="no"),
            offset="utc",
        ),
        E.on_poweroff("destroy"),
        E.on_reboot("restart"),
        E.on_crash("destroy"),
        _devices(spec, sources, console_log_dir),
        type=virt_type,
    )
    etree.indent(domain)
    return etree.tostring(domain, encoding="unicode") + "\n"


def _one_line(text: str) -> str:
    """Without what XML cannot hold, and without the line breaks that libvirt refuses in a title."""
    return "".join(" " if unicodedata.category(c) in ("Cc", "Cs") or c in "\ufffe\uffff" else c for c in text)


def _devices(spec: DomainSpec, sources: Mapping[str, DiskSource], console_log_dir: Path) -> etree._Element:
    devices = E.devices()
    letters: dict[str, int] = {}
    for disk in spec.disks:
        prefix = _DEVICE_PREFIX[disk.bus]
        index = letters.get(prefix, 0)
        letters[prefix] = index + 1
        devices.append(_disk(disk, prefix + _letters(index), sources.get(disk.id)))
    if any(disk.bus == "scsi" for disk in spec.disks):
        devices.append(E.controller(type="scsi", model="virtio-scsi"))
    # xhci, because the older USB controllers keep an idle guest's CPU awake.
    devices.append(E.controller(type="usb", model="qemu-xhci"))
    devices.extend(_nic(nic) for nic in spec.nics)
    log_file = str(console_log_dir / f"{spec.domain_name}.console.log")
    devices.extend(
        [
            E.serial(E.log(file=log_file, append="off"), E.target(port="0"), type="pty"),
            E.console(E.target(type="serial", port="0"), type="pty"),
            E.channel(E.target(type="virtio", name=GUEST_AGENT), type="unix"),
            E.input(type="tablet", bus="usb"),
            # A socket on this node only: whoever looks at a screen comes through the panel.
            E.graphics(E.listen(type="socket"), type="vnc"),
            E.video(E.model(type="vga")),
            E.memballoon(model="virtio"),
            E.rng(E.backend("/dev/urandom", model="random"), model="virtio"),
        ]
    )
    return devices


def disk_xml(disk: DomainDisk, source: DiskSource | None, name: str) -> str:
    """A disk alone, for a guest that runs.

    :param name: by which the domain knows it: ``vda``.
    """
    return etree.tostring(_disk(disk, name, source), encoding="unicode")


def moved_xml(xml: str, disks: Mapping[str, MovedDisk]) -> str:
    """A domain's present XML as it has to be on another node: the same guest, with its disks where they are there.

    :param disks: by the name that the guest's QEMU has for them: ``vda``.
    """
    domain = etree.fromstring(xml, etree.XMLParser(resolve_entities=False, remove_blank_text=True))
    for disk in domain.iterfind("devices/disk"):
        moved = disks.get(str(disk.xpath("string(target/@dev)")))
        if moved is None:
            continue
        # What libvirt found out about the old place must not go along: a chain of files, an index, a slice.
        for old in (*disk.findall("source"), *disk.findall("backingStore"), *disk.findall("mirror")):
            disk.remove(old)
        kind, where = _source(moved.source)
        disk.set("type", kind)
        driver = disk.find("driver")
        if driver is not None and disk.get("device") == "disk":
            driver.set("type", moved.format)
            driver.set("cache", moved.cache or _cache(moved.source))
        if not isinstance(where, str):
            disk.insert(0 if driver is None else disk.index(driver) + 1, where)
    return etree.tostring(domain, encoding="unicode")


def with_common_cpu(xml: str) -> str:
    """A domain's XML with a CPU that any node can give: for a guest of which nothing is executed."""
    domain = etree.fromstring(xml, etree.XMLParser(resolve_entities=False))
    for cpu in domain.findall("cpu"):
        domain.replace(cpu, E.cpu(E.model(COMMON_CPU, fallback="forbid"), mode="custom", match="exact", check="none"))
    return etree.tostring(domain, encoding="unicode")


def free_name(bus: DiskBus, taken: Collection[str]) -> str:
    """The first name for a disk on this bus that no other disk has."""
    names = (_DEVICE_PREFIX[bus] + _letters(index) for index in itertools.count())
    return next(name for name in names if name not in taken)


def _letters(index: int) -> str:
    """0 -> a, 25 -> z, 26 -> aa: how Linux counts disks."""
    text = ""
    index += 1
    while index:
        index, letter = divmod(index - 1, 26)
        text = chr(ord("a") + letter) + text
    return text


def _disk(disk: DomainDisk, target: str, source: DiskSource | None) -> etree._Element:
    boot = E.boot(order=str(disk.boot_order)) if disk.boot_order is not None else ""
    kind, where = _source(source)
    if disk.device == "cdrom":
        return E.disk(
            E.driver(name="qemu", type="raw"),
            where,
            E.target(dev=target, bus=disk.bus),
            E.readonly(),
            boot,
            type=kind,
            device="cdrom",
        )
    return E.disk(
        # stop: a guest whose storage has no room, or is away, stands still and goes on; else it would lose its writes.
        E.driver(
            name="qemu",
            type=disk.format,
            cache=disk.cache or _cache(source),
            error_policy="stop",
            discard="unmap",
        ),
        where,
        E.target(dev=target, bus=disk.bus),
        E.serial(disk.id),
        boot,
        type=kind,
        device="disk",
    )


def backup_xml(names: Iterable[str], targets: Mapping[str, tuple[DiskSource, DiskFormat]]) -> str:
    """All disks of a guest, and where the copies of some of them go. Source: libvirt.org/formatbackup.html

    Raises ValueError for a place into which QEMU writes no copy.
    """
    disks = E.disks()
    for name in sorted(names):
        if name not in targets:
            disks.append(E.disk(name=name, backup="no"))
            continue
        source, disk_format = targets[name]
        kind, where = _source(source)
        if not isinstance(source, FileSource | BlockSource) or isinstance(where, str):
            raise ValueError(f"no copy can be written to {source}")
        where.tag = "target"
        disks.append(E.disk(where, E.driver(type=disk_format), name=name, backup="yes", type=kind))
    return etree.tostring(E.domainbackup(disks, mode="push"), encoding="unicode")


def copy_xml(source: DiskSource, disk_format: DiskFormat) -> str:
    """Where a running guest's disk is to be copied. Source: libvirt.org/html/libvirt-libvirt-domain.html, BlockCopy."""
    kind, where = _source(source)
    return etree.tostring(E.disk(where, E.driver(type=disk_format), type=kind, device="disk"), encoding="unicode")


def place_of(source: DiskSource) -> str:
    """In one word, to be compared with those of :func:`place_in`."""
    _kind, where = _source(source)
    assert not isinstance(where, str)
    return place_in(where)


def place_in(source: etree._Element | None) -> str:
    """To what a ``source`` element leads; empty: nowhere."""
    if source is None:
        return ""
    hosts = (f"{host.get('name')}:{host.get('port')}" for host in source.iterfind("host"))
    return " ".join([source.get("file") or source.get("dev") or source.get("name") or "", *sorted(hosts)])


def _source(source: DiskSource | None) -> tuple[str, etree._Element | str]:
    """(the disk's type, its source element). Source: libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms"""
    match source:
        case None:
            return "file", ""
        case FileSource():
            return "file", E.source(file=source.path)
        case BlockSource():
            return "block", E.source(dev=source.path)
        case RbdSource():
            hosts = [_host(monitor) for monitor in source.monitors]
            auth = E.auth(E.secret(type="ceph", uuid=source.secret_uuid), username=source.user)
            return "network", E.source(*hosts, auth, protocol="rbd", name=source.name)


def _host(monitor: str) -> etree._Element:
    name, _, port = monitor.rpartition(":")
    return E.host(name=name.strip("[]"), port=port)


def _cache(source: DiskSource | None) -> str:
    """none: the guest's flush reaches the disk, and its blocks are not kept in memory twice.

    A file system without O_DIRECT (tmpfs, some overlays) would refuse to open it, and an RBD image has no other cache
    than librbd's; writeback honours flushes as well.
    """
    match source:
        case FileSource(direct_io=False) | RbdSource():
            return "writeback"
    return "none"


def _nic(nic: NicSpec) -> etree._Element:
    return E.interface(
        E.mac(address=nic.mac),
        E.source(bridge=nic.bridge),
        E.target(dev=nic.tap),
        E.model(type=nic.model),
        type="bridge",
    )
