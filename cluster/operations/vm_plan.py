"""What a VM would become, before anything is made: every refusal, the sizes, the node and why.

Not an operation: the planning half of :mod:`cluster.operations.vm_create`. Reads only.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db.models import Q

from cluster import affinity, placement
from cluster.models import POOL_AT_REST, AffinityGroup, Image, Iso, Network, Nic, Node, NodeGroup, Pool, Tenant, Vm
from cluster.os_catalogue import CATALOGUE
from cluster.permissions import Actor, visible
from cluster.refusals import NotKnown, Refusal
from cluster.saga.steps import Lost, Plan
from nodes.contract.sizes import round_up

if TYPE_CHECKING:
    from .vm_create import DiskAsked, VmCreate

NOT_ASKED = (
    *("platform", "checks", "verbs", "offers", "created", "joined", "certificate_until"),
    *(f"default_pool__{name}" for name in ("facts", "monitors", "key", "identity", "path")),
)
"""Of a node and its pool, by a plan: of a thousand nodes their reports are five megabytes of JSON."""


@dataclass
class Planning:
    actor: Actor
    params: "VmCreate.Params"
    only_on: Collection[str] | None = None
    """Nodes that come into question; None: all."""
    group: NodeGroup | None = None
    """Of the VM that this one is made after; who asks need not know of it."""
    pools_given: bool = False
    """Where the disks lie was asked for by nobody: it follows from what they are made of."""
    refusals: list[Refusal] = field(default_factory=list)
    pools: dict[str, Pool] = field(default_factory=dict)
    """Those that are asked for, by id."""

    def plan(self) -> Plan:
        params = self.params
        tenant = self._tenant()
        image, iso = self._image(), self._iso()
        networks = self._networks()
        known = Pool.objects.filter(state__in=POOL_AT_REST)
        self.pools = known.in_bulk({disk.pool for disk in params.disks if disk.pool})
        if image and not params.disks:
            self.refusals.append(Refusal("disk_needed", field="disks"))
        if params.os and params.os not in CATALOGUE:
            self.refusals.append(Refusal("os_unknown", {"os": params.os}, field="os"))
        if params.cloud_init:
            self.refusals.append(Refusal("cloud_init_unsupported", field="cloud_init"))
        if tenant and Vm.objects.filter(tenant=tenant, name=params.name).exists():
            self.refusals.append(Refusal("name_taken", {"name": params.name}, field="name", status=409))
        self._check_nics(networks)
        group = self._group() or self.group
        together = self._affinity_groups(tenant)
        asked = (params.vcpus, params.memory_bytes, [n for n in networks if n], image, iso, group)
        need = placement.Need(*asked, rules=affinity.rules_of_groups(together))
        rows = self._candidates(need)
        node = rows[0].node if rows and not rows[0].reasons else None
        if node is None:
            self.refusals += self._no_node(rows)
        disks = self._disks(node or (rows[0].node if rows else None), image)
        return Plan(
            refusals=self.refusals,
            quote={"disks": [self._quoted(disk) for disk in disks], "price": None},
            placement=None if self.actor.is_tenant_side else placement.explain(rows),
            data={
                "tenant": tenant.pk if tenant else None,
                "node": node.pk if node else None,
                "group": group.pk if group else None,
                "affinity_groups": [one.pk for one in together],
                "iso": iso.pk if iso else None,
                "disks": disks,
                "networks": [n.pk if n else None for n in networks],
            },
            choose=partial(self._choose, need, rows, image) if node and len(rows) > 1 else None,
        )

    def _choose(self, need: placement.Need, rows: Sequence[placement.Candidate], image: Image | None) -> dict[str, Any]:
        """The best node by now, with the disks as they would be there."""
        for row in placement.best_now(need, rows):
            self.refusals = []
            disks = self._disks(row.node, image)
            if not self.refusals:
                return {"node": row.node.pk, "disks": disks}
        raise Lost(self.params.name)

    def _quoted(self, disk: dict[str, Any]) -> dict[str, Any]:
        """Sizes for everybody; a tenant knows of no pools."""
        row = {key: disk[key] for key in ("pool", "asked_bytes", "size_bytes", "granule_bytes")}
        return {**row, "pool": None} if self.actor.is_tenant_side else row

    def _tenant(self) -> Tenant | None:
        if self.actor.is_tenant_side:
            own = self.actor.tenant
            asked = self.params.tenant
            if own and asked in (None, own.pk, own.name):
                return own
        else:
            asked = self.params.tenant or Tenant.DEFAULT
            found = Tenant.objects.filter(Q(pk=asked) | Q(name=asked)).first()
            if found:
                return found
        self.refusals.append(Refusal("tenant_unknown", field="tenant"))
        return None

    def _group(self) -> NodeGroup | None:
        asked = self.params.group
        group = visible(NodeGroup.objects.all(), self.actor).filter(pk=asked).first() if asked else None
        if asked and group is None:
            self.refusals.append(Refusal("node_group_unknown", field="group"))
        return group

    def _affinity_groups(self, tenant: Tenant | None) -> list[AffinityGroup]:
        asked = self.params.affinity_groups
        if not asked:
            return []
        found = list(visible(AffinityGroup.objects.filter(pk__in=asked, tenant=tenant), self.actor).order_by("name"))
        if len(found) < len(set(asked)):
            self.refusals.append(Refusal("affinity_group_unknown", field="affinity_groups"))
        return found

    def _image(self) -> Image | None:
        if self.params.image and self.params.iso:
            self.refusals.append(Refusal("image_and_iso", field="image"))
        return self._one(Image, self.params.image, "image", "image_unknown")

    def _iso(self) -> Iso | None:
        return self._one(Iso, self.params.iso, "iso", "iso_unknown")

    def _networks(self) -> list[Network | None]:
        """Each interface's own; None for one that is not known."""
        asked = [nic.network for nic in self.params.nics]
        known = visible(Network.objects.prefetch_related("ranges"), self.actor).in_bulk(asked)
        self.refusals += [Refusal("network_unknown", field="nics") for pk in asked if pk not in known]
        return [known.get(pk) for pk in asked]

    def _one(self, model: Any, pk: str | None, name: str, code: str) -> Any:
        if pk is None:
            return None
        row = visible(model.objects.all(), self.actor).filter(pk=pk).first()
        if row is None:
            self.refusals.append(Refusal(code, field=name))
        elif row.state != "active":
            self.refusals.append(not_usable(row, name))
        return row

    def _candidates(self, need: placement.Need) -> list[placement.Candidate]:
        held = {"image_copies": need.image, "iso_copies": need.iso, "pool_places": self.pools}
        nodes = Node.objects.select_related("default_pool").defer(*NOT_ASKED)
        nodes = nodes.prefetch_related(*(name for name, asked in held.items() if asked))
        if self.only_on is not None:
            nodes = nodes.filter(pk__in=self.only_on)
        asked = self.params.node if not self.actor.is_tenant_side else None
        if asked:
            nodes = nodes.filter(pk=asked)
            if not nodes:
                raise NotKnown(f"node {asked}")
        rows = placement.candidates(need, list(nodes))
        for row in rows if self.pools else ():
            here = {place.pool_id for place in row.node.pool_places.all()}
            row.reasons += [
                Refusal("pool_elsewhere", {"pool": pool.name, "node": row.node.name}, field="disks")
                for pool in self.pools.values()
                if pool.pk not in here
            ]
        for row in rows:
            if not row.reasons:
                row.reasons += self._out_of_service(row.node) or self._no_room(row.node)
        rows.sort(key=lambda c: (bool(c.reasons), -c.score, c.node.name))
        return rows

    def _pool_of(self, node: Node, asked: "DiskAsked") -> Pool | None:
        if asked.pool is None or (self.actor.is_tenant_side and not self.pools_given):
            return node.default_pool
        return self.pools.get(asked.pool)

    def _out_of_service(self, node: Node) -> list[Refusal]:
        wanted = {pool.pk: pool for asked in self.params.disks if (pool := self._pool_of(node, asked))}
        return [reason for pool in wanted.values() for reason in placement.closed(pool, "disks")]

    def _no_room(self, node: Node) -> list[Refusal]:
        wanted: dict[str, int] = {}
        pools: dict[str, Pool] = {}
        for asked in self.params.disks:
            pool = self._pool_of(node, asked)
            if pool:
                pools[pool.pk] = pool
                wanted[pool.pk] = wanted.get(pool.pk, 0) + asked.size_bytes
        return [
            placement.no_room(pool, node, wanted[pool.pk], "disks")
            for pool in pools.values()
            if wanted[pool.pk] > placement.free_room_bytes(pool)
        ]

    def _disks(self, node: Node | None, image: Image | None) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for position, asked in enumerate(self.params.disks):
            pool = self._pool_of(node, asked) if node else None
            if pool is None:
                if asked.pool:
                    self.refusals.append(Refusal("pool_unknown", field=f"disks.{position}.pool"))
                continue
            chosen = pool.usual_format
            granule = pool.granules[chosen]
            self.refusals += placement.off_grid(pool, asked.size_bytes, granule, f"disks.{position}.size_bytes")
            from_image = image if position == 0 else None
            if from_image and "qcow2" not in pool.granules:
                both = {"pool": pool.name, "image": from_image.name}
                self.refusals.append(Refusal("image_needs_folder", both, field=f"disks.{position}.pool"))
            if from_image and asked.size_bytes < from_image.virtual_size_bytes:
                facts = {
                    "asked": asked.size_bytes,
                    "image": from_image.name,
                    "needed": from_image.virtual_size_bytes,
                }
                self.refusals.append(Refusal("size_too_small", facts, field=f"disks.{position}.size_bytes"))
            rows.append(
                {
                    "position": position,
                    "pool": pool.pk,
                    "pool_name": pool.name,
                    "image": from_image.pk if from_image else None,
                    "format": chosen,
                    "bus": asked.bus,
                    "asked_bytes": asked.size_bytes,
                    "size_bytes": round_up(asked.size_bytes, granule),
                    "granule_bytes": granule,
                }
            )
        return rows

    def _no_node(self, rows: Sequence[placement.Candidate]) -> list[Refusal]:
        """Every node's reasons; a tenant, who may not know of nodes, hears only that there is none."""
        reasons = [reason for row in rows for reason in row.reasons]
        full = any(reason.status == 507 for reason in reasons)
        summary = Refusal("no_node", field="node", status=507 if full else 422)
        if self.actor.is_tenant_side:
            groups = {reason.facts["group"] for reason in reasons if reason.code.startswith("affinity_")}
            its = [Refusal("affinity_in_the_way", {"group": name}, field="affinity_groups") for name in sorted(groups)]
            return [summary, *its]
        return reasons if len(rows) == 1 else [summary, *reasons]

    def _check_nics(self, networks: Sequence[Network | None]) -> None:
        asked_macs, asked_addresses = set(), set()
        asked = {
            n.pk: n for n, nic in zip(networks, self.params.nics, strict=True) if n and (nic.address or n.ranges.all())
        }
        taken = {pk: network.taken() for pk, network in asked.items()}
        for position, (nic, network) in enumerate(zip(self.params.nics, networks, strict=True)):
            if nic.mac:
                path = f"nics.{position}.mac"
                if int(nic.mac[1], 16) % 2:
                    self.refusals.append(Refusal("mac_not_unicast", {"mac": nic.mac}, field=path))
                if nic.mac in asked_macs or Nic.objects.filter(mac=nic.mac).exists():
                    self.refusals.append(Refusal("mac_taken", {"mac": nic.mac}, field=path, status=409))
                asked_macs.add(nic.mac)
            if network is None:
                continue
            path = f"nics.{position}.address"
            if nic.address:
                if not any(r.holds(nic.address) for r in network.ranges.all()):
                    facts = {"address": nic.address, "network": network.name}
                    self.refusals.append(Refusal("address_outside", facts, field=path))
                if nic.address in taken[network.pk] or (network.pk, nic.address) in asked_addresses:
                    self.refusals.append(Refusal("address_taken", {"address": nic.address}, field=path, status=409))
                asked_addresses.add((network.pk, nic.address))
            elif network.ranges.all() and placement.next_free_address(network, taken[network.pk]) is None:
                self.refusals.append(Refusal("no_address", {"network": network.name}, field=path, status=507))


def not_usable(file: Image | Iso, field: str) -> Refusal:
    """Of a file that is not active."""
    code = "file_coming" if file.state == "adding" else "file_going"
    return Refusal(code, {"name": file.name}, field=field, status=409)
