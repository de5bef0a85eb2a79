"""Snapshots of a VM: the tree, what is refused, and what a person is told before something is lost."""

from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings

from cluster.models import Disk, Job, Pool, Snapshot, SnapshotDisk, Vm
from nodes.contract.sizes import GIB
from tests.panel.browser import Browser, text_of
from tests.panel.client import Api
from tests.panel.engine.scenarios import Scene
from tests.panel.engine.world import Executor
from tests.people import Person

pytestmark = pytest.mark.django_db
People = Callable[[str], Api]


@pytest.fixture
def ask(scene: Scene, api: People) -> Callable[..., Any]:
    """``ask(path, body)``: posts it, plays the nodes until the job ends, and answers the job."""

    def ask(path: str, body: dict[str, Any] | None = None) -> Job:
        answer = api("administrator").post(path, body or {})
        assert answer.status_code == 202, answer.json()
        return Executor(world=scene.world).run(Job.objects.get(pk=answer.json()["job"]["id"]))

    return ask


def rows(api: People, vm: Vm) -> list[dict[str, Any]]:
    return list(api("administrator").get(f"snapshots/?vm={vm.pk}").json()["results"])


def test_snapshots_make_a_tree_and_a_deleted_ones_children_move_up(
    scene: Scene, api: People, ask: Callable[..., Any]
) -> None:
    vm = scene.running
    for name in ("one", "two"):
        assert ask(f"vms/{vm.pk}/snapshot/", {"name": name}).state == "succeeded"
    one, two = rows(api, vm)
    assert (one["name"], one["parent"], one["size_bytes"], one["state"]) == ("one", None, 2 * GIB, "ready")
    assert (two["name"], two["parent"]) == ("two", one["id"])
    assert ask(f"snapshots/{one['id']}/revert/", {"stop": True}).state == "succeeded"
    assert Vm.objects.get(pk=vm.pk).state == "stopped"
    ask(f"vms/{vm.pk}/snapshot/", {"name": "three"})
    assert [(row["name"], row["parent"]) for row in rows(api, vm)][2] == ("three", one["id"])
    assert ask(f"snapshots/{one['id']}/delete/").state == "succeeded"
    assert [(row["name"], row["parent"]) for row in rows(api, vm)] == [("two", None), ("three", None)]


def test_a_guest_stands_still_while_several_disks_are_kept_and_only_then(scene: Scene, ask: Callable[..., Any]) -> None:
    def verbs(vm: Vm) -> list[str]:
        scene.world.messages.clear()
        ask(f"vms/{vm.pk}/snapshot/")
        return [message.verb for message in scene.world.messages]

    two = ["disk.snapshot", "disk.snapshot"]
    assert verbs(scene.running) == ["domain.freeze", "domain.suspend", *two, "domain.resume", "domain.thaw"]
    assert verbs(scene.stopped) == two
    SnapshotDisk.objects.all().delete()
    scene.running.disks.last().delete()  # type: ignore[union-attr]
    assert verbs(scene.running) == ["disk.snapshot"]


def test_going_back_under_a_running_guest_is_refused_and_the_way_out_is_said(
    scene: Scene, api: People, ask: Callable[..., Any]
) -> None:
    ask(f"vms/{scene.running.pk}/snapshot/")
    snapshot = Snapshot.objects.get()
    answer = api("administrator").post(f"snapshots/{snapshot.pk}/revert/", {})
    assert (answer.status_code, answer.json()["code"]) == (409, "revert_needs_stop")
    assert answer.json()["refusals"][0]["field"] == "stop"


@pytest.mark.parametrize(
    ("facts", "status", "code"),
    [
        ({}, 422, "snapshots_unsupported"),
        ({"snapshot_formats": ["qcow2"]}, 409, "snapshot_needs_stop"),
        ({"snapshot_formats": ["qcow2"], "snapshots_online": True, "snapshots_take_room": True}, 507, "no_room"),
    ],
)
def test_what_the_storage_cannot_do_is_refused_beforehand(
    facts: dict[str, Any], status: int, code: str, scene: Scene, api: People
) -> None:
    Pool.objects.filter(pk=scene.pool.pk).update(facts=facts, free_bytes=GIB)
    answer = api("administrator").post(f"vms/{scene.running.pk}/snapshot/", {})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert not Snapshot.objects.exists()


def test_room_for_a_snapshot_is_reserved_while_it_is_made(scene: Scene, api: People) -> None:
    facts = {**scene.pool.facts, "snapshots_take_room": True}
    Pool.objects.filter(pk=scene.pool.pk).update(facts=facts)
    job = api("administrator").post(f"vms/{scene.running.pk}/snapshot/", {}).json()["job"]["id"]
    assert Pool.objects.get(pk=scene.pool.pk).reserved_bytes == 2 * GIB
    Executor(world=scene.world).run(Job.objects.get(pk=job))
    assert Pool.objects.get(pk=scene.pool.pk).reserved_bytes == 0


def test_a_pool_that_has_promised_more_than_it_has_hinders_only_what_takes_room(scene: Scene, api: People) -> None:
    """Something else filled it meanwhile."""
    Pool.objects.filter(pk=scene.pool.pk).update(free_bytes=0, reserved_bytes=GIB)
    assert api("administrator").post(f"vms/{scene.stopped.pk}/snapshot/?dry_run=true", {}).json()["refusals"] == []


def test_a_vm_has_no_more_than_its_limit(scene: Scene, api: People) -> None:
    most = settings.INSTALLATION.snapshots_of_a_vm
    Snapshot.objects.bulk_create(Snapshot(vm=scene.stopped, name=str(n), state="ready") for n in range(most))
    answer = api("administrator").post(f"vms/{scene.stopped.pk}/snapshot/", {})
    assert (answer.status_code, answer.json()["code"]) == (422, "too_many_snapshots")


def test_a_vm_is_not_deleted_without_disks_that_have_snapshots_in_them(
    scene: Scene, api: People, ask: Callable[..., Any]
) -> None:
    ask(f"vms/{scene.stopped.pk}/snapshot/")
    answer = api("administrator").post(f"vms/{scene.stopped.pk}/delete/", {"disks": False})
    assert (answer.status_code, answer.json()["code"]) == (422, "has_snapshots")
    assert ask(f"vms/{scene.stopped.pk}/delete/", {"disks": True}).state == "succeeded"
    assert not SnapshotDisk.objects.exists()
    assert not any("/" in name for _node, name in scene.world.objects)


def test_the_size_goes_back_too(scene: Scene, ask: Callable[..., Any]) -> None:
    ask(f"vms/{scene.stopped.pk}/snapshot/")
    Disk.objects.filter(vm=scene.stopped).update(size_bytes=3 * GIB)
    ask(f"snapshots/{Snapshot.objects.get().pk}/revert/")
    assert set(Disk.objects.filter(vm=scene.stopped).values_list("size_bytes", flat=True)) == {GIB}


def test_another_tenants_snapshots_are_not_known(scene: Scene, api: People, ask: Callable[..., Any]) -> None:
    ask(f"vms/{scene.stopped.pk}/snapshot/")
    snapshot = Snapshot.objects.get()
    stranger = api("stranger")
    assert stranger.get(f"snapshots/{snapshot.pk}/").status_code == 404
    assert stranger.post(f"snapshots/{snapshot.pk}/delete/", {}).status_code == 404


def test_the_card_shows_the_tree_and_asks_before_something_is_lost(
    scene: Scene, people: dict[str, Person], ask: Callable[..., Any]
) -> None:
    browser = Browser(people["administrator"])
    card = f"/vms/{scene.running.pk}/"
    assert "None yet" in text_of(browser.get(card))
    for name in ("one", "two"):
        ask(f"vms/{scene.running.pk}/snapshot/", {"name": name})
    shown = text_of(browser.get(card))
    assert "one" in shown
    assert "two the disks rest on it" in shown
    snapshot = Snapshot.objects.get(name="two")
    dialog = text_of(browser.get(f"/snapshots/{snapshot.pk}/do/revert/"))
    assert "What the disks have now is lost" in dialog
    assert "Stop vm-running by force" in dialog
    browser.post(f"/snapshots/{snapshot.pk}/do/revert/", {"stop": "1"})
    assert Job.objects.filter(operation="snapshot.revert", subject=f"snapshot:{snapshot.pk}").exists()
