"""Reads: take an actor, return the rows of which they may know. They feed pages, API and sockets."""

from typing import Any, TypeVar

from django.db.models import Model, Prefetch, QuerySet

from .models import (
    Address,
    AuditEvent,
    Disk,
    Image,
    Iso,
    Job,
    Network,
    Nic,
    Node,
    Pool,
    Tenant,
    User,
    Vm,
)
from .permissions import Actor, may_drive, visible
from .refusals import NotKnown, Refusal, Refused
from .saga.locks import waits_for
from .saga.steps import NoUndo, Operation

M = TypeVar("M", bound=Model)


def vms(actor: Actor) -> "QuerySet[Vm]":
    """VMs with what a list shows of them, in a fixed number of queries."""
    return visible(Vm.objects.all(), actor).select_related("tenant", "owner", "node").prefetch_related(
        Prefetch("disks", Disk.objects.select_related("iso")),
        Prefetch("nics", Nic.objects.select_related("lease", "network")),
    )  # fmt: skip


def nodes(actor: Actor) -> "QuerySet[Node]":
    return visible(Node.objects.all(), actor)


def pools(actor: Actor) -> "QuerySet[Pool]":
    return visible(Pool.objects.prefetch_related("places"), actor)


def networks(actor: Actor) -> "QuerySet[Network]":
    return visible(Network.objects.prefetch_related("ranges"), actor)


def addresses(actor: Actor) -> "QuerySet[Address]":
    return visible(Address.objects.select_related("nic"), actor)


def images(actor: Actor) -> "QuerySet[Image]":
    return visible(Image.objects.prefetch_related("copies"), actor)


def isos(actor: Actor) -> "QuerySet[Iso]":
    return visible(Iso.objects.prefetch_related("copies"), actor)


def disks(actor: Actor) -> "QuerySet[Disk]":
    return visible(Disk.objects.filter(device="disk"), actor)


def nics(actor: Actor) -> "QuerySet[Nic]":
    return visible(Nic.objects.select_related("lease"), actor)


def jobs(actor: Actor) -> "QuerySet[Job]":
    return visible(Job.objects.all(), actor).select_related("user").prefetch_related("steps__node")


def tenants(actor: Actor) -> "QuerySet[Tenant]":
    return visible(Tenant.objects.all(), actor)


def users(actor: Actor) -> "QuerySet[User]":
    if not actor.may("see.users"):
        return User.objects.filter(pk=actor.user.pk)
    return User.objects.prefetch_related("grants")


def audit_events(actor: Actor) -> "QuerySet[AuditEvent]":
    return AuditEvent.objects.all() if actor.may("see.audit") else AuditEvent.objects.none()


def get(queryset: "QuerySet[M]", pk: str) -> M:
    """The row, or :class:`NotKnown` for one that does not exist or may not be known: the two look alike."""
    row = queryset.filter(pk=pk).first() if pk else None
    if row is None:
        raise NotKnown(f"{queryset.model._meta.model_name} {pk}")
    return row


TARGETS = {"vms": vms, "nodes": nodes, "disks": disks, "images": images, "networks": networks}


def allowed_actions(actor: Actor, target: Any, noun: str = "vms") -> list[dict[str, Any]]:
    """Every operation of a noun: ``{"code", "allowed", "reasons": [{"code", "cause", "hint"}]}``.

    The page, the CLI, the API and the tests read this one list. ``code`` is the name in the URL.
    """
    from .permissions import action_of

    rows = []
    for operation in Operation.registry.values():
        if operation.noun != noun or operation.creates:
            continue
        reasons = possible(actor, operation, target, action_of(operation.code))
        rows.append(
            {"code": operation.name(), "allowed": not reasons, "reasons": [reason.said() for reason in reasons]}
        )
    return rows


def possible(actor: Actor, operation: type[Operation[Any]], target: Any, action: str) -> list[Refusal]:
    """Why not, as a whole list; empty when the operation could be started now."""
    reasons = [] if actor.may(action) else [actor.refusal(action)]
    return reasons + operation.obstacles(target)


def job_view(actor: Actor, job: Job) -> dict[str, Any]:
    """A job as design 8 has it; what a tenant may not know is left out."""
    from .events import progress_of

    operation = Operation.registry.get(job.operation)
    steps = list(job.steps.all())
    hide = actor.is_tenant_side

    def error_of(kept: dict[str, Any] | None) -> dict[str, str] | None:
        return Refusal.from_kept(kept).said() if kept else None

    def label_of(name: str) -> str:
        spec = operation.step(name) if operation else None
        return str(spec.label) if spec else name

    def undone() -> list[dict[str, Any]]:
        rows = []
        for step in reversed(steps):
            if step.state == "undone":
                rows.append({"step": step.name, "label": label_of(step.name), "reason": None})
            if step.state == "kept":
                spec = operation.step(step.name) if operation else None
                undo = spec.undo if spec else None
                rows.append(
                    {
                        "step": step.name,
                        "label": label_of(step.name),
                        "reason": str(undo.reason) if isinstance(undo, NoUndo) else None,
                    }
                )
        return rows

    waits = waits_for(job)
    if hide:
        mine = set(visible(Job.objects.filter(pk__in=[w["job"] for w in waits]), actor).values_list("pk", flat=True))
        waits = [{**w, "job": w["job"] if w["job"] in mine else None} for w in waits]
    return {
        "id": job.pk,
        "operation": job.operation,
        "label": str(operation.label) if operation else job.operation,
        "subject": job.subject,
        "subject_name": job.subject_name,
        "state": job.state,
        "version": job.version,
        "progress": progress_of(job, steps),
        "user": job.user.username if job.user else None,
        "steps": [
            {
                "name": s.name,
                "label": label_of(s.name),
                "key": s.key,
                "state": s.state,
                "progress": s.progress,
                "node": None if hide or s.node is None else {"id": s.node_id, "name": s.node.name},
                "error": error_of(s.error),
                "waits_for_click": s.waits_for_click,
                "started": s.started,
                "finished": s.finished,
            }
            for s in steps
        ],
        "waits_for": waits,
        "waiting_reason": error_of(job.waiting_reason),
        "error": error_of(job.error),
        "undone": undone(),
        "leftovers": [] if hide else job.leftovers,
        "resolution": None if hide else job.resolution,
        "cancel_requested": job.cancel_requested,
        "past_pivot": job.past_pivot,
        "priority": job.priority,
        "parent": job.parent_id,
        "created": job.created,
        "started": job.started,
        "finished": job.finished,
        "actions": job_actions(actor, job),
    }


def job_actions(actor: Actor, job: Job) -> list[dict[str, Any]]:
    """cancel, proceed, retry, resolve, priority: each with its reasons when it is not possible."""
    from . import services

    rows = []
    for code, check in services.JOB_CHECKS.items():
        try:
            check(actor, job)
            reasons: list[Refusal] = []
        except Refused as refused:
            reasons = list(refused.refusals)
        rows.append({"code": code, "allowed": not reasons, "reasons": [r.said() for r in reasons]})
    return rows


def may_drive_job(actor: Actor, job: Job) -> bool:
    return may_drive(actor, job, Operation.registry.get(job.operation))
