"""Disks in the trash, by the clock: each is deleted when its time is over.

Each deletion is a job like any other, in the name of whose job put the disk there.
"""

import logging
from datetime import datetime, timedelta

from django.utils import timezone

from . import operations
from .models import Disk
from .permissions import Actor
from .refusals import Forbidden, NotKnown, Refused

log = logging.getLogger(__name__)

AT_ONCE = 20
AGAIN = timedelta(hours=1)
"""What was refused, or failed, is tried again after so long."""


def delete_due(now: datetime | None = None) -> None:
    """With each sweep of the conductor. Another conductor that does the same begins nothing twice."""
    now = now or timezone.now()
    due = Disk.objects.filter(state="trash", vm=None, delete_after__lte=now, trashed_by__isnull=False)
    for disk in due.select_related("trashed_by__user")[:AT_ONCE]:
        if _take_turn(disk, now):
            _begin(disk)


def _take_turn(disk: Disk, now: datetime) -> bool:
    """Compare and set."""
    return bool(Disk.objects.filter(pk=disk.pk, delete_after=disk.delete_after).update(delete_after=now + AGAIN))


def _begin(disk: Disk) -> None:
    grant = disk.trashed_by
    assert grant
    try:
        operations.start(Actor(grant.user, grant), "disk.delete", {}, disk.pk)
    except (Refused, Forbidden, NotKnown) as error:
        log.warning("disk %s stays in the trash: %s", disk.pk, error)
