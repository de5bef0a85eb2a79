"""Rows as people see them: a VM with its actions and its running job, gathered in a fixed number of queries."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cluster import selectors
from cluster.events import progress_of
from cluster.models import FINAL, Backup, Disk, Job, Snapshot, Vm
from cluster.permissions import Actor
from cluster.saga.steps import Operation

ORDER = (
    "start",
    "shutdown",
    "reboot",
    "suspend",
    "resume",
    "stop",
    "reset",
    "migrate",
    "restart_elsewhere",
    "clone",
    "snapshot",
    "backup",
    "restore",
    "revert",
    "adopt",
    "flatten",
    "resize",
    "move",
    "change",
    "attach",
    "detach",
    "image",
    "import",
    "distribute",
    "delete",
)
"""How people look for actions: by use, the dangerous last. Others follow as they are registered."""
RARE = ("declare_dead", "take_back", "restart_elsewhere")
"""Shown only where they come into question."""
AT_HAND = ("start", "shutdown", "reboot")
"""Always in the same place in a list; all others are in the menu, which is fetched when it is opened."""


@dataclass(frozen=True)
class Action:
    """A button: what it does, and why not."""

    code: str
    label: str
    icon: str
    hint: str
    danger: bool
    asks: bool
    """A dialog asks for what is missing before it begins."""
    allowed: bool
    reasons: Sequence[dict[str, str]]

    @property
    def why(self) -> str:
        """The reasons in one breath, for a tooltip."""
        return " ".join(_sentence(r["cause"]) + (" " + _sentence(r["hint"]) if r["hint"] else "") for r in self.reasons)


@dataclass(frozen=True)
class JobLine:
    job: Job
    label: str
    progress: int

    @property
    def working(self) -> bool:
        return not self.job.is_final


@dataclass(frozen=True)
class VmLine:
    vm: Vm
    actions: list[Action]
    job: JobLine | None = None

    @property
    def addresses(self) -> list[str]:
        return [nic.lease.address for nic in self.vm.nics.all() if getattr(nic, "lease", None)]

    def action(self, code: str) -> Action | None:
        return next((action for action in self.actions if action.code == code), None)

    @property
    def versions(self) -> str:
        job = f" job:{self.job.job.pk}={self.job.job.version}" if self.job else ""
        return f"vm:{self.vm.pk}={self.vm.version}{job}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def actions_of(actor: Actor, target: Any, noun: str = "vms", codes: Collection[str] | None = None) -> list[Action]:
    """The one list of actions, or those of ``codes`` in it, with what a button needs."""
    rows = []
    for row in selectors.allowed_actions(actor, target, noun, codes):
        if row["code"] in RARE and not row["allowed"]:
            continue
        operation = next(o for o in Operation.registry.values() if (o.noun, o.name()) == (noun, row["code"]))
        if not operation.button:
            continue
        rows.append(
            Action(
                row["code"],
                str(operation.label),
                operation.icon,
                str(operation.hint),
                operation.danger,
                operation.dialog or any(field.is_required() for field in operation.Params.model_fields.values()),
                row["allowed"],
                row["reasons"],
            )
        )
    return sorted(rows, key=lambda a: ORDER.index(a.code) if a.code in ORDER else len(ORDER))


@dataclass(frozen=True)
class SnapshotLine:
    snapshot: Snapshot
    steps: range
    """One for each that it rests on."""
    here: bool
    """The VM's disks rest on it now."""
    actions: list[Action]


def snapshot_lines(actor: Actor, vm: Vm) -> list[SnapshotLine]:
    """The tree, each behind the one that it rests on."""
    children: dict[str | None, list[Snapshot]] = {}
    for snapshot in vm.snapshots.prefetch_related("disks"):
        snapshot.vm = vm
        children.setdefault(snapshot.parent_id, []).append(snapshot)
    lines: list[SnapshotLine] = []

    def grow(parent: str | None, depth: int) -> None:
        for snapshot in children.get(parent, ()):
            actions = actions_of(actor, snapshot, "snapshots")
            lines.append(SnapshotLine(snapshot, range(depth), snapshot.pk == vm.snapshot_id, actions))
            grow(snapshot.pk, depth + 1)

    grow(None, 0)
    return lines


WITH_VM = ("resize", "move", "change", "detach", "image")
LOOSE = ("move", "change", "attach", "image", "delete")
DRIFTED = ("adopt",)
LINKED = ("flatten",)


@dataclass(frozen=True)
class DiskLine:
    disk: Disk
    actions: list[Action]


def disk_lines(actor: Actor, disks: Iterable[Disk]) -> list[DiskLine]:
    """Each with what can ever be done with it as it is: with a VM, or without one. A CD-ROM drive is its VM's alone."""
    return [
        DiskLine(disk, actions_of(actor, disk, "disks", _codes(disk)) if disk.device == "disk" else [])
        for disk in disks
    ]


def _codes(disk: Disk) -> tuple[str, ...]:
    return (*(DRIFTED if disk.drift else ()), *(LINKED if disk.parent_id else ()), *(WITH_VM if disk.vm_id else LOOSE))


@dataclass(frozen=True)
class BackupLine:
    backup: Backup
    actions: list[Action]


def backup_lines(actor: Actor, backups: Iterable[Backup]) -> list[BackupLine]:
    return [BackupLine(backup, actions_of(actor, backup, "backups")) for backup in backups]


def job_line(job: Job) -> JobLine:
    operation = Operation.registry.get(job.operation)
    label = str(operation.label) if operation else job.operation
    return JobLine(job, label, progress_of(job, job.steps.all()))


def job_lines(jobs: Iterable[Job]) -> list[JobLine]:
    return [job_line(job) for job in jobs]


def running_jobs(actor: Actor, subjects: Sequence[str]) -> dict[str, JobLine]:
    """subject -> the job that is under way there; the one that runs before those that wait in line."""
    jobs = selectors.jobs(actor).filter(subject__in=subjects).exclude(state__in=FINAL).order_by("created", "pk")
    found: dict[str, JobLine] = {}
    for job in sorted(jobs, key=lambda j: j.state == "waiting"):
        found.setdefault(job.subject, job_line(job))
    return found


def vm_lines(actor: Actor, vms: Sequence[Vm]) -> list[VmLine]:
    jobs = running_jobs(actor, [f"vm:{vm.pk}" for vm in vms])
    return [VmLine(vm, actions_of(actor, vm, codes=AT_HAND), jobs.get(f"vm:{vm.pk}")) for vm in vms]
