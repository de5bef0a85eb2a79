"""What nodes see of volumes beside what the panel has: said by field, taken over when asked, and nothing by itself."""

from collections.abc import Callable
from typing import Any

import pytest

from cluster import drift
from cluster.models import Disk, Job, Lock, Node, ObjectNumber, Pool, PoolOnNode
from cluster.operations import start
from nodes.contract.sizes import GIB
from nodes.contract.specs import VolumesSeen
from tests.panel.browser import Browser, text_of
from tests.panel.client import Api
from tests.panel.engine.scenarios import SCENARIOS, Scene, backup_of, loose_disk
from tests.panel.engine.world import Executor
from tests.people import Person

pytestmark = pytest.mark.django_db
People = Callable[[str], Api]


@pytest.fixture
def disk(scene: Scene) -> Disk:
    return scene.running.disks.all()[0]


def tell(scene: Scene, node: Node | None = None, counter: int = 100, **sizes: int | None) -> None:
    """A node tells of all volumes as they should be, but for ``sizes``: disk=None is gone."""
    seen = dict(Disk.objects.filter(pool=scene.pool).values_list("pk", "size_bytes"))
    seen = {pk: size for pk, size in (seen | sizes).items() if size is not None}
    drift.observe(node or scene.node, VolumesSeen(counter=counter, sizes={scene.pool.identity: seen}))


def drift_of(disk: Disk) -> dict[str, Any]:
    disk.refresh_from_db()
    return dict(disk.drift)


def second_node(scene: Scene) -> Node:
    node = Node.objects.create(name="n2", address="10.99.0.12", state="online")
    PoolOnNode.objects.create(pool=scene.pool, node=node)
    return node


def test_a_volume_of_another_size_is_said_with_both_sizes(scene: Scene, api: People, disk: Disk) -> None:
    before = Disk.objects.get(pk=disk.pk).version, scene.running.version, scene.pool.version
    tell(scene, **{disk.pk: 3 * GIB})
    row = api("administrator").get(f"disks/{disk.pk}/").json()
    assert row["drift"] == [{"field": "size_bytes", "panel": GIB, "seen": 3 * GIB}]
    assert row["size_bytes"] == GIB
    scene.running.refresh_from_db()
    after = row["version"], scene.running.version, Pool.objects.get(pk=scene.pool.pk).version
    assert all(new == old + 1 for new, old in zip(after, before, strict=True))
    assert scene.world.messages == []
    others = Disk.objects.filter(pool=scene.pool).exclude(pk=disk.pk)
    assert set(map(str, others.values_list("drift", flat=True))) == {"{}"}


def test_the_same_report_again_changes_nothing(scene: Scene, disk: Disk) -> None:
    tell(scene, **{disk.pk: None})
    version = Disk.objects.get(pk=disk.pk).version
    tell(scene, **{disk.pk: None})
    assert Disk.objects.get(pk=disk.pk).version == version


def test_a_volume_that_is_gone_and_comes_back(scene: Scene, api: People, disk: Disk) -> None:
    tell(scene, **{disk.pk: None})
    row = api("administrator").get(f"disks/{disk.pk}/").json()
    assert row["drift"] == [{"field": "size_bytes", "panel": GIB, "seen": None}]
    tell(scene)
    assert drift_of(disk) == {}


def test_copies_of_backups_and_disks_without_a_vm_are_watched_too(scene: Scene) -> None:
    loose = Disk.objects.get(pk=loose_disk(scene))
    copy = Disk.objects.filter(backup=backup_of(scene, scene.stopped))[0]
    tell(scene, **{loose.pk: None, copy.pk: None})
    assert drift_of(loose) == drift_of(copy) == {"size_bytes": None}


def test_silence_of_a_pool_changes_nothing(scene: Scene, disk: Disk) -> None:
    tell(scene, **{disk.pk: None})
    drift.observe(scene.node, VolumesSeen(counter=101, sizes={}))
    drift.observe(scene.node, VolumesSeen(counter=101, sizes={"another pool": {}}))
    assert drift_of(disk) == {"size_bytes": None}


def test_a_disk_that_is_being_made_is_not_missed(scene: Scene, disk: Disk) -> None:
    Disk.objects.filter(pk=disk.pk).update(state="creating")
    tell(scene, **{disk.pk: None})
    assert drift_of(disk) == {}


@pytest.mark.parametrize("lock", ["disk", "vm"])
def test_a_disk_on_which_a_job_works_is_left_alone(scene: Scene, disk: Disk, lock: str) -> None:
    job = Job.objects.create(operation="disk.resize", state="running")
    name = f"{lock}:{disk.pk if lock == 'disk' else disk.vm_id}"
    row = Lock.objects.create(name=name, job=job, held=True, exclusive=True)
    tell(scene, **{disk.pk: 3 * GIB})
    assert drift_of(disk) == {}
    row.delete()
    tell(scene, **{disk.pk: 3 * GIB})
    assert drift_of(disk) == {"size_bytes": 3 * GIB}


def test_copies_of_a_backup_that_is_being_deleted_are_left_alone(scene: Scene) -> None:
    backup = backup_of(scene, scene.stopped)
    copy = Disk.objects.filter(backup=backup)[0]
    job = Job.objects.create(operation="backup.delete", state="running")
    Lock.objects.create(name=f"backup:{backup}", job=job, held=True, exclusive=True)
    tell(scene, **{copy.pk: None})
    assert drift_of(copy) == {}


def test_what_was_seen_before_the_last_reply_changes_nothing(scene: Scene, disk: Disk) -> None:
    ObjectNumber.objects.create(node=scene.node, object=f"disk:{disk.pk}", number=1, counter=101)
    tell(scene, counter=100, **{disk.pk: GIB // 2})
    assert drift_of(disk) == {}
    tell(scene, counter=101, **{disk.pk: GIB // 2})
    assert drift_of(disk) == {"size_bytes": GIB // 2}


def test_a_reply_about_a_disk_is_newer_than_what_was_seen_before_it(scene: Scene, api: People, disk: Disk) -> None:
    answer = api("administrator").post(f"disks/{disk.pk}/resize/", {"size_bytes": 2 * GIB})
    executor = Executor(world=scene.world)
    assert executor.run(Job.objects.get(pk=answer.json()["job"]["id"])).state == "succeeded"
    tell(scene, counter=scene.world.counter - 1, **{disk.pk: GIB})
    assert drift_of(disk) == {}


@pytest.mark.parametrize("code", ["disk.resize", "disk.move", "vm.migrate"])
def test_what_makes_a_volume_another_one_ends_the_drift(scene: Scene, code: str) -> None:
    def places() -> dict[str, tuple[Any, ...]]:
        return {disk.pk: (disk.pool_id, disk.size_bytes) for disk in Disk.objects.all()}

    target, params = SCENARIOS[code](scene)
    Disk.objects.update(drift={"size_bytes": GIB - 1})
    before = places()
    job = Executor(world=scene.world).run(start(scene.actor, code, params, target).job)
    assert job.state == "succeeded", job.error
    others = [pk for pk, place in places().items() if place != before.get(pk, place)]
    assert [dict(disk.drift) for disk in Disk.objects.filter(pk__in=others)] == [{}] * len(others) != []


# --- a pool that several nodes see ------------------------------------------------------------------------


def test_a_volume_is_gone_only_when_every_node_that_is_online_says_so(scene: Scene, disk: Disk) -> None:
    other = second_node(scene)
    tell(scene, **{disk.pk: None})
    assert drift_of(disk) == {}
    tell(scene, node=other, **{disk.pk: None})
    assert drift_of(disk) == {"size_bytes": None}
    tell(scene, node=other)
    assert drift_of(disk) == {}


def test_nodes_that_see_different_sizes_say_nothing(scene: Scene, disk: Disk) -> None:
    other = second_node(scene)
    tell(scene, **{disk.pk: 2 * GIB})
    tell(scene, node=other, **{disk.pk: 3 * GIB})
    assert drift_of(disk) == {}


def test_a_node_that_is_offline_is_not_waited_for(scene: Scene, disk: Disk) -> None:
    Node.objects.filter(pk=second_node(scene).pk).update(state="offline")
    tell(scene, **{disk.pk: 3 * GIB})
    assert drift_of(disk) == {"size_bytes": 3 * GIB}


# --- taking over ------------------------------------------------------------------------------------------


def adopt(scene: Scene, api: Api, disk: Disk, really: str | None) -> Job:
    name = (scene.node.pk, "disk:" + disk.pk)
    scene.world.objects.pop(name) if really is None else scene.world.objects.update({name: really})
    answer = api.post(f"disks/{disk.pk}/adopt/")
    assert answer.status_code == 202, answer.json()
    return Executor(world=scene.world).run(Job.objects.get(pk=answer.json()["job"]["id"]))


def test_a_larger_size_is_measured_again_and_taken_over(scene: Scene, api: People, disk: Disk) -> None:
    tell(scene, **{disk.pk: 3 * GIB})
    assert adopt(scene, api("administrator"), disk, f"disk {4 * GIB}").state == "succeeded"
    disk.refresh_from_db()
    assert (disk.size_bytes, disk.drift) == (4 * GIB, {})
    assert [message.verb for message in scene.world.messages] == ["disk.look"]
    # Until the node tells anew, what it said last is not what the panel has, and is not said again.
    tell(scene, counter=200)
    assert drift_of(disk) == {}


@pytest.mark.parametrize(
    ("seen", "code"), [(None, "volume_gone"), (GIB // 2, "volume_shrunk"), (GIB, "no_drift")], ids=str
)
def test_what_is_no_larger_size_is_not_taken_over(
    scene: Scene, api: People, disk: Disk, seen: int | None, code: str
) -> None:
    tell(scene, **{disk.pk: seen})
    answer = api("administrator").post(f"disks/{disk.pk}/adopt/")
    assert (answer.status_code, answer.json()["code"]) == (409, code)
    actions = api("administrator").get(f"disks/{disk.pk}/actions/").json()
    assert [action["allowed"] for action in actions if action["code"] == "adopt"] == [False]


@pytest.mark.parametrize(("really", "code"), [(None, "volume_gone"), (f"disk {GIB // 2}", "volume_shrunk")])
def test_a_volume_that_was_lost_meanwhile_leaves_the_disk_as_it_was(
    scene: Scene, api: People, disk: Disk, really: str | None, code: str
) -> None:
    tell(scene, **{disk.pk: 3 * GIB})
    job = adopt(scene, api("administrator"), disk, really)
    assert (job.state, (job.error or {})["code"]) == ("failed", code)
    disk.refresh_from_db()
    assert (disk.size_bytes, disk.drift) == (GIB, {"size_bytes": 3 * GIB})


# --- pages ------------------------------------------------------------------------------------------------


def test_pages_say_what_is_different_and_offer_to_take_it_over(
    scene: Scene, people: dict[str, Person], disk: Disk
) -> None:
    gone = scene.running.disks.all()[1]
    loose = Disk.objects.get(pk=loose_disk(scene))
    tell(scene, **{disk.pk: 3 * GIB, gone.pk: None, loose.pk: GIB // 2})
    browser = Browser(people["administrator"])
    card = browser.get(f"/vms/{scene.running.pk}/")
    words = text_of(card)
    assert "The volume was made larger by hand" in words
    assert "The panel has 1 GiB, the node sees 3 GiB." in words
    assert "The volume is gone" in words
    assert f"/disks/{disk.pk}/do/adopt/" in card.content.decode()
    assert "The volume was made smaller by hand" in text_of(browser.get("/disks/"))
    assert "3 disks" in text_of(browser.get(f"/pools/{scene.pool.pk}/"))
