"""Choose a node for a VM, and say why each other one was not taken.

Whatever speaks against a node is a reason, and all of them are told. Of the nodes that are left the one with the most
points is taken, of equals the first by name; a move takes the one with the least to copy before that. Points, out of
1000: two parts the share of the node's memory for VMs that would stay free, one part the same of its vCPUs; then
:data:`AFFINITY_POINTS` less for each VM that a soft affinity group would rather have elsewhere, or it elsewhere; and up
to :data:`BUSY_POINTS` less by how busy the node was in the last minutes, in tenths: what is promised says more than
what is just used.

Many creates at once come out as one after the other would: the transaction that reserves chooses again among what was
planned (:func:`best_now`).
"""

import heapq
import ipaddress
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django.db.models import F

from nodes.contract.sizes import nearest_sizes

from .affinity import Rule
from .models import Disk, Image, Iso, Network, Node, NodeGroup, NodeState, Pool, PoolState, Vm
from .refusals import Refusal
from .saga.steps import Lost

AFFINITY_POINTS = 250
BUSY_POINTS = 100


AT_ONCE = 16
"""Nodes that are read together where it is chosen again."""


class Room(NamedTuple):
    """Of a node that which others may have been promised since it was read."""

    memory_limit_bytes: int
    memory_allocated_bytes: int
    cpus_limit: int
    cpus_allocated: int


@dataclass(frozen=True)
class Need:
    """What a VM asks of a node."""

    vcpus: int
    memory_bytes: int
    networks: Sequence[Network]
    image: Image | None = None
    iso: Iso | None = None
    group: NodeGroup | None = None
    """The only nodes that come into question; None: all."""
    rules: Sequence[Rule] = ()
    """Of its affinity groups."""
    vm: str = ""
    """Itself, where there is such a VM already: what is said of the others of its groups is not about it."""


@dataclass
class Candidate:
    node: Node
    score: int = 0
    reasons: list[Refusal] = field(default_factory=list)
    wishes: list[Refusal] = field(default_factory=list)
    """What soft affinity groups have against it."""


def free_memory_bytes(node: Node | Room) -> int:
    """Of what its VMs may have; below zero where the limit was lowered."""
    return node.memory_limit_bytes - node.memory_allocated_bytes


def free_cpus(node: Node | Room) -> int:
    return node.cpus_limit - node.cpus_allocated


def candidates(need: Need, nodes: Sequence[Node]) -> list[Candidate]:
    """Every node with its reasons against; the best of the possible ones first."""
    rows = [_candidate(need, node) for node in nodes]
    rows.sort(key=lambda c: (bool(c.reasons), -c.score, c.node.name))
    return rows


def _candidate(need: Need, node: Node) -> Candidate:
    reasons, wishes = list(_against(need, node)), list[Refusal]()
    points = _points(need, node) - busy_points(node)
    for rule in need.rules:
        if reason := rule.reason(node.pk, node.name, need.vm):
            (reasons if rule.hard else wishes).append(reason)
            points -= 0 if rule.hard else AFFINITY_POINTS * len(rule.against(node.pk, need.vm))
    return Candidate(node, points, reasons, wishes)


def _points(need: Need, node: Node | Room) -> int:
    memory = _share(free_memory_bytes(node) - need.memory_bytes, node.memory_limit_bytes)
    cpus = _share(free_cpus(node) - need.vcpus, node.cpus_limit)
    return (2 * memory + cpus) // 3


def busy_points(node: Node) -> int:
    """What it loses; of a node that does not say how busy it is, nothing."""
    return (node.busy_percent or 0) // 10 * 10 * BUSY_POINTS // 100


def best_now(need: Need, rows: Sequence[Candidate]) -> Iterator[Candidate]:
    """Those that can take the VM, the best first, by what each has been promised by now.

    Read from the rows in the order in which they were planned, and only as many as can still be the best: what others
    were promised meanwhile makes a node worse, and none better.

    :param rows: as :func:`candidates` has them, however long ago.
    """
    waiting = [row for row in rows if not row.reasons]
    known: list[tuple[int, str, Candidate]] = []
    while waiting or known:
        while waiting and not (known and known[0][:2] < (-waiting[0].score, waiting[0].node.name)):
            some, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
            read = Node.objects.filter(pk__in=[row.node.pk for row in some]).values_list("pk", *Room._fields)
            by_now = {pk: Room(*numbers) for pk, *numbers in read}
            for row in some:
                if (room := by_now.get(row.node.pk)) and _has_room(need, room):
                    points = row.score - _points(need, row.node) + _points(need, room)
                    heapq.heappush(known, (-points, row.node.name, row))
        if known:
            yield heapq.heappop(known)[2]


def _has_room(need: Need, node: Room) -> bool:
    return need.memory_bytes <= free_memory_bytes(node) and need.vcpus <= free_cpus(node)


def points_in_use(node: Node, memory_bytes: int = 0, vcpus: int = 0) -> int:
    """The other side of its points: how full it is, out of 1000.

    :param memory_bytes: that it would have more.
    """
    return 1000 - _points(Need(vcpus, memory_bytes, ()), node)


def _share(part: int, whole: int) -> int:
    """In per mille."""
    return max(0, part * 1000 // whole) if whole else 0


def _against(need: Need, node: Node) -> Sequence[Refusal]:
    reasons = []
    if not node.redis_password_sha256:
        return [Refusal("node_gone", {"node": node.name}, field="node")]
    if node.state == NodeState.OFFLINE:
        reasons.append(Refusal("node_offline", {"node": node.name}, field="node"))
    if node.in_maintenance:
        reasons.append(Refusal("maintenance", {"node": node.name}, field="node"))
    if need.group and node.group_id != need.group.pk:
        reasons.append(Refusal("outside_group", {"node": node.name, "node_group": need.group.name}, field="group"))
    if need.vcpus > min(node.cpus, free_cpus(node)):
        left = {"left": max(0, free_cpus(node)), "limit": node.cpus_limit}
        facts = {"node": node.name, "cpus": node.cpus, **left, "vcpus": need.vcpus}
        reasons.append(Refusal("no_cpus", facts, field="vcpus", status=507))
    if need.memory_bytes > free_memory_bytes(node):
        free, whole = max(0, free_memory_bytes(node)), node.memory_limit_bytes
        facts = {"node": node.name, "free": free, "whole": whole, "needed": need.memory_bytes}
        reasons.append(Refusal("no_memory", facts, field="memory_bytes", status=507))
    bridges = node.facts.get("bridges", [])
    for network in need.networks:
        if network.bridge not in bridges:
            reasons.append(Refusal("no_bridge", {"node": node.name, "bridge": network.bridge}, field="nics"))
    if node.default_pool_id is None:
        reasons.append(Refusal("no_pool", {"node": node.name}, field="disks"))
    for held, thing, name in ((need.image, "image", "image_copies"), (need.iso, "iso", "iso_copies")):
        if held is not None and not any(getattr(c, thing + "_id") == held.pk for c in getattr(node, name).all()):
            reasons.append(Refusal("image_absent", {"node": node.name, "image": held.name}, field=thing))
    return reasons


def reserve(node_id: str, vm: Vm) -> None:
    """Take what the VM needs of a node if it is still there; raises :class:`Lost` when somebody was quicker."""
    reserve_more(node_id, vm.memory_bytes, vm.vcpus)


def reserve_more(node_id: str, memory_bytes: int, vcpus: int) -> None:
    """The same for a VM that changes there; what is below zero is given back. Raises :class:`Lost`."""
    room = Node.objects.filter(pk=node_id)
    if memory_bytes > 0:
        room = room.filter(memory_limit_bytes__gte=F("memory_allocated_bytes") + memory_bytes)
    if vcpus > 0:
        room = room.filter(cpus_limit__gte=F("cpus_allocated") + vcpus)
    if not room.update(**_more(memory_bytes, vcpus)):
        raise Lost(node_id)


def take(node_id: str, vm: Vm) -> None:
    """Of a guest that is there already: nobody asks whether there is room."""
    Node.objects.filter(pk=node_id).update(**_more(vm.memory_bytes, vm.vcpus))


def release(node_id: str, vm: Vm) -> None:
    Node.objects.filter(pk=node_id).update(**_more(-vm.memory_bytes, -vm.vcpus))


def _more(memory_bytes: int, vcpus: int) -> dict[str, Any]:
    return {
        "memory_allocated_bytes": F("memory_allocated_bytes") + memory_bytes,
        "cpus_allocated": F("cpus_allocated") + vcpus,
    }


def free_room_bytes(pool: Pool) -> int:
    """Free and promised to nobody; below zero where something else has filled it meanwhile."""
    return pool.free_bytes - pool.reserved_bytes


def no_room(pool: Pool, node: Node | None, needed_bytes: int, field: str | None = None) -> Refusal:
    """
    :param node: which would use it; None: nobody knows.
    """
    name, free_bytes = node.name if node else "", max(0, free_room_bytes(pool))
    facts = {"pool": pool.name, "node": name, "free": free_bytes, "needed": needed_bytes}
    return Refusal("no_room", facts, field=field, status=507)


def closed(pool: Pool, field: str) -> list[Refusal]:
    """Where the pool takes no new disks."""
    in_service = pool.state == PoolState.ACTIVE
    return [] if in_service else [Refusal("pool_out_of_service", {"pool": pool.name}, field=field)]


def off_grid(pool: Pool, size_bytes: int, granule_bytes: int, field: str) -> list[Refusal]:
    """Where the pool takes exact sizes only: the two nearest to one that is none."""
    if not pool.exact or size_bytes % granule_bytes == 0:
        return []
    below, above = nearest_sizes(size_bytes, granule_bytes)
    facts = {"pool": pool.name, "asked": size_bytes, "granule": granule_bytes, "below": below, "above": above}
    return [Refusal("size_off_grid" if below else "size_below_grid", facts, field=field)]


def granule_of_both_bytes(disk: Disk, pool: Pool, disk_format: str) -> int:
    """Of sizes that a disk can have where it is and in another pool: QEMU mirrors between volumes of one size only."""
    here = disk.pool.granules.get(disk.format, 1) if disk.pool else 1
    return math.lcm(pool.granules[disk_format], here)


def reserve_room(pool_id: str, size_bytes: int) -> None:
    room = Pool.objects.filter(pk=pool_id, free_bytes__gte=F("reserved_bytes") + size_bytes)
    if not room.update(reserved_bytes=F("reserved_bytes") + size_bytes):
        raise Lost(pool_id)


def release_room(pool_id: str, size_bytes: int) -> None:
    Pool.objects.filter(pk=pool_id).update(reserved_bytes=F("reserved_bytes") - size_bytes)


def explain(rows: Sequence[Candidate]) -> dict[str, Any] | None:
    """``{"node", "name", "score", "reasons": [...], "others": [...]}`` for a dry run; None when no node can take it."""
    if not rows or rows[0].reasons:
        return None
    best, others = rows[0], rows[1:]
    points = {"node": best.node.name, "points": best.score}
    chosen = Refusal("most_points" if any(not c.reasons for c in others) else "only_node", points)
    return {
        "node": best.node.pk,
        "name": best.node.name,
        "score": best.score,
        "reasons": [reason.said() for reason in (chosen, *_busy(best), *best.wishes)],
        "others": [
            {
                "node": c.node.pk,
                "name": c.node.name,
                "score": c.score,
                "reasons": [reason.said() for reason in c.reasons or (_less(c, best), *c.wishes)],
            }
            for c in others
        ],
    }


def _busy(best: Candidate) -> list[Refusal]:
    """What the chosen one has lost by that."""
    lost = {"node": best.node.name, "percent": best.node.busy_percent, "lost": busy_points(best.node)}
    return [Refusal("node_busy_lately", lost)] if lost["lost"] else []


def _less(candidate: Candidate, best: Candidate) -> Refusal:
    """Why one that could take it was not taken."""
    both = {"node": candidate.node.name, "points": candidate.score, "best": best.node.name, "most": best.score}
    if candidate.score == best.score:
        return Refusal("as_good", both)
    if lost := busy_points(candidate.node):
        return Refusal("fewer_points_busy", {**both, "percent": candidate.node.busy_percent, "lost": lost})
    return Refusal("fewer_points", both)


def next_free_address(network: Network, taken: set[str]) -> str | None:
    """The lowest address of the network's ranges that is not taken."""
    for one in network.ranges.all():
        address = ipaddress.IPv4Address(one.first)
        while address <= ipaddress.IPv4Address(one.last):
            if str(address) not in taken:
                return str(address)
            address += 1
    return None
