"""Make an image of a disk on which no guest runs: it is copied on its node, cleaned, and given to the panel."""

from collections.abc import Sequence
from typing import Annotated, Any

from django.utils.translation import gettext_lazy as _
from pydantic import StringConstraints

from cluster import uploads
from cluster.domain_specs import volume_of
from cluster.models import Disk, Node, VmState
from cluster.os_catalogue import CATALOGUE
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, LockName, Operation, Params, Plan, Settle, Step, done
from nodes.contract.messages import FileMake
from nodes.contract.specs import FileName, VolumeSpec

from .disk_attach import is_ready
from .disk_create import at_hand
from .image_distribute import is_there, named
from .image_download import FOREIGN, KEPT, begin_file, forget, learn, look_there, take_away
from .node_inspect import node_must_answer
from .vm_power import state_obstacles

SUFFIX = ".qcow2"
NEEDS = (VmState.STOPPED,)


class ImageParams(Params):
    name: FileName
    """Of the image; it gets the ending .qcow2 where it has none."""
    os: Annotated[str, StringConstraints(max_length=40)] | None = None
    """None: that of the disk's VM."""
    generalise: bool = True
    """Take out what only one machine may have: machine-id, SSH host keys, names of NICs, what cloud-init has done."""


class DiskImage(Operation[ImageParams]):
    code = "disk.image"
    noun = "disks"
    makes = "images"
    label = _("Make an image")
    hint = _("further VMs begin with a copy of this disk; its own VM must be off meanwhile")
    icon = "photo-plus"
    Params = ImageParams

    @classmethod
    def obstacles(cls, target: Disk) -> list[Refusal]:
        return is_ready(target) + (state_obstacles(target.vm, NEEDS) if target.vm else [])

    @classmethod
    def plan(cls, actor: Actor, target: Disk, params: ImageParams) -> Plan:
        name = params.name if params.name.lower().endswith(SUFFIX) else params.name + SUFFIX
        refusals = uploads.name_unfit("image", name) + uploads.name_taken("image", name)
        if params.os and params.os not in CATALOGUE:
            refusals.append(Refusal("os_unknown", {"os": params.os}, field="os"))
        vm = target.vm
        node = node_of(target)
        if node is None:
            refusals.append(Refusal("pool_nowhere", {"pool": target.pool.name if target.pool else "—"}))
        else:
            refusals += node_must_answer(node)
            if params.generalise and not can_generalise(node):
                refusals.append(Refusal("no_guestfs", {"node": node.name}, field="generalise"))
        os = params.os if params.os is not None else vm.os if vm else ""
        data = {"disk": target.pk, "vm": vm.pk if vm else None, "node": node.pk if node else "", "name": name, "os": os}
        return Plan(refusals=refusals, data=data)

    @classmethod
    def begin(cls, actor: Actor, target: Disk, params: ImageParams, plan: Plan) -> Any:
        return begin_file("image", plan)

    @classmethod
    def locks(cls, context: Context[ImageParams]) -> Sequence[LockName]:
        data = context.data
        vm = [LockName("vm:" + data["vm"])] if data["vm"] else []
        node = LockName("node:" + data["node"], exclusive=False)
        return [LockName(context.job.subject), LockName("disk:" + data["disk"]), *vm, node]

    @classmethod
    def recheck(cls, context: Context[ImageParams]) -> list[Refusal]:
        disk = _disk(context)
        if disk.vm_id != context.data["vm"]:
            return [Refusal("disk_elsewhere", {"disk": disk.name}, status=409)]
        return cls.obstacles(disk)

    # The table of steps stands below the functions that it names.


def node_of(disk: Disk) -> Node | None:
    """Where the image is made: on its VM's node, or on one that sees its pool."""
    if disk.vm:
        return disk.vm.node
    return Node.objects.filter(pk=at_hand(disk.pool)).first() if disk.pool else None


def can_generalise(node: Node) -> bool:
    """As the node's preflight said last."""
    return any(check["code"] == "guestfs" and check["level"] == "ok" for check in node.checks)


def _disk(context: Context[ImageParams]) -> Disk:
    return Disk.objects.select_related("vm__node", "pool").get(pk=context.data["disk"])


def make(context: Context[ImageParams], key: str) -> Call:
    source = VolumeSpec(**volume_of(_disk(context)))
    more = {"generalise": True} if context.params.generalise else {}
    return Call(context.data["node"], FileMake(**named(context), source=source, **more))


DiskImage.steps = (
    Step("reserve", _("Reserve the name"), do=done, undo=forget),
    Step(
        "make",
        _("Make the image"),
        do=make,
        undo=take_away,
        after=learn,
        settle=Settle(look_there, is_there),
        undone_by=FOREIGN,
    ),
    *KEPT,
)
