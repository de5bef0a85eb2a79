"""Advance a job by one transaction. The rules are those of the executable model of the delivery protocol.

Forward: steps in order; a node's answer decides. Before the pivot a failure (or a cancel) turns the job round and
every step that may have begun is undone, the failed one first. After the pivot the job only retries forward.
Doubt is never failure: the same number is sent again three times; then a step before the pivot is undone (safe on
"perhaps") and a pivot is looked at.
"""

import json
import logging
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from django.core.exceptions import ObjectDoesNotExist
from django.db import transaction
from django.utils import timezone

from cluster import audit, events
from cluster.models import FINAL, Job, JobState, Look, Node, NodeState, Step, StepState
from cluster.refusals import Refusal, Refused
from nodes.contract.faults import point
from nodes.contract.messages import VERBS, Cancel, Reply

from . import dispatch, locks
from .answers import as_asked, as_understood, is_doubt, is_retryable, must_be_asked_again, refusal_of, result_of
from .context import context_of
from .resolve import resolve
from .steps import Call, Children, Context, NoUndo, Operation, WaitForClick
from .steps import Step as Spec

log = logging.getLogger(__name__)

MAX_DOUBTS = 3
MAX_FAILURES = 3
MOST_ATTEMPTS = 8
"""A node that calls every number too low is not believed for ever."""


class Stale(Exception):
    """Another conductor changed the job in between; nothing was written."""


@dataclass
class Advanced:
    """What is left to do after the commit. Losing it costs only time: the rows say the same."""

    send: list[Step] = field(default_factory=list)
    """With a new number."""
    ask: list[str] = field(default_factory=list)
    """Looks."""
    wake: list[str] = field(default_factory=list)
    """Jobs that may go on."""
    drop: list[str] = field(default_factory=list)
    """Silent nodes whose queues must not run when they return."""
    cancelling: bool = False
    """Somebody wants the job cancelled: what its node still works at has to be told."""
    cancel: list[tuple[str, Cancel]] = field(default_factory=list)
    """Numbers that a resolve raised on online nodes."""
    ended: JobState | None = None
    """How the job has ended just now."""
    freed: list[str] = field(default_factory=list)
    """The locks that it held."""


def advance(job_id: str) -> Advanced:
    """Take the job as far as it goes without a further answer. Harmless at any time and any number of times.

    Raises :class:`Stale` when another conductor was quicker.
    """
    with transaction.atomic():
        job = _read(job_id)
        if job.is_final:
            return Advanced()
        claim(job)
        run = Run(job)
        run.go()
        run.left.cancelling = job.cancel_requested and not job.is_final
        if not run.has_changed:
            # Nothing to say: the version stays, and nobody is told.
            transaction.set_rollback(True)
            return run.left
        run.write()
        events.job_changed(job, run.steps)
        point("engine.before-commit", job.operation)
    point("engine.after-commit", job.operation)
    return run.left


def claim(job: Job) -> None:
    """Compare and set on the version, first thing in the transaction: the row stays ours until it ends.

    Every other write changes the version too, so what was read with it is still true.
    """
    if not Job.objects.filter(pk=job.pk, version=job.version).update(version=job.version + 1):
        raise Stale(job.pk)
    job.version += 1


class Run:
    def __init__(self, job: Job) -> None:
        self.job = job
        self.operation: type[Operation[Any]] | None = Operation.registry.get(job.operation)
        self.steps = _steps_of(job)
        self.left = Advanced()
        self.now = timezone.now()
        self._asked_anew = 0
        self._rows: list[Job | Step] = [job, *self.steps]
        self._stored = [_columns(row) for row in self._rows]

    # --- rows -------------------------------------------------------------------------------------------

    @property
    def has_changed(self) -> bool:
        """Whether others can tell that this run has done anything."""
        return self._asked_anew > 0 or any(self._changes())

    def write(self) -> None:
        """What has changed since the rows were read, and no column besides.

        Steps that became alike (those done in one go) share a statement.
        """
        alike: list[tuple[dict[str, Any], list[str]]] = []
        of_job, *of_steps = self._changes()
        for step, changes in zip(self.steps, of_steps, strict=True):
            same = next((pks for others, pks in alike if others == changes), None)
            if same is not None:
                same.append(step.pk)
            elif changes:
                alike.append((changes, [step.pk]))
        for changes, pks in alike:
            Step.objects.filter(pk__in=pks).update(**changes)
        if of_job:
            Job.objects.filter(pk=self.job.pk).update(**of_job)

    def _changes(self) -> list[dict[str, Any]]:
        """By column; of the job, then of each step."""
        return [
            {name: getattr(row, name) for name, kept in stored.items() if kept != _kept(getattr(row, name))}
            for row, stored in zip(self._rows, self._stored, strict=True)
        ]

    # --- the way ----------------------------------------------------------------------------------------

    def go(self) -> None:
        if self.job.state == JobState.WAITING and not self._got_its_turn():
            return
        mismatch = self._mismatch()
        if mismatch and self.job.state != JobState.STUCK:
            self._stick(Refusal("steps_changed", {"steps": mismatch}))
        if self.job.resolution and self.job.resolution["state"] == "asked":
            resolve(self)
            return
        if self.operation is None or self.job.state == JobState.STUCK:
            return
        self.job.waiting_reason = None
        while self._turn():
            pass
        if self.job.is_final:
            return
        if not self.job.undoing and self.job.state != JobState.STUCK:
            self.job.state = JobState.CANCELLING if self.job.cancel_requested else JobState.RUNNING

    def _turn(self) -> bool:
        """One step of the way; False when there is nothing more to do now."""
        if self._is_overtaken():
            return False
        return self._backward() if self.job.undoing else self._forward()

    def _is_overtaken(self) -> bool:
        """A job out of a backup, and a node that has had later messages.

        To go on, or to undo, would be to do it to what people have used since. The answer stays, so that the job can
        only be resolved.
        """
        later = [
            s for s in self.steps if self.job.data.get("restored") and (s.answer or {}).get("outcome") == "superseded"
        ]
        if later:
            self._stick(Refusal("overtaken", {"object": later[0].object}))
        return bool(later)

    def _goes_above(self, step: Step, reply: Reply) -> bool:
        """A job that was begun after the panel was put back, and a node that has seen later numbers from the panel of
        before: nothing of this job was done there, and :func:`dispatch.record` has raised ours above them.
        """
        later = reply.outcome == "superseded" and step.attempt < MOST_ATTEMPTS
        return later and audit.was_restored_before(self.job.created)

    def _issue_again(self, step: Step, state: StepState) -> bool:
        step.state, step.dispatch = state, None
        return True

    def _got_its_turn(self) -> bool:
        if self.job.cancel_requested and not self._begun():
            # Nothing has happened on any node; only what ``begin`` reserved is given back.
            self.job.undoing = True
        elif not locks.acquire(self.job):
            return False
        self.job.started = self.now
        self.job.state = JobState.RUNNING
        if not self.job.undoing and self.operation:
            refusals = self._recheck(self.operation)
            if refusals:
                self._unwind(refusals[0])
        return True

    def _recheck(self, operation: type[Operation[Any]]) -> list[Refusal]:
        try:
            return operation.recheck(self.context)
        except ObjectDoesNotExist:
            return [Refusal("subject_gone", {"name": self.job.subject_name})]

    def _begun(self) -> bool:
        return any(s.attempt for s in self.steps)

    def _mismatch(self) -> str:
        """Names of the rows that this version of the operation no longer has, or has in another order."""
        table = [s.name for s in self.operation.steps] if self.operation else []
        rows = list(dict.fromkeys(s.name for s in self.steps))
        ordered = [name for name in table if name in rows]
        return "" if rows == ordered else ", ".join(n for n in rows if n not in table) or ", ".join(rows)

    # --- forward ----------------------------------------------------------------------------------------

    def _forward(self) -> bool:
        front = self._front()
        if not front:
            self.finish(JobState.SUCCEEDED)
            return False
        moved = False
        for step in front:
            if step.state == StepState.RUNNING:
                moved |= self._take_answer(step)
            elif not (self.job.cancel_requested and not self.job.past_pivot):
                moved |= self._begin(step)
            elif all(other.state == StepState.PENDING for other in front):
                self._unwind(None)
            if self.job.undoing:
                return True
        return moved

    def _front(self) -> list[Step]:
        """The next step, and those behind it that may be under way beside it."""
        left = [s for s in self.steps if s.state in (StepState.PENDING, StepState.RUNNING)]
        alone = left and self.spec(left[0]).pivot
        count = next((n for n, step in enumerate(left) if n and (alone or not self.spec(step).beside)), len(left))
        return left[:count]

    def _begin(self, step: Step) -> bool:
        outcome = self.act(step, self.spec(step).do)
        if isinstance(outcome, Refusal):
            return self._failed(step, outcome, retryable=False)
        if outcome is None:
            self._done(step)
            return True
        step.state = StepState.RUNNING
        step.started = step.started or self.now
        if isinstance(outcome, Call):
            self._issue(step, outcome, "do")
            return False
        step.waits_for_click = isinstance(outcome, WaitForClick)
        if isinstance(outcome, Children):
            self.left.wake += outcome.jobs
        return False

    def _take_answer(self, step: Step) -> bool:
        if step.phase == "settle":
            return self._settle(step)
        if step.waits_for_click:
            if self.job.cancel_requested:
                self._unwind(None)
                return True
            self.job.waiting_reason = {"code": "waits_for_click", "facts": {}}
            return False
        if step.dispatch is None:
            return self._take_children(step)
        reply = self._answer(step)
        if reply is None:
            return False
        if is_doubt(reply):
            return self._doubt(step, reply)
        if self._goes_above(step, reply):
            return self._issue_again(step, StepState.PENDING)
        if reply.outcome == "done":
            self._store(step, VERBS[step.verb].result.model_validate(reply.result))
            self._done(step)
            return True
        return self._failed(step, refusal_of(reply), retryable=is_retryable(reply))

    def _take_children(self, step: Step) -> bool:
        """Wait for every child, also for those that a cancel has to undo first."""
        children = list(self.job.children.all())
        pending = [child for child in children if not child.is_final]
        if pending:
            if self.job.cancel_requested:
                self._pass_cancel_down(pending)
            self.job.waiting_reason = {"code": "waits_for_children", "facts": {"count": len(pending)}}
            return False
        failed = [child for child in children if child.state == JobState.FAILED]
        if failed and not self.spec(step).tolerant:
            facts = {"failed": len(failed), "count": len(children), "job": failed[0].pk}
            return self._failed(step, Refusal("children_failed", facts), retryable=False)
        gave_up = not self.spec(step).tolerant or self.job.cancel_requested
        if gave_up and any(child.state == JobState.CANCELLED for child in children):
            return self._failed(step, None, retryable=False)
        self._done(step)
        return True

    def _pass_cancel_down(self, children: list[Job]) -> None:
        for child in children:
            if not (child.cancel_requested or child.past_pivot or child.undoing):
                claim(child)
                Job.objects.filter(pk=child.pk).update(cancel_requested=True)
                self.left.wake.append(child.pk)

    def _failed(self, step: Step, why: Refusal | None, *, retryable: bool) -> bool:
        """A certain failure (None: the node cancelled it)."""
        step.error = why.kept() if why else None
        if self.job.past_pivot and why and not retryable and self._goes_on_without(step, why):
            return True
        if self.job.past_pivot:
            return self._try_again(step, StepState.PENDING, why, counts=not retryable)
        step.state = StepState.FAILED
        step.finished = self.now
        self._unwind(why)
        return True

    def _goes_on_without(self, step: Step, why: Refusal) -> bool:
        without = self.spec(step).without
        if without is None or not without(self.context, step.key, why):
            return False
        self._done(step)
        step.error = why.kept()
        return True

    def _doubt(self, step: Step, reply: Reply) -> bool:
        step.doubts += 1
        why = refusal_of(reply) or Refusal("uncertain")
        if step.doubts <= MAX_DOUBTS:
            self.job.waiting_reason = why.kept()
            self.left.send.append(step)
            return False
        if self.job.undoing:
            return self._try_again(step, StepState.UNDOING, why, counts=not is_retryable(reply))
        spec = self.spec(step)
        if spec.pivot and spec.settle:
            step.phase = "settle"
            step.error = why.kept()
            self._ask(step, spec)
            return False
        if self.job.past_pivot:
            return self._try_again(step, StepState.PENDING, why, counts=True)
        step.state, step.error = StepState.FAILED, why.kept()
        self._unwind(why)
        return True

    def _try_again(self, step: Step, state: StepState, why: Refusal | None, *, counts: bool) -> bool:
        """Where there is no way back: the next sweep issues a new number, unless it failed too often."""
        step.state, step.dispatch, step.error = state, None, why.kept() if why else None
        self.job.failures += counts
        if self.job.failures > MAX_FAILURES:
            self._stick(why or Refusal("cancelled_on_node"))
        else:
            self.job.waiting_reason = (why or Refusal("cancelled_on_node")).kept()
        return False

    def _done(self, step: Step) -> None:
        step.state, step.error, step.progress = StepState.DONE, None, 100
        step.started = step.started or self.now
        step.finished, step.phase = self.now, "do"
        if self.spec(step).pivot:
            self.job.past_pivot = True
            self.job.cancel_requested = False

    def _store(self, step: Step, result: Any) -> None:
        after = self.spec(step).after
        if after:
            after(self.context, step.key, result)

    # --- doubt about the pivot -----------------------------------------------------------------------------

    def _ask(self, step: Step, spec: Spec, *, now: bool = True) -> None:
        """A fresh set of questions; answers to older ones no longer find a row. ``now`` False: with the next sweep."""
        assert spec.settle
        step.looks.all().delete()
        self._asked_anew += 1
        looks = [self._look(step, call) for call in spec.settle.ask(self.context, step.key)]
        # The source first; the others only after its answer: they are sent by ``_settle`` one by one.
        self.left.ask += [look.pk for look in looks[:1] if now]
        self.job.waiting_reason = {"code": "settling", "facts": {"step": step.name}}

    def _look(self, step: Step, call: Call) -> Look:
        return Look.objects.create(
            job=self.job,
            step=step,
            node_id=call.node,
            verb=call.message.verb,
            object=call.message.object,
            body=dispatch.body_text(call.message),
        )

    def _settle(self, step: Step) -> bool:
        spec = self.spec(step)
        assert spec.settle
        self.job.waiting_reason = {"code": "settling", "facts": {"step": step.name}}
        looks = as_asked(step.looks.all(), spec.settle.ask(self.context, step.key))
        for look in looks:
            if look.answer is None:
                self.left.ask.append(look.pk)
                self._say_who_is_silent(step, look.node)
                return False
        if any(must_be_asked_again(look) for look in looks):
            self._ask(step, spec, now=False)
            return False
        results = [result_of(look) for look in looks]
        verdict = spec.settle.verdict(self.context, results)
        if verdict == "wait":
            self._ask(step, spec, now=False)
            return False
        step.looks.all().delete()
        if verdict == "done":
            # What was seen stands in for the lost reply, where it is the same kind of word.
            if isinstance(results[0], VERBS[step.verb].result):
                self._store(step, results[0])
            self._done(step)
            return True
        step.phase = "do"
        if verdict == "not_done":
            return self._failed(step, Refusal.from_kept(step.error or {"code": "uncertain"}), retryable=False)
        self._stick(Refusal("cannot_be_settled", {"step": step.name, "seen": [look.answer for look in looks]}))
        return False

    # --- backward ---------------------------------------------------------------------------------------

    def _unwind(self, why: Refusal | None) -> None:
        """Turn round. ``why`` None: a person cancelled."""
        self.job.undoing = True
        self.job.state = JobState.UNDOING
        self.job.failures = 0
        if why is not None and self.job.error is None:
            self.job.error = why.kept()

    def _backward(self) -> bool:
        self.job.state = JobState.UNDOING
        step = next((s for s in reversed(self.steps) if s.may_have_begun), None)
        if step is None:
            self.finish(JobState.FAILED if self.job.error else JobState.CANCELLED)
            return False
        if step.state == StepState.RUNNING and step.dispatch is not None:
            return self._wait_out(step)
        if step.state == StepState.UNDOING and step.dispatch is not None:
            reply = self._answer(step)
            if reply is None:
                return False
            if is_doubt(reply):
                return self._doubt(step, reply)
            if self._goes_above(step, reply):
                return self._issue_again(step, StepState.UNDOING)
            nothing_of_ours = reply.error is not None and reply.error.code in self.spec(step).undone_by
            if reply.outcome != "done" and not nothing_of_ours:
                return self._try_again(step, StepState.UNDOING, refusal_of(reply), counts=not is_retryable(reply))
            self.end_step(step, StepState.UNDONE)
            return True
        undo = self.spec(step).undo
        if isinstance(undo, NoUndo):
            self.end_step(step, StepState.KEPT)
            return True
        outcome = self.act(step, undo)
        if isinstance(outcome, Refusal):
            return self._try_again(step, StepState.UNDOING, outcome, counts=True)
        if isinstance(outcome, Call):
            step.state = StepState.UNDOING
            self._issue(step, outcome, "undo")
            return False
        self.end_step(step, StepState.UNDONE)
        return True

    def _wait_out(self, step: Step) -> bool:
        """It was under way beside the one that failed: its object gets no other number before the answer."""
        reply = self._answer(step)
        if reply is None:
            return False
        # Whatever the answer says, it may have happened, and an undo is safe on "perhaps".
        step.state, step.dispatch = StepState.FAILED, None
        step.error = why.kept() if (why := refusal_of(reply)) else None
        return True

    def end_step(self, step: Step, state: StepState) -> None:
        step.state, step.finished, step.waits_for_click = state, self.now, False

    # --- the end ----------------------------------------------------------------------------------------

    def finish(self, state: JobState) -> None:
        job = self.job
        job.state, job.finished, job.secrets, job.waiting_reason = state, self.now, "", None
        for step in self.steps:
            step.body = ""  # it may hold sealed secrets, and nobody reads it again
        if job.resolution:
            job.looks.all().delete()
        self.left.ended = state
        self.left.freed, woken = locks.release(job)
        self.left.wake += woken
        if job.parent_id:
            self.left.wake.append(job.parent_id)
        audit.job_ended(job)

    def _stick(self, why: Refusal) -> None:
        self.job.state = JobState.STUCK
        self.job.error = why.kept()
        audit.job_ended(self.job)

    # --- small parts --------------------------------------------------------------------------------------

    @cached_property
    def context(self) -> Context[Any]:
        return context_of(self.job)

    def spec(self, step: Step) -> Spec:
        spec = self.operation.step(step.name) if self.operation else None
        if spec is None:
            raise LookupError(f"{self.job.operation} has no step {step.name}")
        return spec

    def act(self, step: Step, function: Any) -> Call | WaitForClick | Children | Refusal | None:
        """Run a ``do`` or an ``undo``; what it wrote is taken back when it fails."""
        try:
            with transaction.atomic():
                outcome: Call | WaitForClick | Children | None = function(self.context, step.key)
                return outcome
        except Refused as refused:
            return refused.refusals[0]
        except Exception:
            log.exception("job %s: step %s of %s", self.job.pk, step.name, self.job.operation)
            return Refusal("internal", {"step": step.name, "job": self.job.pk})

    def _issue(self, step: Step, call: Call, phase: str) -> None:
        unwritten = sum(other.long and other.node_id == call.node and not other.doubts for other in self.left.send)
        refusal = dispatch.issue(step, call, phase, unwritten)
        if refusal is None:
            self.left.send.append(step)
        elif refusal.code == "node_busy":
            # Not a failure: the next sweep tries again, nothing has begun.
            step.state, step.dispatch = StepState.PENDING if phase == "do" else StepState.UNDOING, None
            self.job.waiting_reason = refusal.kept()
        elif phase == "do":
            self._failed(step, refusal, retryable=False)
        else:
            self._try_again(step, StepState.UNDOING, refusal, counts=True)

    def _answer(self, step: Step) -> Reply | None:
        if step.answer is None:
            if step.node:
                self._say_who_is_silent(step, step.node)
            return None
        reply = Reply.model_validate(step.answer)
        step.answer = None
        return as_understood(step.verb, reply)

    def _say_who_is_silent(self, step: Step, node: Node) -> None:
        if node.state == NodeState.OFFLINE:
            self.job.waiting_reason = {"code": "node_offline", "facts": {"node": node.name}}
        elif dispatch.is_overdue(step):
            self.job.waiting_reason = {"code": "no_answer", "facts": {"node": node.name, "verb": step.verb}}


def _read(job_id: str) -> Job:
    """Raw, as the steps are: to compose the two statements anew for every message takes longer than to run them.

    Raises ``Job.DoesNotExist``.
    """
    for job in Job.objects.raw(f"SELECT * FROM {Job._meta.db_table} WHERE id = %s", [job_id]):  # noqa: S608
        return job
    raise Job.DoesNotExist(job_id)


def _steps_of(job: Job) -> list[Step]:
    table = Step._meta.db_table
    steps = list(Step.objects.raw(f"SELECT * FROM {table} WHERE job_id = %s ORDER BY position", [job.pk]))  # noqa: S608
    for step in steps:
        step.job = job
    return steps


def _columns(row: Job | Step) -> dict[str, Any]:
    return {field.attname: _kept(getattr(row, field.attname)) for field in row._meta.concrete_fields}


def _kept(value: Any) -> Any:
    """To compare with later: JSON is changed in place, and PostgreSQL gives its keys back in an order of its own."""
    return json.dumps(value, sort_keys=True) if isinstance(value, (dict, list)) else value


def open_jobs() -> list[str]:
    """Jobs that a sweep looks at, the oldest first."""
    return list(
        Job.objects.exclude(state__in=FINAL)
        .exclude(state=JobState.STUCK, resolution__isnull=True)
        .order_by("-priority", "created", "id")
        .values_list("id", flat=True)
    )
