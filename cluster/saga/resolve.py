"""An administrator's word for a job that can go neither on nor back by itself."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.utils import timezone

from cluster.models import Job, JobState, Look, Node, NodeState, Step, StepState

from . import dispatch
from .answers import as_asked, result_of
from .steps import Call, NoUndo
from .steps import Step as Spec

if TYPE_CHECKING:
    from .engine import Run


LOOK_LIMIT = timedelta(seconds=15)
"""How long an online node may take to show what it has; then its name must be typed, or has been."""


def look_limit_is_over(job: Job) -> bool:
    """Whether the nodes have been asked for a resolve, and long enough ago."""
    asked = job.resolution or {}
    return asked.get("state") == "asked" and timezone.now() - datetime.fromisoformat(asked["asked_at"]) > LOOK_LIMIT


def resolve(run: "Run") -> None:
    """Look at the nodes again, refuse what contradicts them, then take the administrator's word for the rest."""
    job = run.job
    asked = job.resolution or {}
    looks = list(job.looks.select_related("step", "node"))
    given_up = {asked["node"]} if look_limit_is_over(job) else set()
    missing = [
        look.pk
        for look in looks
        if look.answer is None and look.node.state != NodeState.OFFLINE and look.node.name not in given_up
    ]
    if missing:
        run.left.ask += missing
        return
    contradictions = _contradictions(run, looks, asked["outcome"])
    if contradictions:
        job.resolution = {**asked, "state": "refused", "contradictions": contradictions}
        job.looks.all().delete()
        return
    job.leftovers, run.left.cancel = dispatch.forget_silent(job, run.steps, asked["node"])
    run.left.drop += sorted({s.node.pk for s in run.steps if s.node and s.node.state == NodeState.OFFLINE})
    job.leftovers += _apply(run, asked["outcome"])
    job.resolution = {**asked, "state": "applied", "contradictions": []}
    run.finish(JobState.SUCCEEDED if asked["outcome"] == "done" else JobState.FAILED)


def _contradictions(run: "Run", looks: Sequence[Look], outcome: str) -> list[dict[str, Any]]:
    """What the nodes show that speaks against the administrator's word."""
    found = []
    for step in dict.fromkeys(look.step for look in looks):
        spec = _spec(run, step)
        if spec is None or spec.settle is None or (outcome == "undone" and isinstance(spec.undo, NoUndo)):
            continue
        its = as_asked((look for look in looks if look.step == step), spec.settle.ask(run.context, step.key))
        results = [result_of(look) for look in its]
        if spec.settle.bears_out:
            contradicts = not spec.settle.bears_out(run.context, outcome, results)
        else:
            against = "not_done" if outcome == "done" else "done"
            contradicts = None not in results and spec.settle.verdict(run.context, results) == against
        if contradicts:
            seen = [{"object": look.object, "node": look.node.name, "seen": look.answer} for look in its]
            found += [{"step": step.name, **one} for one in seen]
    return found


def _spec(run: "Run", step: Step) -> Spec | None:
    """None for a step that this version of the panel no longer has: it is only said what it touched."""
    return run.operation.step(step.name) if run.operation else None


def _apply(run: "Run", outcome: str) -> list[dict[str, Any]]:
    """The panel's own half of the steps; what a node would have to do is the administrator's word.

    Returns what online nodes were not asked to do, and no look has shown to be done.
    """
    left = []
    if outcome == "done":
        for step in run.steps:
            if step.state in (StepState.PENDING, StepState.RUNNING, StepState.FAILED):
                spec = _spec(run, step)
                left += _unasked(run.act(step, spec.do), looked=step.attempt > 0) if spec else _touched(step)
                run.end_step(step, StepState.DONE)
        return left
    for step in reversed(run.steps):
        if not step.may_have_begun:
            continue
        spec = _spec(run, step)
        if spec is None or isinstance(spec.undo, NoUndo):
            left += [] if spec else _touched(step)
            run.end_step(step, StepState.KEPT)
        else:
            left += _unasked(run.act(step, spec.undo), looked=spec.settle is not None)
            run.end_step(step, StepState.UNDONE)
    return left


def _touched(step: Step) -> list[dict[str, Any]]:
    online = step.node is not None and step.node.state != NodeState.OFFLINE
    return [{"node": step.node.name, "object": step.object}] if step.node and online and step.attempt else []


def _unasked(outcome: Any, *, looked: bool) -> list[dict[str, Any]]:
    if looked or not isinstance(outcome, Call):
        return []
    node = Node.objects.exclude(state=NodeState.OFFLINE).filter(pk=outcome.node).first()
    return [{"node": node.name, "object": outcome.message.object}] if node else []
