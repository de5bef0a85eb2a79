"""What a node's reply says to the engine."""

from typing import Any

from cluster.models import Look
from cluster.refusals import Refusal
from nodes.contract.messages import VERBS, Reply


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


def result_of(look: Look) -> Any:
    if look.answer is None or look.answer.get("outcome") != "done":
        return None
    return VERBS[look.verb].result.model_validate(look.answer["result"])


def must_be_asked_again(look: Look) -> bool:
    """The node could not look just now, for example because its libvirtd was starting."""
    error = (look.answer or {}).get("error")
    return error is not None and bool(error["retryable"])
