"""Make a disk, for a VM or for later."""

from collections.abc import Sequence
from typing import Annotated, Any

from django.utils.translation import gettext_lazy as _
from pydantic import Field

from cluster import placement
from cluster.domain_specs import disk_spec, volume_of
from cluster.models import POOL_AT_REST, Disk, NodeState, Pool, Tenant, Vm
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, Id, LockName, NoUndo, Operation, Params, Plan, Step, done
from nodes.contract.messages import DiskCreate as Create
from nodes.contract.messages import DiskDelete, VolumeFacts
from nodes.contract.sizes import MAX_BYTES, round_up
from nodes.contract.specs import DiskBus, DiskFormat, Title

from .disk_attach import ATTACH, cannot_take, disk_of, locks_of, vm_asked
from .disk_attach import finish as hand_over
from .vm_create import FOREIGN, disk_created
from .vm_power import vm_of
from .vm_settle import settle_disk_exists


class DiskParams(Params):
    size_bytes: Annotated[int, Field(ge=1, le=MAX_BYTES)]
    vm: Id | None = None
    """None: a disk for later, which belongs to no VM yet."""
    pool: Id | None = None
    """None: the default pool of the VM's node."""
    format: DiskFormat | None = None
    bus: DiskBus = "virtio"
    title: Title = ""
    tenant: Id | None = None
    """Of a disk without a VM."""


class DiskCreate(Operation[DiskParams]):
    code = "disk.create"
    noun = "disks"
    creates = True
    label = _("Create a disk")
    hint = _("a guest that runs sees it at once, where it can")
    icon = "database-plus"
    Params = DiskParams

    @classmethod
    def plan(cls, actor: Actor, target: None, params: DiskParams) -> Plan:
        refusals: list[Refusal] = []
        vm = vm_asked(actor, params.vm) if params.vm else None
        if params.vm and vm is None:
            refusals.append(Refusal("vm_unknown", field="vm"))
        elif vm is None and actor.is_tenant_side:
            refusals.append(Refusal("vm_needed", field="vm"))
        tenant = _tenant(params) if vm is None else vm.tenant_id
        if tenant is None:
            refusals.append(Refusal("tenant_unknown", field="tenant"))
        pool = _pool(actor, params, vm)
        if pool is None:
            refusals.append(Refusal("pool_unknown" if params.pool or vm else "pool_needed", field="pool"))
            return Plan(refusals=refusals)
        chosen = params.format or pool.usual_format
        if chosen not in pool.granules:
            facts = {"pool": pool.name, "format": chosen, "formats": sorted(pool.granules)}
            return Plan(refusals=[*refusals, Refusal("format_unsupported", facts, field="format")])
        granule_bytes = pool.granules[chosen]
        size_bytes = round_up(params.size_bytes, granule_bytes)
        node = vm.node_id if vm else at_hand(pool)
        if node is None:
            refusals.append(Refusal("pool_nowhere", {"pool": pool.name}, field="pool"))
        refusals += placement.closed(pool, "pool")
        refusals += placement.off_grid(pool, params.size_bytes, granule_bytes, "size_bytes")
        if vm:
            refusals += cannot_take(vm, pool)
        if size_bytes > placement.free_room_bytes(pool):
            refusals.append(placement.no_room(pool, vm.node if vm else None, size_bytes, "size_bytes"))
        row: dict[str, Any] = {
            "pool": None if actor.is_tenant_side else pool.pk,
            "asked_bytes": params.size_bytes,
            "size_bytes": size_bytes,
            "granule_bytes": granule_bytes,
        }
        data = {"vm": vm.pk if vm else None, "bus": params.bus, "node": node, "pool": pool.pk, "format": chosen}
        return Plan(
            refusals=refusals,
            quote={"disks": [row], "price": None},
            data=data | {"tenant": tenant, "size_bytes": size_bytes},
        )

    @classmethod
    def begin(cls, actor: Actor, target: None, params: DiskParams, plan: Plan) -> Disk:
        data = plan.data
        placement.reserve_room(data["pool"], data["size_bytes"])
        return Disk.objects.create(
            pool_id=data["pool"],
            tenant_id=data["tenant"],
            owner=actor.user,
            title=params.title.strip(),
            format=data["format"],
            size_bytes=data["size_bytes"],
            bus=params.bus,
        )

    @classmethod
    def locks(cls, context: Context[DiskParams]) -> Sequence[LockName]:
        return [*locks_of(context), LockName("node:" + context.data["node"], exclusive=False)]

    @classmethod
    def recheck(cls, context: Context[DiskParams]) -> list[Refusal]:
        if not context.data["vm"]:
            return []
        pool = disk_of(context).pool
        assert pool
        return cannot_take(vm_of(context), pool)

    # The table of steps stands below the functions that it names.


def _tenant(params: DiskParams) -> str | None:
    wanted = {"pk": params.tenant} if params.tenant else {"name": Tenant.DEFAULT}
    return Tenant.objects.filter(**wanted).values_list("pk", flat=True).first()


def _pool(actor: Actor, params: DiskParams, vm: Vm | None) -> Pool | None:
    if params.pool and not actor.is_tenant_side:
        return Pool.objects.filter(pk=params.pool, state__in=POOL_AT_REST).first()
    return vm.node.default_pool if vm else None


def at_hand(pool: Pool) -> str | None:
    """A node that has the pool, one that answers where there is one."""
    return next(iter(nodes_with(pool)), None)


def nodes_with(pool: Pool) -> list[str]:
    """Those that answer first."""
    places = pool.places.values_list("node__state", "node_id").order_by("node__name")
    return [node for _state, node in sorted(places, key=lambda place: place[0] == NodeState.OFFLINE)]


def release(context: Context[DiskParams], key: str) -> None:
    if Disk.objects.filter(pk=context.subject_id, state="creating").exists():
        placement.release_room(context.data["pool"], context.data["size_bytes"])
    Disk.objects.filter(pk=context.subject_id).delete()


def create(context: Context[DiskParams], key: str) -> Call:
    return Call(context.data["node"], Create(disk=disk_spec(disk_of(context))))


def created(context: Context[DiskParams], key: str, result: VolumeFacts) -> None:
    disk_created(context, context.subject_id, result)


def delete(context: Context[Any], key: str) -> Call:
    return Call(context.data["node"], DiskDelete(**volume_of(disk_of(context))))


def finish(context: Context[DiskParams], key: str) -> None:
    unfinished = Disk.objects.filter(pk=context.subject_id, state="creating").values_list("size_bytes", flat=True)
    for size_bytes in unfinished:  # this job was resolved as done: nobody waits for its room
        created(context, key, VolumeFacts(size_bytes=size_bytes))
    hand_over(context, key)


DiskCreate.steps = (
    Step("reserve", _("Reserve room"), do=done, undo=release),
    Step(
        "create",
        _("Make the disk"),
        do=create,
        undo=delete,
        after=created,
        settle=settle_disk_exists,
        undone_by=FOREIGN,
    ),
    *ATTACH,
    Step("finish", _("Hand over"), do=finish, undo=NoUndo(_("nothing can fail after it"))),
)
