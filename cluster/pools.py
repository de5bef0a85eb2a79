"""Pools as people see them: how full, what is wrong, in words; and the one way in which a pool's row changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import F
from django.utils.formats import number_format
from django.utils.translation import gettext as _

from nodes.contract.specs import PoolFacts

from . import events, texts
from .checks import Line
from .models import Node, Pool, PoolOnNode
from .refusals import Refusal


def facts_kept(facts: PoolFacts) -> dict[str, Any]:
    """What is so on every node of the pool."""
    return facts.model_dump(mode="json", exclude={"client_address"})


@dataclass(frozen=True)
class Fill:
    """How full one part of a pool is."""

    code: str
    """space; of a thin pool data and metadata."""
    percent: float
    level: str

    @property
    def shown(self) -> str:
        """The percentage as people write it, without a zero behind the comma."""
        return number_format(int(self.percent) if self.percent.is_integer() else self.percent)

    @property
    def title(self) -> str:
        return {"data": _("Data"), "metadata": _("Metadata")}.get(self.code, _("Space"))


def fills_of(pool: Pool) -> list[Fill]:
    """The fuller one decides: a thin pool has two, of which either stops its guests."""
    facts = pool.facts
    if facts.get("data_percent") is not None:
        return [_fill(pool, code, facts.get(code + "_percent") or 0.0) for code in ("data", "metadata")]
    if not pool.capacity_bytes:
        return []
    return [_fill(pool, "space", 100 * (pool.capacity_bytes - pool.free_bytes) / pool.capacity_bytes)]


def _fill(pool: Pool, code: str, percent: float) -> Fill:
    percent = round(min(100.0, max(0.0, percent)), 1)
    return Fill(code, percent, "error" if percent >= 100 else "warning" if percent > pool.warning_percent else "ok")


def is_full(pool: Pool) -> bool:
    return any(fill.level == "error" for fill in fills_of(pool))


def why_guests_stand(pool: Pool) -> Refusal | None:
    """What is said of a guest that its QEMU has paused, with a disk in this pool; None: the pool is not full."""
    full = next((fill.code for fill in fills_of(pool) if fill.level == "error"), None)
    if full is None:
        return None
    facts = {"pool": pool.name, "place": pool.path}
    if full == "space":
        return Refusal("state_pool_full", facts)
    more = "--poolmetadatasize +64m" if full == "metadata" else "--size +10g"
    return Refusal("state_thin_pool_full", {**facts, "command": f"lvextend {more} {pool.path}"})


def warnings_of(pool: Pool) -> list[Line]:
    """What somebody should look at; the worst first."""
    lines = [_full(pool, fill) for fill in fills_of(pool) if fill.level != "ok"]
    if pool.facts.get("queues_when_full"):
        lines.append(_queues(pool))
    if problem := pool.facts.get("problem"):
        cause, hint = texts.say(problem, {})
        text = _("%(cause)s; the numbers are those of before") % {"cause": cause or problem}
        lines.append(Line("problem", "error", _("Cannot be used now"), text, hint))
    return sorted(lines, key=lambda line: line.level != "error")


def _full(pool: Pool, fill: Fill) -> Line:
    text = _("%(percent)s %% is in use; the warning level is %(level)s %%") % {
        "percent": fill.shown,
        "level": pool.warning_percent,
    }
    if fill.code == "space":
        advice = _("Add room to the storage, or move or delete disks: when it is full, no disk is made and none grows.")
    elif fill.code == "data":
        advice = _("Extend the thin pool (lvextend), or delete disks or snapshots: when it is full, guests stop.")
    else:
        advice = _("Extend its metadata (lvextend --poolmetadatasize): when it is full, guests stop.")
    return Line(fill.code, fill.level, fill.title, text, advice)


def _queues(pool: Pool) -> Line:
    return Line(
        "when_full",
        "warning",
        _("When it is full"),
        _("writes wait, and guests hang for a minute before they stand still and say why"),
        _("Let them stand still at once: lvchange --errorwhenfull y %(path)s") % {"path": pool.path},
    )


def warnings_on(nodes: Sequence[Node]) -> dict[str, list[tuple[Pool, Line]]]:
    """Node -> what somebody should look at in the pools that it sees."""
    found: dict[str, list[tuple[Pool, Line]]] = {node.pk: [] for node in nodes}
    for place in PoolOnNode.objects.filter(node__in=nodes).select_related("pool").order_by("pool__name"):
        found[place.node_id] += [(place.pool, line) for line in warnings_of(place.pool)]
    return found


def offers_of(nodes: Sequence[Node]) -> dict[str, list[dict[str, Any]]]:
    """Node -> of what it could make a pool, each with the ``pool`` that it is already, or None."""
    identities = {offer["identity"] for node in nodes for offer in node.offers}
    known = {pool.identity: pool for pool in Pool.objects.filter(identity__in=identities)} if identities else {}
    return {node.pk: [{**offer, "pool": known.get(offer["identity"])} for offer in node.offers] for node in nodes}


def strangers_of(pool: Pool) -> list[dict[str, Any]]:
    """What its nodes see in it that is no disk: ``name``, ``format`` and ``size_bytes``, each name once."""
    seen = {stranger["name"]: stranger for place in pool.places.all() for stranger in place.strangers}
    return [seen[name] for name in sorted(seen)]


def forget_stranger(pool_id: str, name: str) -> None:
    """It is a disk by now: nobody has to wait for the nodes' next look."""
    for place in PoolOnNode.objects.filter(pool=pool_id):
        left = [stranger for stranger in place.strangers if stranger["name"] != name]
        PoolOnNode.objects.filter(pk=place.pk).update(strangers=left)
    touch(pool_id)


def touch(pool_id: str, **changes: Any) -> None:
    """Something that pages show of the pool has changed; ``changes``: its fields."""
    Pool.objects.filter(pk=pool_id).update(version=F("version") + 1, **changes)
    if pool := Pool.objects.filter(pk=pool_id).first():
        events.pool_changed(pool)


def forget(pool_id: str) -> None:
    """Its row goes, and pages hear of it."""
    if pool := Pool.objects.filter(pk=pool_id).first():
        pool.version += 1
        events.pool_changed(pool, "deleted")
        pool.delete()
