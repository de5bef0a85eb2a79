"""What only a Ceph pool can do wrong: half made and half renamed images, other clients, keys, silent monitors."""

import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nodes.contract.errors import NodeError
from nodes.contract.specs import PoolPlace, RbdSource
from nodes.shell import Cancellation, Cancelled, Shell
from nodes.storage import driver_at
from nodes.storage import rbd as module
from nodes.storage.rbd import OBJECT_BYTES
from tests.storage import places
from tests.storage.places import DISK, MIB, OTHER, SNAPSHOT, RbdPlace, nobody

PART = f"{DISK}.part"


def test_a_part_that_died_before_its_mark_and_was_never_written_to_is_replaced(rbd: RbdPlace) -> None:
    rbd.ceph.rbd("create", "--size", "8M", PART)
    rbd.create()
    assert rbd.names() == [DISK]


def test_a_clone_that_died_with_its_origins_mark_is_replaced(rbd: RbdPlace) -> None:
    rbd.create()
    rbd.ceph.rbd("snap", "create", f"{DISK}@clone-{OTHER}")
    rbd.ceph.rbd("clone", "--rbd-default-clone-format", "2", f"{DISK}@clone-{OTHER}", f"volumes/{OTHER}.part")
    rbd.driver().link(rbd.disk(OTHER), rbd.volume(), None)
    assert rbd.names() == [DISK, OTHER]
    rbd.driver().delete(OTHER, "raw", nobody)
    rbd.driver().delete(DISK, "raw", nobody)


def test_what_a_link_left_at_its_origin_does_not_keep_that(rbd: RbdPlace) -> None:
    rbd.create()
    rbd.ceph.rbd("snap", "create", f"{DISK}@clone-{OTHER}")
    assert rbd.driver().look(DISK, "raw", nobody).used_by == ()
    rbd.driver().delete(DISK, "raw", nobody)
    assert rbd.names() == []


@pytest.mark.parametrize("renamed", [True, False])
def test_an_image_that_was_half_renamed_is_one_image(rbd: RbdPlace, renamed: bool) -> None:
    """A client that dies within a rename leaves the object of one more name."""
    rbd.create()
    if renamed:
        _copy_name(rbd, DISK, PART)
    else:
        rbd.ceph.rbd("rename", DISK, PART)
        _copy_name(rbd, PART, DISK)
    rbd.create()
    assert rbd.ceph.rbd("ls").split() == [DISK]
    assert rbd.measured() == 8 << 20
    rbd.driver().delete(DISK, "raw", nobody)
    assert rbd.ceph.rbd("ls").split() == []


def _copy_name(rbd: RbdPlace, present: str, wanted: str) -> None:
    file = str(rbd.keys.parent / "name")
    rbd.ceph.rados("get", f"rbd_id.{present}", file)
    rbd.ceph.rados("put", f"rbd_id.{wanted}", file)


def test_another_client_of_the_cluster_hinders_deletion_revert_and_copy(rbd: RbdPlace) -> None:
    rbd.create()
    rbd.driver().snapshot(DISK, "raw", SNAPSHOT, None)
    other = ["qemu-io", "-f", "raw", rbd.driver()._address(DISK)]  # type: ignore[attr-defined]
    with subprocess.Popen(other, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as guest:
        assert guest.stdin
        assert guest.stdout
        guest.stdin.write("write 0 4k\n")
        guest.stdin.flush()
        while "wrote" not in guest.stdout.readline():
            pass
        driver = rbd.driver()
        calls = [
            lambda: driver.delete(DISK, "raw", nobody),
            lambda: driver.revert(DISK, "raw", SNAPSHOT),
            lambda: driver.clone(rbd.disk(OTHER), driver, rbd.volume(), None, Cancellation()),
        ]
        for call in calls:
            with pytest.raises(NodeError, match=r"disk_in_use.*client"):
                call()
        # Growing does not: the guest's own client is asked to do it.
        assert driver.resize(DISK, "raw", 16 << 20, leave_to_qemu=False).size_bytes == 16 << 20
        assert driver.clone(rbd.disk(OTHER), driver, rbd.volume(), SNAPSHOT, Cancellation()).size_bytes == 8 << 20
        guest.stdin.write("quit\n")
        guest.stdin.flush()


def test_a_domain_gets_monitors_user_and_the_uuid_of_the_secret(rbd: RbdPlace) -> None:
    rbd.create()
    source = rbd.driver().source(DISK, "raw")
    assert isinstance(source, RbdSource)
    assert (source.name, source.monitors, source.user) == (f"volumes/{DISK}", rbd.ceph.monitors, "ulei")
    secret = driver_at(rbd.pool, Shell(), rbd.keys).keep_key(rbd.ceph.key)
    assert secret.uuid == source.secret_uuid


def test_the_key_is_in_a_file_that_only_root_reads_and_on_no_command_line(rbd: RbdPlace) -> None:
    [file] = rbd.keys.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert rbd.ceph.key in file.read_text()
    assert rbd.ceph.key not in rbd.driver()._address(DISK)  # type: ignore[attr-defined]


@pytest.mark.parametrize("odd", [{"key": "AQBAAAAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAA=="}, {"monitors": ("127.0.0.1:9",)}])
def test_a_cluster_that_does_not_let_us_in_is_said_in_time_and_never_for_certain(
    rbd: RbdPlace, odd: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONNECT_TIMEOUT_S", 2)
    place = PoolPlace(kind="rbd", path="volumes", user="ulei", monitors=odd.get("monitors", rbd.ceph.monitors))
    with pytest.raises(NodeError) as caught:
        driver_at(place, Shell(), rbd.keys).keep_key(odd.get("key", rbd.ceph.key))
    assert (caught.value.info.code, caught.value.info.certain) == ("pool_unreachable", False)


def test_a_pool_that_the_cluster_does_not_have_is_not_that_pool(rbd: RbdPlace) -> None:
    with pytest.raises(NodeError, match="pool_identity"):
        rbd.driver(path="elsewhere")


def test_it_is_shared_and_knows_its_room(rbd: RbdPlace) -> None:
    facts = rbd.driver().facts()
    assert facts.shared
    assert facts.capacity_bytes >= facts.free_bytes > 100 << 20
    assert facts.clones == ("full", "linked")


# --- Ceph is away -------------------------------------------------------------------------------------------


def said(call: Callable[[], object]) -> tuple[str, bool, bool]:
    """(code, certain, retryable) of its refusal."""
    with pytest.raises(NodeError) as caught:
        call()
    assert caught.value.info.hint
    return caught.value.info.code, caught.value.info.certain, caught.value.info.retryable


UNREACHABLE = ("pool_unreachable", False, True)


def test_while_the_monitor_is_away_a_call_says_so_in_time_and_works_when_it_is_back(
    rbd: RbdPlace, folder: Path
) -> None:
    rbd.create()
    beside = places.directory(folder / "beside", "qcow2")
    with rbd.ceph.away("mon"), ThreadPoolExecutor() as pool:
        began = time.monotonic()
        made = pool.submit(said, lambda: rbd.create(OTHER))
        assert beside.create() == beside.measured()
        assert not made.done()
        assert made.result() == UNREACHABLE
        assert time.monotonic() - began < 2 * module.CONNECT_TIMEOUT_S
    assert rbd.create(OTHER) == rbd.measured(OTHER)


def test_calls_that_wait_for_a_connection_are_not_refused_one_after_the_other(rbd: RbdPlace) -> None:
    rbd.driver()._forget_connection()  # type: ignore[attr-defined]
    with rbd.ceph.away("mon"), ThreadPoolExecutor(24) as pool:
        began = time.monotonic()
        asked = [pool.submit(said, rbd.driver) for _ in range(24)]
        assert {each.result() for each in asked} == {UNREACHABLE}
        assert time.monotonic() - began < 2 * module.CONNECT_TIMEOUT_S
    rbd.driver()


def test_while_the_osds_are_away_a_call_says_so_in_time(rbd: RbdPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    rbd.create()
    monkeypatch.setattr(module, "OPERATION_TIMEOUT_S", 2)
    rbd.driver()._forget_connection()  # type: ignore[attr-defined]
    asked = rbd.driver()
    calls: list[Callable[[], object]] = [
        lambda: rbd.create(OTHER),
        lambda: asked.resize(DISK, "raw", 64 * MIB, leave_to_qemu=False),
        lambda: asked.delete(DISK, "raw", nobody),
        lambda: asked.snapshot(DISK, "raw", SNAPSHOT, None),
        lambda: asked.look(DISK, "raw", nobody),
        asked.sizes,
    ]
    with rbd.ceph.away("osd"):
        for call in calls:
            began = time.monotonic()
            assert said(call) == UNREACHABLE
            assert time.monotonic() - began < 10
    rbd.driver()._forget_connection()  # type: ignore[attr-defined]
    assert rbd.driver().sizes() == {DISK: 8 * MIB}


def flatten(rbd: RbdPlace, cancellation: Cancellation | None = None, stop_at: int = 100) -> list[int]:
    """Returns the percentages that were said; cancelled at one of them."""
    said: list[int] = []
    cancellation = cancellation or Cancellation()

    def hear(percent: int) -> None:
        said.append(percent)
        if percent >= stop_at:
            cancellation.cancel()

    rbd.driver().flatten(OTHER, "raw", hear, cancellation)
    return said


def test_flattening_says_how_far_it_is_stops_when_asked_and_can_be_gone_on_with(rbd: RbdPlace) -> None:
    size_bytes = 32 * OBJECT_BYTES
    rbd.create(size_bytes=size_bytes)
    for place in range(0, size_bytes, OBJECT_BYTES):
        rbd.write(7, offset=place)
    rbd.driver().link(rbd.disk(OTHER, size_bytes), rbd.volume(), None)
    with pytest.raises(Cancelled):
        flatten(rbd, stop_at=20)
    look = rbd.driver().look(OTHER, "raw", nobody)
    assert (look.independent, rbd.holds(7, OTHER)) == (False, True)
    said = flatten(rbd)
    assert said == sorted(said)
    assert said[-1] > 90
    assert rbd.driver().look(OTHER, "raw", nobody).independent
    assert all(rbd.holds(7, OTHER, offset=place) for place in (0, size_bytes - OBJECT_BYTES))


def test_a_linked_clone_under_an_open_client_is_flattened_and_its_source_can_go(rbd: RbdPlace) -> None:
    rbd.create()
    rbd.write(7)
    rbd.driver().link(rbd.disk(OTHER), rbd.volume(), None)
    with pytest.raises(NodeError, match=r"disk_in_use.*clone"):
        rbd.driver().delete(DISK, "raw", nobody)
    other = ["qemu-io", "-f", "raw", rbd.driver()._address(OTHER)]  # type: ignore[attr-defined]
    with subprocess.Popen(other, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as guest:
        assert guest.stdin
        assert guest.stdout
        guest.stdin.write("write -P 9 1M 4k\n")
        guest.stdin.flush()
        while "wrote" not in guest.stdout.readline():
            pass
        flatten(rbd)
        guest.stdin.write("quit\n")
        guest.stdin.flush()
    flatten(rbd)
    rbd.driver().delete(DISK, "raw", nobody)
    assert rbd.names() == [OTHER]
    assert rbd.holds(7, OTHER)


# --- a node is shut out -------------------------------------------------------------------------------------

AWAY, NODE = "10.99.0.12", "b" * 13
MAY_LET_IN = 'profile rbd, allow command "osd blocklist" with blocklistop=rm'


def shut_out(rbd: RbdPlace) -> set[str]:
    return {line.split()[0] for line in rbd.ceph.ceph("osd", "blocklist", "ls").splitlines() if ":0/0 " in line}


def test_a_node_is_shut_out_by_its_address_until_it_is_let_in_and_twice_is_once(rbd: RbdPlace) -> None:
    rbd.create()
    for _ in range(2):
        rbd.driver().fence(DISK, NODE, [AWAY, "fd00::12"])
        assert shut_out(rbd) == {"10.99.0.12:0/0", "[fd00::12]:0/0"}
    with pytest.raises(NodeError) as caught:
        rbd.driver().unfence(NODE, [AWAY])
    info = caught.value.info
    assert (info.code, info.certain, "blocklistop=rm" in info.hint) == ("fence_denied", True, True)
    rbd.ceph.ceph("auth", "caps", "client.ulei", "mon", MAY_LET_IN, "osd", "profile rbd pool=volumes")
    rbd.driver().unfence(NODE, [AWAY])
    assert shut_out(rbd) == {"[fd00::12]:0/0"}
    rbd.driver().unfence(NODE, [AWAY, "fd00::12"])
    assert shut_out(rbd) == set()


def test_its_own_node_is_never_shut_out(rbd: RbdPlace) -> None:
    rbd.create()
    assert rbd.driver().facts().client_address == "127.0.0.1"
    with pytest.raises(NodeError, match="fences_itself"):
        rbd.driver().fence(DISK, NODE, ["127.0.0.1"])
    assert shut_out(rbd) == set()


def test_somebody_elsewhere_who_still_has_the_image_open_is_named(
    rbd: RbdPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEAD_WATCHER_TIMEOUT_S", 1.0)
    rbd.create()
    conf = rbd.ceph.folder / "ceph.conf"
    bench = ["rbd", "-c", str(conf), "-p", "volumes", "bench", "--io-type", "write", "--io-total", "10G", DISK]
    with subprocess.Popen(bench, stdout=subprocess.DEVNULL) as writer:
        try:
            deadline = time.monotonic() + 30
            while not rbd.driver().look(DISK, "raw", nobody).used_by and time.monotonic() < deadline:
                time.sleep(0.1)
            with pytest.raises(NodeError, match=r"disk_watched.*127\.0\.0\.1:0/"):
                rbd.driver().fence(DISK, NODE, [AWAY])
        finally:
            writer.kill()
