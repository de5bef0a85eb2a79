"""Balancing by the clock: off until somebody says how often, and done in the name of who said it."""

from datetime import datetime, timedelta
from typing import Annotated, Any

from django.db import transaction
from django.utils import timezone
from pydantic import Field

from . import audit, balance, operations, shapes
from .balance import Options
from .models import Balancing
from .permissions import Actor
from .refusals import BadShape, Forbidden, NotKnown, Refused
from .schedules import why

EveryMinutes = Annotated[int, Field(ge=5, le=10_080)]
Threshold = Annotated[int, Field(ge=10, le=1000)]
Hold = Annotated[int, Field(ge=0, le=1440)]
Cooldown = Annotated[int, Field(ge=0, le=10_080)]
MostMoves = Annotated[int, Field(ge=1, le=100)]
SHAPES: dict[str, Any] = {
    "every_minutes": EveryMinutes | None,
    "threshold_points": Threshold,
    "hold_minutes": Hold,
    "cooldown_minutes": Cooldown,
    "most_moves": MostMoves,
    "copy_disks": bool,
}
ONLY = 1
LOOKS_EACH = timedelta(minutes=1)


def settings() -> Balancing:
    """As they are, or would be."""
    return Balancing.objects.select_related("grant__user").filter(pk=ONLY).first() or Balancing(pk=ONLY)


def edit(actor: Actor, **changes: Any) -> Balancing:
    """
    :param changes: fields of :class:`Balancing` that a person decides.
    :raises Forbidden: who may not balance the nodes may not let the panel do it either.
    :raises BadShape:
    """
    actor.require("balance.apply")
    for name, value in changes.items():
        shapes.must_be(SHAPES[name], value, name)
    with transaction.atomic():
        now = settings()
        for name, value in changes.items():
            setattr(now, name, value)
        now.grant, now.uneven_since, now.problem = actor.grant, None, None
        now.next_run = timezone.now() if now.every_minutes else None
        now.save()
        audit.write(actor, "balancing.edit", "done", subject="balancing:cluster", fields=sorted(changes))
    return now


def run_due(now: datetime | None = None) -> None:
    """With each sweep of the conductor. Another conductor that does the same begins nothing twice."""
    now = now or timezone.now()
    wished = Balancing.objects.select_related("grant__user").filter(next_run__lte=now, every_minutes__gt=0).first()
    if wished is None or wished.grant is None or wished.every_minutes is None:
        return
    options = Options(
        wished.threshold_points, timedelta(minutes=wished.cooldown_minutes), wished.most_moves, wished.copy_disks
    )
    uneven = bool(balance.plan(options).moves)
    since = (wished.uneven_since or now) if uneven else None
    due = since is not None and now - since >= timedelta(minutes=wished.hold_minutes)
    after = now + (timedelta(minutes=wished.every_minutes) if due or not uneven else LOOKS_EACH)
    turn = Balancing.objects.filter(pk=ONLY, next_run=wished.next_run)
    if turn.update(next_run=after, uneven_since=None if due else since) and due:
        _begin(wished)


def _begin(wished: Balancing) -> None:
    assert wished.grant is not None
    problem = None
    try:
        operations.start(
            Actor(wished.grant.user, wished.grant),
            "balance.apply",
            {
                "threshold_points": wished.threshold_points,
                "cooldown_minutes": wished.cooldown_minutes,
                "most_moves": wished.most_moves,
                "copy_disks": wished.copy_disks,
            },
        )
    except (Refused, Forbidden, NotKnown, BadShape) as error:
        problem = why(error)
    Balancing.objects.filter(pk=ONLY).update(problem=problem)
