"""Growing a disk: what is said before it, what is refused, and where the size stands afterwards."""

from collections.abc import Callable

import pytest

from cluster.models import Disk, Job, Pool
from nodes.contract.sizes import GIB
from tests.panel.browser import Browser, text_of
from tests.panel.client import Api
from tests.panel.engine.scenarios import Scene
from tests.panel.engine.world import Executor
from tests.people import Person

pytestmark = pytest.mark.django_db
People = Callable[[str], Api]


@pytest.fixture
def disk(scene: Scene) -> Disk:
    return scene.running.disks.all()[0]


def test_the_size_is_said_before_it_is_reserved_and_is_what_the_node_measured_afterwards(
    scene: Scene, disk: Disk, api: People
) -> None:
    asked = {"size_bytes": 2 * GIB - 1}
    quote = api("administrator").post(f"disks/{disk.pk}/resize/?dry_run=true", asked).json()["quote"]["disks"][0]
    assert quote == {"pool": scene.pool.pk, "asked_bytes": 2 * GIB - 1, "size_bytes": 2 * GIB, "granule_bytes": 65536}
    answer = api("administrator").post(f"disks/{disk.pk}/resize/", asked)
    assert answer.status_code == 202
    assert Pool.objects.get(pk=scene.pool.pk).reserved_bytes == GIB
    job = Executor(world=scene.world).run(Job.objects.get(pk=answer.json()["job"]["id"]))
    assert job.state == "succeeded"
    assert api("administrator").get(f"disks/{disk.pk}/").json()["size_bytes"] == 2 * GIB
    assert Pool.objects.get(pk=scene.pool.pk).reserved_bytes == 0


@pytest.mark.parametrize(("size_bytes", "status", "code"), [(GIB // 2, 422, "would_shrink"), (1 << 50, 507, "no_room")])
def test_shrinking_and_more_than_there_is_are_refused(
    size_bytes: int, status: int, code: str, disk: Disk, api: People
) -> None:
    answer = api("administrator").post(f"disks/{disk.pk}/resize/", {"size_bytes": size_bytes})
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_disk_without_a_vm_is_refused(disk: Disk, api: People) -> None:
    Disk.objects.filter(pk=disk.pk).update(vm=None)
    answer = api("administrator").post(f"disks/{disk.pk}/resize/", {"size_bytes": 2 * GIB})
    assert (answer.status_code, answer.json()["code"]) == (409, "disk_unattached")


def test_a_pool_that_no_longer_holds_the_disks_format_is_said(scene: Scene, disk: Disk, api: People) -> None:
    Pool.objects.filter(pk=scene.pool.pk).update(granules={"raw": 512})
    answer = api("administrator").post(f"disks/{disk.pk}/resize/", {"size_bytes": 2 * GIB})
    assert (answer.status_code, answer.json()["code"]) == (422, "format_unsupported")


def test_the_dialog_takes_sizes_as_people_type_them(scene: Scene, disk: Disk, people: dict[str, Person]) -> None:
    browser = Browser(people["administrator"])
    assert "It has 1 GiB now" in text_of(browser.get(f"/disks/{disk.pk}/do/resize/")).replace("\u00a0", " ")
    refused = browser.client.post(f"/disks/{disk.pk}/do/resize/", {"size_bytes": "much"}, follow=True)
    assert "“much” is not a size" in text_of(refused)
    browser.post(f"/disks/{disk.pk}/do/resize/", {"size_bytes": "1,5 ГБ"})
    assert Pool.objects.get(pk=scene.pool.pk).reserved_bytes == GIB // 2
