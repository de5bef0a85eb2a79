"""A disk moves to another pool: while its guest runs, of a VM that is off, or alone; or it stays where it was."""

from collections.abc import Callable
from typing import Any

import pytest

from cluster.models import Disk, Job, Node, Pool, PoolOnNode, Snapshot, SnapshotDisk
from nodes.contract.messages import Envelope
from nodes.contract.sizes import GIB, MIB
from tests.panel.browser import Browser, text_of
from tests.panel.client import Api
from tests.panel.engine.scenarios import Scene, loose_disk, second_pool
from tests.panel.engine.world import Executor, Fault
from tests.people import Person

pytestmark = pytest.mark.django_db
People = Callable[[str], Api]
Move = Callable[..., Job]
THERE = "@vg0"


@pytest.fixture
def pool(scene: Scene) -> Pool:
    return second_pool(scene)


@pytest.fixture
def move(scene: Scene, api: People, pool: Pool) -> Move:
    """``move(disk)``: asks for it, plays the nodes until the job ends, and answers the job."""

    def move(disk: str, executor: Executor | None = None, **asked: Any) -> Job:
        answer = api("administrator").post(f"disks/{disk}/move/", {"pool": pool.pk, **asked})
        assert answer.status_code == 202, answer.json()
        executor = executor or Executor()
        executor.world = scene.world
        return executor.run(Job.objects.get(pk=answer.json()["job"]["id"]))

    return move


def verbs(scene: Scene) -> list[str]:
    return [message.verb for message in scene.world.messages]


def is_there(scene: Scene, disk: str, pool: Pool) -> bool:
    """The row and the volume; and what was left lies in the trash, by a name of its own."""
    row = Disk.objects.get(pk=disk)
    objects = scene.world.objects
    left = Disk.objects.get(state="trash")
    assert (left.vm, left.pool, left.format, left.title) == (None, scene.pool, "qcow2", row.name)
    assert (scene.node.pk, "disk:" + left.pk) in objects
    assert (scene.node.pk, "disk:" + disk) not in objects
    assert not any(Pool.objects.values_list("reserved_bytes", flat=True))
    return (row.pool, row.format, row.state) == (pool, "raw", "ready") and (
        scene.node.pk,
        "disk:" + disk + THERE,
    ) in objects


def test_of_a_guest_that_runs_its_qemu_copies_it_and_goes_over(scene: Scene, pool: Pool, move: Move) -> None:
    vm, disk = scene.running, scene.running.disks.all()[0]
    assert move(disk.pk).state == "succeeded"
    assert verbs(scene) == ["disk.create", "domain.mirror", "domain.pivot", "domain.define", "disk.rename"]
    assert is_there(scene, disk.pk, pool)
    assert scene.world.objects[scene.node.pk, f"guest:{vm.pk} {disk.pk}"] == "has" + THERE
    assert disk.pk + THERE in scene.world.objects[scene.node.pk, f"definition:{vm.pk}"].split()


def test_of_a_vm_that_is_off_it_is_copied_and_the_definition_names_the_copy(
    scene: Scene, pool: Pool, move: Move
) -> None:
    vm, disk = scene.stopped, scene.stopped.disks.all()[1]
    assert move(disk.pk).state == "succeeded"
    assert verbs(scene) == ["disk.clone", "domain.define", "disk.rename"]
    assert is_there(scene, disk.pk, pool)
    assert disk.pk + THERE in scene.world.objects[scene.node.pk, f"definition:{vm.pk}"].split()


def test_a_disk_without_a_vm_moves_too(scene: Scene, pool: Pool, move: Move) -> None:
    disk = loose_disk(scene)
    assert move(disk).state == "succeeded"
    assert verbs(scene) == ["disk.clone", "disk.rename"]
    assert is_there(scene, disk, pool)


def test_a_disk_from_an_image_stands_by_itself_afterwards_and_what_it_left_does_not(
    scene: Scene, pool: Pool, move: Move
) -> None:
    disk = scene.stopped.disks.all()[0]
    Disk.objects.filter(pk=disk.pk).update(image=scene.image)
    assert move(disk.pk).state == "succeeded"
    assert Disk.objects.get(pk=disk.pk).image is None
    assert Disk.objects.get(state="trash").image == scene.image


def test_off_the_grid_of_the_target_a_guest_that_runs_sees_its_disk_grow_first(
    scene: Scene, pool: Pool, api: People, move: Move
) -> None:
    disk = scene.running.disks.all()[0]
    Disk.objects.filter(pk=disk.pk).update(size_bytes=GIB + 64 * 1024)
    plan = api("administrator").post(f"disks/{disk.pk}/move/?dry_run=true", {"pool": pool.pk}).json()
    (row,) = plan["quote"]["disks"]
    assert (row["asked_bytes"], row["size_bytes"], row["grows_first"]) == (GIB + 64 * 1024, GIB + 4 * MIB, True)
    assert move(disk.pk).state == "succeeded"
    assert verbs(scene)[:2] == ["disk.resize", "disk.create"]
    assert Disk.objects.get(pk=disk.pk).size_bytes == GIB + 4 * MIB == Disk.objects.get(state="trash").size_bytes


def test_of_a_vm_that_is_off_only_the_copy_is_larger(scene: Scene, pool: Pool, move: Move) -> None:
    disk = scene.stopped.disks.all()[0]
    Disk.objects.filter(pk=disk.pk).update(size_bytes=GIB + 64 * 1024)
    assert move(disk.pk).state == "succeeded"
    assert "disk.resize" not in verbs(scene)
    assert Disk.objects.get(pk=disk.pk).size_bytes == GIB + 4 * MIB
    assert Disk.objects.get(state="trash").size_bytes == GIB + 64 * 1024


def test_both_granules_fit_the_size(scene: Scene, pool: Pool, api: People) -> None:
    Pool.objects.filter(pk=scene.pool.pk).update(granules={"qcow2": 12 * MIB})
    Pool.objects.filter(pk=pool.pk).update(granules={"raw": 8 * MIB})
    disk = scene.stopped.disks.all()[0]
    Disk.objects.filter(pk=disk.pk).update(size_bytes=12 * MIB)
    plan = api("administrator").post(f"disks/{disk.pk}/move/?dry_run=true", {"pool": pool.pk}).json()
    assert plan["quote"]["disks"][0]["size_bytes"] == 24 * MIB


FAULTS: list[Fault] = ["refused", "half", "uncertain_done", "uncertain_not_done", "uncertain_for_long"]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("n", range(5))
@pytest.mark.parametrize("state", ["running", "stopped", "loose"])
def test_a_fault_leaves_the_disk_where_it_was_or_where_it_goes(
    state: str, n: int, fault: Fault, scene: Scene, pool: Pool, move: Move
) -> None:
    disk = loose_disk(scene) if state == "loose" else getattr(scene, state).disks.all()[0].pk
    before = scene.fingerprint()

    def strike(k: int, envelope: Envelope) -> Fault | None:
        return fault if k == n and envelope.phase == "do" else None

    job = move(disk, Executor(fault=strike))
    if job.state == "succeeded":
        assert is_there(scene, disk, pool)
    else:
        assert (job.state, job.past_pivot) == ("failed", False)
        assert scene.fingerprint() == before


def refused(api: People, disk: str, **asked: Any) -> list[str]:
    answer = api("administrator").post(f"disks/{disk}/move/?dry_run=true", asked)
    assert answer.status_code == 200, answer.json()
    return [refusal["code"] for refusal in answer.json()["refusals"]]


def test_what_hinders_a_move_is_said(scene: Scene, pool: Pool, api: People) -> None:
    disk = scene.running.disks.all()[0]
    assert refused(api, disk.pk, pool="nowhere") == ["pool_unknown"]
    assert refused(api, disk.pk, pool=scene.pool.pk) == ["disk_is_there"]
    assert refused(api, disk.pk, pool=scene.pool.pk, format="raw") == []
    assert refused(api, disk.pk, pool=pool.pk, format="qcow2") == ["format_unsupported"]
    Pool.objects.filter(pk=pool.pk).update(state="out_of_service", free_bytes=MIB, exact=True)
    Disk.objects.filter(pk=disk.pk).update(size_bytes=GIB + 64 * 1024)
    assert refused(api, disk.pk, pool=pool.pk) == ["pool_out_of_service", "size_off_grid", "no_room"]
    PoolOnNode.objects.filter(pool=pool).delete()
    assert "pool_elsewhere" in refused(api, disk.pk, pool=pool.pk)
    other = Node.objects.create(name="n2", address="10.99.0.12", redis_password_sha256="1" * 64, state="online")
    PoolOnNode.objects.create(pool=pool, node=other)
    assert "pools_apart" in refused(api, loose_disk(scene), pool=pool.pk)


def test_pools_of_one_volume_group_share_their_names(scene: Scene, pool: Pool, api: People) -> None:
    disk = scene.stopped.disks.all()[0]
    Pool.objects.filter(pk=scene.pool.pk).update(facts={"names": "vg-uuid"})
    assert refused(api, disk.pk, pool=pool.pk) == ["pools_share_names"]


def test_snapshots_and_what_the_guest_has_not_yet_taken_hinder_it(scene: Scene, pool: Pool, api: People) -> None:
    first, second = scene.running.disks.all()
    snapshot = Snapshot.objects.create(vm=scene.running, name="before", state="ready")
    SnapshotDisk.objects.create(snapshot=snapshot, disk=first, size_bytes=GIB)
    Disk.objects.filter(pk=second.pk).update(pending="attach")
    assert refused(api, first.pk, pool=pool.pk) == ["move_leaves_snapshots"]
    assert refused(api, second.pk, pool=pool.pk) == ["disks_pending"]


def test_a_move_that_waited_while_the_disk_grew_is_refused_and_gives_back_its_room(
    scene: Scene, pool: Pool, api: People
) -> None:
    disk = scene.running.disks.all()[0]
    first = api("administrator").post(f"disks/{disk.pk}/resize/", {"size_bytes": 2 * GIB}).json()["job"]["id"]
    second = api("administrator").post(f"disks/{disk.pk}/move/", {"pool": pool.pk}).json()["job"]["id"]
    executor = Executor(world=scene.world)
    assert executor.run(Job.objects.get(pk=first)).state == "succeeded"
    job = executor.run(Job.objects.get(pk=second))
    assert (job.state, job.error["code"]) == ("failed", "disk_changed")
    assert Pool.objects.get(pk=pool.pk).reserved_bytes == 0


@pytest.mark.parametrize("who", ["tenant_administrator", "owner", "read_only"])
def test_people_who_know_of_no_pools_move_nothing(who: str, scene: Scene, pool: Pool, api: People) -> None:
    disk = scene.running.disks.all()[0]
    answer = api(who).post(f"disks/{disk.pk}/move/", {"pool": pool.pk})
    assert answer.status_code in (403, 404)
    assert not Job.objects.exists()


def test_the_dialog_says_what_the_size_comes_to_there(scene: Scene, pool: Pool, people: dict[str, Person]) -> None:
    browser, disk = Browser(people["administrator"]), scene.running.disks.all()[0]
    Disk.objects.filter(pk=disk.pk).update(size_bytes=GIB + 64 * 1024)
    words = text_of(browser.get(f"/disks/{disk.pk}/do/move/"))
    assert "fast, 80 GiB free" in words
    assert "rounded up to a multiple of 4 MiB) · 257 extents of 4 MiB · first it grows to this size" in words
    there = text_of(browser.get(f"/disks/{disk.pk}/place/?pool={pool.pk}&format=qcow2"))
    assert "Pool fast holds no disks of the format qcow2" in there
    assert text_of(browser.get(f"/disks/{disk.pk}/place/")).strip() == ""
