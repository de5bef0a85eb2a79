"""Linked clones in the panel: what a disk rests on is known, said, and keeps its source."""

from typing import Any

import pytest

from cluster import job_words, operations
from cluster.models import Disk, Job, Pool, Vm
from cluster.operations import trash
from cluster.refusals import Refused
from cluster.saga.context import context_of
from tests.panel.browser import Browser, text_of
from tests.panel.engine.scenarios import Scene, linked_clone
from tests.panel.engine.world import Executor
from tests.people import Person

pytestmark = pytest.mark.django_db


def run(scene: Scene, code: str, target: str, **params: Any) -> Any:
    job = operations.start(scene.actor, code, params, target).job
    return Executor(world=scene.world).run(job)


def codes(scene: Scene, code: str, target: str, **params: Any) -> list[str]:
    return [reason.code for reason in operations.dry_run(scene.actor, code, params, target).refusals]


@pytest.fixture
def ceph(scene: Scene) -> Scene:
    """Its pool lets linked clones rest on their sources."""
    facts = {**scene.pool.facts, "clones": ["full", "linked"], "clones_rest": True, "snapshot_formats": ["raw"]}
    Pool.objects.filter(pk=scene.pool.pk).update(facts=facts, granules={"raw": 1 << 22})
    Disk.objects.update(format="raw")
    scene.pool.refresh_from_db()
    return scene


def clone(scene: Scene) -> Vm:
    job = run(scene, "vm.clone", scene.stopped.pk, name="twin", linked=True)
    assert job.state == "succeeded", job.error
    return Vm.objects.get(name="twin")


def test_each_disk_of_a_linked_clone_rests_on_its_source_and_lies_beside_it(ceph: Scene) -> None:
    vm, sources = clone(ceph), list(ceph.stopped.disks.all())
    assert [(disk.parent, disk.pool) for disk in vm.disks.all()] == [(source, ceph.pool) for source in sources]
    sent = [envelope.body for envelope in ceph.world.messages if envelope.verb == "disk.clone"]
    assert [body["linked"] for body in sent] == [True, True]


def test_where_linked_clones_stand_by_themselves_nothing_is_noted(ceph: Scene) -> None:
    Pool.objects.update(facts={**ceph.pool.facts, "clones_rest": False})
    assert [disk.parent for disk in clone(ceph).disks.all()] == [None, None]


def test_what_a_storage_cannot_do_is_said_with_the_name_of_the_disk(scene: Scene) -> None:
    assert codes(scene, "vm.clone", scene.stopped.pk, name="twin", linked=True) == ["linked_unsupported"] * 2


def test_a_linked_clone_does_not_go_to_another_storage(ceph: Scene) -> None:
    assert "linked_stays" in codes(ceph, "vm.clone", ceph.stopped.pk, name="t", linked=True, pool=ceph.pool.pk)


def test_a_source_stays_as_long_as_clones_rest_on_it_and_says_which(ceph: Scene) -> None:
    vm, source = clone(ceph), ceph.stopped.disks.all()[0]
    with pytest.raises(Refused) as refused:
        operations.start(ceph.actor, "vm.delete", {"disks": True}, ceph.stopped.pk)
    assert [reason.facts["clones"] for reason in refused.value.refusals] == [["twin/1"], ["twin/2"]]
    run(ceph, "disk.detach", source.pk)
    assert codes(ceph, "disk.delete", source.pk) == ["disk_has_clones"]
    for disk in vm.disks.all():
        assert run(ceph, "disk.flatten", disk.pk).state == "succeeded"
    assert codes(ceph, "disk.delete", source.pk) == []
    assert run(ceph, "vm.delete", ceph.stopped.pk, disks=True).state == "succeeded"


def test_a_cancel_that_comes_too_late_to_stop_it_leaves_a_clone_that_is_known_to_be_independent(ceph: Scene) -> None:
    pk = linked_clone(ceph)
    job = operations.start(ceph.actor, "disk.flatten", {}, pk).job

    def cancel(n: int, envelope: Any) -> None:
        job_words.cancel(ceph.actor, Job.objects.get(pk=job.pk))

    assert Executor(world=ceph.world, before_answer=cancel).run(job).state == "succeeded"
    assert Disk.objects.get(pk=pk).parent is None


def test_a_vm_that_has_a_disk_and_its_clone_goes_with_both_the_clone_first(ceph: Scene) -> None:
    pk = linked_clone(ceph)
    run(ceph, "disk.attach", pk, vm=ceph.stopped.pk)
    assert run(ceph, "vm.delete", ceph.stopped.pk, disks=True).state == "succeeded"
    deleted = [envelope.object for envelope in ceph.world.messages if envelope.verb == "disk.delete"]
    assert deleted[0] == "disk:" + pk


def test_what_is_left_behind_by_a_move_is_what_the_clones_rest_on_from_then_on(ceph: Scene) -> None:
    pk, source = linked_clone(ceph), ceph.stopped.disks.all()[0]
    left = trash.left_by(source, ceph.node.pk)
    job = ceph.start("demo.wait").job
    trash.rest(context_of(job), left)
    assert Disk.objects.get(pk=pk).parent_id == left["trash"]
    assert codes(ceph, "disk.delete", left["trash"]) == ["disk_has_clones"]


def test_the_dialog_offers_it_only_where_the_storage_can(ceph: Scene, people: dict[str, Person]) -> None:
    browser, dialog = Browser(people["administrator"]), f"/vms/{ceph.stopped.pk}/do/clone/"
    assert "cannot be deleted until the clone is" in text_of(browser.get(dialog))
    Pool.objects.update(facts={**ceph.pool.facts, "clones_rest": False})
    assert "cannot be deleted until the clone is" not in text_of(browser.get(dialog))
    assert b'name="linked"' in browser.get(dialog).content
    Pool.objects.update(facts={**ceph.pool.facts, "clones": ["full"]})
    assert b'name="linked"' not in browser.get(dialog).content


def test_pages_say_what_rests_on_what(ceph: Scene, people: dict[str, Person]) -> None:
    pk, browser = linked_clone(ceph), Browser(people["administrator"])
    Disk.objects.filter(pk=pk).update(title="twin")
    assert "linked clone of vm-stopped/1" in text_of(browser.get("/disks/"))
    assert "On it rest: twin" in text_of(browser.get("/disks/?which=all"))
    assert "linked clones rest on it" in text_of(browser.get(f"/vms/{ceph.stopped.pk}/"))
