"""What LVM tells of a node, and what happens to a group that has too little of something."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nodes.contract.errors import NodeError
from nodes.shell import Cancellation, Shell
from nodes.storage import lvm, offers
from nodes.storage.lvmthin import LvmThinDriver
from tests.storage import places
from tests.storage.places import DISK, MIB, LvmPlace, nobody


@pytest.fixture
def plain(group: str, folder: Path) -> Iterator[LvmPlace]:
    place = places.logical(group, folder / "keys")
    yield place
    place.clear()


@pytest.fixture
def striped(group: str, folder: Path) -> Iterator[LvmPlace]:
    place = places.logical(group, folder / "keys", stripes=2)
    yield place
    place.clear()


def test_a_node_offers_its_groups_with_their_extents(group: str) -> None:
    [offer] = [offer for offer in offers(Shell()) if offer.kind == "lvm"]
    assert (offer.path, offer.extent_bytes, offer.most_stripes) == (group, 4 * MIB, 2)
    assert offer.extents_total is not None
    assert offer.capacity_bytes == offer.extents_total * 4 * MIB


def test_an_extent_is_a_granule_and_stripes_multiply_it(plain: LvmPlace, striped: LvmPlace) -> None:
    assert plain.driver().facts().granules == {"raw": 4 * MIB}
    assert striped.driver().facts().granules == {"raw": 8 * MIB}
    before = plain.driver().facts().extents_free
    striped.create(size_bytes=9 * MIB)
    assert plain.driver().facts().extents_free == before - 4


def test_a_group_that_is_full_says_so_and_nothing_is_left(plain: LvmPlace) -> None:
    free_bytes = plain.driver().facts().free_bytes
    with pytest.raises(NodeError, match="no_room") as caught:
        plain.create(size_bytes=free_bytes + 1)
    assert caught.value.info.facts["free"] == free_bytes
    assert plain.names() == []


def test_a_group_with_room_on_one_disk_only_has_no_room_for_stripes(striped: LvmPlace, plain: LvmPlace) -> None:
    """The free extents are enough in number, so only LVM itself can say it."""
    free_bytes = plain.driver().facts().free_bytes
    plain.create("g" * 13, free_bytes // 2)
    with pytest.raises(NodeError, match="no_room"):
        striped.create(size_bytes=free_bytes // 4)
    assert striped.names() == ["g" * 13]


def test_a_name_that_was_taken_since_we_looked_is_not_ours(plain: LvmPlace) -> None:
    driver = plain.driver()
    plain.make_foreign(DISK)  # the driver has read the group already, and makes its volume by that
    with pytest.raises(NodeError, match="exists_not_ours"):
        driver.create(plain.disk(), Cancellation())
    assert plain.foreign_is_there(DISK)


def test_a_mark_that_went_since_we_looked_saves_the_volume(plain: LvmPlace) -> None:
    plain.create()
    driver = plain.driver()
    Shell().run(["lvchange", "--deltag", f"ulei.disk={DISK}", f"{plain.group}/{DISK}"], timeout_s=60)
    driver.delete(DISK, "raw", nobody)
    assert plain.measured() == 8 * MIB


def test_a_group_without_the_thin_pool_is_no_thin_pool(group: str, folder: Path) -> None:
    place = places.PoolPlace(kind="lvmthin", path=f"{group}/missing")
    driver = LvmThinDriver(place, Shell(), folder)
    assert driver.identity().startswith("none")
    with pytest.raises(NodeError, match="pool_absent"):
        driver.facts()


def test_a_group_is_known_by_its_uuid(plain: LvmPlace) -> None:
    assert plain.pool.identity == lvm.read_groups(Shell(), plain.group)[0].uuid
