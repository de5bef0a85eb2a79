"""What nodes report against what the panel has: a node's word changes what is seen, never where a VM belongs."""

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django.db.models import F, Q

from nodes.contract.messages import Hello, Inventory
from nodes.contract.specs import DomainFacts, FileFacts, LeaseFacts, NodeFacts, Outline, PoolFacts

from . import domain_drift, drift, events, moved_by_hand, pools, states, strangers
from .models import (
    Image,
    ImageCopy,
    Iso,
    IsoCopy,
    Lock,
    Nic,
    Node,
    NodeState,
    Pool,
    PoolOnNode,
    PoolState,
    Vm,
    VmState,
)
from .states import GONE, IN_WORK, IO_ERROR, REASONS, SEEN, guests_are_off

log = logging.getLogger(__name__)

AT_ONCE = 10_000
"""Values in one query: SQLite and PostgreSQL take at least three times as many."""
CLOCK_SKEW_WARNING_S = 2.0
CLOCK_SKEW_ERROR_S = 30.0
MOST_NAMES = 20


def node_online(node: Node) -> bool:
    """First word after silence; True when the state changed."""
    return _node_state(node, [NodeState.OFFLINE], shown_state(node))


def node_offline(node: Node) -> bool:
    """Silence: nobody knows the state of its VMs. Nothing is deleted, nothing is started elsewhere."""
    changed = _node_state(node, [NodeState.ONLINE, NodeState.MAINTENANCE], NodeState.OFFLINE)
    if changed:
        _nobody_knows(Vm.objects.filter(node=node).exclude(state__in=[*IN_WORK, VmState.UNKNOWN]))
    return changed


def shown_state(node: Node) -> NodeState:
    """Of one that answers."""
    return NodeState.MAINTENANCE if node.in_maintenance else NodeState.ONLINE


def _node_state(node: Node, old: Sequence[NodeState], new: NodeState) -> bool:
    if not Node.objects.filter(pk=node.pk, state__in=old).update(state=new, version=F("version") + 1):
        return False
    node.refresh_from_db()
    log.info("node %s is %s", node.name, new)
    events.node_changed(node)
    return True


def hello(node: Node, said: Hello) -> None:
    """An agent has started: what it is and what it can do."""
    facts, platform = _facts(said.facts)
    Node.objects.filter(pk=node.pk).update(
        agent_version=said.version,
        verbs={verb: list(fields) for verb, fields in said.verbs.items()},
        incarnation=said.incarnation,
        facts=facts,
        platform=platform or node.platform,
        cpus=said.facts.cpus,
        memory_bytes=said.facts.memory_bytes,
        version=F("version") + 1,
    )
    node.refresh_from_db()
    events.node_changed(node)


def _facts(said: NodeFacts) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a node is, and its platform apart: only moves ask for that, and it is long."""
    return said.model_dump(mode="json", exclude={"platform"}), (
        said.platform.model_dump(mode="json") if said.platform else {}
    )


def inventory(node: Node, seen: Inventory, clock_skew_s: float | None) -> None:
    """A full report: facts, checks, pools and images; its domains are an observation (:func:`observe`)."""
    # Whoever reserves room takes the node before its pools: in the other order both would wait for each other.
    Node.objects.select_for_update().only("pk").get(pk=node.pk)
    facts, platform = _facts(seen.facts)
    facts |= _held(seen.leases)
    checks = [c.model_dump(mode="json") for c in seen.checks] + _clock_check(clock_skew_s) + _strangers(seen.domains)
    offers = [offer.model_dump(mode="json") for offer in seen.offers]
    _pools(node, seen.pools)
    if seen.volumes is not None:
        drift.observe(node, seen.volumes)
    _files(node, seen.images, Image, ImageCopy, "image")
    _files(node, seen.isos, Iso, IsoCopy, "iso")
    node.refresh_from_db()
    platform = platform or node.platform
    if (node.facts, node.platform, node.checks, node.offers) != (facts, platform, checks, offers):
        Node.objects.filter(pk=node.pk).update(
            facts=facts,
            platform=platform,
            checks=checks,
            offers=offers,
            cpus=seen.facts.cpus,
            memory_bytes=seen.facts.memory_bytes,
            version=F("version") + 1,
        )
        node.refresh_from_db()
        events.node_changed(node)


@dataclass(frozen=True)
class Observation:
    """Domains as one node showed them when its agent's counter was ``counter``."""

    node_id: str
    domains: Sequence[DomainFacts]
    counter: int
    complete: bool
    """All of the node's domains: one that is not among them is not there."""


@dataclass
class _Known:
    """What the observations of one node come to."""

    seen: dict[str, tuple[DomainFacts, int]] = field(default_factory=dict)
    """uuid -> (the domain, counter)."""
    complete: int | None = None

    def add(self, observation: Observation) -> None:
        if observation.complete:
            self.seen, self.complete = {}, observation.counter
        self.seen |= {
            domain.uuid: (_with_outline(domain, self.seen), observation.counter) for domain in observation.domains
        }

    def of(self, uuid: str) -> tuple[tuple[VmState, str], int] | None:
        """What the VM with this uuid is here and why, and since which counter; None: nothing is said of it."""
        domain, counter = self.seen.get(uuid, (None, self.complete))
        if counter is None or (domain is not None and domain.state == "incoming"):
            return None
        if domain is None or domain.state not in SEEN:
            return (VmState.ERROR, GONE), counter
        return (SEEN[domain.state], domain.reason if domain.reason in REASONS else ""), counter

    def outline(self, uuid: str) -> Outline | None:
        domain, _counter = self.seen.get(uuid, (None, 0))
        return domain.outline if domain else None

    def others_than(self, uuids: Collection[str]) -> list[DomainFacts]:
        return [domain for domain, _counter in self.seen.values() if domain.uuid not in uuids]

    def has_not(self, uuid: str) -> bool:
        """Says that there is no such domain here."""
        domain, _counter = self.seen.get(uuid, (None, 0))
        return self.complete is not None if domain is None else domain.state not in SEEN


def _with_outline(domain: DomainFacts, before: dict[str, tuple[DomainFacts, int]]) -> DomainFacts:
    """What was said of its definition a moment before is said still."""
    known = before.get(domain.uuid)
    if known is None or domain.outline is not None or domain.state not in SEEN:
        return domain
    return domain.model_copy(update={"outline": known[0].outline})


class _Row(NamedTuple):
    """A VM that is spoken of."""

    pk: str
    uuid: str
    node: str
    state: str
    reason: str
    observed_counter: int
    drift: dict[str, Any]
    claims: dict[str, str] | None

    @property
    def was_there(self) -> bool:
        """Its node had it, as far as the panel knows: it is not just being made."""
        return self.state not in IN_WORK and (self.state != VmState.ERROR or self.reason == GONE)


def observe(observations: Iterable[Observation]) -> dict[str, int]:
    """Take over what nodes show of the VMs that the panel places there, in a handful of queries for any number.

    Left alone: a VM whose job is running, one that a job which waits for its turn has made, and a report older than
    the last applied reply about the VM. A domain that the panel places elsewhere is a claim, which is noted and moves
    nothing, unless the VM's own node says that it is gone there (law 6).
    Returns the VMs that were shown while their jobs run, with the counter of that: a guest may end beside its job, and
    is not reported again.
    """
    known: dict[str, _Known] = {}
    for observation in observations:
        known.setdefault(observation.node_id, _Known()).add(observation)
    if not known:
        return {}
    has_job = dict(Lock.objects.filter(name__startswith="vm:").order_by("held").values_list("name", "held"))
    overlooked: dict[str, int] = {}
    changes: dict[tuple[str, tuple[VmState, str]], list[str]] = {}
    outlines: dict[str, Outline | None] = {}
    had: dict[str, domain_drift.Drift] = {}
    shown, ours = _shown(known), set()
    for row in _rows(known):
        ours.add(row.uuid)
        said = known[row.node].of(row.uuid) if row.node in known else None
        job_runs = has_job.get("vm:" + row.pk)
        if job_runs and said is not None:
            overlooked[row.pk] = said[1]
        # "Stopping" without any job is what a resolved one has left behind: then the node knows better.
        if job_runs or (job_runs is False and row.state in IN_WORK):
            continue
        now = said[0] if said is not None and said[1] >= row.observed_counter else None
        claims = _claims(row, known, shown)
        gone = row.reason == GONE if now is None else now[1] == GONE
        if gone and claims and job_runs is None and row.was_there and moved_by_hand.follow(row.pk, row.node, claims):
            continue
        if claims != (row.claims or {}):
            _note_claims(row, claims)
        if now is None:
            continue
        if (row.state, row.reason) != now:
            changes.setdefault((row.state, now), []).append(row.pk)
        outline = known[row.node].outline(row.uuid)
        if gone or outline is not None:
            outlines[row.pk], had[row.pk] = outline, row.drift
    for (old, (new, why)), ids in changes.items():
        # Compare and set: a job may have taken a VM since it was read.
        Vm.objects.filter(pk__in=ids, state=old).update(state=new, state_reason=why, version=F("version") + 1)
        if new == VmState.STOPPED:
            guests_are_off(ids)
        states.tell(ids)
    domain_drift.note(outlines, had)
    unknown = {node_id: its.others_than(ours) for node_id, its in known.items()}
    strangers.observe(unknown, {node_id for node_id, its in known.items() if its.complete is not None})
    return overlooked


def _rows(known: dict[str, _Known]) -> Iterator[_Row]:
    """Every VM that is spoken of."""
    complete = [node_id for node_id, its in known.items() if its.complete is not None]
    # What a node that shows all it has does not show any more, it does not claim any more.
    more = Q(node__in=complete) | Q(claims__isnull=False) if complete else Q(pk__in=())
    uuids = sorted({uuid for its in known.values() for uuid in its.seen})
    fields = ("pk", "uuid", "node_id", "state", "state_reason", "observed_counter", "drift", "claims")
    for start in range(0, max(1, len(uuids)), AT_ONCE):
        spoken_of = Q(uuid__in=uuids[start : start + AT_ONCE])
        found = Vm.objects.filter(spoken_of | more if start == 0 else spoken_of)
        yield from (_Row(*values) for values in found.values_list(*fields))


def _shown(known: dict[str, _Known]) -> dict[str, dict[str, str]]:
    """uuid -> node -> state of the domain there."""
    found: dict[str, dict[str, str]] = {}
    for node_id, its in known.items():
        for uuid, (domain, _counter) in its.seen.items():
            if domain.state in SEEN:
                found.setdefault(uuid, {})[node_id] = domain.state
    return found


def _claims(row: _Row, known: dict[str, _Known], shown: dict[str, dict[str, str]]) -> dict[str, str]:
    """Nodes that show it although it is another one's, with what they show."""
    before = row.claims or {}
    claims = {node: state for node, state in before.items() if node not in known or not known[node].has_not(row.uuid)}
    return {node: state for node, state in (claims | shown.get(row.uuid, {})).items() if node != row.node}


def _note_claims(row: _Row, claims: dict[str, str]) -> None:
    log.warning("VM %s belongs to node %s; it is claimed by: %s", row.pk, row.node, claims or "nobody any more")
    Vm.objects.filter(pk=row.pk).update(claims=claims or None, version=F("version") + 1)
    states.tell([row.pk])


def _nobody_knows(vms: Any) -> None:
    """One UPDATE for many rows; each gets its event."""
    ids = list(vms.values_list("pk", flat=True))
    if not ids:
        return
    unknown = {"state": VmState.UNKNOWN, "known_state": F("state"), "state_reason": ""}
    Vm.objects.filter(pk__in=ids).update(**unknown, version=F("version") + 1)
    states.tell(ids)


def _pools(node: Node, seen: Iterable[PoolFacts]) -> None:
    """A pool is its identity: the same one on a second node is the same pool, shared."""
    identities = set()
    for facts in seen:
        identities.add(facts.identity)
        pool = Pool.objects.filter(identity=facts.identity).first()
        if pool is None:
            if Pool.objects.filter(state=PoolState.ADDING, kind=facts.kind, path=facts.path).exists():
                continue  # its job has asked this node, and has not yet noted what was found
            pool = Pool.objects.create(
                name=_free_pool_name(node), kind=facts.kind, identity=facts.identity, path=facts.path
            )
        place, came = PoolOnNode.objects.get_or_create(pool=pool, node=node)
        if place.client_address != facts.client_address:
            PoolOnNode.objects.filter(pk=place.pk).update(client_address=facts.client_address)
        numbers = {
            "capacity_bytes": facts.capacity_bytes,
            "free_bytes": facts.free_bytes,
            "granules": dict(facts.granules),
            "facts": pools.facts_kept(facts),
            "shared": facts.shared or pool.places.count() > 1,
        }
        if came or any(getattr(pool, name) != value for name, value in numbers.items()):
            was_full = pools.is_full(pool)
            pools.touch(pool.pk, **numbers)
            pool.refresh_from_db()
            if pools.is_full(pool) != was_full:
                _say_why_guests_stand(pool)
        if node.default_pool_id is None and pool.state == PoolState.ACTIVE:
            node.default_pool = pool
            Node.objects.filter(pk=node.pk).update(default_pool=pool)
    # One that a person added is not gone because a report is silent of it: the report may be older, or the pool away.
    gone = PoolOnNode.objects.filter(node=node, pool__attached=False).exclude(pool__identity__in=identities)
    for place in gone:
        place.delete()
        pools.touch(place.pool_id)


def _say_why_guests_stand(pool: Pool) -> None:
    """Cards of guests that their QEMUs have paused name the pool that is full."""
    ids = list(Vm.objects.filter(state_reason=IO_ERROR, disks__pool=pool).distinct().values_list("pk", flat=True))
    Vm.objects.filter(pk__in=ids).update(version=F("version") + 1)
    states.tell(ids)


def _free_pool_name(node: Node) -> str:
    names = [f"{node.name}-images", *(f"{node.name}-images-{n}" for n in range(2, 100))]
    taken = set(Pool.objects.filter(name__in=names).values_list("name", flat=True))
    return next(name for name in names if name not in taken)


def _files(node: Node, seen: Iterable[FileFacts], model: Any, copy_model: Any, kind: str) -> None:
    """Images and ISOs by name; a file of the same name and another size is not a copy of ours and is not offered."""
    held = set()
    for file in seen:
        row = model.objects.filter(name=file.name).first()
        size = {"size_bytes": file.size_bytes}
        if kind == "image":
            size["virtual_size_bytes"] = file.virtual_size_bytes
        if row is None:
            fields = {**size, "format": file.format} if kind == "image" else size
            row = model.objects.create(name=file.name, **fields)
        elif row.stored and (file.mark, file.size_bytes) != (row.pk, row.size_bytes):
            log.warning("%s %s on node %s is not the one that was uploaded: not used", kind, file.name, node.name)
            continue
        elif not row.stored and any(getattr(row, name) != value for name, value in size.items()):
            if row.copies.exclude(node=node).exists() or row.disks.exists():
                log.warning("%s %s on node %s differs from the one known: not used", kind, file.name, node.name)
                continue
            model.objects.filter(pk=row.pk).update(**size)
        held.add(row.pk)
    copies = copy_model.objects.filter(node=node)
    known = set(copies.values_list(kind + "_id", flat=True))
    copies.filter(**{kind + "_id__in": known - held}).delete()
    copy_model.objects.bulk_create(copy_model(node=node, **{kind + "_id": pk}) for pk in held - known)
    model.objects.filter(copies__isnull=True, disks__isnull=True, stored=False).delete()


def _held(leases: Iterable[LeaseFacts]) -> dict[str, Any]:
    """Addresses of guests that this panel does not know: nobody else may get them (``Network.held``)."""
    by_nic = {lease.nic: lease for lease in leases}
    known = set(Nic.objects.filter(pk__in=by_nic).values_list("pk", flat=True)) if by_nic else set()
    unknown = [by_nic[nic] for nic in sorted(by_nic.keys() - known)]
    held = [{"nic": lease.nic, "bridge": lease.bridge, "address": lease.address} for lease in unknown]
    return {"held": held} if held else {}


def _strangers(domains: Iterable[DomainFacts]) -> list[dict[str, Any]]:
    """Guests that a panel made and this one does not know: it was put back from a backup that is older than they are.

    They are left as they are; a person is told. A domain that the panel places elsewhere is a claim, and no stranger.
    """
    ours = {domain.uuid: domain.name for domain in domains if domain.vm}
    known = set(Vm.objects.filter(uuid__in=ours).values_list("uuid", flat=True)) if ours else set()
    names = sorted(name for uuid, name in ours.items() if uuid not in known)
    if not names:
        return []
    facts = {"count": len(names), "names": ", ".join(names[:MOST_NAMES])}
    return [{"code": "unknown_guests", "level": "warning", "facts": facts}]


def _clock_check(skew_s: float | None) -> list[dict[str, Any]]:
    if skew_s is None:
        return []
    off = abs(skew_s)
    level = "ok" if off < CLOCK_SKEW_WARNING_S else "warning" if off < CLOCK_SKEW_ERROR_S else "error"
    # Rounded, so that the line does not change with every report.
    return [{"code": "clock_skew", "level": level, "facts": {"skew_s": 0 if level == "ok" else round(skew_s)}}]
