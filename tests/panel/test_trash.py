"""What a disk left behind rests in the trash: seen, attached again, deleted at once, or when its time is over."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from cluster import trash
from cluster.models import AuditEvent, Disk, Grant, Job, Role
from cluster.operations import trash as steps
from cluster.panel_backup import aftermath
from cluster.saga.steps import Context
from nodes.contract.messages import DiskRename
from tests.panel.browser import Browser, text_of
from tests.panel.client import Api
from tests.panel.engine.scenarios import Scene
from tests.panel.engine.world import Executor
from tests.people import Person

pytestmark = pytest.mark.django_db
People = Callable[[str], Api]


@pytest.fixture
def left(scene: Scene) -> Disk:
    """What the first disk of the VM that runs has left behind, in the name of who may do everything."""
    source = scene.running.disks.all()[0]
    kept = steps.left_by(source, scene.node.pk)
    job = Job.objects.create(operation="demo.wait", user=scene.actor.user, grant=scene.actor.grant, state="succeeded")
    call = steps.put(kept)
    assert isinstance(call.message, DiskRename)
    assert (call.node, call.message.id, call.message.new) == (scene.node.pk, source.pk, kept["trash"])
    scene.world.objects[scene.node.pk, "disk:" + kept["trash"]] = "disk"
    context: Context[Any] = Context(job, None, job.data)
    for _ in range(2):
        steps.rest(context, kept)
    return Disk.objects.get(pk=kept["trash"])


def clock_strikes(scene: Scene, hours: float) -> None:
    """Whatever it begins comes to its end."""
    trash.delete_due(timezone.now() + timedelta(hours=hours))
    for job in Job.objects.exclude(state__in=("succeeded", "failed", "cancelled")):
        Executor(world=scene.world).run(job)


def test_it_is_a_disk_without_a_vm_that_says_where_it_came_from_and_until_when(
    scene: Scene, left: Disk, api: People, people: dict[str, Person]
) -> None:
    row = api("administrator").get(f"disks/{left.pk}/").json()
    assert (row["vm"], row["state"], row["title"]) == (None, "trash", "vm-running/1")
    hours = (left.delete_after - timezone.now()) / timedelta(hours=1)  # type: ignore[operator]
    assert 23.9 < hours <= 24
    page = text_of(Browser(people["administrator"]).get("/disks/"))
    assert re.search(r"vm-running/1.*in the trash until \d", page), page
    assert "in the trash until" in text_of(Browser(people["administrator"]).get(f"/pools/{scene.pool.pk}/"))


def test_it_is_deleted_when_its_time_is_over_and_not_before(scene: Scene, left: Disk) -> None:
    clock_strikes(scene, 23.9)
    assert Disk.objects.filter(pk=left.pk).exists()
    clock_strikes(scene, 24.1)
    assert not Disk.objects.filter(pk=left.pk).exists()
    assert (scene.node.pk, "disk:" + left.pk) not in scene.world.objects
    asked = [message.verb for message in scene.world.messages]
    assert asked == ["disk.delete"]
    line = AuditEvent.objects.get(action="disk.delete", outcome="started")
    assert line.actor == scene.actor.user


def test_two_conductors_begin_one_deletion(scene: Scene, left: Disk) -> None:
    for _ in range(2):
        trash.delete_due(timezone.now() + timedelta(hours=25))
    assert Job.objects.filter(operation="disk.delete").count() == 1


def test_who_lost_the_right_to_delete_it_deletes_nothing_and_it_is_tried_again_later(scene: Scene, left: Disk) -> None:
    Grant.objects.filter(pk=scene.actor.grant.pk).update(role=Role.READ_ONLY)
    clock_strikes(scene, 25)
    assert not Job.objects.filter(operation="disk.delete").exists()
    Grant.objects.filter(pk=scene.actor.grant.pk).update(role=Role.ADMINISTRATOR)
    clock_strikes(scene, 25.9)
    assert Disk.objects.filter(pk=left.pk).exists()
    clock_strikes(scene, 26.1)
    assert not Disk.objects.filter(pk=left.pk).exists()


def test_it_can_be_deleted_at_once(scene: Scene, left: Disk, api: People) -> None:
    answer = api("administrator").post(f"disks/{left.pk}/delete/", {})
    assert answer.status_code == 202, answer.json()
    Executor(world=scene.world).run(Job.objects.get(pk=answer.json()["job"]["id"]))
    assert not Disk.objects.filter(pk=left.pk).exists()


def test_attached_again_it_is_a_disk_like_any_other(scene: Scene, left: Disk, api: People) -> None:
    refused = api("administrator").post(f"disks/{left.pk}/change/", {"title": "data"})
    assert (refused.status_code, refused.json()["code"]) == (409, "disk_in_trash")
    answer = api("administrator").post(f"disks/{left.pk}/attach/", {"vm": scene.stopped.pk})
    assert answer.status_code == 202, answer.json()
    job = Executor(world=scene.world).run(Job.objects.get(pk=answer.json()["job"]["id"]))
    assert job.state == "succeeded"
    row = api("administrator").get(f"disks/{left.pk}/").json()
    assert (row["vm"], row["state"], row["delete_after"]) == (scene.stopped.pk, "ready", None)
    clock_strikes(scene, 25)
    assert Disk.objects.filter(pk=left.pk).exists()


def test_one_that_does_not_come_to_a_vm_stays_in_the_trash(scene: Scene, left: Disk, api: People) -> None:
    answer = api("administrator").post(f"disks/{left.pk}/attach/", {"vm": scene.stopped.pk})
    executor = Executor(world=scene.world, fault=lambda n, envelope: "refused" if n == 0 else None)
    job = executor.run(Job.objects.get(pk=answer.json()["job"]["id"]))
    assert job.state == "failed"
    row = api("administrator").get(f"disks/{left.pk}/").json()
    assert (row["vm"], row["state"], row["delete_after"] is None) == (None, "trash", False)


def test_a_panel_put_back_from_a_backup_deletes_nothing_that_was_in_the_trash_then(scene: Scene, left: Disk) -> None:
    aftermath.settle(timezone.now(), "0.1.0")
    clock_strikes(scene, 25)
    left.refresh_from_db()
    assert (left.state, left.delete_after) == ("ready", None)
