"""What nodes have said takes effect: replies, reports and the streams' cursors in one transaction."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.db import connection, transaction

from nodes.contract.faults import point
from nodes.contract.messages import Hello, Inventory, Progress, Reply

from . import reconcile
from .broker import stream_order
from .models import Node, NodeState, StreamCursor
from .saga import dispatch


@dataclass(frozen=True)
class Said:
    """What a node has said since the last look, heartbeats left out."""

    node: Node
    entries: list[tuple[str, Any]]
    """(position in the stream, entry)."""
    last: str
    """Position behind all of it."""


@dataclass
class Heard:
    """What is left to do after the commit."""

    woken: list[str] = field(default_factory=list)
    """Jobs with an answer."""
    hellos: dict[str, tuple[Node, Hello]] = field(default_factory=dict)
    """The last one of each node."""
    back: list[Node] = field(default_factory=list)
    """They had been silent."""
    progress: list[tuple[Node, Progress]] = field(default_factory=list)
    overlooked: dict[str, int] = field(default_factory=dict)
    """As :func:`reconcile.observe` returns it."""


def store(said: list[Said], run_id: str, skew_s: Mapping[str, float]) -> Heard:
    """All of it takes effect, or nothing.

    :param run_id: of the Redis that was read; what another conductor has stored, or read from another, is left out.
    :param skew_s: by how much each node's clock is off.
    """
    heard = Heard()
    seen: list[reconcile.Observation] = []
    with transaction.atomic():
        cursors = _cursors(said, run_id)
        for each in said:
            for entry in _fresh(each, cursors.get(each.node.pk), heard):
                _take(each.node, entry, skew_s.get(each.node.pk), heard, seen)
        # After the replies: what was seen before a reply is older than it.
        heard.overlooked = reconcile.observe(seen)
        point("conductor.before-store")
    point("conductor.after-store")
    return heard


def _cursors(said: list[Said], run_id: str) -> dict[str, str]:
    """Up to where each node's stream was stored; it moves behind what was said now.

    Locked, in one order: another conductor that has read the same waits here, and finds it done. A stream that another
    conductor has begun to read from another Redis is left out.
    """
    last = {each.node.pk: each.last for each in said}
    rows = StreamCursor.objects.filter(pk__in=last, run_id=run_id).order_by("pk").select_for_update()
    stored = dict(rows.values_list("pk", "last"))
    ahead = [(last[pk], pk) for pk in stored if stream_order(last[pk]) > stream_order(stored[pk])]
    with connection.cursor() as cursor:  # a statement each through Django costs more than all of these
        cursor.executemany("UPDATE cluster_streamcursor SET last = %s WHERE node_id = %s", ahead)
    return stored


def _fresh(said: Said, stored: str | None, heard: Heard) -> list[Any]:
    """What no conductor has stored."""
    if stored is None or stream_order(said.last) <= stream_order(stored):
        return []  # another conductor is ahead; it has done all this
    # As this conductor knows it: what another one has changed it reads with its next sweep.
    if said.node.state == NodeState.OFFLINE and reconcile.node_online(said.node):
        heard.back.append(said.node)
    return [entry for position, entry in said.entries if stream_order(position) > stream_order(stored)]


def _take(node: Node, entry: Any, skew_s: float | None, heard: Heard, seen: list[reconcile.Observation]) -> None:
    if isinstance(entry, Reply):
        job = dispatch.record(node.pk, entry)
        heard.woken += [job] if job else []
    elif isinstance(entry, Hello):
        reconcile.hello(node, entry)
        heard.hellos[node.pk] = node, entry
    elif isinstance(entry, Inventory):
        reconcile.inventory(node, entry, skew_s)
        seen.append(reconcile.Observation(node.pk, entry.domains, entry.counter, complete=True))
    elif isinstance(entry, Progress):
        heard.progress.append((node, entry))
    else:
        seen.append(reconcile.Observation(node.pk, entry.domains, entry.counter, complete=False))
