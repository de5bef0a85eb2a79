"""One suite over every driver: what each promises of volumes, whatever they are made of."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodes.contract.errors import NodeError
from nodes.contract.sizes import granule_of, round_up
from nodes.contract.specs import DiskSpec
from nodes.shell import Cancellation
from tests.storage.places import DISK, MIB, OTHER, SNAPSHOT, Place, nobody

ROOT = Path(__file__).parents[2]
SIZES = (1, 4096, 65537, MIB, 3 * MIB + 1, 4 * MIB, 7 * MIB, 8 * MIB - 512, 8 * MIB, 13 * MIB + 1, 31 * MIB, 65 * MIB)
"""The 12 sizes whose quote is laid beside what the bare tool measures."""


def refusal(call: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    with pytest.raises(NodeError) as caught:
        call(*arguments, **named)
    assert caught.value.info.certain
    return caught.value.info.code


def clone(place: Place, disk: DiskSpec, snapshot: str | None = None) -> int:
    driver = place.driver()
    return driver.clone(disk, driver, place.volume(), snapshot, Cancellation()).size_bytes


# --- create, look, delete ---------------------------------------------------------------------------------


def test_a_volume_is_made_marked_measured_and_deleted(place: Place) -> None:
    assert place.create() == 8 * MIB == place.measured()
    state = place.driver().look(DISK, place.format, nobody)
    assert (state.exists, state.ours, state.size_bytes, state.used_by, state.snapshots) == (True, True, 8 * MIB, (), ())
    assert place.names() == [place.final()]
    place.driver().delete(DISK, place.format, nobody)
    assert place.names() == []
    assert not place.driver().look(DISK, place.format, nobody).exists
    place.driver().delete(DISK, place.format, nobody)


@pytest.mark.parametrize("size_bytes", SIZES)
def test_the_quote_is_what_the_tool_measures(place: Place, size_bytes: int, record_property: Any) -> None:
    quote = round_up(size_bytes, granule_of(place.driver().facts(), place.format))
    said, measured = place.create(size_bytes=size_bytes), place.measured()
    record_property("sizes", f"{place.name}: asked {size_bytes}, quote {quote}, driver {said}, tool {measured}")
    assert quote == said == measured


def test_sizes_are_those_of_finished_volumes_of_ours_also_when_somebody_made_one_larger(place: Place) -> None:
    assert place.driver().sizes() == {}
    place.create()
    place.create(OTHER, 16 * MIB)
    place.make_foreign(place.final("f" * 13))
    place.make_foreign(f"{'g' * 13}.part")
    assert place.driver().sizes() == {DISK: 8 * MIB, OTHER: 16 * MIB}
    place.grow_by_hand(DISK, 32 * MIB)
    place.delete_by_hand(OTHER)
    assert place.driver().sizes() == {DISK: 32 * MIB}


def test_making_it_again_changes_nothing(place: Place) -> None:
    place.create()
    assert place.create() == 8 * MIB
    assert place.names() == [place.final()]


def test_making_it_again_keeps_its_content(on_device: Place) -> None:
    on_device.create()
    on_device.write(7)
    on_device.create()
    assert on_device.holds(7)


def test_our_volume_of_another_size_is_refused(place: Place) -> None:
    place.create()
    assert refusal(place.create, size_bytes=16 * MIB) == "exists_other_size"


def test_what_never_fits_has_no_room(place: Place) -> None:
    assert refusal(place.create, size_bytes=10 << 60) == "no_room"
    assert place.names() == []


def test_a_volume_that_a_domain_names_is_in_use(place: Place) -> None:
    place.create()
    paths: list[str] = []

    def web(path: str) -> list[str]:
        paths.append(path)
        return ["web"]

    assert refusal(place.driver().delete, DISK, place.format, web) == "disk_in_use"
    assert place.driver().look(DISK, place.format, web).used_by == ("web",)
    assert all(DISK in Path(path).name for path in paths)
    assert place.measured() == 8 * MIB


def test_what_is_absent_is_said(place: Place) -> None:
    driver = place.driver()
    assert refusal(driver.source, DISK, place.format) == "disk_absent"
    assert refusal(driver.resize, DISK, place.format, MIB, leave_to_qemu=False) == "disk_absent"
    assert refusal(clone, place, place.disk(OTHER)) == "disk_absent"


# --- what is not ours -------------------------------------------------------------------------------------


def test_a_foreign_volume_of_the_wanted_name_survives_every_call(place: Place) -> None:
    place.make_foreign(place.final())
    driver = place.driver
    resize = {"leave_to_qemu": False}
    calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
        (driver().create, (place.disk(), Cancellation()), {}),
        (driver().delete, (DISK, place.format, nobody), {}),
        (driver().resize, (DISK, place.format, 64 * MIB), resize),
        (driver().source, (DISK, place.format), {}),
        (clone, (place, place.disk(OTHER)), {}),
    ]
    if place.format in driver().facts().snapshot_formats:
        calls += [
            (driver().snapshot, (DISK, place.format, SNAPSHOT, None), {}),
            (driver().revert, (DISK, place.format, SNAPSHOT), {}),
        ]
    if "linked" in driver().facts().clones:
        calls.append((driver().link, (place.disk(OTHER), place.volume(), None), {}))
    for call, arguments, named in calls:
        assert refusal(call, *arguments, **named) == "exists_not_ours", call
        assert place.foreign_is_there(place.final()), call
    state = driver().look(DISK, place.format, nobody)
    assert (state.exists, state.ours, state.size_bytes) == (True, False, None)


def test_a_copy_does_not_touch_a_foreign_volume_of_its_name(on_device: Place) -> None:
    on_device.create()
    on_device.make_foreign(on_device.final(OTHER))
    assert refusal(clone, on_device, on_device.disk(OTHER)) == "exists_not_ours"
    if "linked" in on_device.driver().facts().clones:
        link = on_device.driver().link
        assert refusal(link, on_device.disk(OTHER), on_device.volume(), None) == "exists_not_ours"
    assert on_device.foreign_is_there(on_device.final(OTHER))


def test_a_foreign_part_survives(place: Place) -> None:
    part = f"{DISK}.part"
    place.make_foreign(part)
    assert refusal(place.create) == "exists_not_ours"
    assert refusal(place.driver().delete, DISK, place.format, nobody) == "exists_not_ours"
    assert place.foreign_is_there(part)


def test_another_pool_at_the_same_place_is_refused(place: Place) -> None:
    assert refusal(place.driver, identity="another") == "pool_identity"


# --- another disk's volume --------------------------------------------------------------------------------


def rename(place: Place, users: Callable[[str], list[str]] = nobody) -> None:
    place.driver().rename(DISK, place.format, OTHER, users)


def test_a_volume_becomes_another_disks(place: Place) -> None:
    place.create()
    for _ in range(2):
        rename(place)
        assert place.names() == [place.final(OTHER)]
    assert place.measured(OTHER) == 8 * MIB
    assert place.driver().look(OTHER, place.format, nobody).ours
    assert not place.driver().look(DISK, place.format, nobody).exists
    place.create()
    place.driver().delete(OTHER, place.format, nobody)
    assert place.names() == [place.final()]


def test_a_volume_that_a_domain_names_does_not_become_another_disks(place: Place) -> None:
    place.create()
    assert refusal(rename, place, lambda path: ["web"]) == "disk_in_use"
    assert place.names() == [place.final()]
    assert place.driver().look(DISK, place.format, nobody).ours


def test_neither_a_foreign_volume_nor_one_of_the_new_name_is_touched_by_a_rename(place: Place) -> None:
    assert refusal(rename, place) == "disk_absent"
    place.make_foreign(place.final(OTHER))
    assert refusal(rename, place) == "exists_not_ours"
    place.create()
    assert refusal(rename, place) == "exists_not_ours"
    assert place.foreign_is_there(place.final(OTHER))
    assert place.driver().look(DISK, place.format, nobody).ours
    place.clear()
    place.make_foreign(place.final())
    assert refusal(rename, place) == "exists_not_ours"
    assert place.foreign_is_there(place.final())
    place.clear()
    place.create()
    place.create(OTHER)
    assert refusal(rename, place) == "exists_not_ours"
    assert place.names() == [place.final(), place.final(OTHER)]


def test_content_and_snapshots_go_along_with_a_rename(on_device: Place) -> None:
    place = on_device
    place.create()
    place.write(7)
    snapshots = place.format in place.driver().facts().snapshot_formats
    if snapshots:
        place.driver().snapshot(DISK, place.format, SNAPSHOT, None)
        place.write(9)
    rename(place)
    assert place.holds(9 if snapshots else 7, OTHER)
    if snapshots:
        assert place.driver().look(OTHER, place.format, nobody).snapshots == (SNAPSHOT,)
        place.driver().revert(OTHER, place.format, SNAPSHOT)
        assert place.holds(7, OTHER)
        place.driver().delete_snapshot(OTHER, place.format, SNAPSHOT)
    place.driver().delete(OTHER, place.format, nobody)
    assert place.names() == []


# --- grow -------------------------------------------------------------------------------------------------


def test_a_volume_grows_to_whole_granules_and_never_shrinks(place: Place) -> None:
    place.create()
    granule = granule_of(place.driver().facts(), place.format)
    wanted = round_up(40 * MIB + 1, granule)
    for _ in range(2):
        grown = place.driver().resize(DISK, place.format, 40 * MIB + 1, leave_to_qemu=False)
        assert grown.size_bytes == wanted == place.measured()
    assert refusal(place.driver().resize, DISK, place.format, 8 * MIB, leave_to_qemu=False) == "would_shrink"
    assert refusal(place.driver().resize, DISK, place.format, 10 << 60, leave_to_qemu=False) == "no_room"
    assert place.measured() == wanted


def test_growing_keeps_the_content(on_device: Place) -> None:
    on_device.create()
    on_device.write(7, offset=8 * MIB - 65536)
    on_device.driver().resize(DISK, on_device.format, 16 * MIB, leave_to_qemu=False)
    assert on_device.holds(7, offset=8 * MIB - 65536)


# --- copies -----------------------------------------------------------------------------------------------


def test_a_full_copy_has_the_content_and_stands_by_itself(on_device: Place) -> None:
    place = on_device
    place.create()
    place.write(7)
    for _ in range(2):
        assert clone(place, place.disk(OTHER, 16 * MIB)) == 16 * MIB == place.measured(OTHER)
    place.write(9)
    assert place.holds(7, OTHER)
    place.driver().delete(DISK, place.format, nobody)
    assert place.holds(7, OTHER)
    assert place.names() == [place.final(OTHER)]


def test_a_copy_is_never_cut(on_device: Place) -> None:
    on_device.create(size_bytes=16 * MIB)
    assert refusal(clone, on_device, on_device.disk(OTHER)) == "would_shrink"
    assert on_device.names() == [on_device.final()]


def test_a_linked_clone_where_the_facts_say_so(on_device: Place) -> None:
    place = on_device
    place.create()
    place.write(7)
    if "linked" not in place.driver().facts().clones:
        assert refusal(place.driver().link, place.disk(OTHER), place.volume(), None) == "unsupported"
        return
    for _ in range(2):
        made = place.driver().link(place.disk(OTHER, 16 * MIB), place.volume(), None)
        assert made.size_bytes == 16 * MIB == place.measured(OTHER)
    place.write(9)
    assert place.holds(7, OTHER)
    place.write(8, OTHER)
    assert place.holds(9)
    assert place.driver().look(DISK, place.format, nobody).snapshots == ()
    place.driver().delete(OTHER, place.format, nobody)
    place.driver().delete(DISK, place.format, nobody)
    assert place.names() == []


# --- snapshots --------------------------------------------------------------------------------------------


def test_a_volume_gets_back_what_its_snapshot_kept(on_device: Place) -> None:
    place = on_device
    place.create()
    volume = DISK, place.format
    if place.format not in place.driver().facts().snapshot_formats:
        assert refusal(place.driver().snapshot, *volume, SNAPSHOT, None) == "unsupported"
        return
    place.write(7)
    for _ in range(2):
        place.driver().snapshot(*volume, SNAPSHOT, None)
    place.write(9)
    assert place.driver().look(*volume, nobody).snapshots == (SNAPSHOT,)
    for _ in range(2):
        assert place.driver().revert(*volume, SNAPSHOT).size_bytes == 8 * MIB
        assert place.holds(7)
        place.write(9)
    assert place.driver().look(*volume, nobody).snapshots == (SNAPSHOT,)
    for _ in range(2):
        place.driver().delete_snapshot(*volume, SNAPSHOT)
    assert place.holds(9)
    assert place.driver().look(*volume, nobody).snapshots == ()
    assert refusal(place.driver().revert, *volume, SNAPSHOT) == "snapshot_absent"


def test_a_copy_of_a_snapshot_has_what_the_snapshot_kept(on_device: Place) -> None:
    place = on_device
    if place.format not in place.driver().facts().snapshot_formats:
        return  # said by the test of snapshots
    place.create()
    place.write(7)
    place.driver().snapshot(DISK, place.format, SNAPSHOT, None)
    place.write(9)
    clone(place, place.disk(OTHER), SNAPSHOT)
    assert place.holds(7, OTHER)
    assert refusal(clone, place, place.disk("f" * 13), "t" * 13) == "snapshot_absent"


def test_a_volume_with_a_snapshot_is_in_use(on_device: Place) -> None:
    place = on_device
    if place.format not in place.driver().facts().snapshot_formats:
        return  # said by the test of snapshots
    place.create()
    place.driver().snapshot(DISK, place.format, SNAPSHOT, None)
    assert refusal(place.driver().delete, DISK, place.format, nobody) == "disk_in_use"
    place.driver().delete_snapshot(DISK, place.format, SNAPSHOT)
    place.driver().delete(DISK, place.format, nobody)


# --- killed at every named point --------------------------------------------------------------------------

POINTS = (
    "disk.marked", "disk.part-made", "disk.filled", "disk.linked", "disk.unlinked", "disk.grown",
    "disk.snapshots-changed", "disk.flattened", "disk.revert-noted", "disk.merged", "disk.reverted",
)  # fmt: skip


class Attempts:
    """One call with its arguments, tried in a process that a named point kills."""

    def __init__(self, place: Place, faults: Path, call: str, prepare: Callable[[], object], **arguments: Any) -> None:
        self.place, self.call, self.faults, self.prepare = place, call, faults, prepare
        self._asked = {"pool": place.pool.model_dump(), "keys": str(place.keys), "call": call, "arguments": arguments}
        faults.mkdir()

    def points(self) -> list[str]:
        """Those that the call passes, in their order."""
        self._run("note", *POINTS)
        lines = (self.faults / "notes").read_text().splitlines()
        return list(dict.fromkeys(line.split()[1].partition(":")[0] for line in lines))

    def die_at(self, point: str) -> None:
        assert self._run("kill", point) == -signal.SIGKILL

    def repeat(self) -> None:
        assert self._run("") == 0

    def _run(self, action: str, *points: str) -> int:
        for file in self.faults.iterdir():
            file.unlink()
        for point in points:
            (self.faults / point).write_text(action)
        if action:
            self.place.clear()
            self.prepare()
        done = subprocess.run(
            [sys.executable, "-m", "tests.storage.attempt"],
            input=json.dumps(self._asked),
            text=True,
            cwd=ROOT,
            env={**os.environ, "ULEI_FAULTS": str(self.faults)},
            capture_output=True,
        )
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode


@pytest.mark.parametrize("call", ["create", "delete", "resize"])
def test_a_call_that_was_killed_is_made_so_by_repeating_it(place: Place, call: str, tmp_path: Path) -> None:
    size_bytes = 16 * MIB if call == "resize" else 8 * MIB
    disk = place.disk(size_bytes=size_bytes).model_dump()
    attempts = Attempts(place, tmp_path / "faults", call, lambda: call != "create" and place.create(), disk=disk)
    points = attempts.points()
    assert points
    for point in points:
        attempts.die_at(point)
        attempts.repeat()
        assert place.names() == ([] if call == "delete" else [place.final()])
        if call != "delete":
            assert place.measured() == size_bytes


def test_a_rename_that_was_killed_is_made_so_by_repeating_it(place: Place, tmp_path: Path) -> None:
    asked = {"disk": place.disk().model_dump(), "new": OTHER}
    attempts = Attempts(place, tmp_path / "faults", "rename", place.create, **asked)
    points = attempts.points()
    assert points[:2] == ["disk.marked", "disk.linked"]
    for point in points:
        attempts.die_at(point)
        attempts.repeat()
        assert place.names() == [place.final(OTHER)], point
        assert place.driver().look(OTHER, place.format, nobody).ours


@pytest.mark.parametrize("call", ["clone", "link"])
def test_a_copy_that_was_killed_is_whole_after_repeating_it_and_gone_after_its_undo(
    on_device: Place, call: str, tmp_path: Path
) -> None:
    place = on_device
    if call == "link" and "linked" not in place.driver().facts().clones:
        return  # said by the test of linked clones

    def prepare() -> None:
        place.create()
        place.write(7)

    asked = {"disk": place.disk(OTHER, 16 * MIB).model_dump(), "source": place.volume().model_dump()}
    attempts = Attempts(place, tmp_path / "faults", call, prepare, **asked)
    points = attempts.points()
    assert points[-2:] in (["disk.filled", "disk.linked"], ["disk.linked", "disk.unlinked"])
    for point in points:
        attempts.die_at(point)
        attempts.repeat()
        assert place.names() == [place.final(), place.final(OTHER)]
        assert place.holds(7, OTHER)
        attempts.die_at(point)
        place.driver().delete(OTHER, place.format, nobody)
        assert place.names() == [place.final()]
        assert place.holds(7)
        place.driver().delete(DISK, place.format, nobody)


@pytest.mark.parametrize("call", ["snapshot", "revert", "delete_snapshot"])
def test_a_change_of_snapshots_that_was_killed_is_made_so_by_repeating_it(
    on_device: Place, call: str, tmp_path: Path
) -> None:
    place = on_device
    if place.format not in place.driver().facts().snapshot_formats:
        return  # said by the test of snapshots

    def prepare() -> None:
        place.create()
        place.write(7)
        if call != "snapshot":
            place.driver().snapshot(DISK, place.format, SNAPSHOT, None)
            place.write(9)

    attempts = Attempts(place, tmp_path / "faults", call, prepare, disk=place.disk().model_dump(), snapshot=SNAPSHOT)
    points = attempts.points()
    assert points
    for point in points:
        attempts.die_at(point)
        attempts.repeat()
        kept = place.driver().look(DISK, place.format, nobody).snapshots
        assert kept == (() if call == "delete_snapshot" else (SNAPSHOT,)), point
        assert place.holds(9 if call == "delete_snapshot" else 7), point
