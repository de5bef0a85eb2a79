"""Small writes that are no jobs."""

import ipaddress
import secrets
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone
from pydantic import Field

from nodes.contract.messages import EnrolAnswer, EnrolRequest
from nodes.contract.sizes import MAX_BYTES
from nodes.contract.specs import Name

from . import audit, ca, events, groups, pools, shapes, wake
from .models import (
    LEAST_RESERVE_BYTES,
    POOL_AT_REST,
    AddressRange,
    IdempotencyKey,
    Image,
    JoinToken,
    Network,
    Node,
    NodeGroup,
    Pool,
    PoolState,
    Token,
    Vm,
)
from .os_catalogue import CATALOGUE
from .permissions import Actor, visible
from .refusals import BadShape, Refusal, Refused
from .saga.locks import serialise

JOIN_TOKEN_LIFETIME = timedelta(hours=1)
IDEMPOTENCY_LIFETIME = timedelta(hours=24)
CpuOvercommit = Annotated[Decimal, Field(ge=1, le=64, decimal_places=2)]
MemoryOvercommit = Annotated[Decimal, Field(ge=1, le=2, decimal_places=2)]
MemoryReserve = Annotated[int, Field(ge=LEAST_RESERVE_BYTES, le=MAX_BYTES)]
KEEP: Any = object()
"""Of a setting that may also be None: it stays as it is."""


# --- nodes ------------------------------------------------------------------------------------------------


def node_add(actor: Actor, name: str, address: str) -> tuple[Node, dict[str, Any]]:
    """A row for a machine that may join now, and the one command to run there.

    Raises :class:`Forbidden`, :class:`BadShape`, :class:`Refused` (``node_name_taken``, ``node_address_taken``).
    """
    actor.require("node.add")
    shapes.must_be(Name, name, "name")
    address = str(shapes.must_be(ipaddress.IPv4Address, address, "address"))
    taken = []
    with transaction.atomic():
        serialise()
        if Node.objects.filter(name=name).exists():
            taken.append(Refusal("node_name_taken", {"name": name}, field="name", status=409))
        if Node.objects.filter(address=address).exists():
            taken.append(Refusal("node_address_taken", {"address": address}, field="address", status=409))
        if taken:
            raise Refused(*taken)
        node = Node.objects.create(name=name, address=address)
        audit.write(actor, "node.add", "done", subject="node:" + node.pk, subject_name=name)
        events.node_changed(node)
    return node, node_token(actor, node)


def node_token(actor: Actor, node: Node) -> dict[str, Any]:
    """A fresh one-time token; earlier ones of this node stop working."""
    actor.require("node.add")
    # Hexadecimal: on a command line nothing may begin with a hyphen or need quotes.
    secret = secrets.token_hex(24)
    expires = timezone.now() + JOIN_TOKEN_LIFETIME
    with transaction.atomic():
        node.join_tokens.filter(used=None).delete()
        JoinToken.objects.create(node=node, sha256=Token.hash_of(secret), expires=expires)
        audit.write(actor, "node.token", "done", subject="node:" + node.pk, subject_name=node.name)
    panel = settings.INSTALLATION.enrol_url
    fingerprint = ca.fingerprint()
    return {
        "token": secret,
        "panel": panel,
        "ca_fingerprint": fingerprint,
        "expires": expires,
        "command": f"ulei-node join --panel {panel} --token {secret} --ca-fingerprint {fingerprint}",
    }


def node_edit(
    actor: Actor,
    node: Node,
    *,
    group: str | None = KEEP,
    cpu_overcommit: Decimal = KEEP,
    memory_overcommit: Decimal = KEEP,
    memory_reserve_bytes: int | None = KEEP,
) -> Node:
    """Change what the panel decides of a node; what is left out stays. A lower limit moves no VM, and lets none come.

    :param cpu_overcommit: vCPUs for each thread of its processors.
    :param memory_reserve_bytes: what the host keeps; None: by the rule.

    Raises :class:`Forbidden`, :class:`BadShape`, :class:`Refused` (``node_group_unknown``, ``reserve_too_large``).
    """
    actor.require("node.edit")
    changes: dict[str, Any] = {}
    if group is not KEEP:
        changes["group"] = _group(actor, group)
    if cpu_overcommit is not KEEP:
        shapes.must_be(CpuOvercommit, cpu_overcommit, "cpu_overcommit")
        changes["cpu_overcommit_percent"] = int(cpu_overcommit * 100)
    if memory_overcommit is not KEEP:
        shapes.must_be(MemoryOvercommit, memory_overcommit, "memory_overcommit")
        changes["memory_overcommit_percent"] = int(memory_overcommit * 100)
    if memory_reserve_bytes is not KEEP:
        shapes.must_be(MemoryReserve | None, memory_reserve_bytes, "memory_reserve_bytes")
        if node.memory_bytes and (memory_reserve_bytes or 0) > node.memory_bytes:
            facts = {"node": node.name, "size": node.memory_bytes, "asked": memory_reserve_bytes}
            raise Refused(Refusal("reserve_too_large", facts, field="memory_reserve_bytes"))
        changes["memory_reserve_bytes"] = memory_reserve_bytes
    with transaction.atomic():
        Node.objects.filter(pk=node.pk).update(version=F("version") + 1, **changes)
        node.refresh_from_db()
        audit.write(
            actor, "node.edit", "done", subject="node:" + node.pk, subject_name=node.name, fields=sorted(changes)
        )
        events.node_changed(node)
    return node


def _group(actor: Actor, pk: str | None) -> NodeGroup | None:
    if pk is None:
        return None
    group = visible(NodeGroup.objects.all(), actor).filter(pk=pk).first()
    if group is None:
        raise Refused(Refusal("node_group_unknown", field="group"))
    return group


def enrol(request: EnrolRequest) -> EnrolAnswer:
    """Let a machine in: its token works once. Makes the node's certificate and tells its Redis user to the conductor.

    Raises :class:`Refused`: ``token_unknown`` (also used or expired), ``host_uuid_taken``, ``bad_request_pem``.
    """
    with transaction.atomic():
        token = JoinToken.objects.select_related("node").filter(sha256=Token.hash_of(request.token)).first()
        used = token and not JoinToken.objects.filter(pk=token.pk, used=None, expires__gt=timezone.now()).update(
            used=timezone.now()
        )
        if token is None or used:
            raise Refused(Refusal("token_unknown"))
        node = token.node
        if Node.objects.filter(host_uuid=request.host_uuid).exclude(pk=node.pk).exists():
            raise Refused(Refusal("host_uuid_taken", {"uuid": request.host_uuid}, status=409))
        signed = ca.sign(request.certificate_request_pem, node.name, node.address)
        Node.objects.filter(pk=node.pk).update(
            redis_password_sha256=request.redis_password_sha256,
            certificate_sha256=signed.sha256,
            certificate_until=signed.until,
            host_uuid=request.host_uuid,
            agent_version=request.version,
            joined=timezone.now(),
            version=F("version") + 1,
        )
        # A reinstalled machine has a new ledger, whose counter begins anew.
        node.vms.update(observed_counter=0)
        node.refresh_from_db()
        audit.write(None, "node.enrol", "done", subject="node:" + node.pk, subject_name=node.name)
        events.node_changed(node)
        transaction.on_commit(wake.conductor)
    return EnrolAnswer(
        node=node.pk,
        name=node.name,
        certificate_pem=signed.pem,
        ca_pem=ca.certificate_pem(),
        redis_host=settings.INSTALLATION.node_redis_host,
        redis_port=settings.INSTALLATION.node_redis_port,
        peers=dict(Node.objects.values_list("name", "address")),
    )


# --- networks, images ---------------------------------------------------------------------------------------


def network_add(actor: Actor, name: str, bridge: str, ranges: list[dict[str, Any]]) -> Network:
    """A network and its address ranges: ``{"first", "last", "prefix_length", "gateway"?, "nameservers"?}``."""
    actor.require("network.add")
    rows = [_address_range(position, one) for position, one in enumerate(ranges)]
    with transaction.atomic():
        serialise()
        reasons = _range_overlaps(rows)
        if Network.objects.filter(name=name).exists():
            reasons.append(Refusal("network_name_taken", {"name": name}, field="name", status=409))
        if reasons:
            raise Refused(*reasons)
        network = Network.objects.create(name=name, bridge=bridge)
        for row in rows:
            row.network = network
            row.save()
        audit.write(actor, "network.add", "done", subject="network:" + network.pk, subject_name=name)
    return network


def _address_range(position: int, asked: dict[str, Any]) -> AddressRange:
    path = f"ranges.{position}"
    try:
        first, last = ipaddress.IPv4Address(asked["first"]), ipaddress.IPv4Address(asked["last"])
        prefix_length = int(asked["prefix_length"])
        subnet = ipaddress.IPv4Network((first, prefix_length), strict=False)
        gateway = asked.get("gateway") or None
        nameservers = [str(ipaddress.IPv4Address(one)) for one in asked.get("nameservers") or []]
        if first > last or last not in subnet or (gateway and ipaddress.IPv4Address(gateway) not in subnet):
            raise ValueError(f"{first} to {last} and the gateway must lie in one network")
    except (KeyError, TypeError, ValueError) as error:
        raise BadShape({path: [str(error)]}) from None
    return AddressRange(
        first=str(first), last=str(last), prefix_length=prefix_length, gateway=gateway, nameservers=nameservers
    )


def _range_overlaps(rows: list[AddressRange]) -> list[Refusal]:
    known = [(r, r.network.name) for r in AddressRange.objects.select_related("network")]
    reasons = []
    for position, row in enumerate(rows):
        for other, network in known:
            if row.overlaps(other):
                facts = {"first": row.first, "last": row.last, "network": network}
                reasons.append(Refusal("range_overlaps", facts, field=f"ranges.{position}", status=409))
        known.append((row, "-"))
    return reasons


def image_edit(actor: Actor, image: Image, *, os: str) -> Image:
    actor.require("image.edit")
    if os and os not in CATALOGUE:
        raise Refused(Refusal("os_unknown", {"os": os}, field="os"))
    image.os = os
    image.save(update_fields=["os"])
    audit.write(actor, "image.edit", "done", subject="image:" + image.pk, subject_name=image.name, os=os)
    return image


# --- pools --------------------------------------------------------------------------------------------------


def pool_edit(
    actor: Actor,
    pool: Pool,
    *,
    name: str | None = None,
    exact: bool | None = None,
    state: str | None = None,
    warning_percent: int | None = None,
    default_of: Sequence[str] | None = None,
) -> Pool:
    """Change a pool's settings; what is left out stays.

    ``state``: ``active`` or ``out_of_service``. ``default_of``: the nodes that put new disks here unless told
    otherwise; a node leaves this list only when another pool takes its place.

    Raises :class:`Forbidden`, :class:`BadShape`, :class:`Refused` (``pool_name_taken``, ``pool_in_work``,
    ``pool_elsewhere``, ``pool_out_of_service``, ``default_needed``).
    """
    actor.require("pool.edit")
    if name is not None:
        shapes.must_be(Name, name, "name")
    asked = {"name": name, "exact": exact, "state": state, "warning_percent": warning_percent}
    changes = {field: value for field, value in asked.items() if value is not None}
    with transaction.atomic():
        serialise()
        # A job that removes it changes its state, too.
        pool = Pool.objects.select_for_update().get(pk=pool.pk)
        reasons = []
        if name is not None and Pool.objects.filter(name=name).exclude(pk=pool.pk).exists():
            reasons.append(Refusal("pool_name_taken", {"name": name}, field="name", status=409))
        if state is not None and pool.state not in POOL_AT_REST:
            facts = {"name": pool.name, "state": pool.state}
            reasons.append(Refusal("pool_in_work", facts, field="state", status=409))
        if default_of is not None:
            reasons += _against_default(pool, set(default_of), state or pool.state)
        if reasons:
            raise Refused(*reasons)
        pools.touch(pool.pk, **changes)
        _make_default(pool, default_of or ())
        pool.refresh_from_db()
        fields = sorted([*changes, *([] if default_of is None else ["default_of"])])
        audit.write(actor, "pool.edit", "done", subject="pool:" + pool.pk, subject_name=pool.name, fields=fields)
    return pool


def _against_default(pool: Pool, asked: set[str], state: str) -> list[Refusal]:
    """Why the pool may not be the default of exactly these nodes."""
    places = {place.node_id: place.node for place in pool.places.select_related("node")}
    left = Node.objects.filter(default_pool=pool).exclude(pk__in=asked)
    facts = {"pool": pool.name}
    reasons = [Refusal("default_needed", {**facts, "node": node.name}, field="default_of") for node in left]
    strange = Node.objects.filter(pk__in=asked - places.keys())
    reasons += [Refusal("pool_elsewhere", {**facts, "node": node.name}, field="default_of") for node in strange]
    if len(strange) < len(asked - places.keys()):
        reasons.append(Refusal("node_unknown", field="default_of"))
    if asked and state != PoolState.ACTIVE:
        reasons.append(Refusal("pool_out_of_service", facts, field="default_of", status=409))
    return reasons


def _make_default(pool: Pool, nodes: Sequence[str]) -> None:
    for node in Node.objects.filter(pk__in=nodes).exclude(default_pool=pool):
        Node.objects.filter(pk=node.pk).update(default_pool=pool, version=F("version") + 1)
        node.refresh_from_db()
        events.node_changed(node)


# --- VMs ----------------------------------------------------------------------------------------------------


def vm_edit(
    actor: Actor,
    vm: Vm,
    *,
    title: str | None = None,
    protected: bool | None = None,
    os: str | None = None,
    group: str | None = KEEP,
    affinity_groups: Sequence[str] = KEEP,
    restart_priority: int | None = None,
) -> Vm:
    """Change what no node needs to hear of. A group of nodes is for those who may move the VM: its next move obeys it.

    Raises :class:`Forbidden`, :class:`Refused` (``os_unknown``, ``node_group_unknown``, as :func:`groups.join`).
    """
    actor.require("vm.edit")
    if restart_priority is not None:
        actor.require("vm.restart_priority")
    if os and os not in CATALOGUE:
        raise Refused(Refusal("os_unknown", {"os": os}, field="os"))
    asked = {"title": title, "protected": protected, "os": os, "restart_priority": restart_priority}
    changes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if group is not KEEP:
        actor.require("vm.migrate")
        changes["node_group"] = _group(actor, group)
    with transaction.atomic():
        if affinity_groups is not KEEP:
            groups.join(actor, vm, affinity_groups)
        Vm.objects.filter(pk=vm.pk).update(version=F("version") + 1, **changes)
        vm.refresh_from_db()
        fields = sorted([*changes, *([] if affinity_groups is KEEP else ["affinity_groups"])])
        audit.write(actor, "vm.edit", "done", subject="vm:" + vm.pk, subject_name=vm.name, fields=fields)
        events.vm_changed(vm)
    return vm


def forget_old_answers() -> None:
    """An ``Idempotency-Key`` is remembered for 24 hours."""
    IdempotencyKey.objects.filter(created__lt=timezone.now() - IDEMPOTENCY_LIFETIME).delete()
