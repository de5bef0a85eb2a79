"""The journal: one place that writes it."""

import logging
from datetime import datetime
from typing import TYPE_CHECKING, Any

from .models import AuditEvent, Job

if TYPE_CHECKING:
    from .permissions import Actor

RESTORED = "panel.restore"

log = logging.getLogger("ulei.journal")


def write(
    actor: "Actor | None",
    action: str,
    outcome: str,
    *,
    subject: str = "",
    subject_name: str = "",
    job: Job | None = None,
    **detail: Any,
) -> None:
    """One line. ``detail`` must hold no secrets: ids, codes and numbers only."""
    AuditEvent.objects.create(
        actor=actor.user if actor else None,
        username=actor.user.username if actor else "",
        role=actor.role if actor else "",
        tenant_id=job.tenant_id if job else actor.grant.tenant_id if actor else None,
        action=action,
        subject=subject,
        subject_name=subject_name,
        outcome=outcome,
        job=job,
        detail=detail,
    )


def restored(**detail: Any) -> None:
    """The panel was put back from a backup."""
    write(None, RESTORED, "done", **detail)


def was_restored_before(moment: datetime) -> bool:
    return AuditEvent.objects.filter(action=RESTORED, at__lt=moment).exists()


def job_ended(job: Job) -> None:
    """Written by the engine when a job reaches its end or gets stuck."""
    code = job.error["code"] if job.error else ""
    log.info("job %s %s of %s: %s %s", job.pk, job.operation, job.subject, job.state, code)
    username, role = Job.objects.values_list("user__username", "grant__role").get(pk=job.pk)
    AuditEvent.objects.create(
        actor_id=job.user_id,
        username=username or "",
        role=role or "",
        tenant_id=job.tenant_id,
        action=job.operation,
        subject=job.subject,
        subject_name=job.subject_name,
        outcome=job.state,
        job=job,
        detail={"error": code} if code else {},
    )
