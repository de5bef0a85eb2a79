"""The size field says what a typed size comes to while one types: rounded, in extents, and how much room is left."""

import pytest

from cluster.models import Disk, Pool
from nodes.contract.sizes import MIB
from tests.panel.browser import Browser, text_of
from tests.panel.engine.scenarios import Scene
from tests.people import Person


@pytest.fixture
def browser(scene: Scene, people: dict[str, Person]) -> Browser:
    """The pool is a volume group of 4 MiB extents, over two of which each volume lies."""
    Pool.objects.filter(pk=scene.pool.pk).update(granules={"raw": 8 * MIB}, facts={"extent_bytes": 4 * MIB})
    Disk.objects.update(format="raw")
    return Browser(people["administrator"])


def disk_of(scene: Scene) -> Disk:
    return scene.running.disks.all()[0]


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("20 ГБ", "20 GiB · 5120 extents of 4 MiB · 80 GiB free in p1"),
        ("20 GiB", "20 GiB · 5120 extents of 4 MiB · 80 GiB free in p1"),
        ("20001M", "19.532 GiB → 19.539 GiB (rounded up to a multiple of 8 MiB) · 5002 extents of 4 MiB"),
        ("20,5 ГБ", "20.5 GiB"),
        ("200 GB", "No room in pool p1 on n1: 80 GiB free"),
        ("512 MB", "would become smaller"),
        ("20", "Add the unit: 20 GB or 20 MB?"),
        ("a lot", "This is not a size."),
        ("0 GB", "A size greater than zero"),
        ("", ""),
    ],
)
def test_a_growing_disk_is_quoted_while_one_types(typed: str, words: str, browser: Browser, scene: Scene) -> None:
    answer = browser.get(f"/disks/{disk_of(scene).pk}/size/?size_bytes={typed}")
    assert answer.status_code == 200
    assert words in text_of(answer)


def test_the_dialog_begins_with_what_the_disk_has_and_asks_while_one_types(browser: Browser, scene: Scene) -> None:
    disk = disk_of(scene)
    page = browser.fragment(f"/disks/{disk.pk}/do/resize/")
    assert "1 GiB · 256 extents of 4 MiB · 80 GiB free in p1" in text_of(page)
    assert f'hx-get="/disks/{disk.pk}/size/"' in page.content.decode()


def test_a_tenant_is_told_the_rounded_size_and_nothing_of_the_pool(
    browser: Browser, scene: Scene, people: dict[str, Person]
) -> None:
    words = text_of(Browser(people["tenant_administrator"]).get(f"/disks/{disk_of(scene).pk}/size/?size_bytes=20001M"))
    assert "19.532 GiB → 19.539 GiB (rounded up to a multiple of 8 MiB)" in words
    assert "extents" not in words
    assert "p1" not in words
    assert Browser(people["stranger"]).get(f"/disks/{disk_of(scene).pk}/size/").status_code == 404


def test_each_disk_of_a_new_vm_is_quoted_beside_its_field(browser: Browser, scene: Scene) -> None:
    typed = {"name": "shop", "source": "blank", "vcpus": "1", "memory": "128 MB"}
    typed |= {"disk-0-size": "20001M", "disk-1-size": "1 GB", "disk-0-bus": "virtio", "disk-1-bus": "virtio"}
    page = browser.press("/vms/new/check/", typed).content.decode()
    first, second = (page.split(f'id="q-disk-{place}"')[1].split("</p>")[0] for place in (0, 1))
    assert "5002\xa0extents" in first or "5002 extents" in first
    assert "256 extents" in second
    assert 'id="q-disk-0"' in browser.get("/vms/new/").content.decode()


def test_a_new_disk_is_quoted_in_the_pool_that_is_chosen(browser: Browser, scene: Scene) -> None:
    dialog = browser.fragment(f"/disks/new/?vm={scene.running.pk}").content.decode()
    assert f'hx-get="/disks/new/size/?vm={scene.running.pk}"' in dialog
    fine = Pool.objects.create(name="fine", kind="directory", identity="fine", path="/srv", granules={"raw": 512})
    words = text_of(browser.get(f"/disks/new/size/?vm={scene.running.pk}&size_bytes=20001M"))
    assert "19.532 GiB → 19.539 GiB (rounded up to a multiple of 8 MiB) · 5002 extents of 4 MiB" in words
    assert "0 B free in fine" in text_of(browser.get(f"/disks/new/size/?pool={fine.pk}&size_bytes=1 MB"))
