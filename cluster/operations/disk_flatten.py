"""Let a linked clone rest on nothing: it gets all that it shares with its source, also while its guest runs.

Copying is the point of no return: a cancel stops it where the storage can, and comes too late where it cannot.
"""

from collections.abc import Sequence
from typing import Any

from django.db.models import F
from django.utils.translation import gettext_lazy as _

from cluster import placement, states
from cluster.domain_specs import volume_of
from cluster.models import Disk, VmState
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, LockName, NoParams, NoUndo, Operation, Plan, Settle, Step, Verdict, done
from nodes.contract import messages

from .disk_attach import disk_of, is_ready, locks_of
from .disk_create import at_hand
from .vm_power import state_obstacles

NEEDS = (VmState.STOPPED, VmState.RUNNING, VmState.PAUSED, VmState.ERROR)


class DiskFlatten(Operation[NoParams]):
    code = "disk.flatten"
    noun = "disks"
    label = _("Make it independent")
    hint = _("the disk gets all that it shares with the one that it was cloned from, and that can then be deleted")
    icon = "unlink"
    dialog = True
    Params = NoParams

    @classmethod
    def obstacles(cls, target: Disk) -> list[Refusal]:
        reasons = is_ready(target) + (state_obstacles(target.vm, NEEDS) if target.vm else [])
        return reasons if target.parent_id else [*reasons, Refusal("disk_independent", {"disk": target.name})]

    @classmethod
    def plan(cls, actor: Actor, target: Disk, params: NoParams) -> Plan:
        pool = target.pool
        node = target.vm.node_id if target.vm else at_hand(pool) if pool else None
        data = {"vm": target.vm_id, "node": node, "pool": target.pool_id, "size_bytes": target.size_bytes}
        refusals = [] if node else [Refusal("pool_nowhere", {"pool": pool.name if pool else ""})]
        if pool and target.size_bytes > placement.free_room_bytes(pool):
            refusals.append(placement.no_room(pool, target.vm.node if target.vm else None, target.size_bytes))
        return Plan(refusals=refusals, data=data)

    @classmethod
    def begin(cls, actor: Actor, target: Disk, params: NoParams, plan: Plan) -> Disk:
        placement.reserve_room(plan.data["pool"], plan.data["size_bytes"])
        return target

    @classmethod
    def locks(cls, context: Context[NoParams]) -> Sequence[LockName]:
        return locks_of(context)

    @classmethod
    def recheck(cls, context: Context[NoParams]) -> list[Refusal]:
        return cls.obstacles(disk_of(context))

    # The table of steps stands below the functions that it names.


def release(context: Context[Any], key: str) -> None:
    placement.release_room(context.data["pool"], context.data["size_bytes"])


def flatten(context: Context[Any], key: str) -> Call:
    return Call(context.data["node"], messages.DiskFlatten(**volume_of(disk_of(context))))


def look(context: Context[Any], key: str) -> Sequence[Call]:
    return [Call(context.data["node"], messages.DiskLook(**volume_of(disk_of(context))))]


def is_flat(context: Context[Any], results: Sequence[messages.DiskState | None]) -> Verdict:
    seen = results[0]
    if seen is None or seen.independent is None:
        return "unclear"
    return "done" if seen.independent else "not_done"


def finish(context: Context[Any], key: str) -> None:
    Disk.objects.filter(pk=context.subject_id).update(parent=None, version=F("version") + 1)
    release(context, key)
    if context.data["vm"]:
        states.touch(context.data["vm"])


DiskFlatten.steps = (
    Step("reserve", _("Reserve room"), do=done, undo=release),
    Step(
        "flatten",
        _("Copy what it shares"),
        do=flatten,
        undo=NoUndo(_("its content is the same")),
        pivot=True,
        settle=Settle(look, is_flat),
    ),
    Step("finish", _("Note that it rests on nothing"), do=finish, undo=NoUndo(_("nothing can fail after it"))),
)
