"""Numbers, the outbox and the answers: what makes a repeated, late or lost message harmless."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.models import QuerySet
from django.utils import timezone

from cluster.models import Job, JobState, Look, Node, NodeState, ObjectNumber, RaisedNumber, Step, StepState, Vm
from cluster.refusals import Refusal
from nodes.contract import messages
from nodes.contract.messages import Cancel, Envelope, Message, Reply

from .. import crypto
from .steps import Call

MOST_NUMBERS = 1 << 53
"""A node's word about numbers is not taken beyond this: they must go on growing for ever."""

MAX_LONG_VERBS = 16
"""Of the agent's 24 threads: a ``stop`` must find a free one beside the longest migrations."""

_OF_NODE = ("name", "state", "redis_password_sha256", "verbs", "agent_version")


def body_text(message: Message) -> str:
    """The message for its row; sealed, because a body may hold a secret parameter."""
    return crypto.seal(messages.body_of(message))


def issue(step: Step, call: Call, phase: str, long_ones: int) -> Refusal | None:
    """Give the step's message the next number of its object; once the step is written it is in the outbox.

    :param long_ones: messages of the same node with long verbs that are not written yet.

    Called only when the previous number was answered (or at a resolve): rule 1. Returns why not, where not:
    ``node_too_old``, ``node_gone``, or ``node_busy`` (ask again later).
    """
    node = Node.objects.filter(pk=call.node).only(*_OF_NODE).first()
    message = call.message
    if node is None or not node.redis_password_sha256:
        return Refusal("node_gone", {"node": node.name if node else call.node})
    body = messages.body_of(message)
    if too_old(node, message, body):
        return Refusal("node_too_old", {"node": node.name, "verb": message.verb, "version": node.agent_version})
    if message.long and outbox().filter(node=node, long=True).count() + long_ones >= MAX_LONG_VERBS:
        return Refusal("node_busy", {"node": node.name, "limit": MAX_LONG_VERBS})
    step.node, step.object, step.verb, step.phase, step.long = node, message.object, message.verb, phase, message.long
    step.dispatch = next_number(node.pk, message.object)
    step.attempt += 1
    step.doubts = 0
    step.answer = None
    step.progress, step.facts = 0, {}
    step.heard = timezone.now()
    step.body = body_text(message)
    return None


def too_old(node: Node, message: Message | type[Message], fields: Iterable[str] = ()) -> bool:
    """Whether its agent does not know the verb, or one of these fields of it; of one that did not say: no."""
    known = node.verbs.get(message.verb)
    return bool(node.verbs) and (known is None or not set(fields) <= set(known))


def next_number(node_id: str, name: str) -> int:
    """The first one is 1. One statement, because every message asks for a number."""
    table = connection.ops.quote_name(ObjectNumber._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} (node_id, object, number, counter) VALUES (%s, %s, 1, 0)"  # noqa: S608 our own table
            f" ON CONFLICT (node_id, object) DO UPDATE SET number = {table}.number + 1 RETURNING number",
            [node_id, name],
        )
        return int(cursor.fetchone()[0])


def outbox() -> "QuerySet[Step]":
    """Messages that must be sent until they are answered. A stuck job touches nothing."""
    return _unanswered().filter(dispatch__isnull=False).exclude(job__state=JobState.STUCK)


def _unanswered() -> "QuerySet[Step]":
    under_way = Step.objects.filter(state__in=[StepState.RUNNING, StepState.UNDOING], answer__isnull=True)
    return under_way.exclude(phase="settle")


def envelope(step: Step) -> Envelope:
    return Envelope(
        verb=step.verb,
        object=step.object,
        dispatch=step.dispatch,
        job=step.job_id,
        step=step.pk,
        phase=step.phase,
        attempt=step.attempt,
        body=crypto.unseal(step.body),
    )


def question(look: Look) -> Envelope:
    return Envelope(
        verb=look.verb,
        object=look.object,
        dispatch=None,
        job=look.job_id,
        step=look.pk,
        phase="settle",
        attempt=1,
        body=crypto.unseal(look.body),
    )


def cancel_of(step: Step) -> Cancel | None:
    """The cancel that belongs to the step's number; None where it must not be sent.

    Never after the pivot, never for an undo, and not while a pivot was answered uncertainly.
    """
    job = step.job
    in_doubt = step.doubts > 0 and (step.phase == "settle" or job.past_pivot)
    if not job.cancel_requested or job.undoing or job.past_pivot or in_doubt or step.dispatch is None:
        return None
    return Cancel(object=step.object, dispatch=step.dispatch, job=job.pk, step=step.pk)


def record(node_id: str, reply: Reply) -> str | None:
    """Store a node's answer where it belongs; returns the job to wake, None for an answer that nobody waits for.

    Dropped: a number that is not its object's current one, and an answer from a node that was not asked (the
    stream's name proves who speaks).
    """
    answer = reply.model_dump(mode="json")
    if reply.dispatch is None:
        found = Look.objects.filter(pk=reply.step, node_id=node_id, object=reply.object, answer__isnull=True)
        if not found.update(answer=answer):
            return None
        Step.objects.filter(looks=reply.step).update(heard=timezone.now())
        return reply.job
    if Job.objects.filter(pk=reply.job, state=JobState.STUCK).exists():
        return None
    current = _unanswered().filter(
        pk=reply.step, job_id=reply.job, node_id=node_id, object=reply.object, dispatch=reply.dispatch
    )
    if not current.update(answer=answer, heard=timezone.now()):
        return None
    if reply.outcome == "superseded":
        _go_on_above(node_id, reply)
    if reply.object.startswith("domain:"):
        Vm.objects.filter(pk=reply.object.removeprefix("domain:"), node_id=node_id).update(
            observed_counter=reply.counter
        )
    elif reply.object.startswith("disk:"):
        ObjectNumber.objects.filter(node_id=node_id, object=reply.object).update(counter=reply.counter)
    return reply.job


def _go_on_above(node_id: str, reply: Reply) -> None:
    """The node has seen a later number: this database is older than its ledger (it was put back from a backup)."""
    seen = reply.result.get("number")
    if isinstance(seen, int) and seen < MOST_NUMBERS:
        ObjectNumber.objects.filter(node_id=node_id, object=reply.object, number__lt=seen).update(number=seen)


def is_overdue(step: Step) -> bool:
    """Its node is online and has neither answered nor spoken of the message for long: something there holds it."""
    return (
        step.dispatch is not None
        and step.answer is None
        and step.heard is not None
        and timezone.now() - step.heard > timedelta(seconds=settings.UNANSWERED_AFTER_S)
    )


def silent_nodes(steps: Iterable[Step]) -> dict[str, Node]:
    """Nodes that are away, or hold a message, while the job waits for their answer; by id."""
    return {
        step.node.pk: step.node
        for step in steps
        if step.state in (StepState.RUNNING, StepState.UNDOING)
        and step.answer is None
        and step.node is not None
        and (step.node.state == NodeState.OFFLINE or is_overdue(step))
    }


def raise_number(node_id: str, name: str) -> int:
    """What was sent about the object before is superseded; a node that is away is told at its next hello."""
    number = next_number(node_id, name)
    RaisedNumber.objects.update_or_create(node_id=node_id, object=name, defaults={"number": number})
    return number


def forget_silent(
    job: Job, steps: list[Step], named: str | None
) -> tuple[list[dict[str, Any]], list[tuple[str, Cancel]]]:
    """At a resolve: raise the numbers of everything this job touched.

    Returns what nodes that did not answer (``named``: an online one that holds a message) may still hold, and what
    tells online nodes of the raise. A node that is away is told at its next hello, before anything runs there.
    """
    left: list[dict[str, Any]] = []
    raises: list[tuple[str, Cancel]] = []
    for step in steps:
        if step.node is None or not step.object:
            continue
        number = raise_number(step.node.pk, step.object)
        if step.node.state == NodeState.OFFLINE or step.node.name == named:
            left.append({"node": step.node.name, "object": step.object})
        if step.node.state != NodeState.OFFLINE and step.node.name == named:
            # A cancel of the raised number: what the node holds of this job is then answered with `superseded`.
            raised = Cancel(object=step.object, dispatch=number, job=job.pk, step=step.pk)
            raises.append((step.node.pk, raised))
    return left, raises
