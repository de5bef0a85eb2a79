"""Make a volume that somebody else left in a pool a disk; it is marked and renamed, and its content stays as it is."""

from collections.abc import Sequence
from typing import Any

from django.db.models import F
from django.utils.translation import gettext_lazy as _

from cluster import pools
from cluster.domain_specs import pool_spec, volume_of
from cluster.models import POOL_AT_REST, Disk, Image, ImageCopy, Pool, Tenant
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, Id, LockName, NoUndo, Operation, Params, Plan, Step, done
from nodes.contract.messages import DiskGiveBack, DiskTake, FoundVolume, PoolFind, VolumeFacts
from nodes.contract.specs import FileName, Title

from .disk_attach import disk_of
from .disk_create import at_hand
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
        node = at_hand(target)
        if node is None:
            refusals.append(Refusal("pool_nowhere", {"pool": target.name}))
        elif params.node:
            node = params.node
            if not target.places.filter(node=node).exists():
                refusals.append(Refusal("pool_not_there", {"pool": target.name}, field="node"))
        image = image_named(target, params.name)
        if image is not None and image.disks.exists():
            refusals.append(Refusal("file_has_disks", {"name": image.name}, field="name"))
        known = next((each for each in pools.strangers_of(target) if each["name"] == params.name), None)
        data = {"pool": target.pk, "node": node, "tenant": tenant.pk if tenant else None, "vm": None}
        if known is None:
            return Plan(refusals=refusals, data=data)
        size_bytes = known["size_bytes"]
        row = {"pool": target.pk, "asked_bytes": size_bytes, "size_bytes": size_bytes, "granule_bytes": 1}
        return Plan(refusals=refusals, quote={"disks": [row], "price": None}, data=data)

    @classmethod
    def begin(cls, actor: Actor, target: Pool, params: ImportParams, plan: Plan) -> Disk:
        image = image_named(target, params.name)
        if image is not None:
            # No disk begins from it any more: whoever makes one looks at the state, serial to this transaction.
            Image.objects.filter(pk=image.pk).update(state="removing")
            plan.data["image"] = image.pk
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


def image_named(pool: Pool, name: str) -> Image | None:
    """A node's folder of images shows each file in it as an image, too."""
    if pool.attached:
        return None
    found = Image.objects.filter(name=name, stored=False, state="active", copies__node__pool_places__pool=pool)
    return found.first()


def forget(context: Context[ImportParams], key: str) -> None:
    Disk.objects.filter(pk=context.subject_id).delete()
    Image.objects.filter(pk=context.data.get("image")).update(state="active")


def find(context: Context[ImportParams], key: str) -> Call:
    pool = Pool.objects.get(pk=context.data["pool"])
    return Call(context.data["node"], PoolFind(pool=pool_spec(pool), name=context.params.name))


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
    if image := context.data.get("image"):
        ImageCopy.objects.filter(image=image, node=context.data["node"]).delete()
        Image.objects.filter(pk=image).update(state="active")
        Image.objects.filter(pk=image, copies__isnull=True, disks__isnull=True).delete()
    pools.forget_stranger(context.data["pool"], context.params.name)


DiskImport.steps = (
    Step("reserve", _("Note the disk"), do=done, undo=forget),
    Step("find", _("Look at the volume"), do=find, undo=NoUndo(_("it only looks")), after=found),
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
