"""What a panel from a backup must know: its nodes went on without it.

Numbers are left alone: a node that has seen a higher one says which, and the panel goes on above it
(``saga/dispatch.py``). What must not happen is that the panel goes on with its jobs as if it had only slept: a node has
perhaps finished them, undone them, and given what they made to people since.
"""

from datetime import datetime

from django.contrib.sessions.models import Session
from django.db import transaction
from django.db.models import F

from cluster import audit
from cluster.models import FINAL, Disk, Job, JobState, JoinToken, Node, NodeState, StreamCursor, Vm, VmState
from cluster.refusals import Refusal
from cluster.states import IN_WORK


def settle(made: datetime, version: str) -> int:
    """Make the rows of a backup fit to be gone on with; returns how many jobs wait for an administrator.

    ``made``, ``version``: when the backup was made, and by which panel.
    """
    with transaction.atomic():
        jobs = [_stick(job, made) for job in Job.objects.exclude(state__in=FINAL).order_by("created", "pk")]
        _nobody_has_spoken()
        # It may have come to a VM since, and be all that there is of that VM's disk: only a person deletes it now.
        Disk.objects.filter(state="trash").update(state="ready", delete_after=None, trashed_by=None)
        # Whoever was signed in, or held a token that has been used since, is asked again.
        Session.objects.all().delete()
        JoinToken.objects.filter(used=None).delete()
        audit.restored(made=made.isoformat(), version=version, jobs=len(jobs))
    return len(jobs)


def _stick(job: Job, made: datetime) -> Job:
    """Nobody lets it go on but a person who has looked."""
    job.state, job.waiting_reason, job.resolution = JobState.STUCK, None, None
    job.error = Refusal("restored", {"when": f"{made:%Y-%m-%d %H:%M} UTC"}).kept()
    job.data["restored"] = True
    job.version += 1
    job.save()
    job.looks.all().delete()
    audit.job_ended(job)
    return job


def _nobody_has_spoken() -> None:
    """Until its node does, what the backup says of a VM is only what it was."""
    Node.objects.exclude(state=NodeState.OFFLINE).update(state=NodeState.OFFLINE, version=F("version") + 1)
    Vm.objects.exclude(state__in=IN_WORK).update(state=VmState.UNKNOWN, state_reason="", version=F("version") + 1)
    # A cursor of no Redis at all: what was said and what waits there is left out (cluster/conductor.py).
    StreamCursor.objects.update(run_id="", last="0-0")
