"""What a node's reply says to the engine."""

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from cluster.models import Look
from cluster.refusals import Refusal
from nodes.contract.errors import ErrorInfo
from nodes.contract.messages import VERBS, Reply

from .steps import Call


def as_understood(verb: str, reply: Reply) -> Reply:
    """A "done" whose result cannot be read says that something was done, but not what: doubt."""
    if reply.outcome != "done":
        return reply
    try:
        VERBS[verb].result.model_validate(reply.result)
    except ValidationError as error:
        info = ErrorInfo(
            code="agent_error", cause=f"the result of {verb} cannot be read: {str(error)[:300]}", certain=False
        )
        return reply.model_copy(update={"outcome": "uncertain", "result": {}, "error": info})
    return reply


def is_doubt(reply: Reply) -> bool:
    return reply.outcome == "uncertain" or (
        reply.outcome == "failed" and reply.error is not None and not reply.error.certain
    )


def is_retryable(reply: Reply) -> bool:
    return reply.error is not None and reply.error.retryable


def refusal_of(reply: Reply) -> Refusal | None:
    if reply.error:
        return Refusal(reply.error.code, reply.error.facts, cause=reply.error.cause, hint=reply.error.hint)
    return Refusal("superseded", {"object": reply.object}) if reply.outcome == "superseded" else None


def as_asked(looks: Iterable[Look], calls: Iterable[Call]) -> list[Look]:
    """In the order of their questions."""
    order = [(call.node, call.message.object) for call in calls]
    return sorted(looks, key=lambda look: order.index((look.node_id, look.object)))


def result_of(look: Look) -> Any:
    if look.answer is None or look.answer.get("outcome") != "done":
        return None
    try:
        return VERBS[look.verb].result.model_validate(look.answer["result"])
    except ValidationError:
        return None  # the same as silence


def must_be_asked_again(look: Look) -> bool:
    """The node could not look just now, for example because its libvirtd was starting."""
    error = (look.answer or {}).get("error")
    return error is not None and bool(error["retryable"])
