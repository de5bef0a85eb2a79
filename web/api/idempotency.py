"""The same request sent twice does its work once: the answer is kept in the transaction of the work."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.crypto import salted_hmac

from cluster.models import IdempotencyKey
from cluster.permissions import Actor
from cluster.refusals import BadShape, Forbidden, NotKnown, Refusal, Refused
from cluster.services import IDEMPOTENCY_LIFETIME

HEADER = "Idempotency-Key"
_LONGEST_KEY = 200


@dataclass(frozen=True)
class Answer:
    status: int
    body: dict[str, Any]
    """Plain JSON."""


def check_key(key: str | None) -> None:
    if key is not None and not (0 < len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable()):
        raise BadShape({HEADER: [f"1 to {_LONGEST_KEY} printable ASCII characters"]})


def once(actor: Actor, endpoint: str, key: str, body: Any, work: Callable[[], Answer]) -> Answer:
    """The work's answer, or the one that an earlier request with this key got.

    A refusal is not kept: the same key may be tried again. Raises :class:`Refused` (``idempotency_mismatch``) for
    another body, and whatever ``work`` raises.
    """
    digest = salted_hmac("idempotency", json.dumps(body, sort_keys=True), algorithm="sha256").hexdigest()
    row = {"grant": actor.grant, "endpoint": endpoint, "key": key}
    try:
        return _first(row, digest, work)
    except IntegrityError:
        kept = IdempotencyKey.objects.filter(**row).first()
        if kept is None:  # not our key: the work itself broke a constraint
            raise
        if kept.body_sha256 != digest:
            raise Refused(Refusal("idempotency_mismatch", {"key": key})) from None
        return Answer(kept.status, kept.answer)


def _first(row: dict[str, Any], digest: str, work: Callable[[], Answer]) -> Answer:
    with transaction.atomic():
        IdempotencyKey.objects.filter(**row, created__lt=timezone.now() - IDEMPOTENCY_LIFETIME).delete()
        # Before the work: a second request waits here until the first has committed, and then finds its answer.
        claim = IdempotencyKey.objects.create(**row, body_sha256=digest, status=0, answer={})
        try:
            answer = work()
        except (Refused, Forbidden, BadShape, NotKnown) as reason:
            # Not rolled back: the journal keeps that it was refused.
            claim.delete()
            refused = reason
        else:
            claim.status, claim.answer = answer.status, answer.body
            claim.save()
            return answer
    raise refused
