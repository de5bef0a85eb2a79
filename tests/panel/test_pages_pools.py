"""Storage pools on pages: how full, of what grain, what is wrong, and the disks that fill them."""

import re

import pytest

from cluster.models import Disk, Pool, PoolOnNode
from nodes.contract.sizes import GIB, MIB
from tests.panel.browser import Browser, text_of
from tests.panel.client import Api
from tests.panel.engine.scenarios import Scene
from tests.people import Person

GROUP = {"extent_bytes": 4 * MIB, "extents_total": 2560, "extents_free": 640, "stripes": 2}


@pytest.fixture
def browser(scene: Scene, people: dict[str, Person]) -> Browser:
    return Browser(people["administrator"])


def add_pool(scene: Scene, **changes: object) -> Pool:
    about = {"name": "fast", "kind": "lvm", "identity": "vg-1", "path": "vg0", "attached": True}
    numbers = {"capacity_bytes": 10 * GIB, "free_bytes": 5 * GIB, "granules": {"raw": 8 * MIB}, "facts": GROUP}
    pool = Pool.objects.create(**{**about, **numbers, **changes})
    PoolOnNode.objects.create(pool=pool, node=scene.node)
    return pool


def test_the_list_says_how_full_a_pool_is_and_of_what_grain(browser: Browser, scene: Scene) -> None:
    pool = add_pool(scene)
    page = browser.get("/pools/")
    words = text_of(page)
    assert "fast LVM · vg0" in words
    assert "50 % · 5 GiB free of 10 GiB" in words
    assert "PE 4 MiB × 2 stripes 640 of 2560 extents free" in words
    assert 'data-live="pools"' in page.content.decode()
    assert f'data-versions="pool:{pool.pk}=1"' in page.content.decode()


def test_a_pool_above_its_level_is_warned_of_in_words_on_pages_and_in_the_api(
    browser: Browser, scene: Scene, people: dict[str, Person]
) -> None:
    pool = add_pool(scene, free_bytes=GIB)
    for path in ("/pools/", f"/pools/{pool.pk}/"):
        assert "90 % is in use; the warning level is 85 %" in text_of(browser.get(path))
    assert "no disk is made and none grows" in text_of(browser.get(f"/pools/{pool.pk}/"))
    row = Api(people["administrator"].token).get(f"pools/{pool.pk}/").json()
    assert row["warning_percent"] == 85
    assert [(line["code"], line["level"]) for line in row["warnings"]] == [("space", "warning")]
    assert "90 % is in use" in row["warnings"][0]["text"]


def test_either_part_of_a_thin_pool_can_be_full_and_full_is_a_failure(browser: Browser, scene: Scene) -> None:
    pool = add_pool(scene, kind="lvmthin", facts=GROUP | {"data_percent": 42.5, "metadata_percent": 100.0})
    words = text_of(browser.get(f"/pools/{pool.pk}/"))
    assert "Data 42.5 %" in words
    assert "Metadata 100 %" in words
    assert "failure Metadata 100 % is in use" in words
    assert "lvextend --poolmetadatasize" in words
    assert "meter-full" in browser.get("/pools/").content.decode()


def test_a_pool_out_of_reach_says_so_and_that_its_numbers_are_old(browser: Browser, scene: Scene) -> None:
    add_pool(scene, facts={"problem": "pool_unreachable"})
    words = text_of(browser.get("/pools/"))
    assert "Cannot be used now: the pool does not answer; the numbers are those of before" in words


def test_the_disks_of_a_pool_come_in_pages_with_the_largest_first(browser: Browser, scene: Scene) -> None:
    pool = add_pool(scene)
    sizes = [number * MIB for number in range(1, 121)]
    Disk.objects.bulk_create(
        Disk(vm=scene.running, tenant=scene.running.tenant, pool=pool, size_bytes=size, state="ready") for size in sizes
    )
    path, seen = f"/pools/{pool.pk}/", []
    while path:
        page = browser.get(path).content.decode()
        seen += re.findall(r'class="mono">([a-z2-7]{13})</span></td>', page)
        further = re.search(r'rel="next" href="([^"]+)"', page)
        path = f"/pools/{pool.pk}/{further[1]}" if further else ""
    assert seen == list(Disk.objects.filter(pool=pool).order_by("-size_bytes", "pk").values_list("pk", flat=True))


def test_a_pool_is_removed_from_its_page_and_one_with_disks_says_why_not(browser: Browser, scene: Scene) -> None:
    pool = add_pool(scene)
    assert f'href="/pools/{pool.pk}/do/remove/"' in browser.get(f"/pools/{pool.pk}/").content.decode()
    assert browser.press(f"/pools/{pool.pk}/do/remove/")["HX-Redirect"].startswith("/jobs/")
    pool = scene.pool
    assert "p1 has disks in it: 4" in text_of(browser.get(f"/pools/{pool.pk}/do/remove/"))


def test_without_storage_the_page_says_what_to_do_next(browser: Browser) -> None:
    PoolOnNode.objects.all().delete()
    Disk.objects.all().delete()
    Pool.objects.all().delete()
    assert "First add a node" in text_of(browser.get("/pools/"))


def test_the_key_of_a_ceph_pool_is_on_no_page(browser: Browser, scene: Scene) -> None:
    pool = add_pool(scene, kind="rbd", monitors=["10.0.0.1:6789"], user="ulei", key="sealed-secret", facts={})
    for path in ("/pools/", f"/pools/{pool.pk}/"):
        assert "sealed-secret" not in browser.get(path).content.decode()
    assert "10.0.0.1:6789" in text_of(browser.get(f"/pools/{pool.pk}/"))
