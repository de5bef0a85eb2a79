"""What people type to create a VM, kept as they typed it, and the operation's parameters that it means."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from django.utils.translation import get_language
from django.utils.translation import gettext as _

from cluster import selectors
from cluster.models import AffinityGroup, Image, Iso, Network, Node, NodeGroup, Pool, PoolState, Tenant
from cluster.os_catalogue import CATALOGUE, Os
from cluster.permissions import Actor
from nodes.contract.sizes import format_size

from .sizes import typed_size
from .words import rule_of

MAX_DISKS, MAX_NICS = 16, 8
PLACE = ("tenant", "node", "group", "affinity_group")
PLAIN = ("name", "title", *PLACE, "os", "source", "image", "iso", "vcpus", "memory", "start", "filled")
DISK = ("size", "pool", "bus")
NIC = ("network", "address", "model", "mac")
BUSES = ("virtio", "scsi", "sata", "ide")
MODELS = ("virtio", "e1000", "rtl8139")
LONGEST = 200

Row = dict[str, str]


def catalogue() -> list[tuple[str, list[Os]]]:
    """Operating systems to choose from, by kind."""
    kinds = (("linux", "Linux"), ("windows", "Windows"), ("bsd", "BSD"), ("other", _("Other")))
    return [(label, [o for o in CATALOGUE.values() if o.type == kind]) for kind, label in kinds]


@dataclass
class VmForm:
    """``errors``: slot (a field's id on the page) -> messages."""

    actor: Actor
    typed: Row
    disks: list[Row]
    nics: list[Row]
    errors: dict[str, list[str]] = field(default_factory=dict)
    buses: tuple[str, ...] = BUSES
    models: tuple[str, ...] = MODELS
    blank: list[str] = field(default_factory=list)
    """Slots that must be filled in and are not: said as an error only after a try to create."""
    said: dict[int, dict[str, Any]] = field(default_factory=dict)
    """What the size of each disk comes to, after a check."""

    @classmethod
    def new(cls, actor: Actor) -> "VmForm":
        """Filled in so that a name is all that is missing."""
        form = cls(actor, dict.fromkeys(PLAIN, ""), [], [])
        first = form.images[0] if form.images else None
        form.typed |= {"source": "image" if first else "iso" if form.isos else "blank", "start": "1"}
        form.typed["image"] = first.pk if first else ""
        form.typed["os"] = first.os if first and first.os in CATALOGUE else "other-linux"
        form.disks = [{"size": "", "pool": "", "bus": ""}]
        if form.networks:
            form.nics = [{"network": form.first_network, "address": "", "model": "", "mac": ""}]
        form.fill()
        return form

    @classmethod
    def read(cls, actor: Actor, data: Mapping[str, str]) -> "VmForm":
        typed = {name: data.get(name, "").strip()[:LONGEST] for name in PLAIN}
        return cls(actor, typed, _rows(data, "disk", DISK, MAX_DISKS), _rows(data, "nic", NIC, MAX_NICS))

    # --- what there is to choose from: read where it is asked for, as a check asks for little of it

    @cached_property
    def images(self) -> list[Image]:
        return list(selectors.images(self.actor).prefetch_related(None).order_by("name"))

    @cached_property
    def isos(self) -> list[Iso]:
        return list(selectors.isos(self.actor).prefetch_related(None).order_by("name"))

    @cached_property
    def networks(self) -> list[Network]:
        return list(selectors.networks(self.actor).order_by("name"))

    @cached_property
    def nodes(self) -> list[Node]:
        return list(selectors.nodes(self.actor).order_by("name"))

    @cached_property
    def node_groups(self) -> list[NodeGroup]:
        return list(selectors.node_groups(self.actor).prefetch_related(None).order_by("name"))

    @cached_property
    def affinity_groups(self) -> list[tuple[AffinityGroup, str]]:
        """Each with its rule in words."""
        groups = selectors.affinity_groups(self.actor).prefetch_related(None).select_related("tenant").order_by("name")
        return [(group, rule_of(group)) for group in groups]

    @cached_property
    def pools(self) -> list[Pool]:
        return list(selectors.pools(self.actor).prefetch_related(None).filter(state=PoolState.ACTIVE).order_by("name"))

    @cached_property
    def tenants(self) -> list[Tenant]:
        return [] if self.actor.is_tenant_side else list(selectors.tenants(self.actor))

    @property
    def os(self) -> Os | None:
        return CATALOGUE.get(self.typed["os"])

    @property
    def has_tenants(self) -> bool:
        """Whether there is a choice of them."""
        return len(self.tenants) > 1

    @property
    def first_network(self) -> str:
        """The one that a new interface is put into: rather one that gives out addresses."""
        return next((n.pk for n in self.networks if n.ranges.all()), self.networks[0].pk if self.networks else "")

    @property
    def catalogue(self) -> list[tuple[str, list[Os]]]:
        return catalogue()

    @property
    def slots(self) -> list[str]:
        """Every place on the page where an error can stand."""
        names = ["name", "title", "node", "group", "affinity_group", "os", "source", "vcpus", "memory", "disks", "nics"]
        names += ["tenant"] if self.has_tenants else []
        parts = DISK if self.pools else ("size", "bus")
        names += [f"disk-{i}-{part}" for i in range(len(self.disks)) for part in parts]
        return names + [f"nic-{i}-{part}" for i in range(len(self.nics)) for part in NIC]

    @property
    def disk_rows(self) -> list[tuple[str, Row, dict[str, Any] | None]]:
        """(prefix of the fields' ids, what is typed, what that comes to)"""
        return [(f"disk-{i}", row, self.said.get(i)) for i, row in enumerate(self.disks)]

    @property
    def nic_rows(self) -> list[tuple[str, Row]]:
        return [(f"nic-{i}", row) for i, row in enumerate(self.nics)]

    # --- what a person changed beside a value

    def fill(self, by_hand: bool = False) -> None:
        """Put in what the chosen OS recommends, where nobody typed another figure since the last time."""
        now, before = self.os, CATALOGUE.get(self.typed["filled"])
        if now is None:
            return
        was, takes = _figures(before) if before else {}, _figures(now)

        def untouched(value: str, name: str) -> bool:
            return by_hand or value in ("", was.get(name))

        for name in ("vcpus", "memory"):
            if untouched(self.typed[name], name):
                self.typed[name] = takes[name]
        if self.disks and untouched(self.disks[0]["size"], "size"):
            self.disks[0]["size"] = takes["size"]
        for disk in self.disks:
            disk["bus"] = takes["bus"] if untouched(disk["bus"], "bus") else disk["bus"]
        for nic in self.nics:
            nic["model"] = takes["model"] if untouched(nic["model"], "model") else nic["model"]
        self.typed["filled"] = now.code

    def take_os_of_image(self) -> None:
        image = next((i for i in self.images if i.pk == self.typed["image"]), None)
        if image and image.os in CATALOGUE:
            self.typed["os"] = image.os
            self.fill()

    def add(self, what: str) -> None:
        takes = _figures(self.os or CATALOGUE["other"])
        if what == "disk" and len(self.disks) < MAX_DISKS:
            self.disks.append({"size": takes["size"], "pool": "", "bus": takes["bus"]})
        if what == "nic" and len(self.nics) < MAX_NICS and self.networks:
            self.nics.append({"network": self.first_network, "address": "", "model": takes["model"], "mac": ""})

    def remove(self, what: str) -> None:
        kind, _sep, index = what.partition("-")
        rows = {"disk": self.disks, "nic": self.nics}.get(kind, [])
        if index.isdigit() and int(index) < len(rows):
            del rows[int(index)]

    # --- what it means

    def params(self, stand_in: str = "") -> dict[str, Any] | None:
        """The operation's parameters; None when something typed has no meaning, which ``errors`` then says.

        ``stand_in``: a name for a check while none is typed.
        """
        typed = self.typed
        self.errors, self.blank = {}, []
        if not typed["name"]:
            self.blank.append("name")
        params: dict[str, Any] = {
            "name": typed["name"] or stand_in,
            "title": typed["title"],
            "vcpus": self._number("vcpus", typed["vcpus"]),
            "memory_bytes": self._size("memory", typed["memory"]),
            "disks": [self._disk(i, row) for i, row in enumerate(self.disks)],
            "nics": [self._nic(i, row) for i, row in enumerate(self.nics)],
            "start": bool(typed["start"]),
        }
        for name in ("tenant", "node", "group", "os"):
            if typed[name]:
                params[name] = typed[name]
        if typed["affinity_group"]:
            params["affinity_groups"] = [typed["affinity_group"]]
        if typed["source"] in ("image", "iso"):
            params[typed["source"]] = typed[typed["source"]]
            if not typed[typed["source"]]:
                self.blank.append("source")
        missing = [slot for slot in self.blank if not (slot == "name" and stand_in)]
        return None if self.errors or missing else params

    def _disk(self, index: int, row: Row) -> dict[str, Any]:
        disk: dict[str, Any] = {"size_bytes": self._size(f"disk-{index}-size", row["size"])}
        return disk | {name: row[name] for name in ("pool", "bus") if row[name]}

    def _nic(self, index: int, row: Row) -> dict[str, Any]:
        if not row["network"]:
            self.blank.append(f"nic-{index}-network")
        nic = {name: row[name] for name in NIC if row[name]}
        if "mac" in nic:
            nic["mac"] = nic["mac"].lower().replace("-", ":")
        return nic

    def _number(self, slot: str, text: str) -> int:
        if not text:
            self.blank.append(slot)
        elif re.fullmatch(r"-?\d{1,9}", text, re.ASCII):
            return int(text)
        else:
            self.errors[slot] = [_("A whole number, for example 2.")]
        return 0

    def _size(self, slot: str, text: str) -> int:
        if not text:
            self.blank.append(slot)
            return 0
        try:
            return typed_size(text)
        except ValueError as wrong:
            self.errors[slot] = [str(wrong)]
            return 0

    def say_blank(self) -> None:
        """After a try to create, what is missing is an error like any other."""
        for slot in self.blank:
            self.errors.setdefault(slot, []).append(_("Fill this in."))

    def take_refusals(self, refusals: Sequence[Mapping[str, str]]) -> None:
        """Each refusal beside the field that it is about; all of them stand in the list as well."""
        for refusal in refusals:
            slot = slot_of(refusal.get("field", ""))
            if slot in self.slots:
                self.errors.setdefault(slot, []).append(refusal["cause"][:1].upper() + refusal["cause"][1:] + ".")

    def take_bad_shape(self, errors: Mapping[str, Sequence[str]]) -> None:
        for path, messages in errors.items():
            slot = slot_of(path)
            words = shape_of(slot) or " ".join(f"{path}: {message}" for message in messages)
            self.errors.setdefault(slot if slot in self.slots else "name", []).append(words)


def _rows(data: Mapping[str, str], kind: str, parts: tuple[str, ...], most: int) -> list[Row]:
    return [
        {part: data.get(f"{kind}-{i}-{part}", "").strip()[:LONGEST] for part in parts}
        for i in range(most)
        if f"{kind}-{i}-{parts[0]}" in data
    ]


def _figures(os: Os) -> Row:
    """What an OS recommends, as a person would type it."""
    language: Literal["ru", "en"] = "en" if (get_language() or "ru").startswith("en") else "ru"
    needs = os.recommended
    return {
        "vcpus": str(needs.vcpus),
        "memory": format_size(needs.memory_bytes, language),
        "size": format_size(needs.disk_bytes, language),
        "bus": os.bus,
        "model": os.nic_model,
    }


def slot_of(path: str) -> str:
    """``disks.0.size_bytes`` -> ``disk-0-size``: the field on the page for a parameter."""
    head, *rest = path.split(".")
    if head in ("disks", "nics") and rest and rest[0].isdigit():
        last = rest[1].removesuffix("_bytes") if len(rest) > 1 else ("size" if head == "disks" else "network")
        return f"{head[:-1]}-{rest[0]}-{last}"
    elsewhere = {"memory_bytes": "memory", "image": "source", "iso": "source", "affinity_groups": "affinity_group"}
    return elsewhere.get(head, head)


def shape_of(slot: str) -> str:
    """What a value must look like, in the reader's words; empty where a field has no words of its own."""
    last = slot.rsplit("-", 1)[-1]
    return {
        "name": _("1 to 63 characters: a to z, digits and hyphens, with a letter or a digit at both ends."),
        "title": _("At most 200 characters."),
        "vcpus": _("A whole number from 1 to 512."),
        "memory": _("At least 16 MB."),
        "size": _("A size greater than zero, for example 20 GB."),
        "mac": _("Six pairs of hexadecimal digits, for example 52:54:00:12:34:56."),
        "address": _("An IPv4 address, for example 10.0.0.10."),
    }.get(last, "")
