"""What nodes report against what the panel has: a node's word changes what is seen, never where a VM belongs."""

import logging
from collections.abc import Iterable
from typing import Any

from django.db.models import F

from nodes.contract.messages import DomainChanged, Hello, Inventory
from nodes.contract.specs import DomainFacts, FileFacts, PoolFacts

from . import events
from .models import (
    Image,
    ImageCopy,
    Iso,
    IsoCopy,
    Lock,
    Node,
    NodeState,
    Pool,
    PoolOnNode,
    Vm,
    VmState,
)
from .states import IN_WORK, SEEN

log = logging.getLogger(__name__)

CLOCK_SKEW_WARNING_S = 2.0
CLOCK_SKEW_ERROR_S = 30.0


def node_online(node: Node) -> bool:
    """First word after silence; True when the state changed."""
    return _node_state(node, NodeState.OFFLINE, NodeState.ONLINE)


def node_offline(node: Node) -> bool:
    """Silence: nobody knows the state of its VMs. Nothing is deleted, nothing is started elsewhere."""
    changed = _node_state(node, NodeState.ONLINE, NodeState.OFFLINE)
    if changed:
        _set_states(Vm.objects.filter(node=node).exclude(state__in=[*IN_WORK, VmState.UNKNOWN]), VmState.UNKNOWN)
    return changed


def _node_state(node: Node, old: NodeState, new: NodeState) -> bool:
    if not Node.objects.filter(pk=node.pk, state=old).update(state=new, version=F("version") + 1):
        return False
    node.refresh_from_db()
    log.info("node %s is %s", node.name, new)
    events.node_changed(node)
    return True


def hello(node: Node, said: Hello) -> None:
    """An agent has started: what it is and what it can do."""
    facts = said.facts.model_dump(mode="json")
    Node.objects.filter(pk=node.pk).update(
        agent_version=said.version,
        verbs={verb: list(fields) for verb, fields in said.verbs.items()},
        incarnation=said.incarnation,
        facts=facts,
        cpus=said.facts.cpus,
        memory_bytes=said.facts.memory_bytes,
        version=F("version") + 1,
    )
    node.refresh_from_db()
    events.node_changed(node)


def inventory(node: Node, seen: Inventory, clock_skew_s: float | None) -> list[str]:
    """A full report: facts, checks, pools, images, and every domain. Returns what :func:`domains` does."""
    facts = seen.facts.model_dump(mode="json")
    checks = [c.model_dump(mode="json") for c in seen.checks] + _clock_check(clock_skew_s)
    _pools(node, seen.pools)
    _files(node, seen.images, Image, ImageCopy, "image")
    _files(node, seen.isos, Iso, IsoCopy, "iso")
    overlooked = domains(node, seen.domains, seen.counter, complete=True)
    node.refresh_from_db()
    if (node.facts, node.checks) != (facts, checks):
        Node.objects.filter(pk=node.pk).update(
            facts=facts,
            checks=checks,
            cpus=seen.facts.cpus,
            memory_bytes=seen.facts.memory_bytes,
            version=F("version") + 1,
        )
        node.refresh_from_db()
        events.node_changed(node)
    return overlooked


def domains_changed(node: Node, seen: DomainChanged) -> list[str]:
    return domains(node, seen.domains, seen.counter, complete=False)


def domains(node: Node, seen: Iterable[DomainFacts], counter: int, *, complete: bool) -> list[str]:
    """Take over what the node shows of the VMs that the panel places there.

    Left alone: a VM whose job is running, one that a job which waits for its turn has made, and a report older than
    the last applied reply about the VM. A domain that the panel places elsewhere is a claim and moves nothing (law 6).
    Returns the VMs that were shown while their jobs run: a guest may end beside its job, and is not reported again.
    """
    states = {d.uuid: SEEN[d.state] for d in seen if d.state in SEEN}
    busy = _in_work(held=True)
    quiet = (
        Vm.objects.filter(node=node, observed_counter__lte=counter)
        .exclude(pk__in=busy)
        # "Stopping" without any job is what a resolved one has left behind: then the node knows better.
        .exclude(state__in=IN_WORK, pk__in=_in_work())
    )
    here = quiet if complete else quiet.filter(uuid__in=states)
    wanted: dict[VmState, list[str]] = {}
    for vm in here.only("id", "uuid", "state"):
        now = states.get(vm.uuid, VmState.ERROR)
        if vm.state != now:
            wanted.setdefault(now, []).append(vm.pk)
    for state, ids in wanted.items():
        _set_states(quiet.filter(pk__in=ids), state)
    claimed = Vm.objects.filter(uuid__in=states).exclude(node=node)
    for vm in claimed:
        log.warning("node %s shows VM %s (%s), which belongs to %s: a claim", node.name, vm.pk, vm.name, vm.node_id)
    return list(Vm.objects.filter(node=node, pk__in=busy, uuid__in=states).values_list("pk", flat=True)) if busy else []


def _in_work(**which: bool) -> list[str]:
    """VMs that have a job. While it runs (``held``), the job says what they are."""
    names = Lock.objects.filter(name__startswith="vm:", **which).values_list("name", flat=True)
    return [name.removeprefix("vm:") for name in names]


def _set_states(vms: Any, state: VmState) -> None:
    """One UPDATE for many rows; each gets its event."""
    ids = list(vms.values_list("pk", flat=True))
    if not ids:
        return
    Vm.objects.filter(pk__in=ids).update(state=state, version=F("version") + 1)
    for vm in Vm.objects.filter(pk__in=ids):
        events.vm_changed(vm)


def _pools(node: Node, seen: Iterable[PoolFacts]) -> None:
    """A pool is its identity: the same one on a second node is the same pool, shared."""
    identities = set()
    for facts in seen:
        identities.add(facts.identity)
        pool = Pool.objects.filter(identity=facts.identity).first()
        if pool is None:
            pool = Pool.objects.create(
                name=_free_pool_name(node), kind=facts.kind, identity=facts.identity, path=facts.path
            )
        PoolOnNode.objects.get_or_create(pool=pool, node=node)
        numbers = {
            "capacity_bytes": facts.capacity_bytes,
            "free_bytes": facts.free_bytes,
            "granules": dict(facts.granules),
            "shared": facts.shared or pool.places.count() > 1,
        }
        if any(getattr(pool, name) != value for name, value in numbers.items()):
            Pool.objects.filter(pk=pool.pk).update(version=F("version") + 1, **numbers)
        if node.default_pool_id is None:
            node.default_pool = pool
            Node.objects.filter(pk=node.pk).update(default_pool=pool)
    PoolOnNode.objects.filter(node=node).exclude(pool__identity__in=identities).delete()


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
        elif any(getattr(row, name) != value for name, value in size.items()):
            if row.copies.exclude(node=node).exists() or row.disks.exists():
                log.warning("%s %s on node %s differs from the one known: not used", kind, file.name, node.name)
                continue
            model.objects.filter(pk=row.pk).update(**size)
        held.add(row.pk)
    copies = copy_model.objects.filter(node=node)
    known = set(copies.values_list(kind + "_id", flat=True))
    copies.filter(**{kind + "_id__in": known - held}).delete()
    copy_model.objects.bulk_create(copy_model(node=node, **{kind + "_id": pk}) for pk in held - known)
    model.objects.filter(copies__isnull=True, disks__isnull=True).delete()


def _clock_check(skew_s: float | None) -> list[dict[str, Any]]:
    if skew_s is None:
        return []
    off = abs(skew_s)
    level = "ok" if off < CLOCK_SKEW_WARNING_S else "warning" if off < CLOCK_SKEW_ERROR_S else "error"
    # Rounded, so that the line does not change with every report.
    return [{"code": "clock_skew", "level": level, "facts": {"skew_s": 0 if level == "ok" else round(skew_s)}}]
