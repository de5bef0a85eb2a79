"""States of a VM change by compare and set only."""

from collections.abc import Sequence
from typing import Any

from django.db.models import F, QuerySet

from . import events
from .models import Disk, Pending, Vm, VmState

S = VmState

ALLOWED: dict[VmState, frozenset[VmState]] = {
    S.CREATING: frozenset({S.STOPPED, S.RUNNING, S.ERROR}),
    S.STOPPED: frozenset({S.STARTING, S.DELETING, S.MIGRATING, S.RUNNING, S.PAUSED, S.UNKNOWN, S.ERROR}),
    S.STARTING: frozenset({S.RUNNING, S.STOPPED, S.PAUSED, S.ERROR, S.UNKNOWN}),
    S.RUNNING: frozenset({S.STOPPING, S.PAUSED, S.STOPPED, S.MIGRATING, S.DELETING, S.UNKNOWN, S.ERROR}),
    S.PAUSED: frozenset({S.RUNNING, S.STOPPING, S.STOPPED, S.MIGRATING, S.DELETING, S.UNKNOWN, S.ERROR}),
    S.STOPPING: frozenset({S.STOPPED, S.RUNNING, S.PAUSED, S.ERROR, S.UNKNOWN}),
    S.MIGRATING: frozenset({S.RUNNING, S.PAUSED, S.STOPPED, S.ERROR, S.UNKNOWN}),
    S.DELETING: frozenset({S.STOPPED, S.RUNNING, S.PAUSED, S.ERROR, S.UNKNOWN}),
    S.ERROR: frozenset({S.STOPPED, S.RUNNING, S.PAUSED, S.DELETING, S.UNKNOWN}),
    S.UNKNOWN: frozenset({S.STOPPED, S.RUNNING, S.PAUSED, S.ERROR, S.DELETING}),
}

IN_WORK = frozenset({S.CREATING, S.STARTING, S.STOPPING, S.MIGRATING, S.DELETING})
"""Set by a job and taken back by it: an observation does not change them."""


SEEN: dict[str, VmState] = {
    "running": S.RUNNING,
    "paused": S.PAUSED,
    "shutoff": S.STOPPED,
    "crashed": S.STOPPED,
}
"""What a node shows of a domain -> what the VM is. A domain that is absent or incoming says nothing."""

GONE = "gone"
"""Its node, which had it, has no such domain any more."""

IO_ERROR = "io_error"
"""Its QEMU has paused it: the storage takes no writes."""

REASONS = frozenset({IO_ERROR})
"""Of a node's reasons those for which there are words (``state_<reason>``)."""


def move(vm: Vm, to: VmState) -> bool:
    """Change the state if nobody did in between; True when it is ``to`` afterwards.

    Raises ValueError for a transition that is not in the table.
    """
    if vm.state == to:
        return True
    if to not in ALLOWED[VmState(vm.state)]:
        raise ValueError(f"VM {vm.pk}: no way from {vm.state} to {to}")
    # Not on the version: an edited title must not leave the state behind.
    changed = Vm.objects.filter(pk=vm.pk, state=vm.state).update(state=to, state_reason="", version=F("version") + 1)
    vm.refresh_from_db(fields=["state", "version"])
    if changed:
        if to == VmState.STOPPED:
            guests_are_off([vm.pk])
        events.vm_changed(vm)
    return bool(changed)


def guests_are_off(vms: Sequence[str]) -> None:
    """What their guests held on to, or had not yet taken, is now as their definitions have it."""
    Vm.objects.filter(pk__in=vms, started_on__isnull=False).update(started_on=None)
    waiting = Disk.objects.filter(vm__in=vms).exclude(pending="")
    loosen(waiting.filter(pending=Pending.DETACH))
    waiting.filter(pending=Pending.ATTACH).update(pending="", version=F("version") + 1)


def loosen(disks: "QuerySet[Disk]") -> None:
    """They have no VM any more; where they came from is kept as their title."""
    for disk in disks.select_related("vm"):
        Disk.objects.filter(pk=disk.pk).update(
            vm=None,
            boot_order=None,
            position=0,
            pending="",
            title=disk.title or disk.name,
            version=F("version") + 1,
        )


def touch(vm_id: str, **changes: Any) -> None:
    """Something that the VM's card shows has changed; ``changes``: fields of the VM, but never its state."""
    Vm.objects.filter(pk=vm_id).update(version=F("version") + 1, **changes)
    events.vm_changed(Vm.objects.get(pk=vm_id))


def tell(vms: Sequence[str]) -> None:
    """Pages hear that something of these has changed, whose versions have grown."""
    rows = Vm.objects.filter(pk__in=vms)
    events.vms_changed(list(rows.values_list("pk", "version", "state", "tenant_id", "owner_id")))


def forget(vm: Vm) -> None:
    """The VM is no more: its row goes, and pages hear of it."""
    vm.version += 1
    events.vm_changed(vm, "deleted")
    vm.delete()
