"""How fast nodes were seen to send to each other: what a plan of moves says of their time."""

import math
from collections.abc import Mapping

from django.utils import timezone

from .forecast import BEGIN_S
from .models import Link

Speeds = Mapping[tuple[str, str], int]
"""(source, target) -> bytes a second."""


def speeds(source: str | None = None) -> Speeds:
    """
    :param source: only from this node.
    """
    links = Link.objects.all() if source is None else Link.objects.filter(source=source)
    return {(row[0], row[1]): row[2] for row in links.values_list("source", "target", "bandwidth_bytes")}


def note(source: str, target: str, bandwidth_bytes: int) -> None:
    now = {"bandwidth_bytes": bandwidth_bytes, "measured": timezone.now()}
    Link.objects.update_or_create(source_id=source, target_id=target, defaults=now)


def at_most_s(size_bytes: int, bandwidth_bytes: int | None) -> int | None:
    """For all of it once; None where nobody has seen how fast that link is."""
    return math.ceil(BEGIN_S + size_bytes / bandwidth_bytes) if bandwidth_bytes else None
