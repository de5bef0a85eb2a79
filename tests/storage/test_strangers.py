"""Volumes that are nobody's: found, looked at, made a disk's, given back; and everything that speaks against it."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodes.contract.specs import Stranger
from tests.storage.places import DISK, MIB, OTHER, SNAPSHOT, DirectoryPlace, LvmPlace, Place, RbdPlace, nobody
from tests.storage.test_drivers import Attempts, refusal


def test_a_volume_that_is_nobodys_is_listed_and_becomes_a_disks(place: Place) -> None:
    place.create(OTHER)
    name = place.make_stranger()
    stranger = Stranger(name=name, format=place.format, size_bytes=8 * MIB)
    assert place.driver().strangers() == [stranger]
    assert place.driver().examine(name, nobody) == stranger
    assert place.driver().take(DISK, place.format, name, nobody).size_bytes == 8 * MIB == place.measured()
    assert place.driver().strangers() == []
    assert place.driver().sizes() == {DISK: 8 * MIB, OTHER: 8 * MIB}
    assert place.driver().take(DISK, place.format, name, nobody).size_bytes == 8 * MIB
    place.driver().give_back(DISK, place.format, name)
    assert place.driver().strangers() == [stranger]
    assert place.names() == [place.final(OTHER)]
    place.driver().give_back(DISK, place.format, name)
    assert place.driver().strangers() == [stranger]


def test_its_content_stays(on_device: Place) -> None:
    on_device.create()
    on_device.write(7)
    name = f"theirs.{on_device.format}"
    on_device.driver().give_back(DISK, on_device.format, name)
    on_device.driver().take(OTHER, on_device.format, name, nobody)
    assert on_device.holds(7, OTHER)


def test_what_a_domain_names_is_not_taken(place: Place) -> None:
    name = place.make_stranger()
    paths: list[str] = []

    def web(path: str) -> list[str]:
        paths.append(path)
        return ["web"]

    for call in (lambda: place.driver().examine(name, web), lambda: place.driver().take(DISK, place.format, name, web)):
        assert refusal(call) == "disk_in_use"
    assert paths
    assert [stranger.name for stranger in place.driver().strangers()] == [name]


def test_neither_a_disk_nor_what_is_not_there_is_taken(place: Place) -> None:
    place.create()
    driver = place.driver()
    assert refusal(driver.take, OTHER, place.format, place.final(), nobody) == "volume_taken"
    assert refusal(driver.take, OTHER, place.format, f"absent.{place.format}", nobody) == "volume_absent"
    assert place.names() == [place.final()]


def test_a_volume_with_the_disks_name_is_not_replaced(place: Place) -> None:
    name = place.make_stranger()
    place.make_foreign(place.final())
    assert refusal(place.driver().take, DISK, place.format, name, nobody) == "exists_not_ours"
    assert place.foreign_is_there(place.final())
    place.driver().give_back(DISK, place.format, name)
    assert name in [stranger.name for stranger in place.driver().strangers()]


def test_what_cannot_get_back_its_name_is_nobodys_under_the_disks(place: Place) -> None:
    name = place.make_stranger()
    place.driver().take(DISK, place.format, name, nobody)
    place.make_stranger()
    place.driver().give_back(DISK, place.format, name)
    assert [stranger.name for stranger in place.driver().strangers()] == sorted([place.final(), name])
    assert place.names() == []


@pytest.mark.parametrize("call", ["take", "give_back"])
def test_when_it_was_killed_it_is_made_so_by_repeating_it_or_taken_back(
    place: Place, call: str, tmp_path: Path
) -> None:
    name = ""

    def prepare() -> None:
        nonlocal name
        name = place.make_stranger()
        if call == "give_back":
            place.driver().take(DISK, place.format, name, nobody)

    prepare()
    asked = {"disk": place.disk().model_dump(), "name": name}
    attempts = Attempts(place, tmp_path / "faults", call, prepare, **asked)
    for point in attempts.points():
        attempts.die_at(point)
        attempts.repeat()
        taken = call == "take"
        assert place.names() == ([place.final()] if taken else []), point
        assert [stranger.name for stranger in place.driver().strangers()] == ([] if taken else [name]), point
        attempts.die_at(point)
        place.driver().give_back(DISK, place.format, name)
        assert place.names() == [], point
        assert [stranger.name for stranger in place.driver().strangers()] == [name], point


# --- one kind of storage each -----------------------------------------------------------------------------


@pytest.fixture
def files(place: Place) -> DirectoryPlace:
    assert isinstance(place, DirectoryPlace)
    return place


def make(path: Path, *arguments: str) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *arguments, str(path), "8M"], check=True)


def with_backing(folder: Path) -> str:
    make(folder / "web.qcow2", "-u", "-b", "/etc/shadow", "-F", "raw")
    return "image_has_backing"


def with_data_file(folder: Path) -> str:
    make(folder / "web.qcow2", "-o", f"data_file={folder / 'data'}")
    return "image_has_data_file"


def with_snapshot(folder: Path) -> str:
    make(folder / "web.qcow2")
    subprocess.run(["qemu-img", "snapshot", "-c", "old", str(folder / "web.qcow2")], check=True)
    return "image_has_snapshots"


def a_link(folder: Path) -> str:
    (folder / "web.qcow2").symlink_to("/etc/shadow")
    return "volume_unfit"


def two_names(folder: Path) -> str:
    make(folder / "web.qcow2")
    os.link(folder / "web.qcow2", folder / "web.too")
    return "volume_unfit"


def half_a_sector(folder: Path) -> str:
    (folder / "web.qcow2").write_bytes(b"x" * 100)
    (folder / "web.qcow2").rename(folder / "web.raw")
    return "volume_unfit"


def an_image(folder: Path) -> str:
    make(folder / "web.qcow2")
    os.setxattr(folder / "web.qcow2", "user.ulei.file", b"i" * 13)
    return "volume_taken"


def a_base(folder: Path) -> str:
    make(folder / "web.qcow2")
    make(folder / "overlay.qcow2", "-b", str(folder / "web.qcow2"), "-F", "qcow2")
    return "disk_in_use"


UNFIT = (with_backing, with_data_file, with_snapshot, a_link, two_names, half_a_sector, an_image, a_base)


@pytest.mark.parametrize("place", ["directory-qcow2"], indirect=True)
@pytest.mark.parametrize("prepare", UNFIT, ids=lambda prepare: prepare.__name__)
def test_a_file_that_is_more_or_less_than_a_disk_is_left_alone(
    files: DirectoryPlace, prepare: Callable[[Path], str]
) -> None:
    why = prepare(files.folder)
    name = next(file.name for file in files.folder.glob("web.*") if file.suffix in (".qcow2", ".raw"))
    assert refusal(files.driver().take, DISK, "qcow2", name, nobody) == why
    assert os.path.lexists(files.folder / name)
    listed = [stranger.name for stranger in files.driver().strangers()]
    assert listed == ([name] if prepare is a_base else [])


@pytest.mark.parametrize("place", ["directory-qcow2", "directory-raw"], indirect=True)
def test_a_file_that_a_qemu_has_open_is_in_use(files: DirectoryPlace) -> None:
    name = files.make_stranger()
    other: Any = ["qemu-io", "-f", files.format, str(files.folder / name)]
    with subprocess.Popen(other, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as guest:
        assert guest.stdin
        assert guest.stdout
        guest.stdin.write("write 0 4k\n")
        guest.stdin.flush()
        while "wrote" not in guest.stdout.readline():
            pass
        assert refusal(files.driver().take, DISK, files.format, name, nobody) == "disk_in_use"
        guest.stdin.write("quit\n")
        guest.stdin.flush()
    files.driver().take(DISK, files.format, name, nobody)


@pytest.mark.parametrize("place", ["directory-raw"], indirect=True)
def test_a_file_under_a_loop_device_is_in_use(files: DirectoryPlace) -> None:
    name = files.make_stranger()
    argv = ["losetup", "--find", "--show", str(files.folder / name)]
    device = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    try:
        assert refusal(files.driver().take, DISK, "raw", name, nobody) == "disk_in_use"
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.parametrize("place", ["rbd"], indirect=True)
def test_an_image_with_snapshots_clones_or_another_client_is_in_use(place: Place) -> None:
    assert isinstance(place, RbdPlace)
    name = place.make_stranger()
    place.ceph.rbd("snap", "create", f"{name}@{SNAPSHOT}")
    assert refusal(place.driver().take, DISK, "raw", name, nobody) == "disk_in_use"
    place.ceph.rbd("clone", "--rbd-default-clone-format", "2", f"{name}@{SNAPSHOT}", "volumes/theirs-too")
    assert refusal(place.driver().take, DISK, "raw", "theirs-too", nobody) == "volume_unfit"
    place.ceph.rbd("rm", "--no-progress", "theirs-too")


@pytest.mark.parametrize("place", ["lvm", "lvmthin"], indirect=True)
def test_a_snapshot_is_no_volume_and_a_volume_that_has_one_is_in_use(on_device: Place) -> None:
    assert isinstance(on_device, LvmPlace)
    name = on_device.make_stranger()
    size = [] if on_device.pool.kind == "lvmthin" else ["--size", "4m"]
    subprocess.run(["lvcreate", "-q", "--yes", "--snapshot", *size, "--name", "kept", f"{on_device.group}/{name}"])
    if size:
        assert refusal(on_device.driver().take, DISK, "raw", "kept", nobody) == "volume_unfit"
        assert refusal(on_device.driver().take, DISK, "raw", name, nobody) == "disk_in_use"
    else:  # a thin volume stands by itself
        on_device.driver().take(DISK, "raw", "kept", nobody)
