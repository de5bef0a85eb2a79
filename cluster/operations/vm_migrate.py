"""Move a VM to another node: a running one while it runs, with the disks that the other node does not see.

One way for all: a VM that is off is started paused, so that none of its instructions is executed, moved, and ended over
there. The move itself is the point of no return; any doubt about it is settled by asking both nodes
(:mod:`cluster.whereabouts`), never by guessing.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from django.conf import settings
from django.db.models import F
from django.db.models.functions import Coalesce
from django.utils.translation import gettext_lazy as _
from pydantic import Field

from cluster import affinity, links, placement, states, whereabouts
from cluster.domain_specs import disk_spec, domain_spec, elsewhere, volume_of
from cluster.models import Disk, Lock, Node, Vm, VmState
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Call, Context, Id, LockName, NoUndo, Operation, Params, Plan, Settle, Step, Verdict, done
from nodes.contract.messages import (
    DiskCreate,
    DiskDelete,
    DiskResize,
    DomainAdopt,
    DomainDismiss,
    DomainExpect,
    DomainKeep,
    DomainLeave,
    DomainLook,
    DomainMove,
    DomainResume,
    DomainStart,
    DomainStop,
    DomainSuspend,
    DomainWhereabouts,
    ExpectedDomain,
    VolumeFacts,
)
from nodes.contract.sizes import MAX_BYTES, MIB
from nodes.contract.specs import MovedDisk

from . import trash
from .vm_create import FOREIGN, nic_ids, plug, unplug
from .vm_move_plan import MovePlanning
from .vm_power import GUEST_IS_OFF, mark, moved_meanwhile, show, state_obstacles, unmark, unsettled, vm_of
from .vm_snapshot import disks_changed

S = VmState
NEEDS = (S.STOPPED, S.RUNNING, S.PAUSED)
TELLING_MS = 2000


class TimeLimit(Params):
    time_limit_s: Annotated[int, Field(ge=1, le=7 * 86400)] | None = None
    on_time_limit: Literal["abort", "force"] = "abort"


class MoveOptions(TimeLimit):
    """What libvirt and QEMU are told of the move (``nodes.contract.messages.DomainMove``)."""

    bandwidth_bytes: Annotated[int, Field(ge=MIB, le=MAX_BYTES)] | None = None
    """A second."""
    max_pause_ms: Annotated[int, Field(ge=1, le=2_000_000)] | None = None
    auto_converge: bool = False
    compressed: bool = False
    post_copy: bool = False


class MigrateParams(MoveOptions):
    target: Id | None = None
    """None: the panel chooses."""
    live: bool = True
    """False: a guest that runs is paused until it has arrived."""
    pools: dict[Id, Id] = {}
    """disk -> pool of the other node; without it, a pool that both see, else the default one over there."""


class VmMigrate(Operation[MigrateParams]):
    code = "vm.migrate"
    noun = "vms"
    label = _("Migrate")
    hint = _("a guest that runs goes on running; its address, filter and console come along")
    icon = "arrows-exchange"
    dialog = True
    Params = MigrateParams

    @classmethod
    def obstacles(cls, target: Vm) -> list[Refusal]:
        reasons = state_obstacles(target, NEEDS) + unsettled(target)
        if any(disk.pending for disk in target.disks.all()):
            reasons.append(Refusal("disks_pending", {"vm": target.name}, status=409))
        return reasons

    @classmethod
    def plan(cls, actor: Actor, target: Vm, params: MigrateParams) -> Plan:
        return MovePlanning(target, params.target, params.pools).plan()

    @classmethod
    def begin(cls, actor: Actor, target: Vm, params: MigrateParams, plan: Plan) -> Vm:
        affinity.hold_for(target, plan.data["target"])
        placement.reserve(plan.data["target"], target)
        Vm.objects.filter(pk=target.pk).update(moving_to=plan.data["target"])
        for copied in plan.data["copied"].values():
            placement.reserve_room(copied["pool"], copied["size_bytes"])
        left = Disk.objects.filter(pk__in=plan.data["copied"])
        plan.data["left"] = {disk.pk: trash.left_by(disk, plan.data["source"]) for disk in left.select_related("vm")}
        plan.data["lane"] = _freest_lane(plan.data["source"])
        return target

    @classmethod
    def locks(cls, context: Context[MigrateParams]) -> Sequence[LockName]:
        data = context.data
        nodes = [LockName("node:" + pk, exclusive=False) for pk in (data["source"], data["target"]) if pk]
        nodes += [LockName("lane:" + data["lane"])] if "lane" in data else []
        return [LockName("vm:" + context.subject_id), *(LockName("disk:" + pk) for pk in data["disks"]), *nodes]

    @classmethod
    def recheck(cls, context: Context[MigrateParams]) -> list[Refusal]:
        vm = vm_of(context)
        reasons = disks_changed(vm, context.data["disks"]) + cls.obstacles(vm)
        reasons += moved_meanwhile(vm, context.data["source"])
        target = Node.objects.get(pk=context.data["target"])
        if target.in_maintenance:
            reasons.append(Refusal("maintenance", {"node": target.name}, field="target", status=409))
        if context.data["copied"] and vm.snapshots.exists():
            reasons.append(Refusal("snapshots_stay", {"vm": vm.name, "node": target.name}, status=409))
        return reasons

    # The table of steps stands below the functions that it names.


def _freest_lane(source: str) -> str:
    """Only so many moves leave a node at the same time; asked in the transaction that sees all locks."""
    lanes = {f"{source}.{number}": 0 for number in range(settings.INSTALLATION.moves_of_a_node)}
    for name in Lock.objects.filter(name__startswith=f"lane:{source}.").values_list("name", flat=True):
        lane = name.removeprefix("lane:")
        lanes[lane] = lanes.get(lane, 0) + 1
    return min(lanes, key=lambda lane: lanes[lane])


# --- what it is about ---------------------------------------------------------------------------------------


def copied_disks(context: Context[Any]) -> list[str]:
    return list(context.data["copied"])


def grown_disks(context: Context[Any]) -> list[str]:
    return list(context.data["grown"])


def _there(context: Context[Any], disk_id: str) -> Disk:
    """A copied disk as it will be over there."""
    disk = elsewhere(Disk.objects.get(pk=disk_id), context.data["copied"][disk_id])
    disk.cache = ""  # what suits the storage there
    return disk


# --- before the move ----------------------------------------------------------------------------------------


def release(context: Context[MigrateParams], key: str) -> None:
    placement.release(context.data["target"], vm_of(context))
    Vm.objects.filter(pk=context.subject_id).update(moving_to=None)
    _release_room(context)


def _release_room(context: Context[MigrateParams]) -> None:
    """Of the volumes of which no node has said that they were made."""
    for disk_id, copied in context.data["copied"].items():
        if disk_id not in context.data.get("made", []):
            placement.release_room(copied["pool"], copied["size_bytes"])


def grow(context: Context[MigrateParams], disk_id: str) -> Call:
    disk = Disk.objects.select_related("pool").get(pk=disk_id)
    return Call(context.data["source"], DiskResize(**volume_of(disk), size_bytes=context.data["grown"][disk_id]))


def grown(context: Context[MigrateParams], disk_id: str, result: VolumeFacts) -> None:
    context.data["left"][disk_id]["size_bytes"] = result.size_bytes
    Disk.objects.filter(pk=disk_id).update(size_bytes=result.size_bytes, drift={}, version=F("version") + 1)


def create_disk(context: Context[MigrateParams], disk_id: str) -> Call:
    # Without the image behind it: the content of the whole chain goes along.
    return Call(context.data["target"], DiskCreate(disk=disk_spec(_there(context, disk_id))))


def disk_created(context: Context[MigrateParams], disk_id: str, result: VolumeFacts) -> None:
    made = context.data.setdefault("made", [])
    if disk_id not in made:
        made.append(disk_id)
        placement.release_room(context.data["copied"][disk_id]["pool"], context.data["copied"][disk_id]["size_bytes"])


def delete_disk(context: Context[MigrateParams], disk_id: str) -> Call:
    return Call(context.data["target"], DiskDelete(**volume_of(_there(context, disk_id))))


def plug_nic(context: Context[MigrateParams], nic_id: str) -> Call:
    return plug(context.data["target"], nic_id)


def unplug_there(context: Context[MigrateParams], nic_id: str) -> Call:
    return unplug(context.data["target"], nic_id)


def unplug_here(context: Context[MigrateParams], nic_id: str) -> Call:
    return unplug(context.data["source"], nic_id)


def hold(context: Context[MigrateParams], key: str) -> Call | None:
    """Only what has a QEMU can be moved, and what is paused writes nothing."""
    vm = vm_of(context)
    if context.data["was"] == S.STOPPED:
        return Call(vm.node_id, DomainStart(vm=vm.pk, uuid=vm.uuid, paused=True, for_now=True))
    if context.data["was"] == S.RUNNING and not context.params.live:
        return Call(vm.node_id, DomainSuspend(vm=vm.pk, uuid=vm.uuid))
    return None


def let_go(context: Context[MigrateParams], key: str) -> Call | None:
    vm = vm_of(context)
    if context.data["was"] == S.STOPPED:
        return Call(vm.node_id, DomainStop(vm=vm.pk, uuid=vm.uuid))
    if context.data["was"] == S.RUNNING and not context.params.live:
        return Call(vm.node_id, DomainResume(vm=vm.pk, uuid=vm.uuid))
    return None


def expect(context: Context[MigrateParams], key: str) -> Call:
    source = Node.objects.get(pk=context.data["source"])
    arriving = domain_spec(vm_of(context), moved=[_there(context, disk_id) for disk_id in copied_disks(context)])
    return Call(context.data["target"], DomainExpect(domain=arriving, source_address=source.address))


def expected(context: Context[MigrateParams], key: str, result: ExpectedDomain) -> None:
    context.data["there"] = [disk.model_dump(mode="json") for disk in result.disks]


def dismiss(context: Context[MigrateParams], key: str) -> Call:
    vm = vm_of(context)
    return Call(context.data["target"], DomainDismiss(vm=vm.pk, uuid=vm.uuid))


# --- the move -----------------------------------------------------------------------------------------------


def move(context: Context[MigrateParams], key: str) -> Call:
    vm, target = vm_of(context), Node.objects.get(pk=context.data["target"])
    disks = [MovedDisk(**{**disk, "copied": disk["id"] in context.data["copied"]}) for disk in context.data["there"]]
    options = context.params.model_dump(include=set(MoveOptions.model_fields), exclude_unset=True)
    message = DomainMove(
        vm=vm.pk, uuid=vm.uuid, target=target.name, target_address=target.address, disks=tuple(disks), **options
    )
    return Call(context.data["source"], message)


def stay(context: Context[MigrateParams], key: str) -> Call:
    vm = vm_of(context)
    return Call(context.data["source"], DomainKeep(vm=vm.pk, uuid=vm.uuid, paused=context.data["was"] != S.RUNNING))


def moved(context: Context[MigrateParams], key: str, result: DomainWhereabouts) -> None:
    """From here on it belongs to the other node."""
    # The counter is the old node's: what the new one has seen is compared with its own.
    here = Vm.objects.filter(pk=context.subject_id, node=context.data["source"])
    runs_on = None if context.data["was"] == S.STOPPED else Coalesce("started_on", "node")
    if not here.update(node=context.data["target"], moving_to=None, observed_counter=0, started_on=runs_on):
        return
    for disk_id, copied in context.data["copied"].items():
        there = {"pool": copied["pool"], "format": copied["format"], "cache": "", "image": None, "parent": None}
        Disk.objects.filter(pk=disk_id).update(**there, drift={}, version=F("version") + 1)
    states.touch(context.subject_id)


def ask_both(context: Context[Any], key: str) -> Sequence[Call]:
    vm = vm_of(context)
    look = DomainLook(vm=vm.pk, uuid=vm.uuid)
    return [Call(context.data["source"], look), Call(context.data["target"], look)]


def where_it_is(context: Context[Any], results: Sequence[DomainWhereabouts | None]) -> Verdict:
    source, target = results
    return whereabouts.verdict(source, target)


def bears_out(context: Context[Any], outcome: str, results: Sequence[DomainWhereabouts | None]) -> bool:
    source, target = results
    return whereabouts.proves(outcome, source, target)


# --- after it -----------------------------------------------------------------------------------------------


def adopt(context: Context[MigrateParams], key: str) -> Call:
    power: dict[str, Literal["running", "paused", "shutoff"]] = {S.RUNNING: "running", S.PAUSED: "paused"}
    state = power.get(context.data["was"], "shutoff")
    return Call(context.data["target"], DomainAdopt(domain=domain_spec(vm_of(context)), state=state))


def leave(context: Context[MigrateParams], key: str) -> Call:
    vm = vm_of(context)
    return Call(context.data["source"], DomainLeave(vm=vm.pk, uuid=vm.uuid))


def throw_away(context: Context[MigrateParams], disk_id: str) -> Call:
    return trash.put(context.data["left"][disk_id])


def finish(context: Context[MigrateParams], key: str) -> None:
    vm = vm_of(context)
    moved(context, key, DomainWhereabouts(state="absent"))  # where an administrator has said so
    placement.release(context.data["source"], vm)
    _release_room(context)
    for left in context.data["left"].values():
        trash.rest(context, left)
    vm.refresh_from_db()
    if vm.state == S.MIGRATING:
        states.move(vm, VmState(context.data["was"]))
    _note_home(context, vm)
    _note_speed(context)


def _note_speed(context: Context[MigrateParams]) -> None:
    """As it was when the node last spoke of it, of a move that lasted long enough to say something of the link."""
    facts = context.job.steps.filter(name="move").values_list("facts", flat=True).get()
    speed_bytes = facts.get("speed_bytes", 0)
    if speed_bytes and facts.get("elapsed_ms", 0) >= TELLING_MS and context.params.bandwidth_bytes is None:
        links.note(context.data["source"], context.data["target"], speed_bytes)


def _note_home(context: Context[MigrateParams], vm: Vm) -> None:
    """One that was moved for the maintenance of its node belongs there still; one that a person moved, where it is."""
    parent = context.job.parent
    evacuated = parent is not None and parent.operation == "node.evacuate"
    home = (vm.home_id or context.data["source"]) if evacuated else None
    states.touch(vm.pk, home=None if home == vm.node_id else home, starts_at_home=False)


GOES_FORWARD = NoUndo(_("the guest has moved"))

VmMigrate.steps = (
    Step("reserve", _("Reserve memory and room"), do=done, undo=release),
    Step("mark", _("Mark the VM"), do=mark(S.MIGRATING), undo=unmark),
    Step(
        "grow",
        _("Grow the disk to what both storages can have"),
        do=grow,
        undo=NoUndo(_("a disk never shrinks")),
        each=grown_disks,
        after=grown,
    ),
    Step(
        "create_disk",
        _("Make the disk on the other node"),
        do=create_disk,
        undo=delete_disk,
        each=copied_disks,
        beside=True,
        after=disk_created,
        undone_by=FOREIGN,
    ),
    Step("expect", _("Open the other node"), do=expect, undo=dismiss, after=expected),
    Step(
        "plug_nic", _("Lease and filter on the other node"), do=plug_nic, undo=unplug_there, each=nic_ids, beside=True
    ),
    Step("hold", _("Let the guest stand still"), do=hold, undo=let_go, undone_by=GUEST_IS_OFF),
    Step(
        "move",
        _("Move the guest"),
        do=move,
        undo=stay,
        after=moved,
        pivot=True,
        settle=Settle(ask_both, where_it_is, bears_out),
    ),
    Step("adopt", _("Take the guest over"), do=adopt, undo=GOES_FORWARD, after=show),
    Step("leave", _("Clear the old node"), do=leave, undo=GOES_FORWARD),
    Step(
        "unplug_nic",
        _("Remove lease and filter from the old node"),
        do=unplug_here,
        undo=GOES_FORWARD,
        each=nic_ids,
        beside=True,
    ),
    Step("throw_away", _("Put the old volume into the trash"), do=throw_away, undo=GOES_FORWARD, each=copied_disks),
    Step("finish", _("Note the new place"), do=finish, undo=NoUndo(_("nothing can fail after it"))),
)
