"""The file of a backup: what is not exactly what was written is refused, before anything is done with it."""

import io
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.panel_backup import installation
from cluster.panel_backup.archive import Manifest, pack, unpack
from cluster.refusals import Refused

MADE = datetime(2026, 11, 20, 2, 0, tzinfo=UTC)
PARTS = {"database": b"rows" * 1000, "panel.env": b"ULEI_SECRET_KEY=x\n", "ca/ca.key": b"key"}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "parts"
    for name, content in PARTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    manifest = Manifest(version="0.1.0", made=MADE, database="sqlite", database_version="3", migrations=("a.0001",))
    assert {part.name for part in pack(tmp_path / "panel.tar", manifest, folder).parts} == set(PARTS)
    return tmp_path / "panel.tar"


def codes(archive: Path, folder: Path) -> list[str]:
    with pytest.raises(Refused) as refused:
        unpack(archive, folder)
    return [refusal.code for refusal in refused.value.refusals]


def repack(archive: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> None:
    with tarfile.open(archive) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    change(members)
    with tarfile.open(archive, "w") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_what_was_packed_comes_out_again(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    manifest = unpack(archive, out)
    assert {name: (out / name).read_bytes() for name in PARTS} == PARTS
    assert (manifest.made, manifest.migrations) == (MADE, ("a.0001",))
    assert archive.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", sorted(PARTS))
@pytest.mark.parametrize("change", [lambda c: c[:-1] + b"!", lambda c: c[:-1], lambda c: c + b"!"])
def test_a_part_that_is_not_as_the_manifest_says_is_refused(
    archive: Path, tmp_path: Path, name: str, change: Callable[[bytes], bytes]
) -> None:
    def alter(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        members[:] = [(m, change(content) if m.name == name else content) for m, content in members]

    repack(archive, alter)
    out = tmp_path / "out"
    out.mkdir()
    assert codes(archive, out) == ["backup_damaged"]


@pytest.mark.parametrize("way", ["less", "more", "twice", "link", "outside"])
def test_a_file_that_the_manifest_does_not_name_or_that_is_missing_is_refused(
    archive: Path, tmp_path: Path, way: str
) -> None:
    def alter(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        if way == "less":
            members.pop()
        elif way == "twice":
            members.append(members[-1])
        else:
            extra = tarfile.TarInfo("../outside" if way == "outside" else "more")
            if way == "link":
                extra, content = tarfile.TarInfo("database"), b""
                extra.type, extra.linkname = tarfile.SYMTYPE, "/etc/passwd"
                members[1:2] = [(extra, content)]
            else:
                members.append((extra, b"x"))

    repack(archive, alter)
    out = tmp_path / "out"
    out.mkdir()
    assert codes(archive, out) == ["backup_damaged"]
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("content", [b"", b"no archive", b"\0" * 10240])
def test_what_is_no_backup_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert codes(tmp_path / "file", tmp_path) == ["backup_unreadable"]
    assert codes(tmp_path / "absent", tmp_path) == ["backup_unreadable"]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_that_was_cut_off_is_refused(archive: Path, tmp_path: Path, share: float) -> None:
    content = archive.read_bytes()
    end = content.rstrip(b"\0")
    archive.write_bytes(end[: int(len(end) * share)])
    out = tmp_path / "out"
    out.mkdir()
    assert codes(archive, out)[0] in ("backup_damaged", "backup_unreadable")


@given(st.text(st.characters(codec="ascii", exclude_categories=("Cc",)), max_size=40))
def test_any_value_of_the_configuration_is_read_back_as_it_was(value: str) -> None:
    text = installation.configuration("# ours\nULEI_SECRET_KEY=old\nULEI_PORT=1\n", {"ULEI_SECRET_KEY": value})
    assert installation.values_of(text) == {"ULEI_SECRET_KEY": value, "ULEI_PORT": "1"}
    assert text.startswith("# ours\n")
