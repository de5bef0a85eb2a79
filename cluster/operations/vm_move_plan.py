"""Where a VM could go, and what it would take: for every node, each reason against it.

Not an operation: the planning half of :mod:`cluster.operations.vm_migrate`. Reads only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from django.db import models
from django.db.models import ExpressionWrapper, Prefetch, Q, QuerySet, prefetch_related_objects

from cluster import affinity, links, placement
from cluster.models import POOL_AT_REST, Disk, Iso, Node, Pool, PoolOnNode, Vm, VmState
from cluster.refusals import NotKnown, Refusal
from cluster.saga.dispatch import too_old
from cluster.saga.steps import Plan
from nodes.contract.messages import DomainExpect, DomainMove
from nodes.contract.sizes import round_up

from . import trash

TAKES_GUESTS = ExpressionWrapper(Q(verbs={}) | Q(verbs__has_key=DomainExpect.verb), models.BooleanField())
"""Its agent knows of moves, or did not say. The database looks: what an agent knows is long."""
MOST_FEATURES = 5
"""Of those that a CPU lacks so many are named."""


@dataclass
class Copied:
    """A disk whose content goes along."""

    disk: Disk
    pool: Pool
    format: str
    size_bytes: int
    """What it will have: a multiple of what both pools give out at a time."""
    granule_bytes: int

    @property
    def grows_by_bytes(self) -> int:
        return self.size_bytes - self.disk.size_bytes

    def kept(self) -> dict[str, Any]:
        """For the job's data."""
        return {"pool": self.pool.pk, "format": self.format, "size_bytes": self.size_bytes}


@dataclass
class Candidate(placement.Candidate):
    copied: list[Copied] = field(default_factory=list)
    takes_s: int | None = None
    """About how long, by the sizes of memory and disks; None: nobody has seen how fast the link is."""

    @property
    def copied_bytes(self) -> int:
        return sum(one.size_bytes for one in self.copied)

    def said(self, best: bool) -> dict[str, Any]:
        return {
            "node": self.node.pk,
            "name": self.node.name,
            "possible": not self.reasons,
            "chosen": best and not self.reasons,
            "score": self.score,
            "copied_bytes": self.copied_bytes,
            "takes_s": self.takes_s,
            "reasons": [reason.said() for reason in self.reasons or self.wishes],
        }


def nodes_for_moves(which: "QuerySet[Node] | None" = None) -> list[Node]:
    """Those of them that have joined, with all that a plan asks of each; a pool is one object on all of its nodes.

    :param which: None: all.
    """
    joined = (Node.objects.all() if which is None else which).exclude(redis_password_sha256="")
    joined = joined.annotate(takes_guests=TAKES_GUESTS).defer(
        "verbs", "offers", "created", "joined", "certificate_until"
    )
    places_of = Prefetch("pool_places", PoolOnNode.objects.defer("odd"))
    nodes: list[Node] = list(joined.prefetch_related(places_of, "iso_copies"))
    places = [place for node in nodes for place in node.pool_places.all()]
    # Not as a prefetch: of a thousand pools SQLite takes no such query.
    pools = Pool.objects.defer("monitors", "key").in_bulk({place.pool_id for place in places})
    for place in places:
        place.pool = pools[place.pool_id]
    return nodes


@dataclass
class MovePlanning:
    vm: Vm
    target: str | None = None
    pools: Mapping[str, str] = field(default_factory=dict)
    """disk -> the pool that a person chose for it."""
    nodes: Sequence[Node] | None = None
    """Of :func:`nodes_for_moves`, with what was promised of them; None: read for this one VM."""
    rules: Sequence[affinity.Rule] | None = None
    """Of its affinity groups, with what was promised; None: as for ``nodes``."""
    speeds: links.Speeds | None = None
    """Of the links between nodes; None: as for ``nodes``."""

    def plan(self) -> Plan:
        rows = self.candidates()
        best = rows[0] if rows and not rows[0].reasons else None
        refusals = self._unknown_disks()
        if best is None:
            refusals += self._no_node(rows)
        copied = best.copied if best else []
        return Plan(
            refusals=refusals,
            quote={"disks": [self._quoted(one) for one in copied], "price": None},
            placement=placement.explain(rows),
            targets=[row.said(best=row is best) for row in rows],
            stays=trash.stays((one.disk, one.size_bytes) for one in copied),
            data={
                "source": self.vm.node_id,
                "target": best.node.pk if best else None,
                "disks": [disk.pk for disk in self._disks()],
                "copied": {one.disk.pk: one.kept() for one in copied},
                "grown": {one.disk.pk: one.size_bytes for one in copied if one.grows_by_bytes},
            },
        )

    def candidates(self) -> list[Candidate]:
        """Every node that could be meant; the best of the possible ones first."""
        nodes = self.nodes
        if nodes is None:
            every = Node.objects.all()
            nodes = nodes_for_moves(every.filter(pk=self.target) if self.target else every.exclude(pk=self.vm.node_id))
            if self.target and not nodes:
                raise NotKnown(f"node {self.target}")
        prefetch_related_objects([self.vm], "nics__network", "disks__pool", "disks__iso", "snapshots")
        vm = self.vm
        networks = [nic.network for nic in vm.nics.all()]
        rules = affinity.rules_of_vms([vm.pk]).get(vm.pk, []) if self.rules is None else self.rules
        need = placement.Need(vm.vcpus, vm.memory_bytes, networks, group=vm.node_group, rules=rules, vm=vm.pk)
        speeds = links.speeds(vm.node_id) if self.speeds is None else self.speeds
        rows = [self._candidate(plain) for plain in placement.candidates(need, nodes)]
        memory_bytes = 0 if vm.state == VmState.STOPPED else vm.memory_bytes
        for row in rows:
            row.takes_s = links.at_most_s(memory_bytes + row.copied_bytes, speeds.get((vm.node_id, row.node.pk)))
        rows.sort(key=lambda c: (bool(c.reasons), c.copied_bytes, -c.score, c.node.name))
        return rows

    def _candidate(self, plain: placement.Candidate) -> Candidate:
        node = plain.node
        if node.pk == self.vm.node_id:
            here = Refusal("same_node", {"vm": self.vm.name, "node": node.name}, field="target")
            return Candidate(node, 0, [here])
        copied, reasons = self._layout(node)
        # A default pool is needed only for a disk that is copied, and then it is missed there.
        others = [reason for reason in plain.reasons if reason.code != "no_pool"]
        return Candidate(node, plain.score, [*others, *self._against(node), *reasons], plain.wishes, copied)

    def _against(self, node: Node) -> list[Refusal]:
        """What hinders a move that would not hinder a creation."""
        source, facts = self.vm.node, {"node": node.name}
        reasons = []
        if node.facts.get("simulated") or source.facts.get("simulated"):
            return [Refusal("simulated_cannot_move", facts, field="target")]
        if source.facts.get("virt_type") != node.facts.get("virt_type"):
            both = {"virt": node.facts.get("virt_type", "—"), "source_virt": source.facts.get("virt_type", "—")}
            reasons.append(Refusal("virt_differs", {**facts, "source": source.name, **both}, field="target"))
        if _version(node, "qemu_version") < _version(source, "qemu_version"):
            versions = {"version": node.facts["qemu_version"], "source_version": source.facts["qemu_version"]}
            reasons.append(Refusal("qemu_older", {**facts, "source": source.name, **versions}, field="target"))
        reasons += self._strange_to_guest(node)
        for side, verb, can in (
            (source, DomainMove.verb, not too_old(source, DomainMove)),
            (node, DomainExpect.verb, vars(node)["takes_guests"]),
        ):
            if not can:
                which = {"node": side.name, "verb": verb, "version": side.agent_version}
                reasons.append(Refusal("node_too_old", which, field="target"))
        if not _listens(node):
            reasons.append(Refusal("no_migration_port", facts, field="target"))
        for iso in self._isos:
            if iso.pk not in {copy.iso_id for copy in node.iso_copies.all()}:
                reasons.append(Refusal("iso_absent_there", {**facts, "iso": iso.name}, field="target"))
        return reasons

    def _strange_to_guest(self, node: Node) -> list[Refusal]:
        """Of the CPU and the machine that the guest has from where it was started.

        A guest with the host's CPU keeps all of its features, and libvirt takes it only where the vendor is the same
        and none of them is missing; the model's name does not count. Source: libvirt, cpu_x86.c, x86Compute. One that
        is off goes with a CPU that every node has. A node that did not say is given the chance.
        """
        source = self.vm.started_on or self.vm.node
        had, has = source.platform, node.platform
        if not had or not has:
            return []
        reasons = []
        both = {"vm": self.vm.name, "node": node.name, "source": source.name}
        if had["machine"] and had["machine"] not in has["machines"]:
            reasons.append(Refusal("machine_absent", {**both, "machine": had["machine"]}, field="target"))
        cpu, there = had["cpu"], has["cpu"]
        if self.vm.state == VmState.STOPPED or not cpu or not there:
            return reasons
        if cpu["vendor"] != there["vendor"]:
            vendors = {"vendor": there["vendor"], "source_vendor": cpu["vendor"]}
            reasons.append(Refusal("cpu_vendor_differs", {**both, **vendors}, field="target"))
        elif missing := sorted(set(cpu["features"]).difference(there["features"])):
            named = {"features": ", ".join(missing[:MOST_FEATURES]), "count": len(missing)}
            reasons.append(Refusal("cpu_differs", {**both, **named}, field="target"))
        return reasons

    @cached_property
    def _asked_pools(self) -> dict[str, Pool]:
        return Pool.objects.in_bulk(set(self.pools.values()))

    @cached_property
    def _isos(self) -> list[Iso]:
        """In its drives."""
        return [disk.iso for disk in self.vm.disks.all() if disk.iso]

    # --- disks ------------------------------------------------------------------------------------------

    def _disks(self) -> list[Disk]:
        return [disk for disk in self.vm.disks.all() if disk.device == "disk"]

    def _unknown_disks(self) -> list[Refusal]:
        known = {disk.pk for disk in self._disks()}
        return [Refusal("disk_unknown", {"disk": pk}, field="pools") for pk in self.pools if pk not in known]

    def _layout(self, node: Node) -> tuple[list[Copied], list[Refusal]]:
        there = {place.pool_id: place.pool for place in node.pool_places.all() if place.pool.state in POOL_AT_REST}
        copied: list[Copied] = []
        reasons: list[Refusal] = []
        for disk in self._disks():
            asked = self.pools.get(disk.pk)
            if asked in (None, disk.pool_id) and disk.pool_id in there:
                continue  # both nodes see it
            pool = there.get(asked or node.default_pool_id or "")
            if pool is None:
                known = self._asked_pools.get(asked or "")
                code, facts = ("pool_elsewhere", {"pool": known.name}) if known else ("no_pool", {})
                reasons.append(Refusal(code, {**facts, "node": node.name}, field="pools"))
                continue
            one = self._copied(disk, pool)
            if one is None:
                lacks = {"pool": pool.name, "format": disk.format, "formats": sorted(pool.granules)}
                reasons.append(Refusal("format_unsupported", lacks, field="pools"))
                continue
            copied.append(one)
        return copied, reasons + self._hindered(node, copied)

    def _copied(self, disk: Disk, pool: Pool) -> Copied | None:
        if disk.pool is None:
            return None
        # That of a pool which has no other was nobody's choice: there and back again, qcow2 is qcow2.
        by_choice = len(disk.pool.granules) > 1 and disk.format in pool.granules
        chosen = disk.format if by_choice else pool.usual_format
        if chosen not in pool.granules:
            return None
        size_bytes = round_up(disk.size_bytes, placement.granule_of_both_bytes(disk, pool, chosen))
        return Copied(disk, pool, chosen, size_bytes, pool.granules[chosen])

    def _hindered(self, node: Node, copied: Sequence[Copied]) -> list[Refusal]:
        reasons = []
        if copied and self.vm.snapshots.all():
            names = {"vm": self.vm.name, "node": node.name}
            reasons.append(Refusal("snapshots_stay", names, field="target"))
        needed: dict[str, int] = {}
        for one in copied:
            needed[one.pool.pk] = needed.get(one.pool.pk, 0) + one.size_bytes
        for pool in {one.pool.pk: one.pool for one in copied}.values():
            reasons += placement.closed(pool, "pools")
            if not pool.facts.get("takes_backups"):
                reasons.append(Refusal("pool_takes_no_copy", {"pool": pool.name, "node": node.name}, field="pools"))
            if needed[pool.pk] > placement.free_room_bytes(pool):
                reasons.append(placement.no_room(pool, node, needed[pool.pk], "pools"))
        return reasons

    def _quoted(self, one: Copied) -> dict[str, Any]:
        sizes = {"asked_bytes": one.disk.size_bytes, "size_bytes": one.size_bytes, "granule_bytes": one.granule_bytes}
        return {"pool": one.pool.pk, **sizes}

    def _no_node(self, rows: Sequence[Candidate]) -> list[Refusal]:
        reasons = [reason for row in rows for reason in row.reasons]
        if len(rows) == 1:
            return reasons
        full = bool(rows) and all(any(reason.status == 507 for reason in row.reasons) for row in rows)
        return [Refusal("no_target", {"vm": self.vm.name}, field="target", status=507 if full else 422), *reasons]


def _version(node: Node, name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in str(node.facts.get(name, "")).split(".") if part.isdigit())


def _listens(node: Node) -> bool:
    """Its libvirtd takes connections of other nodes, as its preflight saw; one that did not say is given the chance."""
    checks = [check for check in node.checks if check["code"] == "migration_ports"]
    return all(check.get("facts", {}).get("libvirt_tls", True) for check in checks)
