"""The words of people to running jobs: cancel, proceed, retry, resolve, priority."""

from collections.abc import Callable
from typing import Any

from django.db import transaction
from django.utils import timezone

from . import audit, events, wake
from .models import (
    Job,
    JobState,
    Look,
    NodeState,
    StepState,
)
from .permissions import Actor, action_of, may_drive
from .refusals import BadShape, Forbidden, Refusal, Refused
from .saga import dispatch
from .saga.context import context_of
from .saga.engine import claim
from .saga.resolve import look_limit_is_over
from .saga.steps import Operation


def cancel(actor: Actor, job: Job) -> Job:
    """Before the pivot everything is put back; after it refused with ``past_pivot``."""
    return _tell(actor, job, "cancel", {}, lambda row: setattr(row, "cancel_requested", True))


def proceed(actor: Actor, job: Job) -> Job:
    """The click that a step waits for."""

    def click(row: Job) -> None:
        row.data["clicked"] = True
        row.steps.filter(waits_for_click=True).update(waits_for_click=False, state=StepState.PENDING)

    return _tell(actor, job, "proceed", {}, click)


def retry(actor: Actor, job: Job) -> Job:
    """Let a stuck job try again, in the direction in which it was going."""

    def again(row: Job) -> None:
        # One out of a backup may not have had its turn yet: it goes back into its line.
        going = JobState.RUNNING if row.started else JobState.WAITING
        row.state = JobState.UNDOING if row.undoing else going
        row.failures, row.resolution = 0, None
        if not row.undoing or row.cancel_requested:
            # A job that a person cancelled ends as cancelled, however long that took.
            row.error = None
        row.steps.filter(state=StepState.RUNNING, phase="settle").update(phase="do", doubts=0)

    return _tell(actor, job, "retry", {}, again)


def set_priority(actor: Actor, job: Job, priority: int) -> Job:
    return _tell(actor, job, "priority", {"priority": priority}, lambda row: setattr(row, "priority", priority))


def resolve(actor: Actor, job: Job, outcome: str, note: str, node: str | None = None) -> Job:
    """An administrator's word for a job that cannot go on: ``done`` or ``undone``.

    The nodes are looked at first; a word that contradicts what they show is refused (``resolution`` says how).
    For a silent node its name must be typed (``node``).
    """
    if outcome not in ("done", "undone"):
        raise BadShape({"outcome": ["done | undone"]})
    if not note.strip():
        raise BadShape({"note": ["required"]})
    check_resolve(actor, job)
    unnamed = [Refusal("type_node_name", {"node": n}, field="node") for n in must_be_named(job) if n != node]
    if unnamed:
        raise Refused(*unnamed)

    def ask(row: Job) -> None:
        row.state = JobState.STUCK
        row.resolution = {
            "state": "asked",
            "outcome": outcome,
            "note": note,
            "user": actor.user.username,
            "node": node,
            "asked_at": timezone.now().isoformat(),
            "contradictions": [],
        }
        row.looks.all().delete()
        _ask_nodes(row)

    return _tell(actor, job, "resolve", {"asked": outcome, "note": note}, ask)


def must_be_named(job: Job) -> list[str]:
    """Nodes that cannot show what they hold of this job: whoever resolves it types their names."""
    steps = list(job.steps.select_related("node"))
    away = {step.node.name for step in steps if step.node and step.node.state == NodeState.OFFLINE}
    silent = {node.name for node in dispatch.silent_nodes(steps).values()}
    looked = set(job.looks.filter(answer__isnull=True).values_list("node__name", flat=True))
    return sorted(away | silent | (looked if look_limit_is_over(job) else set()))


def _ask_nodes(job: Job) -> None:
    """A question for every step that a node was asked to do and that knows how to be looked at."""
    operation = Operation.registry.get(job.operation)
    if operation is None:
        return  # this version of the panel does not know what to ask
    context = context_of(job)
    for step in job.steps.filter(attempt__gt=0):
        spec = operation.step(step.name)
        if spec is None or spec.settle is None:
            continue
        for call in spec.settle.ask(context, step.key):
            Look.objects.create(
                job=job,
                step=step,
                node_id=call.node,
                verb=call.message.verb,
                object=call.message.object,
                body=dispatch.body_text(call.message),
            )


def _tell(actor: Actor, job: Job, word: str, detail: dict[str, Any], change: Callable[[Job], None]) -> Job:
    try:
        with transaction.atomic():
            # Waits where another transaction writes the job just now; on SQLite this one is alone anyway.
            job = Job.objects.select_for_update().get(pk=job.pk)
            claim(job)
            JOB_CHECKS[word](actor, job)
            change(job)
            job.save()
            audit.write(actor, "job." + word, "done", subject=job.subject, job=job, **detail)
            events.job_changed(job, job.steps.all())
            transaction.on_commit(lambda: wake.conductor(job.pk))
    except (Refused, Forbidden):
        audit.write(actor, "job." + word, "refused", subject=job.subject, job=job, **detail)
        raise
    return job


def _may_drive(actor: Actor, job: Job) -> None:
    operation = Operation.registry.get(job.operation)
    if not may_drive(actor, job, operation):
        raise Forbidden(actor.refusal(action_of(operation.code) if operation else "job.resolve"))


def check_cancel(actor: Actor, job: Job) -> None:
    _may_drive(actor, job)
    if job.is_final:
        raise Refused(Refusal("job_ended", status=409))
    if job.undoing:
        raise Refused(Refusal("job_undoing", status=409))
    if job.past_pivot or job.state == JobState.STUCK:
        raise Refused(Refusal("past_pivot", status=409))
    operation = Operation.registry.get(job.operation)
    for step in job.steps.all():
        spec = operation.step(step.name) if operation else None
        if spec and spec.pivot and step.state == StepState.RUNNING and step.doubts:
            raise Refused(Refusal("in_doubt", status=409))


def check_proceed(actor: Actor, job: Job) -> None:
    _may_drive(actor, job)
    if job.is_final:
        raise Refused(Refusal("job_ended", status=409))
    if not any(s.waits_for_click for s in job.steps.all()):
        raise Refused(Refusal("job_waits_for_nothing", status=409))


def check_retry(actor: Actor, job: Job) -> None:
    _may_drive(actor, job)
    if job.state != JobState.STUCK:
        raise Refused(Refusal("job_not_stuck", status=409))


def check_resolve(actor: Actor, job: Job) -> None:
    """Stuck, or waiting for the answer of a node that is away or holds the message."""
    actor.require("job.resolve")
    if job.resolution and job.resolution["state"] == "asked" and not look_limit_is_over(job):
        raise Refused(Refusal("being_resolved", status=409))
    if job.is_final:
        raise Refused(Refusal("job_ended", status=409))
    # In Python: the steps are at hand, and a list of jobs asks this of each.
    if job.state != JobState.STUCK and not dispatch.silent_nodes(job.steps.all()):
        raise Refused(Refusal("job_not_stuck", status=409))


def check_priority(actor: Actor, job: Job) -> None:
    actor.require("job.priority")
    if job.state != JobState.WAITING:
        raise Refused(Refusal("job_not_waiting", status=409))


JOB_CHECKS: dict[str, Callable[[Actor, Job], None]] = {
    "cancel": check_cancel,
    "proceed": check_proceed,
    "retry": check_retry,
    "resolve": check_resolve,
    "priority": check_priority,
}
"""Each raises :class:`Forbidden` or :class:`Refused` with the reason; the job page's buttons read this list too."""
