"""Make a volume that somebody else left in a pool a disk; it is marked and renamed, and its content stays as it is."""

from collections.abc import Sequence
from typing import Any

from django.db.models import Count, F
from django.utils.translation import gettext_lazy as _

from cluster import pools
from cluster.domain_specs import pool_spec, volume_of
from cluster.models import POOL_AT_REST, Disk, Image, ImageCopy, NodeState, Pool, Tenant
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, Id, LockName, Lost, NoUndo, Operation, Params, Plan, Step, done
from nodes.contract.messages import DiskGiveBack, DiskTake, FoundVolume, PoolFind, VolumeFacts
from nodes.contract.specs import FileName, Title

from .disk_attach import disk_of
from .vm_create import FOREIGN
from .vm_settle import settle_disk_exists


class ImportParams(Params):
    name: FileName
    """Of the volume in the pool: a file of the folder itself, a logical volume, an RBD image."""
    node: Id | None = None
    """Which does it; None: one that has the pool."""
    title: Title = ""
    """None said: the volume's name."""
    tenant: Id | None = None


class DiskImport(Operation[ImportParams]):
    code = "disk.import"
    noun = "pools"
    makes = "disks"
    label = _("Import a volume")
    hint = _("a volume that is nobody's becomes a disk, which a VM can then have; nothing is copied")
    icon = "database-import"
    Params = ImportParams

    @classmethod
    def obstacles(cls, target: Pool) -> list[Refusal]:
        return [] if target.state in POOL_AT_REST else [Refusal("pool_in_work", {"name": target.name}, status=409)]

    @classmethod
    def plan(cls, actor: Actor, target: Pool, params: ImportParams) -> Plan:
        refusals = []
        tenant = Tenant.objects.filter(**({"pk": params.tenant} if params.tenant else {"name": Tenant.DEFAULT})).first()
        if tenant is None:
            refusals.append(Refusal("tenant_unknown", field="tenant"))
        places = list(target.places.order_by("node__name").values_list("node_id", "node__state", "strangers"))
        nodes = [node for node, _state, _strangers in sorted(places, key=lambda place: place[1] == NodeState.OFFLINE)]
        if not nodes:
            refusals.append(Refusal("pool_nowhere", {"pool": target.name}))
        elif params.node and params.node not in nodes:
            refusals.append(Refusal("pool_not_there", {"pool": target.name}, field="node"))
        image, why_not = image_named(target, params.name, "name")
        refusals += why_not
        data = {
            "pool": target.pk,
            "nodes": sorted(nodes),
            "node": params.node or next(iter(nodes), None),
            "tenant": tenant.pk if tenant else None,
            "image": image,
            "vm": None,
        }
        seen = (stranger for _node, _state, strangers in places for stranger in strangers)
        known = next((stranger for stranger in seen if stranger["name"] == params.name), None)
        if known is None:
            return Plan(refusals=refusals, data=data)
        size_bytes = known["size_bytes"]
        row = {"pool": target.pk, "asked_bytes": size_bytes, "size_bytes": size_bytes, "granule_bytes": 1}
        return Plan(refusals=refusals, quote={"disks": [row], "price": None}, data=data)

    @classmethod
    def begin(cls, actor: Actor, target: Pool, params: ImportParams, plan: Plan) -> Disk:
        close_image(plan.data["image"])
        return Disk.objects.create(
            pool=target,
            tenant_id=plan.data["tenant"],
            owner=actor.user,
            title=params.title.strip() or params.name,
            format=target.usual_format,
        )

    @classmethod
    def locks(cls, context: Context[ImportParams]) -> Sequence[LockName]:
        own = [LockName(context.job.subject)] if context.job.subject.startswith("disk:") else []
        node = [LockName("node:" + context.data["node"], exclusive=False)] if context.data["node"] else []
        return [*own, LockName("pool:" + context.data["pool"], exclusive=False), *node]

    @classmethod
    def recheck(cls, context: Context[ImportParams]) -> list[Refusal]:
        return cls.obstacles(Pool.objects.get(pk=context.data["pool"]))

    # The table of steps stands below the functions that it names.


# --- the image that a file is, too ----------------------------------------------------------------------------


def image_named(pool: Pool, name: str, field: str) -> tuple[str | None, list[Refusal]]:
    """A node's folder of images shows each file in it as an image, too: that, and what hinders to take it."""
    if pool.attached:
        return None, []
    found = Image.objects.filter(name=name, stored=False, state="active", copies__node__pool_places__pool=pool)
    image = found.annotate(disks_count=Count("disks", distinct=True)).first()
    if image is None:
        return None, []
    used = Refusal("file_has_disks", {"name": image.name}, field=field)
    return image.pk, [used] if image.disks_count else []


def close_image(image: str | None) -> None:
    """No disk begins from it any more: whoever makes one looks at the state, serial to this transaction."""
    if image is not None:
        free = Image.objects.filter(pk=image, state="active").exclude(disks__isnull=False)
        if not free.update(state="removing"):
            raise Lost(image)


def open_image(image: str | None) -> None:
    """Its file stays what it was."""
    Image.objects.filter(pk=image).update(state="active")


def taken(pool: str, name: str, node: str, image: str | None) -> None:
    """The volume is a disk now, and its file no image any more."""
    if image is not None:
        ImageCopy.objects.filter(image=image, node=node).delete()
        open_image(image)
        Image.objects.filter(pk=image, copies__isnull=True, disks__isnull=True).delete()
    pools.forget_stranger(pool, name)


# --- steps --------------------------------------------------------------------------------------------------


def forget(context: Context[ImportParams], key: str) -> None:
    Disk.objects.filter(pk=context.subject_id).delete()
    open_image(context.data["image"])


def nodes_of(context: Context[ImportParams]) -> list[str]:
    return list(context.data["nodes"])


def find(context: Context[ImportParams], node: str) -> Call:
    pool = Pool.objects.get(pk=context.data["pool"])
    return Call(node, PoolFind(pool=pool_spec(pool), name=context.params.name))


def found(context: Context[ImportParams], key: str, result: FoundVolume) -> None:
    Disk.objects.filter(pk=context.subject_id).update(format=result.format, size_bytes=result.size_bytes)


def take(context: Context[ImportParams], key: str) -> Call:
    return Call(context.data["node"], DiskTake(**volume_of(disk_of(context)), name=context.params.name))


def measured(context: Context[ImportParams], key: str, result: VolumeFacts) -> None:
    Disk.objects.filter(pk=context.subject_id).update(size_bytes=result.size_bytes)


def give_back(context: Context[ImportParams], key: str) -> Call:
    return Call(context.data["node"], DiskGiveBack(**volume_of(disk_of(context)), name=context.params.name))


def finish(context: Context[Any], key: str) -> None:
    Disk.objects.filter(pk=context.subject_id).update(state="ready", version=F("version") + 1)
    data = context.data
    taken(data["pool"], context.params.name, data["node"], data["image"])


DiskImport.steps = (
    Step("reserve", _("Note the disk"), do=done, undo=forget),
    # Law 3: on a shared pool another node may have a domain that names the volume.
    Step("find", _("Look at the volume"), do=find, undo=NoUndo(_("it only looks")), each=nodes_of, after=found),
    Step(
        "take",
        _("Mark and rename the volume"),
        do=take,
        undo=give_back,
        after=measured,
        settle=settle_disk_exists,
        undone_by=FOREIGN,
    ),
    Step("finish", _("Hand over"), do=finish, undo=NoUndo(_("nothing can fail after it"))),
)
