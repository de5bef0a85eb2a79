"""Snapshots and backups by the clock: begun when due, once, in the name of who asked; the oldest ones go."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from cluster import schedules
from cluster.models import Backup, Grant, Job, Pool, Role, Schedule, Snapshot
from tests.panel.browser import Browser, text_of
from tests.panel.client import Api
from tests.panel.engine.scenarios import Scene
from tests.panel.engine.world import Executor
from tests.people import Person

pytestmark = pytest.mark.django_db
People = Callable[[str], Api]
HOUR = timedelta(hours=1)


@pytest.fixture
def schedule(scene: Scene, api: People) -> Schedule:
    """A snapshot of the VM that is off, every hour; two are kept. Due now."""
    asked = {"vm": scene.stopped.pk, "action": "snapshot", "every_hours": 1, "keep": 2}
    answer = api("administrator").post("schedules/", asked | {"first_run": timezone.now().isoformat()})
    assert answer.status_code == 201, answer.json()
    return Schedule.objects.get(pk=answer.json()["id"])


def turn(scene: Scene, hours: float = 0) -> None:
    """The clock strikes; whatever it begins comes to its end."""
    schedules.run_due(timezone.now() + hours * HOUR)
    for job in Job.objects.exclude(state__in=("succeeded", "failed", "cancelled")):
        Executor(world=scene.world).run(job)


def test_it_begins_when_it_is_due_and_not_twice(scene: Scene, schedule: Schedule) -> None:
    turn(scene)
    turn(scene)
    assert Snapshot.objects.count() == 1
    turn(scene, hours=1.01)
    assert Snapshot.objects.count() == 2


def test_the_oldest_one_goes_when_there_is_one_more_than_are_kept(scene: Scene, schedule: Schedule) -> None:
    by_hand = Snapshot.objects.create(vm=scene.stopped, name="by hand", state="ready")
    for hours in range(4):
        turn(scene, hours * 1.01)
    made = list(Snapshot.objects.exclude(pk=by_hand.pk).values_list("pk", flat=True))
    turn(scene, 3.1)
    left = list(Snapshot.objects.exclude(pk=by_hand.pk).values_list("pk", flat=True))
    assert left == made[-2:]
    assert Snapshot.objects.filter(pk=by_hand.pk).exists()


def test_what_was_missed_while_the_panel_was_off_is_made_up_for_once(scene: Scene, schedule: Schedule) -> None:
    turn(scene, hours=50)
    turn(scene, hours=50)
    assert Snapshot.objects.count() == 1
    schedule.refresh_from_db()
    assert schedule.next_run > timezone.now() + 50 * HOUR


def test_one_that_is_refused_says_why_and_goes_on(scene: Scene, api: People, schedule: Schedule) -> None:
    Pool.objects.filter(pk=scene.pool.pk).update(facts={})
    turn(scene)
    row = api("administrator").get(f"schedules/{schedule.pk}/").json()
    assert row["problem"]["code"] == "snapshots_unsupported"
    Pool.objects.filter(pk=scene.pool.pk).update(facts=scene.pool.facts)
    turn(scene, hours=1.01)
    turn(scene, hours=1.02)
    assert api("administrator").get(f"schedules/{schedule.pk}/").json()["problem"] is None


def test_who_has_lost_the_right_is_refused(scene: Scene, schedule: Schedule) -> None:
    Grant.objects.filter(pk=schedule.grant_id).update(role=Role.READ_ONLY)
    turn(scene)
    schedule.refresh_from_db()
    assert schedule.problem["code"] == "role_may_not"  # type: ignore[index]
    assert not Snapshot.objects.exists()


def test_backups_too(scene: Scene, api: People) -> None:
    asked = {"vm": scene.stopped.pk, "action": "backup", "every_hours": 24, "keep": 1, "pool": scene.pool.pk}
    api("administrator").post("schedules/", asked | {"first_run": timezone.now().isoformat()})
    for day in range(3):
        turn(scene, day * 24.01)
    turn(scene, 48.1)
    assert Backup.objects.count() == 1


@pytest.mark.parametrize(
    "changes", [{"every_hours": 0}, {"keep": 0}, {"action": "delete"}, {"first_run": "tomorrow"}, {"more": 1}]
)
def test_nonsense_is_refused(changes: dict[str, Any], scene: Scene, api: People) -> None:
    asked = {"vm": scene.stopped.pk, "action": "snapshot", "every_hours": 1, "keep": 2, **changes}
    assert api("administrator").post("schedules/", asked).status_code == 400
    assert not Schedule.objects.exists()


def test_it_is_ended_by_those_who_may_and_what_it_made_stays(scene: Scene, api: People, schedule: Schedule) -> None:
    turn(scene)
    assert api("stranger").delete(f"schedules/{schedule.pk}/").status_code == 404
    assert api("read_only").delete(f"schedules/{schedule.pk}/").status_code == 403
    assert api("administrator").delete(f"schedules/{schedule.pk}/").status_code == 204
    assert Snapshot.objects.count() == 1
    assert not Schedule.objects.exists()


def test_the_card_adds_shows_and_ends_one(scene: Scene, people: dict[str, Person]) -> None:
    browser = Browser(people["administrator"])
    dialog = text_of(browser.get(f"/vms/{scene.running.pk}/schedule/backup/"))
    assert "Backups by schedule" in dialog
    browser.post(f"/vms/{scene.running.pk}/schedule/backup/", {"every_hours": "24", "keep": "7", "pool": ""})
    assert re.search(r"Every day\s?, 7 are kept", text_of(browser.get(f"/vms/{scene.running.pk}/")))
    browser.post(f"/schedules/{Schedule.objects.get().pk}/remove/", {})
    assert not Schedule.objects.exists()
