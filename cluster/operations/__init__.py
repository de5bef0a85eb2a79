"""Everything that people can ask for: one file an operation, found by its being here; and the one door for writes."""

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any

from django.db import OperationalError, transaction
from django.utils import timezone
from pydantic import ValidationError

from cluster import audit, events, selectors, shapes, wake
from cluster.models import FINAL, Job, JobState, Step, StepState
from cluster.permissions import Actor, action_of
from cluster.refusals import BadShape, Forbidden, NotKnown, Refusal, Refused
from cluster.saga import locks
from cluster.saga.context import context_of, split_secrets
from cluster.saga.steps import LockName, Lost, Operation, Params, Plan, done
from cluster.saga.steps import Step as Spec
from nodes.contract.faults import point

MAX_PLANS = 3
"""How often placement runs again when a reservation was lost to somebody quicker."""

DEADLOCK = "40P01"


def load() -> None:
    """Import every module of this package; each registers its operation."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


@dataclass(frozen=True)
class Started:
    job: Job
    subject: Any


def operation_of(noun: str, name: str) -> type[Operation[Any]]:
    """The operation behind ``POST /api/v1/<noun>/<id>/<name>/``. Raises :class:`NotKnown`."""
    for operation in Operation.registry.values():
        if (operation.noun, operation.name()) == (noun, name):
            return operation
    raise NotKnown(f"{noun} {name}")


def dry_run(actor: Actor, code: str, params: dict[str, Any], target_id: str | None = None) -> Plan:
    """What ``start`` would do or refuse, without starting anything.

    Raises :class:`NotKnown`, :class:`Forbidden`, :class:`BadShape`; refusals are in the plan.
    """
    operation, target = _asked(actor, code, target_id)
    parsed = _parse(operation, params)
    plan = operation.plan(actor, target, parsed)
    plan.refusals[:0] = operation.obstacles(target) if target is not None else []
    plan.refusals = actor.may_hear(plan.refusals)
    return plan


def start(
    actor: Actor, code: str, params: dict[str, Any], target_id: str | None = None, *, wait: bool = True
) -> Started:
    """Begin an operation: the one door for every write that is a job.

    One transaction makes rights, refusals, reservations, locks, the job with its steps and the journal line; then
    the conductor is woken. With ``wait`` False a lock that is not free refuses instead of making the job wait.

    Raises :class:`NotKnown`, :class:`Forbidden`, :class:`BadShape`, :class:`Refused` (with every reason).
    """
    operation, target = _asked(actor, code, target_id)
    parsed = _parse(operation, params)
    try:
        return _start(actor, operation, target, parsed, wait)
    except Refused as refused:
        subject = f"{_kind(operation)}:{target.pk}" if target is not None else ""
        audit.write(actor, code, "refused", subject=subject, codes=[r.code for r in refused.refusals])
        raise Refused(*actor.may_hear(refused.refusals), job=refused.job) from None


def start_child(parent: Job, code: str, params: dict[str, Any], target_id: str | None = None) -> str:
    """Begin an operation as a part of another job, in the name of who asked for that; returns the job's id."""
    if parent.user is None or parent.grant is None:
        raise Refused(Refusal("grant_gone"))
    actor = Actor(parent.user, parent.grant)
    operation, target = _asked(actor, code, target_id)
    return _start(actor, operation, target, _parse(operation, params), wait=True, parent=parent).job.pk


def _start(
    actor: Actor,
    operation: type[Operation[Any]],
    target: Any,
    parsed: Params,
    wait: bool,
    parent: Job | None = None,
) -> Started:
    for attempt in range(MAX_PLANS):
        last = attempt == MAX_PLANS - 1
        plan = None if last else operation.plan(actor, target, parsed)
        try:
            with transaction.atomic():
                locks.serialise()
                # The last plan is made while nobody else can begin anything: whoever lost twice to quicker ones gets
                # the room that is left.
                plan = plan or operation.plan(actor, target, parsed)
                started = _begin(actor, operation, target, parsed, plan, wait, parent)
                point("start.before-commit", operation.code)
            point("start.after-commit", operation.code)
            return started
        except Lost:
            if last:
                raise Refused(Refusal("placement_lost", status=507)) from None
        except OperationalError as error:
            # PostgreSQL lets one of two transactions go on that wait for each other; of this one nothing is left.
            if last or getattr(error.__cause__, "sqlstate", "") != DEADLOCK:
                raise
    raise AssertionError("unreachable")


def _begin(
    actor: Actor,
    operation: type[Operation[Any]],
    target: Any,
    parsed: Params,
    plan: Plan,
    wait: bool,
    parent: Job | None,
) -> Started:
    if target is not None:
        target = selectors.target(actor, operation.noun, target.pk)
    job = Job(
        operation=operation.code,
        user=actor.user,
        grant=actor.grant,
        data=plan.data,
        parent=parent,
    )
    job.params, job.secrets = split_secrets(operation, parsed)
    free: list[LockName] | None = None
    if target is not None:
        job.subject = f"{_kind(operation)}:{target.pk}"
        free = _refuse_unless_possible(operation, job, target, plan, wait)
    elif plan.refusals:
        raise Refused(*plan.refusals)
    subject = operation.begin(actor, target, parsed, plan)
    job.subject = f"{(operation.makes or operation.noun).removesuffix('s')}:{subject.pk}"
    job.subject_name = getattr(subject, "name", "")
    job.tenant_id = getattr(subject, "tenant_id", None)
    context = context_of(job)
    names = list(operation.locks(context))
    at_once = names == free or locks.are_free(job, names)
    if at_once:
        job.state, job.started = JobState.RUNNING, timezone.now()
    job.save(force_insert=True)
    steps = [(spec, key) for spec in operation.steps for key in (spec.each(context) if spec.each else [""])]
    Step.objects.bulk_create(
        Step(job=job, position=position, name=spec.name, key=key, state=_first_state(spec))
        for position, (spec, key) in enumerate(steps)
    )
    locks.ask(job, names, held=at_once)
    # The plan is older than this transaction: a job that ended in between may have changed what it was made of.
    if at_once and (changed := operation.recheck(context)):
        raise Refused(*changed)
    audit.write(actor, operation.code, "started", subject=job.subject, subject_name=job.subject_name, job=job)
    # First after the commit: the conductor has work to do, browsers only have something to show.
    transaction.on_commit(lambda: wake.conductor(job.pk))
    events.job_changed(job)
    return Started(job, subject)


def _first_state(spec: Spec) -> StepState:
    """What ``begin`` did is done: a job that never gets its turn must undo it too."""
    return StepState.DONE if spec.do is done else StepState.PENDING


def _refuse_unless_possible(
    operation: type[Operation[Any]], job: Job, target: Any, plan: Plan, wait: bool
) -> list[LockName] | None:
    """State rules; left until the locks are got while another job holds or awaits one of them.

    Returns the locks, where none of them is held or awaited.
    """
    alike = Job.objects.filter(operation=operation.code, subject=job.subject).exclude(state__in=FINAL)
    if same := alike.values_list("pk", flat=True).first():
        raise Refused(Refusal("already_running", {"job": same}, status=409), job=same)
    names = list(operation.locks(context_of(job)))
    ahead = locks.in_the_way(job, names).first()
    if ahead is not None and not wait:
        raise Refused(Refusal("locked", {"job": ahead.job_id, "lock": ahead.name}, status=409), job=ahead.job_id)
    reasons = operation.obstacles(target) + plan.refusals
    # What the job ahead may change is asked again when the locks are got; the rest will not become possible.
    lasting = reasons if ahead is None else [reason for reason in reasons if reason.status != 409]
    if lasting:
        raise Refused(*lasting)
    return names if ahead is None else None


def _asked(actor: Actor, code: str, target_id: str | None) -> tuple[type[Operation[Any]], Any]:
    operation = Operation.registry[code]
    target = None
    if not operation.creates:
        target = selectors.target(actor, operation.noun, target_id or "")
    try:
        actor.require(action_of(code))
    except Forbidden as forbidden:
        subject = f"{_kind(operation)}:{target.pk}" if target is not None else ""
        audit.write(actor, code, "refused", subject=subject, codes=[forbidden.refusal.code])
        raise
    return operation, target


def _parse(operation: type[Operation[Any]], params: dict[str, Any]) -> Params:
    try:
        return operation.Params.model_validate(params)
    except ValidationError as error:
        raise BadShape(shapes.errors_of(error)) from None


def _kind(operation: type[Operation[Any]]) -> str:
    """``vms`` -> ``vm``: the kind in subjects and lock names."""
    return operation.noun.removesuffix("s")
