"""VMs whose definitions are otherwise than the panel has them: changed by hand on their nodes.

What a node sees changes no VM: it is noted (``Vm.drift``) field by field, said, and a person decides: take over what
is seen (``vm.adopt``) or write the definition again (``vm.reapply``).
"""

import os
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from django.db.models import F
from django.utils.translation import get_language
from django.utils.translation import gettext as _

from nodes.contract.sizes import format_size
from nodes.contract.specs import DiskBus, NicModel, Outline, SeenDisk, SeenNic

from . import states
from .models import Disk, Nic, Pending, Vm

Drift = dict[str, dict[str, Any]]
"""field -> {"panel": value, "seen": value}; None: it has no such thing.

Fields: ``vcpus vcpus_current memory_bytes memory_current_bytes autostart persistent``; ``disk/<id>`` and
``nic/<mac>``, a whole thing; ``disk/<id>/bus|place|medium`` and ``nic/<mac>/bridge|model|tap``, something about it.
"""

PLAIN = ("vcpus", "vcpus_current", "memory_bytes", "memory_current_bytes", "autostart", "persistent")
OF_DISK = ("bus", "place")
OF_NIC = ("bridge", "model", "tap")


def differences(panel: Outline, seen: Outline) -> Drift:
    """Field by field, what the node has otherwise. The title is the panel's alone: it may change it at any time."""
    plain = {name: (getattr(panel, name), getattr(seen, name)) for name in PLAIN}
    found = {name: {"panel": here, "seen": there} for name, (here, there) in plain.items() if here != there}
    # Where all of it was changed, one line says it.
    for now, most in (("vcpus_current", "vcpus"), ("memory_current_bytes", "memory_bytes")):
        if now in found and getattr(seen, now) == getattr(seen, most):
            del found[now]
    return found | _disks(panel, seen) | _drives(panel, seen) | _nics(panel, seen)


def _disks(panel: Outline, seen: Outline) -> Drift:
    here = {disk.id: disk for disk in panel.disks if disk.device == "disk"}
    there = {disk.id or disk.name: disk for disk in seen.disks if disk.device != "cdrom"}
    return _compare("disk", here, there, OF_DISK, lambda disk: disk.place)


def _nics(panel: Outline, seen: Outline) -> Drift:
    here, there = {nic.mac: nic for nic in panel.nics}, {nic.mac: nic for nic in seen.nics}
    return _compare("nic", here, there, OF_NIC, lambda nic: nic.bridge)


def _compare(kind: str, here: Mapping[str, Any], there: Mapping[str, Any], names: Sequence[str], brief: Any) -> Drift:
    found: Drift = {}
    for key in sorted(here.keys() | there.keys()):
        ours, seen = here.get(key), there.get(key)
        if ours is None or seen is None:
            found[f"{kind}/{key}"] = {"panel": ours and brief(ours), "seen": seen and brief(seen)}
            continue
        for name in names:
            values = {"panel": getattr(ours, name), "seen": getattr(seen, name)}
            if values["panel"] != values["seen"]:
                found[f"{kind}/{key}/{name}"] = values
    return found


def _drives(panel: Outline, seen: Outline) -> Drift:
    """CD-ROM drives are alike: the first is the first, and what lies in it counts."""
    here = [disk for disk in panel.disks if disk.device == "cdrom"]
    there = [disk for disk in seen.disks if disk.device == "cdrom"]
    found: Drift = {}
    for ours, other in zip(here, there, strict=False):
        media = {"panel": ours.place, "seen": os.path.basename(other.place)}
        if media["panel"] != media["seen"]:
            found[f"disk/{ours.id}/medium"] = media
    for ours in here[len(there) :]:
        found[f"disk/{ours.id}"] = {"panel": ours.place, "seen": None}
    for other in there[len(here) :]:
        found[f"disk/{other.name}"] = {"panel": None, "seen": os.path.basename(other.place)}
    return found


# --- as the panel has them --------------------------------------------------------------------------------


def expected(vms: Collection[str]) -> dict[str, Outline]:
    """The outline of each VM's definition as :func:`cluster.domain_specs.domain_spec` would have it made, for many."""
    disks, nics = _expected_disks(vms), _expected_nics(vms)
    rows = Vm.objects.filter(pk__in=vms).values_list("pk", "title", "vcpus", "memory_bytes")
    return {
        pk: Outline(
            title=title,
            vcpus=vcpus,
            vcpus_current=vcpus,
            memory_bytes=-(-memory_bytes // 1024) * 1024,
            memory_current_bytes=-(-memory_bytes // 1024) * 1024,
            disks=tuple(disks[pk]),
            nics=tuple(nics[pk]),
        )
        for pk, title, vcpus, memory_bytes in rows
    }


def _expected_disks(vms: Collection[str]) -> dict[str, list[SeenDisk]]:
    found: dict[str, list[SeenDisk]] = defaultdict(list)
    rows = Disk.objects.filter(vm__in=vms).exclude(pending=Pending.DETACH)
    names = ("vm", "pk", "device", "bus", "format", "pool__kind", "pool__path", "iso__name")
    for vm, pk, device, bus, disk_format, kind, path, iso in rows.values_list(*names):
        place = iso or "" if path is None else place_of(kind, path, pk, disk_format)
        found[vm].append(SeenDisk(name="", device=device, id=pk, place=place, bus=bus, format=disk_format))
    return found


def place_of(kind: str, path: str, disk_id: str, disk_format: str) -> str:
    """Where a volume is for the guest's QEMU."""
    if kind == "directory":
        return f"{path}/{disk_id}.{disk_format}"
    return f"{path}/{disk_id}" if kind == "rbd" else f"/dev/{path.partition('/')[0]}/{disk_id}"


def _expected_nics(vms: Collection[str]) -> dict[str, list[SeenNic]]:
    found: dict[str, list[SeenNic]] = defaultdict(list)
    rows = Nic.objects.filter(vm__in=vms).values_list("vm", "pk", "mac", "network__bridge", "model")
    for vm, pk, mac, bridge, model in rows:
        found[vm].append(SeenNic(mac=mac, bridge=bridge, model=model, tap="ul" + pk))
    return found


def note(seen: Mapping[str, Outline | None], had: Mapping[str, Drift]) -> None:
    """Keep what was seen of each VM, where it is not what was kept before; None: its domain is gone."""
    here = expected([pk for pk, outline in seen.items() if outline is not None])
    changed = []
    for pk, outline in seen.items():
        drift = differences(here[pk], outline) if outline is not None and pk in here else {}
        if drift != had[pk]:
            Vm.objects.filter(pk=pk).update(drift=drift, version=F("version") + 1)
            changed.append(pk)
    states.tell(changed)


# --- taking over ------------------------------------------------------------------------------------------

TAKEN: dict[str, tuple[str, ...]] = {"bus": get_args(DiskBus), "model": get_args(NicModel)}
"""Of a disk or a NIC what the panel can take over, and the values that it can have."""


def can_be_held(field: str, seen: Any) -> bool:
    """Whether the panel can have it as it is seen."""
    if field in ("vcpus", "memory_bytes"):
        return True
    kind, _slash, rest = field.partition("/")
    about = rest.partition("/")[2]
    return kind in ("disk", "nic") and seen in TAKEN.get(about, ())


# --- in words ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FieldLine:
    field: str
    what: str
    panel: str
    seen: str
    adoptable: bool


def lines_of(vm: Vm) -> list[FieldLine]:
    return [
        FieldLine(field, name_of(field), *_words(field, values), can_be_held(field, values["seen"]))
        for field, values in sorted(vm.drift.items())
    ]


def name_of(field: str) -> str:
    """What people call it."""
    kind, _slash, rest = field.partition("/")
    key, _slash, about = rest.partition("/")
    names = {
        "vcpus": _("vCPU"),
        "vcpus_current": _("vCPU at the start"),
        "memory_bytes": _("Memory"),
        "memory_current_bytes": _("Memory at the start"),
        "autostart": _("Start with libvirt"),
        "persistent": _("Definition"),
        "disk": _("Disk %(key)s"),
        "disk/bus": _("Bus of disk %(key)s"),
        "disk/place": _("Volume of disk %(key)s"),
        "disk/medium": _("Medium in the drive"),
        "nic": _("Interface %(key)s"),
        "nic/bridge": _("Bridge of interface %(key)s"),
        "nic/model": _("Model of interface %(key)s"),
        "nic/tap": _("Tap of interface %(key)s"),
    }
    found = names.get(f"{kind}/{about}" if about else kind, field)
    return found % {"key": key} if "%(" in found else found


def _words(field: str, values: Mapping[str, Any]) -> tuple[str, str]:
    return tuple(_word(field, values[side]) for side in ("panel", "seen"))  # type: ignore[return-value]


def _word(field: str, value: Any) -> str:
    if value is None:
        return _("has none")
    if field == "persistent":
        return _("permanent") if value else _("temporary: gone when the guest goes off")
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    if field.endswith("_bytes"):
        return format_size(value, "en" if (get_language() or "ru").startswith("en") else "ru")
    return str(value) if value != "" else _("nothing")
