"""Make a VM: rows and reservations first, then disks, NICs and the domain on its node, then its first start."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from django.db.models import Q
from django.utils.translation import gettext_lazy as _
from pydantic import Field, SecretStr, StringConstraints

from cluster import placement, states
from cluster.domain_specs import domain_spec, nic_spec, pool_spec
from cluster.models import Address, Disk, Image, Iso, Network, Nic, Node, Pool, Tenant, Vm, VmState
from cluster.os_catalogue import CATALOGUE
from cluster.permissions import Actor, visible
from cluster.refusals import NotKnown, Refusal, Refused
from cluster.saga.steps import Call, Context, LockName, NoUndo, Operation, Params, Plan, Step, done
from nodes.contract.messages import (
    DiskCreate,
    DiskDelete,
    DomainDefine,
    DomainStart,
    DomainStop,
    DomainUndefine,
    DomainWhereabouts,
    NicPlug,
    NicUnplug,
    VolumeFacts,
)
from nodes.contract.sizes import MAX_BYTES, MIB, round_up
from nodes.contract.specs import DiskBus, DiskSpec, Mac, Name, NicModel

from .vm_settle import settle_defined, settle_disk_exists, settle_power

Id = Annotated[str, StringConstraints(min_length=1, max_length=40)]
Text = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00]*$")]


class DiskAsked(Params):
    pool: Id | None = None
    size_bytes: Annotated[int, Field(ge=1, le=MAX_BYTES)]
    bus: DiskBus = "virtio"


class NicAsked(Params):
    network: Id
    model: NicModel = "virtio"
    mac: Mac | None = None
    address: Annotated[str, StringConstraints(pattern=r"^\d{1,3}(\.\d{1,3}){3}$")] | None = None


class CloudInit(Params):
    hostname: Name | None = None
    user: Text | None = None
    password: SecretStr | None = None
    ssh_keys: list[Text] = []
    user_data: Annotated[str, StringConstraints(max_length=65536)] | None = None


class VmCreate(Operation["VmCreate.Params"]):
    code = "vm.create"
    noun = "vms"
    creates = True
    label = _("Create a VM")
    icon = "plus"
    secret = ("cloud_init.password",)

    class Params(Params):
        name: Name
        title: Text = ""
        tenant: Id | None = None
        node: Id | None = None
        os: Annotated[str, StringConstraints(max_length=40)] | None = None
        vcpus: Annotated[int, Field(ge=1, le=512)]
        memory_bytes: Annotated[int, Field(ge=16 * MIB, le=MAX_BYTES)]
        image: Id | None = None
        iso: Id | None = None
        disks: Annotated[list[DiskAsked], Field(max_length=16)] = []
        nics: Annotated[list[NicAsked], Field(max_length=8)] = []
        start: bool = True
        cloud_init: CloudInit | None = None

    @classmethod
    def plan(cls, actor: Actor, target: None, params: "VmCreate.Params") -> Plan:
        return _Planning(actor, params).plan()

    @classmethod
    def begin(cls, actor: Actor, target: None, params: "VmCreate.Params", plan: Plan) -> Vm:
        data = plan.data
        vm = Vm(
            name=params.name,
            title=params.title,
            tenant_id=data["tenant"],
            owner=actor.user,
            node_id=data["node"],
            vcpus=params.vcpus,
            memory_bytes=params.memory_bytes,
            os=params.os or "",
        )
        if Vm.objects.filter(tenant_id=vm.tenant_id, name=vm.name).exists():
            raise Refused(Refusal("name_taken", {"name": vm.name}, field="name", status=409))
        placement.reserve_memory(vm.node_id, vm.memory_bytes)
        vm.save(force_insert=True)
        first_disk = 1
        if params.iso:
            Disk.objects.create(
                vm=vm, device="cdrom", iso_id=data["iso"], format="raw", bus="ide", boot_order=1, state="ready"
            )
            first_disk = 2
        for position, disk in enumerate(data["disks"]):
            placement.reserve_room(disk["pool"], disk["size_bytes"])
            Disk.objects.create(
                vm=vm,
                pool_id=disk["pool"],
                image_id=disk["image"],
                format=disk["format"],
                size_bytes=disk["size_bytes"],
                bus=disk["bus"],
                boot_order=first_disk if position == 0 else None,
                position=position,
            )
        for position, asked in enumerate(params.nics):
            _take_nic(vm, position, asked, data["networks"][position])
        return vm

    @classmethod
    def locks(cls, context: Context["VmCreate.Params"]) -> Sequence[LockName]:
        return [LockName("vm:" + context.subject_id), LockName("node:" + context.data["node"], exclusive=False)]

    @classmethod
    def recheck(cls, context: Context["VmCreate.Params"]) -> list[Refusal]:
        return []

    # The table of steps stands below the functions that it names.


# --- the plan ---------------------------------------------------------------------------------------------


@dataclass
class _Planning:
    actor: Actor
    params: VmCreate.Params
    refusals: list[Refusal] = field(default_factory=list)

    def plan(self) -> Plan:
        params = self.params
        tenant = self._tenant()
        image, iso = self._image(), self._iso()
        networks = [self._network(nic.network) for nic in params.nics]
        if image and not params.disks:
            self.refusals.append(Refusal("disk_needed", field="disks"))
        if params.os and params.os not in CATALOGUE:
            self.refusals.append(Refusal("os_unknown", {"os": params.os}, field="os"))
        if params.cloud_init:
            self.refusals.append(Refusal("cloud_init_unsupported", field="cloud_init"))
        if tenant and Vm.objects.filter(tenant=tenant, name=params.name).exists():
            self.refusals.append(Refusal("name_taken", {"name": params.name}, field="name", status=409))
        self._check_nics(networks)
        need = placement.Need(params.vcpus, params.memory_bytes, [n for n in networks if n], image, iso)
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
                "iso": iso.pk if iso else None,
                "disks": disks,
                "networks": [n.pk if n else None for n in networks],
            },
        )

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

    def _image(self) -> Image | None:
        if self.params.image and self.params.iso:
            self.refusals.append(Refusal("image_and_iso", field="image"))
        return self._one(Image, self.params.image, "image", "image_unknown")

    def _iso(self) -> Iso | None:
        return self._one(Iso, self.params.iso, "iso", "iso_unknown")

    def _network(self, pk: str) -> Network | None:
        return self._one(Network, pk, "nics", "network_unknown")

    def _one(self, model: Any, pk: str | None, name: str, code: str) -> Any:
        if pk is None:
            return None
        row = visible(model.objects.all(), self.actor).filter(pk=pk).first()
        if row is None:
            self.refusals.append(Refusal(code, field=name))
        return row

    def _candidates(self, need: placement.Need) -> list[placement.Candidate]:
        nodes = Node.objects.prefetch_related("image_copies", "iso_copies", "pool_places").select_related(
            "default_pool"
        )
        asked = self.params.node if not self.actor.is_tenant_side else None
        if asked:
            nodes = nodes.filter(pk=asked)
            if not nodes:
                raise NotKnown(f"node {asked}")
        rows = placement.candidates(need, list(nodes))
        pools = Pool.objects.filter(pk__in={d.pool for d in self.params.disks if d.pool})
        for row in rows:
            here = {place.pool_id for place in row.node.pool_places.all()}
            row.reasons += [
                Refusal("pool_elsewhere", {"pool": pool.name, "node": row.node.name}, field="disks")
                for pool in pools
                if pool.pk not in here
            ]
        for row in rows:
            if not row.reasons:
                row.reasons += self._no_room(row.node)
        rows.sort(key=lambda c: (bool(c.reasons), -c.score, c.node.name))
        return rows

    def _pool_of(self, node: Node, asked: DiskAsked) -> Pool | None:
        if asked.pool is None or self.actor.is_tenant_side:
            return node.default_pool
        return Pool.objects.filter(pk=asked.pool).first()

    def _no_room(self, node: Node) -> list[Refusal]:
        wanted: dict[str, int] = {}
        pools: dict[str, Pool] = {}
        for asked in self.params.disks:
            pool = self._pool_of(node, asked)
            if pool:
                pools[pool.pk] = pool
                wanted[pool.pk] = wanted.get(pool.pk, 0) + asked.size_bytes
        return [
            Refusal(
                "no_room",
                {"pool": pool.name, "node": node.name, "free": max(0, free), "needed": wanted[pool.pk]},
                field="disks",
                status=507,
            )
            for pool in pools.values()
            if wanted[pool.pk] > (free := pool.free_bytes - pool.reserved_bytes)
        ]

    def _disks(self, node: Node | None, image: Image | None) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for position, asked in enumerate(self.params.disks):
            pool = self._pool_of(node, asked) if node else None
            if pool is None:
                if asked.pool:
                    self.refusals.append(Refusal("pool_unknown", field=f"disks.{position}.pool"))
                continue
            chosen = "qcow2" if "qcow2" in pool.granules else "raw"
            granule = pool.granules[chosen]
            from_image = image if position == 0 else None
            if from_image and asked.size_bytes < from_image.virtual_size_bytes:
                facts = {
                    "asked": asked.size_bytes,
                    "image": from_image.name,
                    "needed": from_image.virtual_size_bytes,
                }
                self.refusals.append(Refusal("size_too_small", facts, field=f"disks.{position}.size_bytes"))
            rows.append(
                {
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
            return [summary]
        return reasons if len(rows) == 1 else [summary, *reasons]

    def _check_nics(self, networks: Sequence[Network | None]) -> None:
        asked_macs, asked_addresses = set(), set()
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
                taken = Address.objects.filter(network=network, address=nic.address).exists()
                if taken or (network.pk, nic.address) in asked_addresses:
                    self.refusals.append(Refusal("address_taken", {"address": nic.address}, field=path, status=409))
                asked_addresses.add((network.pk, nic.address))
            elif network.ranges.all() and placement.next_free_address(network, network.taken()) is None:
                self.refusals.append(Refusal("no_address", {"network": network.name}, field=path, status=507))


# --- rows ---------------------------------------------------------------------------------------------------


def _take_nic(vm: Vm, position: int, asked: NicAsked, network_id: str) -> None:
    network = Network.objects.get(pk=network_id)
    mac = asked.mac or _free_mac()
    if Nic.objects.filter(mac=mac).exists():
        raise Refused(Refusal("mac_taken", {"mac": mac}, field=f"nics.{position}.mac", status=409))
    nic = Nic.objects.create(vm=vm, network=network, model=asked.model, mac=mac, position=position)
    if not network.ranges.exists():
        return
    taken = network.taken()
    address = asked.address or placement.next_free_address(network, taken)
    if address is None:
        raise Refused(Refusal("no_address", {"network": network.name}, field=f"nics.{position}", status=507))
    if address in taken:
        raise Refused(Refusal("address_taken", {"address": address}, field=f"nics.{position}.address", status=409))
    Address.objects.create(network=network, address=address, nic=nic)


def _free_mac() -> str:
    """QEMU's own prefix 52:54:00, then three random bytes that nobody has."""
    while True:
        mac = "52:54:00:" + ":".join(f"{b:02x}" for b in secrets.token_bytes(3))
        if not Nic.objects.filter(mac=mac).exists():
            return mac


# --- steps --------------------------------------------------------------------------------------------------


def _vm(context: Context[Any]) -> Vm:
    return Vm.objects.get(pk=context.subject_id)


def release(context: Context[VmCreate.Params], key: str) -> None:
    vm = Vm.objects.filter(pk=context.subject_id).first()
    if vm is None:
        return
    for disk in vm.disks.filter(state="creating", pool__isnull=False):
        placement.release_room(disk.pool_id or "", disk.size_bytes)
    placement.release_memory(vm.node_id, vm.memory_bytes)
    vm.disks.all().delete()
    states.forget(vm)


def disk_ids(context: Context[Any]) -> list[str]:
    return list(Disk.objects.filter(vm=context.subject_id, device="disk").values_list("pk", flat=True))


def create_disk(context: Context[VmCreate.Params], disk_id: str) -> Call:
    disk = Disk.objects.select_related("pool", "image", "vm").get(pk=disk_id)
    assert disk.pool
    assert disk.vm
    backing = {}
    if disk.image:
        path = f"{disk.pool.path}/{disk.image.name}"
        backing = {"backing": path, "backing_format": disk.image.format}
    spec = DiskSpec(id=disk.pk, pool=pool_spec(disk.pool), format=disk.format, size_bytes=disk.size_bytes, **backing)
    return Call(disk.vm.node_id, DiskCreate(disk=spec))


def disk_created(context: Context[VmCreate.Params], disk_id: str, result: VolumeFacts) -> None:
    disk = Disk.objects.get(pk=disk_id)
    if disk.state == "creating":
        placement.release_room(disk.pool_id or "", disk.size_bytes)
    Disk.objects.filter(pk=disk_id).update(state="ready", size_bytes=result.size_bytes)


def delete_disk(context: Context[Any], disk_id: str) -> Call | None:
    disk = Disk.objects.select_related("pool", "vm").filter(pk=disk_id).first()
    if disk is None or disk.vm is None or disk.pool is None:
        return None
    return Call(disk.vm.node_id, DiskDelete(id=disk.pk, pool=pool_spec(disk.pool), format=disk.format))


def nic_ids(context: Context[Any]) -> list[str]:
    return list(Nic.objects.filter(vm=context.subject_id).values_list("pk", flat=True))


def plug_nic(context: Context[Any], nic_id: str) -> Call:
    nic = Nic.objects.select_related("vm", "network", "lease").get(pk=nic_id)
    return Call(nic.vm.node_id, NicPlug(nic=nic_spec(nic)))


def unplug_nic(context: Context[Any], nic_id: str) -> Call | None:
    nic = Nic.objects.select_related("vm", "network").filter(pk=nic_id).first()
    return Call(nic.vm.node_id, NicUnplug(id=nic.pk, bridge=nic.network.bridge)) if nic else None


def define(context: Context[VmCreate.Params], key: str) -> Call:
    vm = _vm(context)
    return Call(vm.node_id, DomainDefine(domain=domain_spec(vm)))


def undefine(context: Context[VmCreate.Params], key: str) -> Call | None:
    vm = Vm.objects.filter(pk=context.subject_id).first()
    return Call(vm.node_id, DomainUndefine(vm=vm.pk, uuid=vm.uuid)) if vm else None


def start_guest(context: Context[VmCreate.Params], key: str) -> Call | None:
    if not context.params.start:
        return None
    vm = _vm(context)
    return Call(vm.node_id, DomainStart(vm=vm.pk, uuid=vm.uuid))


def guest_started(context: Context[VmCreate.Params], key: str, result: DomainWhereabouts) -> None:
    context.data["started"] = result.state


def stop_guest(context: Context[VmCreate.Params], key: str) -> Call | None:
    vm = Vm.objects.filter(pk=context.subject_id).first()
    return Call(vm.node_id, DomainStop(vm=vm.pk, uuid=vm.uuid)) if vm and context.params.start else None


def finish(context: Context[VmCreate.Params], key: str) -> None:
    vm = _vm(context)
    states.move(vm, VmState.RUNNING if context.params.start else VmState.STOPPED)


VmCreate.steps = (
    Step("reserve", _("Reserve room, memory and addresses"), do=done, undo=release),
    Step(
        "create_disk",
        _("Make the disk"),
        do=create_disk,
        undo=delete_disk,
        each=disk_ids,
        after=disk_created,
        settle=settle_disk_exists,
    ),
    Step("plug_nic", _("Lease and filter"), do=plug_nic, undo=unplug_nic, each=nic_ids),
    Step("define", _("Define the domain"), do=define, undo=undefine, settle=settle_defined),
    Step(
        "start",
        _("Start the guest"),
        do=start_guest,
        undo=stop_guest,
        after=guest_started,
        settle=settle_power("running"),
    ),
    Step("finish", _("Hand over"), do=finish, undo=NoUndo("the VM's row goes with its reservation")),
)
