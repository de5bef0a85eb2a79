"""A snapshot of the VM before something that cannot be undone, where that is asked for.

Not an operation: the parameter, its refusals and the step that those share. The snapshot is a job of its own, and stays
also where what was to follow fails.
"""

from dataclasses import replace
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from cluster.models import Vm
from cluster.permissions import Actor
from cluster.refusals import Refusal
from cluster.saga.steps import Children, Context, NoUndo, Operation, Params, Step

from . import start_child
from .vm_snapshot import SnapshotParams, VmSnapshot

MOST_NAME = 100


class SnapshotFirst(Params):
    snapshot_first: bool = False
    """Take a snapshot of the VM before; it stays afterwards."""


def hindered(actor: Actor, vm: Vm | None, params: SnapshotFirst) -> list[Refusal]:
    """Why there can be none."""
    if not params.snapshot_first or vm is None:
        return []
    reasons = [] if actor.may(VmSnapshot.code) else [actor.refusal(VmSnapshot.code)]
    reasons += VmSnapshot.obstacles(vm) + VmSnapshot.plan(actor, vm, SnapshotParams()).refusals
    return [replace(reason, field="snapshot_first") for reason in reasons]


def take(context: Context[Any], key: str) -> Children | None:
    if not context.params.snapshot_first:
        return None
    label = Operation.registry[context.job.operation].label
    name = f"{label}, {timezone.localtime():%Y-%m-%d %H:%M:%S}"[:MOST_NAME]
    return Children([start_child(context.job, VmSnapshot.code, {"name": name}, context.data["vm"])])


TAKEN = Step("snapshot", _("Take a snapshot first"), do=take, undo=NoUndo(_("the snapshot stays")))
