"""A domain's XML -> its outline: that of it which the panel decides, so that changes behind its back are seen."""

import os
from typing import Any

from lxml import etree

from nodes.contract.image_file import QCOW2_MAGIC
from nodes.contract.specs import Outline, SeenDisk, SeenNic
from nodes.domain_xml import ARCHITECTURE
from nodes.names import ID

UNITS = {"b": 1, "bytes": 1, "KB": 1000, "KiB": 1 << 10, "MB": 10**6, "MiB": 1 << 20, "GB": 10**9, "GiB": 1 << 30}

BEYOND = {
    "architecture": f"os/type[@arch != '{ARCHITECTURE}']",
    "firmware": "os/loader | os[@firmware]",
    "kernel": "os/kernel",
    "hostdev": "devices/hostdev",
    "filesystem": "devices/filesystem",
    "tpm": "devices/tpm",
}
"""Parts of a guest that would be lost with its definition -> where they stand in it."""


def outline_of(xml: str, *, autostart: bool = False, persistent: bool = True) -> Outline:
    """
    :param xml: of the definition, as libvirt gives it back.
    """
    domain = etree.fromstring(xml, etree.XMLParser(resolve_entities=False))
    vcpus, memory_bytes = int(domain.findtext("vcpu") or 1), _bytes(domain.find("memory"))
    return Outline(
        title=domain.findtext("title") or "",
        vcpus=vcpus,
        vcpus_current=int(_first(domain, "vcpu/@current") or vcpus),
        memory_bytes=memory_bytes,
        memory_current_bytes=_bytes(domain.find("currentMemory"), memory_bytes),
        autostart=autostart,
        persistent=persistent,
        disks=tuple(_disk(disk) for disk in domain.iterfind("devices/disk")),
        nics=tuple(_nic(nic) for nic in domain.iterfind("devices/interface")),
        beyond=tuple(name for name, path in BEYOND.items() if domain.xpath(path)),
    )


def _bytes(element: Any, otherwise: int = 0) -> int:
    if element is None:
        return otherwise
    return int(element.text) * UNITS.get(element.get("unit", "KiB"), 1 << 10)


def _disk(disk: Any) -> SeenDisk:
    place = _source(disk, "file", "dev", "name", "volume")
    return SeenDisk(
        name=_first(disk, "target/@dev"),
        device=disk.get("device", "disk"),
        id=disk_in(place) if disk.get("device", "disk") == "disk" else "",
        place=place,
        bus=_first(disk, "target/@bus"),
        format=_first(disk, "driver/@type"),
        boot_order=int(order) if (order := _first(disk, "boot/@order")) else None,
        hosts=tuple(str(name) for name in disk.xpath("source[@protocol='rbd']/host/@name")),
    )


def disk_in(place: str) -> str:
    """The id of the disk whose volume this is, by its name; empty: it is not named like one of ours."""
    match = ID.fullmatch(os.path.basename(place).partition(".")[0])
    return match[0] if match else ""


def _nic(nic: Any) -> SeenNic:
    bridge = _source(nic, "bridge", "network", "dev")
    model, tap = _first(nic, "model/@type"), _first(nic, "target/@dev")
    return SeenNic(mac=_first(nic, "mac/@address").lower(), bridge=bridge, model=model, tap=tap)


def _source(device: Any, *names: str) -> str:
    """The first of these that its source has."""
    return next((found for name in names if (found := _first(device, f"source/@{name}"))), "")


def _first(element: Any, path: str) -> str:
    return str(element.xpath(f"string({path})"))


def measured(outline: Outline) -> Outline:
    """With the sizes of what is none of ours: nobody else would tell them."""
    disks = (
        disk if disk.id or disk.device != "disk" else disk.model_copy(update={"size_bytes": size_of(disk.place)})
        for disk in outline.disks
    )
    return outline.model_copy(update={"disks": tuple(disks)})


def size_of(place: str) -> int | None:
    """As a guest would see it; None: it cannot be read here."""
    try:
        with open(place, "rb") as file:
            head = file.read(32)
            if head.startswith(QCOW2_MAGIC):
                return int.from_bytes(head[24:32], "big")
            return file.seek(0, os.SEEK_END)
    except OSError:
        return None
