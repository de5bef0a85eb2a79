"""Disks whose volumes are otherwise than the panel has them: resized by hand, or deleted behind its back.

What nodes see changes no disk: it is noted (``Disk.drift``), said, and a person decides.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.db.models import F
from django.utils.translation import get_language
from django.utils.translation import gettext as _

from nodes.contract.sizes import format_size
from nodes.contract.specs import VolumesSeen

from . import pools, states
from .checks import Line
from .models import Disk, Lock, Node, NodeState, ObjectNumber, Pool, PoolOnNode, Vm

FIELD = "size_bytes"
AS_HERE = -1


@dataclass(frozen=True)
class Known:
    """A disk as the panel has it."""

    pk: str
    vm: str | None
    backup: str | None
    size_bytes: int
    drift: dict[str, Any]

    @property
    def locks(self) -> set[str]:
        """Of which a job that changes its volume holds one."""
        return {f"disk:{self.pk}", f"vm:{self.vm}", f"backup:{self.backup}"}


def observe(node: Node, seen: VolumesSeen) -> None:
    """Take over what a node sees of the volumes in its pools; silence about a pool changes nothing.

    Left alone, as it was: a disk on which a job works, and one of which the node has answered since it looked.
    """
    held = set(Lock.objects.filter(held=True).values_list("name", flat=True))
    newer = ObjectNumber.objects.filter(node=node, object__startswith="disk:", counter__gt=seen.counter)
    answered = set(newer.values_list("object", flat=True))
    for place in PoolOnNode.objects.filter(node=node, pool__identity__in=seen.sizes).select_related("pool"):
        disks = [disk for disk in _disks(place.pool) if not disk.locks & held]
        sizes = seen.sizes[place.pool.identity]
        odd = {disk.pk: sizes.get(disk.pk) for disk in disks if sizes.get(disk.pk) != disk.size_bytes}
        looked_at = {disk.pk for disk in disks if "disk:" + disk.pk not in answered}
        as_before = {pk: was for pk, was in place.odd.items() if pk not in looked_at}
        odd = as_before | {pk: now for pk, now in odd.items() if pk in looked_at}
        strangers = [each.model_dump() for each in seen.strangers.get(place.pool.identity, ())]
        if odd != place.odd or strangers != place.strangers:
            PoolOnNode.objects.filter(pk=place.pk).update(odd=odd, strangers=strangers)
        if strangers != place.strangers:
            pools.touch(place.pool_id)
        _conclude(place.pool, disks)


def _disks(pool: Pool) -> list[Known]:
    rows = Disk.objects.filter(pool=pool, device="disk", state="ready")
    return [Known(*row) for row in rows.values_list("pk", "vm", "backup", "size_bytes", "drift")]


def seen_alike(places: Iterable[PoolOnNode]) -> dict[str, int | None]:
    """What every node that is online, and has the pool, sees in the same other way than the panel."""
    online = [place.odd for place in places if place.node.state != NodeState.OFFLINE]
    first = online[0] if online else {}
    return {pk: size for pk, size in first.items() if all((pk, size) in odd.items() for odd in online)}


def _conclude(pool: Pool, disks: Iterable[Known]) -> None:
    agreed = seen_alike(pool.places.select_related("node"))
    changes: dict[int | None, list[Known]] = {}
    for disk in disks:
        seen = agreed.get(disk.pk, disk.size_bytes)
        if seen != disk.drift.get(FIELD, disk.size_bytes):
            changes.setdefault(AS_HERE if seen == disk.size_bytes else seen, []).append(disk)
    # Whole storage that is gone is one change.
    for seen, changed in changes.items():
        now = {} if seen == AS_HERE else {FIELD: seen}
        Disk.objects.filter(pk__in=[disk.pk for disk in changed]).update(drift=now, version=F("version") + 1)
    vms = {disk.vm for changed in changes.values() for disk in changed if disk.vm}
    if vms:
        Vm.objects.filter(pk__in=vms).update(version=F("version") + 1)
        states.tell(sorted(vms))
    if changes:
        pools.touch(pool.pk)


def line_of(disk: Disk) -> Line | None:
    """What is said of a disk; None: it is as the panel has it."""
    if FIELD not in disk.drift:
        return None
    seen = disk.drift[FIELD]
    if seen is None:
        return Line(
            "gone",
            "error",
            _("The volume is gone"),
            _("it was deleted behind the panel's back"),
            _("restore a backup of the VM; deleting the disk clears its line"),
        )
    words = {"panel": _size(disk.size_bytes), "seen": _size(seen)}
    text = _("the panel has %(panel)s, the node sees %(seen)s") % words
    if seen > disk.size_bytes:
        advice = _("take over the node's size, if that was meant")
        return Line("grown", "warning", _("The volume was made larger by hand"), text, advice)
    advice = _("what lay behind its new end is lost: look at the guest's file system, and restore a backup")
    return Line("shrunk", "error", _("The volume was made smaller by hand"), text, advice)


def _size(size_bytes: int) -> str:
    return format_size(size_bytes, "en" if (get_language() or "ru").startswith("en") else "ru")
