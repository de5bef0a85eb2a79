"""A job as people and clients see it (design of the REST contract); what a tenant may not know is left out."""

from collections.abc import Iterable, Sequence
from typing import Any

from django.db.models import prefetch_related_objects

from . import job_words
from .events import progress_of
from .models import Job, Step, StepState
from .permissions import Actor, visible
from .refusals import Forbidden, Refusal, Refused
from .saga.locks import waits_for
from .saga.steps import NoUndo, Operation


def job_view(actor: Actor, job: Job) -> dict[str, Any]:
    return job_views(actor, [job])[0]


def job_views(actor: Actor, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Any number of jobs in a fixed number of queries (with ``user`` fetched beforehand)."""
    prefetch_related_objects(jobs, "steps__node")
    waits = _waits(actor, jobs)
    return [_view(actor, job, waits.get(job.pk, [])) for job in jobs]


def _waits(actor: Actor, jobs: Iterable[Job]) -> dict[str, list[dict[str, Any]]]:
    """What each waits for; of jobs that the actor may not know only that there is one."""
    waits = waits_for(jobs)
    named = {row["job"] for rows in waits.values() for row in rows}
    if not actor.is_tenant_side or not named:
        return waits
    known = set(visible(Job.objects.filter(pk__in=named), actor).values_list("pk", flat=True))
    return {
        pk: [{**row, "job": row["job"] if row["job"] in known else None} for row in rows] for pk, rows in waits.items()
    }


def _view(actor: Actor, job: Job, waits: list[dict[str, Any]]) -> dict[str, Any]:
    operation = Operation.registry.get(job.operation)
    steps = list(job.steps.all())
    hide = actor.is_tenant_side
    return {
        "id": job.pk,
        "operation": job.operation,
        "label": str(operation.label) if operation else job.operation,
        "subject": job.subject,
        "subject_name": job.subject_name,
        "state": job.state,
        "version": job.version,
        "progress": progress_of(job, steps),
        "user": job.user.username if job.user else None,
        "steps": [_step(operation, step, hide) for step in steps],
        "waits_for": waits,
        "waiting_reason": _said(job.waiting_reason, hide),
        "error": _said(job.error, hide),
        "undone": [_undone(operation, s) for s in reversed(steps) if s.state in (StepState.UNDONE, StepState.KEPT)],
        "leftovers": [] if hide else job.leftovers,
        "result": None if hide else job.data.get("result"),
        "resolution": None if hide else job.resolution,
        "cancel_requested": job.cancel_requested,
        "past_pivot": job.past_pivot,
        "priority": job.priority,
        "parent": job.parent_id,
        "created": job.created,
        "started": job.started,
        "finished": job.finished,
        "actions": _actions(actor, job),
    }


def _step(operation: type[Operation[Any]] | None, step: Step, hide: bool) -> dict[str, Any]:
    return {
        "name": step.name,
        "label": _label(operation, step),
        "key": step.key,
        "state": step.state,
        "progress": step.progress,
        "facts": step.facts,
        "node": None if hide or step.node is None else {"id": step.node_id, "name": step.node.name},
        "error": _said(step.error, hide),
        "waits_for_click": step.waits_for_click,
        "started": step.started,
        "finished": step.finished,
    }


def _undone(operation: type[Operation[Any]] | None, step: Step) -> dict[str, Any]:
    """A step that was taken back, or that stays, with the written reason."""
    spec = operation.step(step.name) if operation else None
    kept = spec is not None and isinstance(spec.undo, NoUndo) and step.state == StepState.KEPT
    reason = str(spec.undo.reason) if kept and spec and isinstance(spec.undo, NoUndo) else None
    return {"step": step.name, "label": _label(operation, step), "reason": reason}


def _label(operation: type[Operation[Any]] | None, step: Step) -> str:
    spec = operation.step(step.name) if operation else None
    return str(spec.label) if spec else step.name


def _said(kept: dict[str, Any] | None, hide: bool) -> dict[str, str] | None:
    if not kept:
        return None
    reason = Refusal.from_kept(kept)
    return (reason.without_places() if hide else reason).said()


def _actions(actor: Actor, job: Job) -> list[dict[str, Any]]:
    """cancel, proceed, retry, resolve, priority: each with its reason when it is not possible now."""
    rows = []
    for code, check in job_words.JOB_CHECKS.items():
        reasons: tuple[Refusal, ...] = ()
        try:
            check(actor, job)
        except Refused as refused:
            reasons = refused.refusals
        except Forbidden as forbidden:
            reasons = (forbidden.refusal,)
        rows.append({"code": code, "allowed": not reasons, "reasons": [r.said() for r in actor.may_hear(reasons)]})
    return rows
