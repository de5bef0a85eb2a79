"""A file from outside is looked at before QEMU opens it: what names another file, or makes no sense, is refused."""

import struct
import subprocess
from pathlib import Path

import pytest

from nodes.contract.image_file import Described, Unfit, describe

MIB = 1 << 20


def qcow2(folder: Path, *options: str, size: str = "64M") -> Path:
    path = folder / "image.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), size], check=True)
    return path


def why(path: Path, name: str = "image.qcow2", kind: str = "image") -> str:
    with pytest.raises(Unfit) as refused:
        describe(path, kind, name)  # type: ignore[arg-type]
    return refused.value.code


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-o", "compat=0.10"],
        ["-o", "cluster_size=2M"],
        ["-o", "cluster_size=512"],
        ["-o", "extended_l2=on"],
        ["-o", "compression_type=zstd"],
        ["-o", "preallocation=metadata"],
        ["-o", "lazy_refcounts=on"],
    ],
)
def test_every_kind_of_qcow2_that_stands_alone_is_taken_with_its_size(options: list[str], tmp_path: Path) -> None:
    assert describe(qcow2(tmp_path, *options), "image", "image.qcow2") == Described("qcow2", 64 * MIB)


def test_an_image_converted_with_compression_is_taken(tmp_path: Path) -> None:
    raw, path = tmp_path / "full.raw", tmp_path / "full.qcow2"
    raw.write_bytes(b"content" * 10_000 + bytes(512 - 70_000 % 512))
    subprocess.run(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", str(raw), str(path)], check=True)
    assert describe(path, "image", "full.img").format == "qcow2"


@pytest.mark.parametrize("backing", ["/etc/shadow", "https://example.org/disk.img", 'json:{"driver": "file"}'])
def test_an_image_that_rests_on_something_else_is_refused(backing: str, tmp_path: Path) -> None:
    path = qcow2(tmp_path)
    subprocess.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, str(path)], check=True)
    assert why(path) == "image_has_backing"


def test_an_image_with_its_data_in_another_file_is_refused(tmp_path: Path) -> None:
    path = qcow2(tmp_path, "-o", f"data_file={tmp_path / 'data.raw'},data_file_raw=on")
    assert why(path) == "image_has_data_file"


def test_an_encrypted_image_and_one_with_snapshots_are_refused(tmp_path: Path) -> None:
    path = qcow2(tmp_path)
    subprocess.run(["qemu-img", "snapshot", "-c", "before", str(path)], check=True)
    assert why(path) == "image_has_snapshots"
    # By hand: qemu-img measures how quick the CPU is before it makes one, and fails where that is busy.
    path = qcow2(tmp_path)
    with path.open("r+b") as file:
        file.seek(32)
        file.write(struct.pack(">I", 2))
    assert why(path) == "image_encrypted"


@pytest.mark.parametrize(
    ("field", "at", "value"),
    [
        ("version", 4, struct.pack(">I", 9)),
        ("clusters of 2^31 bytes", 20, struct.pack(">I", 31)),
        ("no size", 24, struct.pack(">Q", 0)),
        ("an exabyte", 24, struct.pack(">Q", 1 << 60)),
        ("more than can be counted", 24, struct.pack(">Q", (1 << 64) - 1)),
        ("a billion entries", 36, struct.pack(">I", 1_000_000_000)),
        ("L1 table behind the end", 40, struct.pack(">Q", 1 << 50)),
        ("L1 table between clusters", 40, struct.pack(">Q", 65537)),
        ("no refcounts", 56, struct.pack(">I", 0)),
        ("refcounts without end", 56, struct.pack(">I", 0xFFFFFFFF)),
        ("refcounts behind the end", 48, struct.pack(">Q", 1 << 50)),
        ("corrupt", 72, struct.pack(">Q", 2)),
        ("a feature from the future", 72, struct.pack(">Q", 1 << 40)),
    ],
)
def test_an_absurd_header_is_refused(field: str, at: int, value: bytes, tmp_path: Path) -> None:
    path = qcow2(tmp_path)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(value)
    assert why(path) == "image_damaged"


def test_a_header_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.qcow2"
    path.write_bytes(b"QFI\xfb" + bytes(20))
    assert why(path) == "image_damaged"


@pytest.mark.parametrize("other", ["vmdk", "vpc", "vhdx", "vdi", "qed", "qcow", "parallels"])
def test_an_image_of_another_format_is_refused_whatever_its_name(other: str, tmp_path: Path) -> None:
    path = tmp_path / "other"
    subprocess.run(["qemu-img", "create", "-q", "-f", other, str(path), "64M"], check=True)
    for name in ("other.img", "other.raw", "other.qcow2"):
        assert why(path, name) == "image_other_format"


def test_a_vmdk_in_words_that_names_other_files_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "words.img"
    path.write_text('# Disk DescriptorFile\nversion=1\nRW 2048 FLAT "/etc/shadow" 0\n')
    assert why(path, "words.img") == "image_other_format"


def test_a_name_that_promises_another_format_is_refused(tmp_path: Path) -> None:
    assert why(qcow2(tmp_path), "image.raw") == "image_other_format"
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(MIB))
    assert why(raw, "image.qcow2") == "image_other_format"
    assert describe(raw, "image", "image.img") == Described("raw", MIB)
    assert describe(raw, "image", "image.raw") == Described("raw", MIB)


def test_an_iso_is_known_by_its_file_system(tmp_path: Path) -> None:
    path = tmp_path / "some.iso"
    path.write_bytes(bytes(32769) + b"CD001" + bytes(MIB))
    assert describe(path, "iso", "some.iso") == Described("iso", path.stat().st_size)
    path.write_bytes(bytes(MIB))
    assert why(path, "some.iso", "iso") == "not_an_iso"
    path.write_bytes(b"")
    assert why(path, "some.iso", "iso") == "not_an_iso"
