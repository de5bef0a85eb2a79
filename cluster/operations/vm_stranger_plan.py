"""What VM a domain that the panel does not know would be, and every reason why it cannot be one.

Not an operation: the planning half of :mod:`cluster.operations.node_adopt_domain`. Reads only.
"""

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from django.db.models import Q

from cluster.domain_drift import place_of
from cluster.models import Disk, Iso, Network, Nic, Node, Pool, Tenant, Vm, new_id
from cluster.refusals import Refusal
from cluster.saga.steps import Plan
from nodes.contract.specs import DiskBus, NicModel, Outline, SeenDisk, SeenNic

if TYPE_CHECKING:
    from .node_adopt_domain import AdoptDomainParams

TAP, ID = "ul", r"[a-z2-7]{13}"


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
        name = self.params.name or stranger["name"].rpartition(".")[0] or stranger["name"]
        self._check_names(stranger, name, tenant)
        data = {
            "node": self.node.pk,
            "vm": stranger["vm"] or self.params.uuid,
            "name": name,
            "title": outline.title,
            "tenant": tenant.pk if tenant else None,
            "vcpus": outline.vcpus,
            "memory_bytes": outline.memory_bytes,
            "disks": self._disks(stranger["name"], outline),
            "nics": self._nics(outline),
            "planned": stranger["outline"],
        }
        return Plan(refusals=self.refusals, data=data)

    def _tenant(self) -> Tenant | None:
        asked = self.params.tenant or Tenant.DEFAULT
        found = Tenant.objects.filter(Q(pk=asked) | Q(name=asked)).first()
        if found is None:
            self.refusals.append(Refusal("tenant_unknown", field="tenant"))
        return found

    def _check_names(self, stranger: dict[str, Any], name: str, tenant: Tenant | None) -> None:
        facts = {"domain": stranger["name"], "node": self.node.name}
        if stranger["vm"] is None or Vm.objects.filter(pk=stranger["vm"]).exists():
            # Without a VM's id in its name it would have to be renamed, and its disks to be taken over first.
            self.refusals.append(Refusal("stranger_foreign", facts, field="uuid"))
        elif name != stranger["name"].rpartition(".")[0]:
            self.refusals.append(Refusal("stranger_keeps_name", facts, field="name"))
        if tenant and Vm.objects.filter(tenant=tenant, name=name).exists():
            self.refusals.append(Refusal("name_taken", {"name": name}, field="name", status=409))

    # --- disks --------------------------------------------------------------------------------------------

    def _disks(self, domain: str, outline: Outline) -> list[dict[str, Any]]:
        pools = list(Pool.objects.filter(places__node=self.node).order_by("pk"))
        known = Disk.objects.in_bulk([disk.id for disk in outline.disks if disk.id])
        rows = []
        for position, seen in enumerate(outline.disks):
            row = self._drive(seen) if seen.device == "cdrom" else self._disk(domain, seen, pools, known.get(seen.id))
            if row is not None:
                rows.append({"position": position, "bus": seen.bus, "boot_order": seen.boot_order, **row})
        return rows

    def _disk(self, domain: str, seen: SeenDisk, pools: list[Pool], known: Disk | None) -> dict[str, Any] | None:
        """Here another way in would begin: a volume that is none of ours, imported under an id of its own."""
        facts = {"domain": domain, "place": seen.place or seen.name}
        pool = next((p for p in pools if place_of(p.kind, p.path, seen.id, seen.format) == seen.place), None)
        if not seen.id or pool is None or seen.device != "disk" or seen.bus not in get_args(DiskBus):
            self.refusals.append(Refusal("stranger_disk", facts, field="uuid"))
            return None
        if known is not None and (known.vm_id or known.backup_id or known.state != "ready" or known.pool_id != pool.pk):
            self.refusals.append(Refusal("disk_taken", {"disk": seen.id}, field="uuid", status=409))
            return None
        place = {"id": seen.id, "device": "disk", "pool": pool.pk, "iso": None}
        return {**place, "format": seen.format, "known": known is not None}

    def _drive(self, seen: SeenDisk) -> dict[str, Any] | None:
        name = os.path.basename(seen.place)
        iso = Iso.objects.filter(name=name, copies__node=self.node).first() if name else None
        if name and iso is None:
            self.refusals.append(Refusal("iso_unknown", field="uuid"))
            return None
        place = {"id": new_id(), "device": "cdrom", "pool": None, "iso": iso.pk if iso else None}
        return {**place, "format": "raw", "known": False}

    # --- interfaces ---------------------------------------------------------------------------------------

    def _nics(self, outline: Outline) -> list[dict[str, Any]]:
        addresses = {one.get("nic"): one["address"] for one in self.node.facts.get("held", ())}
        rows = []
        for seen in outline.nics:
            network = self._network(seen)
            if network is None:
                continue
            if Nic.objects.filter(mac=seen.mac).exists():
                self.refusals.append(Refusal("mac_taken", {"mac": seen.mac}, field="uuid", status=409))
                continue
            pk = seen.tap.removeprefix(TAP)
            model = seen.model if seen.model in get_args(NicModel) else "virtio"
            nic = {"id": pk if re.fullmatch(ID, pk) else new_id(), "mac": seen.mac, "model": model}
            rows.append({**nic, "network": network.pk, "address": addresses.get(pk)})
        return rows

    def _network(self, seen: SeenNic) -> Network | None:
        """The one that is named, else the only one on its bridge."""
        asked = self.params.networks.get(seen.mac)
        found = list(Network.objects.filter(pk=asked) if asked else Network.objects.filter(bridge=seen.bridge)[:2])
        if len(found) == 1 and found[0].bridge == seen.bridge:
            return found[0]
        facts = {"mac": seen.mac, "bridge": seen.bridge}
        self.refusals.append(Refusal("stranger_network", facts, field="networks"))
        return None
