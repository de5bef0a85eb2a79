"""What a disk leaves behind when it goes elsewhere rests in the trash for a while: a disk of its own that no VM has.

Not an operation: the parts that all those share which move disks. ``left_by`` is asked before the disk's row says where
it is now; ``put`` is the step's call; ``rest`` makes the row, and stands in a step of the panel behind that one, so
that it is made also where an administrator resolves the job as done.
"""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone

from cluster.domain_specs import pool_spec
from cluster.models import Disk, Pool, new_id
from cluster.saga.steps import Call, Context
from nodes.contract.messages import DiskRename

Left = dict[str, Any]
"""For a job's data: where the volume is, and what is known of it."""


def left_by(disk: Disk, node: str) -> Left:
    """
    :param node: which sees the volume.
    """
    return {
        "disk": disk.pk,
        "trash": new_id(),
        "node": node,
        "pool": disk.pool_id,
        "format": disk.format,
        "size_bytes": disk.size_bytes,
        "image": disk.image_id,
        "parent": disk.parent_id,
        "tenant": disk.tenant_id,
        "owner": disk.owner_id,
        "title": disk.title or disk.name,
    }


def stays(copied: Iterable[tuple[Disk, int]]) -> list[dict[str, Any]]:
    """For a plan: of which pools how much stays in use by what the copying of disks leaves behind, and until when.

    :param copied: disks with their pools, and bytes of each.
    """
    sums: dict[str, dict[str, Any]] = {}
    until = timezone.now() + timedelta(hours=settings.TRASH_HOURS)
    for disk, size_bytes in copied:
        if disk.pool is not None:
            new = {"pool": disk.pool.pk, "pool_name": disk.pool.name, "size_bytes": 0, "until": until}
            sums.setdefault(disk.pool.pk, new)["size_bytes"] += size_bytes
    return sorted(sums.values(), key=lambda row: str(row["pool_name"]))


def put(left: Left) -> Call:
    """The volume gets an id of its own: what is deleted one day is nobody's disk any more."""
    pool = pool_spec(Pool.objects.get(pk=left["pool"]))
    message = DiskRename(id=left["disk"], pool=pool, format=left["format"], new=left["trash"])
    return Call(left["node"], message)


def rest(context: Context[Any], left: Left) -> None:
    """It is deleted when its time is over, in the name of whose job this is (:mod:`cluster.trash`)."""
    Disk.objects.get_or_create(
        pk=left["trash"],
        defaults={
            "pool_id": left["pool"],
            "format": left["format"],
            "size_bytes": left["size_bytes"],
            "image_id": left["image"],
            "parent_id": left.get("parent"),
            "tenant_id": left["tenant"],
            "owner_id": left["owner"],
            "title": left["title"],
            "state": "trash",
            "delete_after": timezone.now() + timedelta(hours=settings.TRASH_HOURS),
            "trashed_by": context.job.grant,
        },
    )
    # What rested on the disk rests on what it left behind.
    Disk.objects.filter(parent=left["disk"]).update(parent=left["trash"])
