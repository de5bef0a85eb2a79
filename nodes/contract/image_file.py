"""What an image or an ISO says of itself in its first bytes; read by the panel and by nodes, before QEMU sees the file.

A file that comes from outside may name others: a qcow2 its backing file or its data file, a VMDK its extents. QEMU
would open them, whatever they are. So only self-contained qcow2, raw and ISO pass, and no header that is absurd.
Source: QEMU's docs/interop/qcow2.txt.
"""

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .sizes import MAX_BYTES

Kind = Literal["image", "iso"]

SUFFIXES: dict[Kind, tuple[str, ...]] = {"image": (".qcow2", ".raw", ".img"), "iso": (".iso",)}

QCOW2_MAGIC = b"QFI\xfb"
_QCOW2 = struct.Struct(">4sIQIIQIIQQIIQ")
"""magic, version, offset and length of the backing file's name, cluster bits, virtual size, encryption, entries and
offset of the L1 table, offset and clusters of the refcount table, number and offset of the snapshots."""
_QCOW2_V3 = struct.Struct(">QQQII")
"""Feature bits: incompatible, compatible, autoclear; refcount order; length of the header."""
_FEATURE_DIRTY, _FEATURE_CORRUPT, _FEATURE_DATA_FILE, _FEATURE_COMPRESSION, _FEATURE_EXTENDED_L2 = 1, 2, 4, 8, 16
_FEATURES_KNOWN = _FEATURE_DIRTY | _FEATURE_COMPRESSION | _FEATURE_EXTENDED_L2
_CLUSTER_BITS = range(9, 22)
_MOST_L1_BYTES = 32 << 20
_MOST_REFCOUNT_TABLE_BYTES = 8 << 20
"""QEMU's own limits."""
_ISO_MAGIC_AT, _ISO_MAGICS = 32769, (b"CD001", b"BEA01")
"""ISO 9660, and UDF alone."""
_OTHER_FORMATS = {
    "VMDK": (b"KDMV", b"COWD", b"# Disk DescriptorFile"),
    "VHD": (b"conectix",),
    "VHDX": (b"vhdxfile",),
    "QED": (b"QED\0",),
    "QCOW": (QCOW2_MAGIC[:4] + b"\0\0\0\1",),
    "Parallels": (b"WithoutFreeSpace", b"WithouFreSpacExt"),
    "LUKS": (b"LUKS\xba\xbe",),
    "gzip": (b"\x1f\x8b",),
    "xz": (b"\xfd7zXZ\0",),
    "zip": (b"PK\x03\x04",),
    "Zstandard": (b"\x28\xb5\x2f\xfd",),
}
_VDI_AT, _VDI_MAGIC = 64, b"\x7f\x10\xda\xbe"


_VOLUME = re.compile(r"[a-z2-7]{13}\.(qcow2|raw|part)")


def is_volume(name: str) -> bool:
    """Could this be a volume of ours in a directory pool? Then it is no name for an image."""
    return _VOLUME.fullmatch(name) is not None


@dataclass(frozen=True)
class Described:
    format: Literal["qcow2", "raw", "iso"]
    virtual_size_bytes: int


class Unfit(Exception):
    """Why a file is taken neither for an image nor for an ISO: a code of ``cluster.texts`` and its facts."""

    def __init__(self, code: str, **facts: str) -> None:
        super().__init__(code)
        self.code = code
        self.facts = facts


def describe(path: Path, kind: Kind, name: str) -> Described:
    """What the file is, by its content; ``name`` is what people call it. Raises :class:`Unfit`."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4096)
        file.seek(_ISO_MAGIC_AT)
        iso_magic = file.read(5)
    if kind == "iso":
        if iso_magic not in _ISO_MAGICS:
            raise Unfit("not_an_iso", name=name)
        return Described("iso", size_bytes)
    other = _other_format(head)
    if other:
        raise Unfit("image_other_format", name=name, found=other)
    if head.startswith(QCOW2_MAGIC):
        if name.lower().endswith(".raw"):
            raise Unfit("image_other_format", name=name, found="qcow2")
        return Described("qcow2", _qcow2_size_bytes(head, size_bytes, name))
    if name.lower().endswith(".qcow2"):
        raise Unfit("image_other_format", name=name, found="raw")
    return Described("raw", size_bytes)


def _other_format(head: bytes) -> str:
    if head[_VDI_AT : _VDI_AT + 4] == _VDI_MAGIC:
        return "VDI"
    return next((found for found, magics in _OTHER_FORMATS.items() if head.startswith(magics)), "")


def _qcow2_size_bytes(head: bytes, size_bytes: int, name: str) -> int:
    def refuse(why: str) -> Unfit:
        return Unfit("image_damaged", name=name, why=why)

    if len(head) < _QCOW2.size + _QCOW2_V3.size:
        raise refuse("the header is cut off")
    (
        _magic,
        version,
        backing_at,
        _backing_length,
        cluster_bits,
        virtual_size_bytes,
        encryption,
        l1_entries,
        l1_at,
        refcounts_at,
        refcount_clusters,
        snapshots,
        _snapshots_at,
    ) = _QCOW2.unpack_from(head)
    if version not in (2, 3):
        raise refuse(f"version {version}")
    features = _QCOW2_V3.unpack_from(head, _QCOW2.size)[0] if version == 3 else 0
    if backing_at:
        raise Unfit("image_has_backing", name=name)
    if features & _FEATURE_DATA_FILE:
        raise Unfit("image_has_data_file", name=name)
    if encryption:
        raise Unfit("image_encrypted", name=name)
    if snapshots:
        raise Unfit("image_has_snapshots", name=name)
    if features & ~_FEATURES_KNOWN:
        raise refuse("corrupt" if features & _FEATURE_CORRUPT else f"unknown features {features:#x}")
    if cluster_bits not in _CLUSTER_BITS:
        raise refuse(f"clusters of 2^{cluster_bits} bytes")
    cluster_bytes = 1 << cluster_bits
    entry_bytes = 16 if features & _FEATURE_EXTENDED_L2 else 8
    covered_by_one = cluster_bytes * (cluster_bytes // entry_bytes)
    if not 0 < virtual_size_bytes <= MAX_BYTES:
        raise refuse(f"{virtual_size_bytes} bytes large")
    if l1_entries < -(-virtual_size_bytes // covered_by_one) or l1_entries * 8 > _MOST_L1_BYTES:
        raise refuse(f"an L1 table of {l1_entries} entries")
    tables = ((l1_at, l1_entries * 8), (refcounts_at, refcount_clusters * cluster_bytes))
    if not refcount_clusters or refcount_clusters * cluster_bytes > _MOST_REFCOUNT_TABLE_BYTES:
        raise refuse(f"a refcount table of {refcount_clusters} clusters")
    if any(at % cluster_bytes or at == 0 or at + length > size_bytes for at, length in tables):
        raise refuse("a table outside the file")
    return virtual_size_bytes
