"""Make a VM: rows and reservations first, then disks, NICs and the domain on its node, then its first start."""

import secrets
from collections.abc import Sequence
from typing import Annotated, Any

from django.utils.translation import gettext_lazy as _
from pydantic import Field, SecretStr, StringConstraints

from cluster import affinity, placement, states
from cluster.domain_specs import nic_spec, volume_of
from cluster.models import Address, Disk, Image, Iso, Network, Nic, Vm, VmState
from cluster.permissions import Actor
from cluster.refusals import Refusal, Refused
from cluster.saga.steps import Call, Context, Id, LockName, NoUndo, Operation, Params, Plan, Step, done
from nodes.contract.messages import (
    DiskCreate,
    DiskDelete,
    DomainStart,
    DomainStop,
    DomainUndefine,
    DomainWhereabouts,
    NicPlug,
    NicUnplug,
    VolumeFacts,
)
from nodes.contract.sizes import MAX_BYTES, MIB
from nodes.contract.specs import DiskBus, DiskSpec, Mac, Name, NicModel, Title

from .vm_plan import Planning
from .vm_power import define
from .vm_settle import settle_defined, settle_disk_exists, settle_power

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
        title: Title = ""
        tenant: Id | None = None
        node: Id | None = None
        group: Id | None = None
        """Of nodes: it is made on one of them, and moves to no other; None: anywhere."""
        affinity_groups: Annotated[list[Id], Field(max_length=affinity.MOST_OF_A_VM)] = []
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
        return Planning(actor, params).plan()

    @classmethod
    def begin(cls, actor: Actor, target: None, params: "VmCreate.Params", plan: Plan) -> Vm:
        data = plan.data
        if plan.choose is not None:
            data |= plan.choose()
        vm = Vm(
            name=params.name,
            title=params.title,
            tenant_id=data["tenant"],
            owner=actor.user,
            node_id=data["node"],
            node_group_id=data["group"],
            vcpus=params.vcpus,
            memory_bytes=params.memory_bytes,
            os=params.os or "",
        )
        if Vm.objects.filter(tenant_id=vm.tenant_id, name=vm.name).exists():
            raise Refused(Refusal("name_taken", {"name": vm.name}, field="name", status=409))
        check_stays(Image, params.image)
        check_stays(Iso, params.iso)
        affinity.hold(data["affinity_groups"], vm.node_id)
        placement.reserve(vm.node_id, vm)
        vm.save(force_insert=True)
        if data["affinity_groups"]:
            vm.affinity_groups.set(data["affinity_groups"])
        first_disk = 1
        if params.iso:
            Disk.objects.create(
                vm=vm,
                tenant_id=vm.tenant_id,
                owner_id=vm.owner_id,
                device="cdrom",
                iso_id=data["iso"],
                format="raw",
                bus="ide",
                boot_order=1,
                state="ready",
            )
            first_disk = 2
        for position, disk in enumerate(data["disks"]):
            placement.reserve_room(disk["pool"], disk["size_bytes"])
            Disk.objects.create(
                vm=vm,
                tenant_id=vm.tenant_id,
                owner_id=vm.owner_id,
                pool_id=disk["pool"],
                image_id=disk["image"],
                format=disk["format"],
                size_bytes=disk["size_bytes"],
                bus=disk["bus"],
                boot_order=first_disk if position == 0 else None,
                position=position,
            )
        networks = Network.objects.prefetch_related("ranges").in_bulk(data["networks"])
        for position, asked in enumerate(params.nics):
            _take_nic(vm, position, asked, networks[data["networks"][position]])
        return vm

    @classmethod
    def locks(cls, context: Context["VmCreate.Params"]) -> Sequence[LockName]:
        node = context.data["node"]  # None: no node can take it, and it is about to be refused
        nodes = [LockName("node:" + node, exclusive=False)] if node else []
        return [LockName("vm:" + context.subject_id), *nodes]

    @classmethod
    def recheck(cls, context: Context["VmCreate.Params"]) -> list[Refusal]:
        return []

    # The table of steps stands below the functions that it names.


# --- rows ---------------------------------------------------------------------------------------------------


def check_stays(model: Any, pk: str | None) -> None:
    """Asked in the transaction that makes a disk rest on it: a deletion may have begun since the plan."""
    row = model.objects.filter(pk=pk).first() if pk else None
    if pk and (row is None or row.state != "active"):
        raise Refused(Refusal("file_going", {"name": row.name if row else pk}, status=409))


def _take_nic(vm: Vm, position: int, asked: NicAsked, network: Network) -> None:
    """``network`` with its ranges fetched beforehand; its taken addresses are read anew for each interface."""
    if asked.mac and Nic.objects.filter(mac=asked.mac).exists():
        raise Refused(Refusal("mac_taken", {"mac": asked.mac}, field=f"nics.{position}.mac", status=409))
    mac = asked.mac or _free_mac()
    nic = Nic.objects.create(vm=vm, network=network, model=asked.model, mac=mac, position=position)
    if not network.ranges.all():
        return
    taken = network.taken() | network.held()
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
    placement.release(vm.node_id, vm)
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
    spec = DiskSpec(**volume_of(disk), size_bytes=disk.size_bytes, **backing)
    return Call(disk.vm.node_id, DiskCreate(disk=spec))


def disk_created(context: Context[Any], disk_id: str, result: VolumeFacts) -> None:
    disk = Disk.objects.filter(pk=disk_id)
    for pool_id, size_bytes in disk.filter(state="creating").values_list("pool_id", "size_bytes"):
        placement.release_room(pool_id or "", size_bytes)
    disk.update(state="ready", size_bytes=result.size_bytes)


def delete_disk(context: Context[Any], disk_id: str) -> Call | None:
    disk = Disk.objects.select_related("pool", "vm").filter(pk=disk_id).first()
    if disk is None or disk.vm is None or disk.pool is None:
        return None
    return Call(disk.vm.node_id, DiskDelete(**volume_of(disk)))


def nic_ids(context: Context[Any]) -> list[str]:
    return list(Nic.objects.filter(vm=context.subject_id).values_list("pk", flat=True))


def plug(node: str, nic_id: str) -> Call:
    """The interface's lease and filter on any node."""
    nic = Nic.objects.select_related("network", "lease").get(pk=nic_id)
    return Call(node, NicPlug(nic=nic_spec(nic)))


def unplug(node: str, nic_id: str) -> Call:
    nic = Nic.objects.select_related("network").get(pk=nic_id)
    return Call(node, NicUnplug(id=nic.pk, bridge=nic.network.bridge))


def plug_nic(context: Context[Any], nic_id: str) -> Call:
    nic = Nic.objects.select_related("vm", "network", "lease").get(pk=nic_id)
    return Call(nic.vm.node_id, NicPlug(nic=nic_spec(nic)))


def unplug_nic(context: Context[Any], nic_id: str) -> Call | None:
    nic = Nic.objects.select_related("vm", "network").filter(pk=nic_id).first()
    return Call(nic.vm.node_id, NicUnplug(id=nic.pk, bridge=nic.network.bridge)) if nic else None


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
    # A disk of which no node has said that it was made: this job was resolved as done. Nobody waits for its room.
    for disk in vm.disks.filter(state="creating", pool__isnull=False):
        disk_created(context, disk.pk, VolumeFacts(size_bytes=disk.size_bytes))
    states.move(vm, VmState.RUNNING if context.params.start else VmState.STOPPED)


# Somebody else's thing of the wanted name: it stopped the step, and it stops no undo.
FOREIGN = ("exists_not_ours",)

VmCreate.steps = (
    Step("reserve", _("Reserve room, memory and addresses"), do=done, undo=release),
    Step(
        "create_disk",
        _("Make the disk"),
        do=create_disk,
        undo=delete_disk,
        each=disk_ids,
        beside=True,
        after=disk_created,
        settle=settle_disk_exists,
        undone_by=FOREIGN,
    ),
    Step("plug_nic", _("Lease and filter"), do=plug_nic, undo=unplug_nic, each=nic_ids, beside=True),
    Step("define", _("Define the domain"), do=define, undo=undefine, settle=settle_defined, undone_by=FOREIGN),
    Step(
        "start",
        _("Start the guest"),
        do=start_guest,
        undo=stop_guest,
        after=guest_started,
        settle=settle_power("running"),
        undone_by=FOREIGN,
    ),
    Step("finish", _("Hand over"), do=finish, undo=NoUndo(_("the VM's row goes with its reservation"))),
)
