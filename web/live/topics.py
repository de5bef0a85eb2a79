"""Which group of events stands behind a topic, for one person; None for what they may not know.

The group of one thing is that of its whole kind; the socket then says only what is about it.
"""

from collections.abc import Callable, Iterable

from cluster import selectors
from cluster.events import group, person
from cluster.models import Role
from cluster.permissions import Actor

_LISTS = {"vms": "see.vms", "jobs": "see.jobs", "nodes": "see.nodes", "pools": "see.pools"}
_ROWS: dict[str, Callable[[Actor], "selectors.QuerySet[selectors.Any]"]] = {
    "vm": selectors.vms,
    "job": selectors.jobs,
    "node": selectors.nodes,
    "pool": selectors.pools,
}
EVERY = ""


def groups_of(actor: Actor, topics: Iterable[str]) -> dict[str, tuple[str, str] | None]:
    """Topic -> group, and the id of what is heard of it (``EVERY``: all).

    One look-up for all topics of a kind. An unknown thing and a forbidden one look alike.
    """
    found: dict[str, tuple[str, str] | None] = {}
    asked: dict[str, set[str]] = {}
    for topic in topics:
        kind, colon, pk = topic.partition(":")
        found[topic] = None
        if not colon:
            name = _list_group(actor, topic)
            found[topic] = (name, EVERY) if name else None
        elif kind in _ROWS and "\0" not in pk:
            asked.setdefault(kind, set()).add(pk)
    for kind, ids in asked.items():
        rows = _ROWS[kind](actor).select_related(None).prefetch_related(None)
        for pk in rows.filter(pk__in=ids).values_list("pk", flat=True):
            name = _list_group(actor, kind + "s")
            found[f"{kind}:{pk}"] = (name, pk) if name else None
    return found


def _list_group(actor: Actor, topic: str) -> str | None:
    if topic not in _LISTS or not actor.may(_LISTS[topic]):
        return None
    if not actor.is_tenant_side:
        return group(topic)
    if actor.role == Role.TENANT_ADMINISTRATOR:
        return group(topic, f"tenant-{actor.grant.tenant_id}")
    return group(topic, person(actor.user.pk, actor.grant.tenant_id))
