"""Snapshots and backups by the clock: begun when they are due, and the oldest ones deleted when there are enough.

Each is a job like any other, in the name of who made the schedule; who has lost the right to it is refused.
"""

import logging
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Count, F, Q
from django.utils import timezone

from . import audit, operations, states
from .models import FINAL, JobState, Pool, Repeated, Schedule, ScheduledRun, Vm
from .permissions import Actor
from .refusals import BadShape, Forbidden, NotKnown, Refusal, Refused

log = logging.getLogger(__name__)

AT_ONCE = 20
"""Begun in one sweep: a night's backups are spread by themselves."""
MOST_OF_A_VM = 10
PRUNE_AGAIN = timedelta(minutes=10)
MOST_HOURS, MOST_KEPT = 24 * 366, 1000


# --- what people say of them --------------------------------------------------------------------------------


def add(
    actor: Actor, vm: Vm, action: Repeated, every_hours: int, keep: int, pool: Pool | None, first: datetime | None
) -> Schedule:
    """
    :param first: when it runs for the first time; None: an interval from now.
    :raises Forbidden: who may not do it once may not do it again and again.
    :raises Refused: ``too_many_schedules``.
    """
    actor.require(f"vm.{action}")
    if Schedule.objects.filter(vm=vm).count() >= MOST_OF_A_VM:
        raise Refused(Refusal("too_many_schedules", {"vm": vm.name, "most": MOST_OF_A_VM}))
    with transaction.atomic():
        schedule = Schedule.objects.create(
            vm=vm,
            action=action,
            every_hours=every_hours,
            keep=keep,
            pool=pool,
            grant=actor.grant,
            next_run=first or timezone.now() + timedelta(hours=every_hours),
        )
        said = f"{action}, every {every_hours} h, {keep} kept"
        audit.write(actor, "schedule.add", "done", subject="vm:" + vm.pk, subject_name=vm.name, schedule=said)
        states.touch(vm.pk)
    return schedule


def remove(actor: Actor, schedule: Schedule) -> None:
    """What it has made stays. Raises :class:`Forbidden`."""
    actor.require(f"vm.{schedule.action}")
    vm = schedule.vm
    with transaction.atomic():
        audit.write(actor, "schedule.remove", "done", subject="vm:" + vm.pk, subject_name=vm.name)
        schedule.delete()
        states.touch(vm.pk)


# --- what the clock does ------------------------------------------------------------------------------------


def run_due(now: datetime | None = None) -> None:
    """With each sweep of the conductor. Another conductor that does the same begins nothing twice."""
    now = now or timezone.now()
    _note_ended()
    for schedule in Schedule.objects.filter(next_run__lte=now).select_related("vm", "grant__user")[:AT_ONCE]:
        if _take_turn(schedule, now):
            _begin(schedule)
    _prune(now)


def _take_turn(schedule: Schedule, now: datetime) -> bool:
    """Compare and set. What was missed while the panel was off is made up for once."""
    every = timedelta(hours=schedule.every_hours)
    missed = (now - schedule.next_run) // every
    after = schedule.next_run + every * (missed + 1)
    return bool(Schedule.objects.filter(pk=schedule.pk, next_run=schedule.next_run).update(next_run=after))


def _begin(schedule: Schedule) -> None:
    params: dict[str, Any] = {"pool": schedule.pool_id} if schedule.pool_id else {}
    actor = Actor(schedule.grant.user, schedule.grant)
    try:
        started = operations.start(actor, f"vm.{schedule.action}", params, schedule.vm_id)
    except (Refused, Forbidden, NotKnown, BadShape) as error:
        _note_problem(schedule, why(error))
        return
    ScheduledRun.objects.create(schedule=schedule, job=started.job)


def why(error: Refused | Forbidden | NotKnown | BadShape) -> dict[str, Any]:
    """As it is kept for people who look later."""
    if isinstance(error, Refused):
        return error.refusals[0].kept()
    return error.refusal.kept() if isinstance(error, Forbidden) else Refusal("grant_gone").kept()


def _note_problem(schedule: Schedule, problem: dict[str, Any] | None) -> None:
    Schedule.objects.filter(pk=schedule.pk).update(problem=problem)


def _note_ended() -> None:
    """Jobs that have ended since the last time: what they made, or why not."""
    for run in ScheduledRun.objects.filter(thing="", job__state__in=FINAL).select_related("job", "schedule"):
        if run.job.state == JobState.SUCCEEDED:
            ScheduledRun.objects.filter(pk=run.pk).update(thing=run.job.data[run.schedule.action])
            _note_problem(run.schedule, None)
        else:
            _note_problem(run.schedule, run.job.error)
            run.delete()


def _prune(now: datetime) -> None:
    """Begin to delete the oldest one of each schedule that has made more than it keeps."""
    made = Count("runs", filter=~Q(runs__thing=""))
    full = Schedule.objects.annotate(made=made).filter(made__gt=F("keep")).exclude(prune_at__gt=now)
    for schedule in full.select_related("grant__user")[:AT_ONCE]:
        Schedule.objects.filter(pk=schedule.pk).update(prune_at=now + PRUNE_AGAIN)
        oldest = schedule.runs.exclude(thing="")[0]
        try:
            operations.start(Actor(schedule.grant.user, schedule.grant), f"{schedule.action}.delete", {}, oldest.thing)
        except (Refused, Forbidden) as error:
            _note_problem(schedule, why(error))
            continue
        except NotKnown:
            log.info("schedule %s: %s is gone already", schedule.pk, oldest.thing)
        # With its job begun it is no longer the schedule's: a delete that fails is seen, and shown, as that job.
        oldest.delete()
        Schedule.objects.filter(pk=schedule.pk).update(prune_at=None)
