"""What VM a domain that the panel does not know would be, and every reason why it cannot be one.

Not an operation: the planning half of :mod:`cluster.operations.node_adopt_domain`. Reads only.
"""

import os
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, get_args

from django.db.models import Q

from cluster import placement
from cluster.domain_drift import place_of
from cluster.models import POOL_AT_REST, Disk, Iso, Network, Nic, Node, Pool, PoolOnNode, Tenant, Vm, new_id
from cluster.refusals import Refusal
from cluster.saga.dispatch import too_old
from cluster.saga.steps import Plan
from nodes.contract.messages import DomainTake
from nodes.contract.specs import DiskBus, DiskFormat, NicModel, Outline, SeenDisk, SeenNic

from .disk_import import image_named

if TYPE_CHECKING:
    from .node_adopt_domain import AdoptDomainParams

TAP, ID = "ul", r"[a-z2-7]{13}"
NAME = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
OFF = ("shutoff", "crashed")


@dataclass
class StrangerPlanning:
    node: Node
    params: "AdoptDomainParams"
    refusals: list[Refusal] = field(default_factory=list)

    def plan(self) -> Plan:
        stranger = self.node.strangers.get(self.params.uuid)
        if stranger is None or not stranger["outline"]:
            unknown = Refusal("stranger_unknown", {"node": self.node.name}, field="uuid")
            return Plan(refusals=[unknown], data={"node": self.node.pk, "vm": self.params.uuid, "disks": []})
        outline = Outline.model_validate(stranger["outline"])
        tenant = self._tenant()
        ours = stranger["vm"] is not None
        name = self.params.name or stranger["name"].rpartition(".")[0] or stranger["name"]
        self._check_names(stranger, name, tenant)
        off = stranger["state"] in OFF
        disks = self._disks(stranger["name"], outline)
        taken = [disk for disk in disks if disk["taken"]]
        if (taken or not ours) and not off:
            # A volume and a domain get other names, and a guest that runs would go on with the old ones.
            self.refusals.append(Refusal("stranger_runs", {"domain": stranger["name"]}, field="uuid", status=409))
        if (taken or not ours) and too_old(self.node, DomainTake):
            old = {"node": self.node.name, "verb": DomainTake.verb, "version": self.node.agent_version}
            self.refusals.append(Refusal("node_too_old", old, field="uuid"))
        if not ours:
            # What a panel has made was given its room; a guest that was made by hand could starve its host.
            [room] = placement.candidates(placement.Need(outline.vcpus, outline.memory_bytes, ()), [self.node])
            self.refusals += [replace(why, field="uuid") for why in room.reasons if why.status == 507]
        if outline.beyond:
            more = {"domain": stranger["name"], "what": list(outline.beyond)}
            self.refusals.append(Refusal("stranger_beyond", more, field="uuid"))
        data = {
            "node": self.node.pk,
            "vm": stranger["vm"] or new_id(),
            "name": name,
            "ours": ours,
            "called": stranger["name"] if taken or not ours else None,
            "title": outline.title,
            "tenant": tenant.pk if tenant else None,
            "vcpus": outline.vcpus,
            "memory_bytes": outline.memory_bytes,
            "disks": disks,
            "nics": self._nics(outline, off=off),
            "planned": stranger["outline"],
        }
        return Plan(
            refusals=self.refusals, quote={"disks": [_quoted(disk) for disk in taken], "price": None}, data=data
        )

    def _tenant(self) -> Tenant | None:
        asked = self.params.tenant or Tenant.DEFAULT
        found = Tenant.objects.filter(Q(pk=asked) | Q(name=asked)).first()
        if found is None:
            self.refusals.append(Refusal("tenant_unknown", field="tenant"))
        return found

    def _check_names(self, stranger: dict[str, Any], name: str, tenant: Tenant | None) -> None:
        facts = {"domain": stranger["name"], "node": self.node.name}
        if stranger["vm"] is None:
            if not re.fullmatch(NAME, name):
                self.refusals.append(Refusal("stranger_needs_name", facts, field="name"))
        elif Vm.objects.filter(pk=stranger["vm"]).exists():
            self.refusals.append(Refusal("stranger_foreign", facts, field="uuid"))
        elif name != stranger["name"].rpartition(".")[0]:
            self.refusals.append(Refusal("stranger_keeps_name", facts, field="name"))
        if tenant and Vm.objects.filter(tenant=tenant, name=name).exists():
            self.refusals.append(Refusal("name_taken", {"name": name}, field="name", status=409))

    # --- disks --------------------------------------------------------------------------------------------

    def _disks(self, domain: str, outline: Outline) -> list[dict[str, Any]]:
        places = list(self.node.pool_places.select_related("pool").order_by("pool"))
        known = Disk.objects.in_bulk([disk.id for disk in outline.disks if disk.id])
        rows = []
        for position, seen in enumerate(outline.disks):
            row = self._drive(seen) if seen.device == "cdrom" else self._disk(domain, seen, places, known.get(seen.id))
            if row is not None:
                rows.append({"position": position, "bus": seen.bus, "boot_order": seen.boot_order, **row})
        return rows

    def _disk(self, domain: str, seen: SeenDisk, places: list[PoolOnNode], known: Disk | None) -> dict[str, Any] | None:
        if seen.device != "disk" or seen.bus not in get_args(DiskBus) or seen.format not in get_args(DiskFormat):
            facts = {"domain": domain, "place": seen.place or seen.name, "bus": seen.bus or seen.device}
            self.refusals.append(Refusal("stranger_device", facts, field="uuid"))
            return None
        pools = [place.pool for place in places]
        pool = next((p for p in pools if place_of(p.kind, p.path, seen.id, seen.format) == seen.place), None)
        if not seen.id or pool is None or _stranger_there(places, pool, seen):
            return self._taken(domain, seen, places)
        if known is not None and (known.vm_id or known.backup_id or known.state != "ready" or known.pool_id != pool.pk):
            self.refusals.append(Refusal("disk_taken", {"disk": seen.id}, field="uuid", status=409))
            return None
        place = {"id": seen.id, "device": "disk", "pool": pool.pk, "iso": None, "taken": None}
        return {**place, "format": seen.format, "known": known is not None}

    def _taken(self, domain: str, seen: SeenDisk, places: list[PoolOnNode]) -> dict[str, Any] | None:
        """A volume that is none of ours, which would get an id of its own."""
        found = [place for place in places if _may_hold(place.pool, seen)]
        if len(found) > 1:
            # A volume group is one place, whatever pools it has, and each knows its own volumes.
            found = [place for place in found if _stranger_there(found, place.pool, seen)]
        if len(found) != 1 or found[0].pool.state not in POOL_AT_REST:
            facts = {"domain": domain, "place": seen.place or seen.name}
            self.refusals.append(Refusal("stranger_disk", facts, field="uuid"))
            return None
        [pool] = (place.pool for place in found)
        name = os.path.basename(seen.place)
        image, why_not = image_named(pool, name, "uuid")
        self.refusals += why_not
        taken = {"name": name, "image": image, "size_bytes": seen.size_bytes, "nodes": sorted(_nodes_of(pool))}
        place = {"id": new_id(), "device": "disk", "pool": pool.pk, "iso": None, "taken": taken}
        return {**place, "format": seen.format, "known": False}

    def _drive(self, seen: SeenDisk) -> dict[str, Any] | None:
        name = os.path.basename(seen.place)
        iso = Iso.objects.filter(name=name, copies__node=self.node).first() if name else None
        if name and iso is None:
            self.refusals.append(Refusal("iso_unknown", field="uuid"))
            return None
        place = {"id": new_id(), "device": "cdrom", "pool": None, "iso": iso.pk if iso else None, "taken": None}
        return {**place, "format": "raw", "known": False}

    # --- interfaces ---------------------------------------------------------------------------------------

    def _nics(self, outline: Outline, *, off: bool) -> list[dict[str, Any]]:
        addresses = {one.get("nic"): one["address"] for one in self.node.facts.get("held", ())}
        rows = []
        for seen in outline.nics:
            network = self._network(seen, off=off)
            if network is None:
                continue
            if Nic.objects.filter(mac=seen.mac).exists():
                self.refusals.append(Refusal("mac_taken", {"mac": seen.mac}, field="uuid", status=409))
                continue
            pk = seen.tap.removeprefix(TAP)
            model = seen.model if seen.model in get_args(NicModel) else "virtio"
            new = re.fullmatch(ID, pk) is None
            nic = {"id": new_id() if new else pk, "mac": seen.mac, "model": model, "new": new}
            rows.append({**nic, "network": network.pk, "address": addresses.get(pk)})
        return rows

    def _network(self, seen: SeenNic, *, off: bool) -> Network | None:
        """The one that is named, else the only one on its bridge; only a guest that is off can come to another."""
        asked = self.params.networks.get(seen.mac)
        found = list(Network.objects.filter(pk=asked) if asked else Network.objects.filter(bridge=seen.bridge)[:2])
        if len(found) == 1 and (found[0].bridge == seen.bridge or (asked and off)):
            return found[0]
        facts = {"mac": seen.mac, "bridge": seen.bridge}
        self.refusals.append(Refusal("stranger_network", facts, field="networks"))
        return None


def _may_hold(pool: Pool, seen: SeenDisk) -> bool:
    """Whether the volume at that place could be the pool's, by the names alone."""
    folder, _slash, name = seen.place.rpartition("/")
    if not name:
        return False
    if pool.kind == "rbd":
        # Two clusters may each have a pool of that name.
        return folder == pool.path and not {_host(one) for one in pool.monitors}.isdisjoint(seen.hosts)
    if pool.kind == "directory":
        return folder == pool.path
    return folder == "/dev/" + pool.path.partition("/")[0]


def _host(monitor: str) -> str:
    """Without its port."""
    bracketed = re.fullmatch(r"\[(.+)\](:\d+)?", monitor)
    name, _colon, _port = monitor.rpartition(":")
    return bracketed[1] if bracketed else name if name and ":" not in name else monitor


def _stranger_there(places: list[PoolOnNode], pool: Pool, seen: SeenDisk) -> bool:
    """Whether the node found it there, when it looked last, without the mark of a disk."""
    name = os.path.basename(seen.place)
    return any(one["name"] == name for place in places if place.pool_id == pool.pk for one in place.strangers)


def _nodes_of(pool: Pool) -> list[str]:
    return list(pool.places.values_list("node", flat=True))


def _quoted(disk: dict[str, Any]) -> dict[str, Any]:
    """It stays as large as it is; 0: the node could not tell."""
    size_bytes = disk["taken"]["size_bytes"] or 0
    return {"pool": disk["pool"], "asked_bytes": size_bytes, "size_bytes": size_bytes, "granule_bytes": 1}
