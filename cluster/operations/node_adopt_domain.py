"""Make a VM of a domain that the panel does not know: made by hand, or since the backup from which it was put back.

A domain whose name and volumes are ours goes on as it is, and gets the panel's definition. What is somebody else's,
volumes in pools of ours and the domain itself, is taken over only while it is off, because all of it gets other
names: each volume is marked, then renamed, as ``disk.import`` does it; the domain last. Until then the undo gives
everything back under its old name, and nothing of it is ever deleted.
"""

from collections.abc import Sequence
from typing import Any

from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from cluster import placement, states, strangers
from cluster.domain_specs import domain_spec, pool_spec, volume_of
from cluster.models import Address, Disk, Network, Nic, Node, Pool, Vm
from cluster.permissions import Actor
from cluster.refusals import Refusal, Refused
from cluster.saga.steps import Call, Context, Id, LockName, NoUndo, Operation, Params, Plan, Step, done
from nodes.contract.messages import (
    DiskGiveBack,
    DiskLook,
    DiskState,
    DiskTake,
    DomainAdopt,
    DomainDefine,
    DomainGiveBack,
    DomainRead,
    DomainTake,
    FoundVolume,
    PoolFind,
    ReadDomain,
    VolumeFacts,
)
from nodes.contract.specs import Mac, Name, Outline, Uuid

from .disk_import import close_image, open_image, taken
from .vm_create import FOREIGN, disk_ids, nic_ids, plug_nic, unplug_nic
from .vm_reapply import ON
from .vm_settle import settle_defined, settle_disk_exists
from .vm_stranger_plan import OFF, StrangerPlanning


class AdoptDomainParams(Params):
    uuid: Uuid
    name: Name | None = None
    """Of the VM; None: as the domain is named."""
    tenant: Id | None = None
    networks: dict[Mac, Id] = {}
    """Of an interface, where its bridge does not say it."""


class NodeAdoptDomain(Operation[AdoptDomainParams]):
    code = "node.adopt_domain"
    noun = "nodes"
    makes = "vms"
    label = _("Take a domain over")
    hint = _("a domain that the panel does not know becomes a VM; one that was made by hand must be off")
    icon = "plus"
    Params = AdoptDomainParams

    @classmethod
    def obstacles(cls, target: Node) -> list[Refusal]:
        return [] if target.strangers else [Refusal("no_strangers", {"node": target.name}, status=409)]

    @classmethod
    def plan(cls, actor: Actor, target: Node, params: AdoptDomainParams) -> Plan:
        return StrangerPlanning(target, params).plan()

    @classmethod
    def begin(cls, actor: Actor, target: Node, params: AdoptDomainParams, plan: Plan) -> Vm:
        data = plan.data
        if Vm.objects.filter(Q(pk=data["vm"]) | Q(uuid=params.uuid) | _same_name(data)).exists():
            raise Refused(Refusal("name_taken", {"name": data["name"]}, field="name", status=409))
        vm = Vm.objects.create(
            pk=data["vm"],
            uuid=params.uuid,
            name=data["name"],
            title=data["title"],
            tenant_id=data["tenant"],
            owner=actor.user,
            node=target,
            vcpus=data["vcpus"],
            memory_bytes=data["memory_bytes"],
        )
        (placement.take if data["ours"] else placement.reserve)(target.pk, vm)
        for disk in data["disks"]:
            close_image(disk["taken"]["image"] if disk["taken"] else None)
            _take_disk(vm, disk)
        networks = Network.objects.prefetch_related("ranges").in_bulk([nic["network"] for nic in data["nics"]])
        for position, nic in enumerate(data["nics"]):
            _take_nic(vm, position, nic, networks[nic["network"]])
        return vm

    @classmethod
    def locks(cls, context: Context[AdoptDomainParams]) -> Sequence[LockName]:
        disks = context.data["disks"]
        shared = {"node:" + context.data["node"], *("pool:" + disk["pool"] for disk in disks if disk["taken"])}
        own = [LockName("disk:" + disk["id"]) for disk in disks]
        return [LockName("vm:" + context.data["vm"]), *(LockName(name, exclusive=False) for name in shared), *own]

    @classmethod
    def recheck(cls, context: Context[AdoptDomainParams]) -> list[Refusal]:
        return []

    # The table of steps stands below the functions that it names.


def _same_name(data: dict[str, Any]) -> Q:
    return Q(tenant=data["tenant"], name=data["name"])


# --- rows ---------------------------------------------------------------------------------------------------


def _take_disk(vm: Vm, had: dict[str, Any]) -> None:
    """One that has a row already is loose: the plan has seen to that, and it is asked again here."""
    place = {"device": had["device"], "pool_id": had["pool"], "iso_id": had["iso"], "format": had["format"]}
    its = {**place, "bus": had["bus"], "boot_order": had["boot_order"], "position": had["position"]}
    whose = {"vm": vm, "tenant_id": vm.tenant_id, "owner_id": vm.owner_id}
    if not had["known"]:
        state = "creating" if had["pool"] else "ready"
        Disk.objects.create(pk=had["id"], **its, **whose, state=state)
    elif not Disk.objects.filter(pk=had["id"], vm=None, backup=None, state="ready").update(
        **its, **whose, version=F("version") + 1
    ):
        raise Refused(Refusal("disk_taken", {"disk": had["id"]}, status=409))


def _take_nic(vm: Vm, position: int, had: dict[str, Any], network: Network) -> None:
    if Nic.objects.filter(Q(mac=had["mac"]) | Q(pk=had["id"])).exists():
        raise Refused(Refusal("mac_taken", {"mac": had["mac"]}, status=409))
    its = {"mac": had["mac"], "model": had["model"], "position": position}
    nic = Nic.objects.create(pk=had["id"], vm=vm, network=network, **its)
    if not network.ranges.all():
        return
    taken = network.taken()
    held = had["address"]
    if held is None or held in taken or not any(span.holds(held) for span in network.ranges.all()):
        held = placement.next_free_address(network, taken | network.held())
    if held is None:
        raise Refused(Refusal("no_address", {"network": network.name}, status=507))
    Address.objects.create(network=network, address=held, nic=nic)


def forget(context: Context[AdoptDomainParams], key: str) -> None:
    """The domain is as it was; disks that had a row are loose again."""
    vm = Vm.objects.filter(pk=context.subject_id).first()
    if vm is None:
        return
    known = [disk["id"] for disk in context.data["disks"] if disk["known"]]
    states.loosen(Disk.objects.filter(pk__in=known, vm=vm))
    vm.disks.all().delete()
    for disk in _taken(context).values():
        open_image(disk["taken"]["image"])
    placement.release(vm.node_id, vm)
    states.forget(vm)


# --- steps --------------------------------------------------------------------------------------------------


def _vm(context: Context[Any]) -> Vm:
    return Vm.objects.get(pk=context.subject_id)


def _taken(context: Context[AdoptDomainParams]) -> dict[str, dict[str, Any]]:
    """Disks whose volumes are somebody else's."""
    return {disk["id"]: disk for disk in context.data["disks"] if disk["taken"]}


def own_ids(context: Context[AdoptDomainParams]) -> list[str]:
    return [disk for disk in disk_ids(context) if disk not in _taken(context)]


def taken_ids(context: Context[AdoptDomainParams]) -> list[str]:
    return list(_taken(context))


def taken_on(context: Context[AdoptDomainParams]) -> list[str]:
    """``<disk>@<node>``, for each node that has its pool: on another one a domain may name the volume, too (law 3)."""
    return [f"{pk}@{node}" for pk, disk in _taken(context).items() for node in disk["taken"]["nodes"]]


def find(context: Context[AdoptDomainParams], key: str) -> Call:
    disk_id, _at, node = key.partition("@")
    disk = _taken(context)[disk_id]
    pool = pool_spec(Pool.objects.get(pk=disk["pool"]))
    return Call(node, PoolFind(pool=pool, name=disk["taken"]["name"], **_user(context, node)))


def _user(context: Context[AdoptDomainParams], node: str) -> dict[str, Any]:
    return {"user": context.params.uuid} if node == context.data["node"] else {}


def found(context: Context[AdoptDomainParams], key: str, result: FoundVolume) -> None:
    """A volume that is read otherwise than it was until now would have another content."""
    disk_id, _at, _node = key.partition("@")
    same = result.format == _taken(context)[disk_id]["format"]
    context.data.setdefault("sizes", {})[disk_id] = result.size_bytes if same else None


def take(context: Context[AdoptDomainParams], disk_id: str) -> Call:
    disk, node = Disk.objects.select_related("pool").get(pk=disk_id), context.data["node"]
    name = _taken(context)[disk_id]["taken"]["name"]
    return Call(node, DiskTake(**volume_of(disk), name=name, **_user(context, node)))


def measured(context: Context[AdoptDomainParams], disk_id: str, result: VolumeFacts) -> None:
    Disk.objects.filter(pk=disk_id).update(size_bytes=result.size_bytes)


def give_back(context: Context[AdoptDomainParams], disk_id: str) -> Call:
    disk = Disk.objects.select_related("pool").get(pk=disk_id)
    return Call(context.data["node"], DiskGiveBack(**volume_of(disk), name=_taken(context)[disk_id]["taken"]["name"]))


def unplug_new(context: Context[AdoptDomainParams], nic_id: str) -> Call | None:
    """Of one that the domain had before, the guest has lease and filter already."""
    new = {nic["id"] for nic in context.data["nics"] if nic["new"]}
    return unplug_nic(context, nic_id) if nic_id in new else None


def look(context: Context[AdoptDomainParams], disk_id: str) -> Call:
    disk = Disk.objects.select_related("pool").get(pk=disk_id)
    return Call(context.data["node"], DiskLook(**volume_of(disk)))


def looked(context: Context[AdoptDomainParams], disk_id: str, result: DiskState) -> None:
    context.data.setdefault("sizes", {})[disk_id] = result.size_bytes if result.ours else None


def read(context: Context[AdoptDomainParams], key: str) -> Call:
    vm = _vm(context)
    return Call(vm.node_id, DomainRead(vm=vm.pk, uuid=vm.uuid, **_called(context)))


def _called(context: Context[AdoptDomainParams]) -> dict[str, str]:
    """The name of a domain that has none of ours."""
    called = context.data["called"]
    return {"name": called} if called else {}


def was_read(context: Context[AdoptDomainParams], key: str, result: ReadDomain) -> None:
    context.data["state"] = result.state
    context.data["outline"] = result.outline.model_dump(mode="json") if result.outline else None


def check(context: Context[AdoptDomainParams], key: str) -> None:
    """What was planned may be minutes old."""
    data = context.data
    outline = Outline.model_validate(data["outline"]) if data["outline"] else None
    as_planned = outline == Outline.model_validate(data["planned"])
    if data["state"] not in (OFF if data["called"] else states.SEEN) or not as_planned:
        raise Refused(Refusal("stranger_changed", {"domain": data["name"]}, status=409))
    for disk_id, size_bytes in data.get("sizes", {}).items():
        if size_bytes is None and disk_id in _taken(context):
            its = _taken(context)[disk_id]
            facts = {"name": its["taken"]["name"], "format": its["format"], "domain": data["name"]}
            raise Refused(Refusal("stranger_format", facts, status=409))
        if size_bytes is None:
            raise Refused(Refusal("disk_not_ours", {"disk": disk_id}, status=409))
        Disk.objects.filter(pk=disk_id).update(size_bytes=size_bytes, state="ready")


def define(context: Context[AdoptDomainParams], key: str) -> Call:
    vm, state = _vm(context), states.SEEN[context.data["state"]]
    if called := context.data["called"]:
        return Call(vm.node_id, DomainTake(domain=domain_spec(vm), name=called))
    if state in ON:
        return Call(vm.node_id, DomainAdopt(domain=domain_spec(vm), state=ON[state]))
    return Call(vm.node_id, DomainDefine(domain=domain_spec(vm)))


def give_domain_back(context: Context[AdoptDomainParams], key: str) -> Call | None:
    """One that was ours keeps the definition that it has got, which says the same."""
    vm, called = Vm.objects.filter(pk=context.subject_id).first(), context.data["called"]
    return Call(vm.node_id, DomainGiveBack(vm=vm.pk, uuid=vm.uuid, name=called)) if vm and called else None


def defined(context: Context[AdoptDomainParams], key: str, result: Any) -> None:
    context.data["state"] = result.state if result.state in states.SEEN else context.data["state"]


def finish(context: Context[AdoptDomainParams], key: str) -> None:
    vm = _vm(context)
    states.move(vm, states.SEEN[context.data["state"]])
    strangers.forget(vm.node_id, vm.uuid)
    for disk in _taken(context).values():
        taken(disk["pool"], disk["taken"]["name"], vm.node_id, disk["taken"]["image"])


NodeAdoptDomain.steps = (
    Step("reserve", _("Note the VM, its disks and its interfaces"), do=done, undo=forget),
    Step("look", _("Look at the disk"), do=look, undo=NoUndo(_("it only looks")), each=own_ids, after=looked),
    Step("find", _("Look at the volume"), do=find, undo=NoUndo(_("it only looks")), each=taken_on, after=found),
    Step("read", _("Read the definition"), do=read, undo=NoUndo(_("it only looks")), after=was_read),
    Step("check", _("Compare both with the plan"), do=check, undo=NoUndo(_("the rows go with the reservation"))),
    Step(
        "take",
        _("Mark and rename the volume"),
        do=take,
        undo=give_back,
        each=taken_ids,
        after=measured,
        settle=settle_disk_exists,
        undone_by=FOREIGN,
    ),
    Step("plug_nic", _("Lease and filter"), do=plug_nic, undo=unplug_new, each=nic_ids),
    Step(
        "define",
        _("Define the domain"),
        do=define,
        undo=give_domain_back,
        after=defined,
        settle=settle_defined,
        undone_by=FOREIGN,
    ),
    Step("finish", _("Hand over"), do=finish, undo=NoUndo(_("the VM's row goes with its reservation"))),
)
