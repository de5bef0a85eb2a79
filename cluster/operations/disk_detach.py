"""Take a disk from its VM; its content stays. A guest that does not let go of it keeps it until it is off."""

from collections.abc import Sequence

from django.db.models import F
from django.utils.translation import gettext_lazy as _

from cluster import states
from cluster.models import Disk, Pending
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Context, LockName, NoParams, NoUndo, Operation, Plan, Step

from .disk_attach import NEEDS, define, define_without, disk_of, is_ready, let_go, locks_of, plug, seen, unplug
from .vm_power import state_obstacles


class DiskDetach(Operation[NoParams]):
    code = "disk.detach"
    noun = "disks"
    label = _("Detach")
    hint = _("the disk and its content stay")
    icon = "plug-connected-x"
    dialog = True
    Params = NoParams

    @classmethod
    def obstacles(cls, target: Disk) -> list[Refusal]:
        if target.vm is None:
            return [Refusal("disk_unattached", {"disk": target.name}, status=409)]
        reasons = is_ready(target) + state_obstacles(target.vm, NEEDS)
        if target.snapshots.all():
            reasons.append(Refusal("disk_has_snapshots", {"disk": target.name}))
        return reasons

    @classmethod
    def plan(cls, actor: Actor, target: Disk, params: NoParams) -> Plan:
        return Plan(data={"vm": target.vm_id})

    @classmethod
    def locks(cls, context: Context[NoParams]) -> Sequence[LockName]:
        return locks_of(context)

    @classmethod
    def recheck(cls, context: Context[NoParams]) -> list[Refusal]:
        return cls.obstacles(disk_of(context))

    # The table of steps stands below the functions that it names.


def finish(context: Context[NoParams], key: str) -> None:
    if context.data.get("has"):
        disk = Disk.objects.filter(pk=context.subject_id)
        disk.update(pending=Pending.DETACH, boot_order=None, version=F("version") + 1)
    else:
        let_go(context, key)
    states.touch(context.data["vm"])


DiskDetach.steps = (
    Step("define", _("Take it out of the VM's definition"), do=define_without, undo=define),
    Step("unplug", _("Ask the guest that runs to let go of it"), do=unplug, undo=plug, after=seen),
    Step("finish", _("Note that it is free"), do=finish, undo=NoUndo(_("nothing can fail after it"))),
)
