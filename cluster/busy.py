"""How busy nodes are: what their heartbeats measure, taken together over minutes, for the pages and for placement."""

import math
from dataclasses import dataclass

from django.db import connection

from nodes.contract.messages import Heartbeat

from .models import Node

OVER_S = 180.0
"""A new value counts for two thirds of it after so long."""
LEAST_CHANGE_PERCENT = 5
"""Less is not written: a thousand nodes say something new every three seconds."""


@dataclass
class _Seen:
    percent: float
    at: float
    kept: int | None


class Busy:
    """Of one conductor, which hears every heartbeat and writes what has changed with each sweep."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def hear(self, node: Node, beat: Heartbeat, now: float) -> None:
        """
        :param now: monotonic, in seconds.
        """
        percent = measured_percent(node, beat)
        if percent is None:
            return
        seen = self._seen.get(node.pk)
        if seen is None:
            self._seen[node.pk] = _Seen(percent, now, node.busy_percent)
            return
        seen.percent += (percent - seen.percent) * -math.expm1(-(now - seen.at) / OVER_S)
        seen.at = now

    def store(self) -> None:
        changed = [
            (round(seen.percent), node_id)
            for node_id, seen in self._seen.items()
            if seen.kept is None or abs(seen.percent - seen.kept) >= LEAST_CHANGE_PERCENT
        ]
        if not changed:
            return
        with connection.cursor() as cursor:
            # The row's version stays: whoever looks at the node is not told of each breath that it takes.
            cursor.executemany("UPDATE cluster_node SET busy_percent = %s WHERE id = %s", changed)
        for percent, node_id in changed:
            self._seen[node_id].kept = percent


def measured_percent(node: Node, beat: Heartbeat) -> int | None:
    """The greater of what its processors have to do and what of its memory is in use; None: it did not say.

    A simulated node has processors and memory that nobody can measure.
    """
    if not node.cpus or not node.memory_bytes or node.facts.get("simulated") or not math.isfinite(beat.load_1m):
        return None
    used = 1 - beat.memory_available_bytes / node.memory_bytes
    return round(100 * min(1.0, max(0.0, beat.load_1m / node.cpus, used)))
