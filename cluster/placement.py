"""Choose a node for a VM, and say why each other one was not taken."""

import ipaddress
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db.models import F

from nodes.contract.sizes import nearest_sizes

from .models import Disk, Image, Iso, Network, Node, NodeState, Pool, PoolState
from .refusals import Refusal
from .saga.steps import Lost

HOST_RESERVE_BYTES = 512 << 20
"""Memory that is never given to guests."""


@dataclass(frozen=True)
class Need:
    """What a VM asks of a node."""

    vcpus: int
    memory_bytes: int
    networks: Sequence[Network]
    image: Image | None = None
    iso: Iso | None = None


@dataclass
class Candidate:
    node: Node
    score: int = 0
    reasons: list[Refusal] = field(default_factory=list)


def free_memory_bytes(node: Node) -> int:
    return node.memory_bytes - HOST_RESERVE_BYTES - node.memory_allocated_bytes


def candidates(need: Need, nodes: Sequence[Node]) -> list[Candidate]:
    """Every node with its reasons against; the best of the possible ones first.

    The score is the share of memory that would stay free, in per mille: the emptiest node is taken.
    """
    rows = []
    for node in nodes:
        reasons = list(_against(need, node))
        left = free_memory_bytes(node) - need.memory_bytes
        rows.append(Candidate(node, max(0, left * 1000 // max(1, node.memory_bytes)), reasons))
    rows.sort(key=lambda c: (bool(c.reasons), -c.score, c.node.name))
    return rows


def _against(need: Need, node: Node) -> Sequence[Refusal]:
    reasons = []
    if not node.redis_password_sha256:
        return [Refusal("node_gone", {"node": node.name}, field="node")]
    if node.state == NodeState.OFFLINE:
        reasons.append(Refusal("node_offline", {"node": node.name}, field="node"))
    if node.in_maintenance:
        reasons.append(Refusal("maintenance", {"node": node.name}, field="node"))
    if need.vcpus > node.cpus:
        facts = {"node": node.name, "cpus": node.cpus, "needed": need.vcpus}
        reasons.append(Refusal("no_cpus", facts, field="vcpus", status=507))
    free = free_memory_bytes(node)
    if need.memory_bytes > free:
        facts = {"node": node.name, "free": max(0, free), "needed": need.memory_bytes}
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


def reserve_memory(node_id: str, memory_bytes: int) -> None:
    """Take memory of a node if it is still there; raises :class:`Lost` when somebody was quicker."""
    room = Node.objects.filter(
        pk=node_id, memory_bytes__gte=F("memory_allocated_bytes") + memory_bytes + HOST_RESERVE_BYTES
    )
    if not room.update(memory_allocated_bytes=F("memory_allocated_bytes") + memory_bytes):
        raise Lost(node_id)


def take_memory(node_id: str, memory_bytes: int) -> None:
    """Of a guest that is there already: nobody asks whether there is room."""
    Node.objects.filter(pk=node_id).update(memory_allocated_bytes=F("memory_allocated_bytes") + memory_bytes)


def release_memory(node_id: str, memory_bytes: int) -> None:
    Node.objects.filter(pk=node_id).update(memory_allocated_bytes=F("memory_allocated_bytes") - memory_bytes)


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
    best = rows[0]
    others = [
        {
            "node": c.node.pk,
            "name": c.node.name,
            "score": c.score,
            "reasons": [r.said() for r in c.reasons]
            or [Refusal("less_room", {"node": c.node.name, "best": best.node.name}).said()],
        }
        for c in rows[1:]
    ]
    chosen = "only_node" if all(c.reasons for c in rows[1:]) else "most_room"
    return {
        "node": best.node.pk,
        "name": best.node.name,
        "score": best.score,
        "reasons": [Refusal(chosen, {"node": best.node.name}).said()],
        "others": others,
    }


def next_free_address(network: Network, taken: set[str]) -> str | None:
    """The lowest address of the network's ranges that is not taken."""
    for one in network.ranges.all():
        address = ipaddress.IPv4Address(one.first)
        while address <= ipaddress.IPv4Address(one.last):
            if str(address) not in taken:
                return str(address)
            address += 1
    return None
