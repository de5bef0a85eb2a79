"""What people type to add a pool, kept as they typed it, and the operation's parameters that it means."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from django.http import QueryDict
from django.utils.translation import gettext as _

from cluster import selectors
from cluster.models import Node, NodeState
from cluster.permissions import Actor
from cluster.pools import offers_of
from web.templatetags.ulei import sentence

PLAIN = ("name", "node", "place", "path", "stripes", "ceph_pool", "monitors", "user", "key")
LONGEST = 255
NEEDED = {"directory": ("path",), "rbd": ("ceph_pool", "monitors", "user", "key")}
"""What must be typed for a kind of storage that no node offers by itself."""


@dataclass
class PoolForm:
    """``errors``: slot (a field's id on the page) -> messages. ``place``: ``lvm:vg0``, ``directory`` or ``rbd``."""

    actor: Actor
    typed: dict[str, str]
    chosen: list[str] = field(default_factory=list)
    """Nodes that shall see it, beside the one whose offers are shown."""
    errors: dict[str, list[str]] = field(default_factory=dict)
    blank: list[str] = field(default_factory=list)
    """Slots that must be filled in and are not: said as an error only after a try to add."""

    @classmethod
    def read(cls, actor: Actor, data: QueryDict) -> "PoolForm":
        form = cls(actor, {name: data.get(name, "").strip()[:LONGEST] for name in PLAIN}, data.getlist("nodes")[:1000])
        if form.typed["node"] not in {node.pk for node in form.nodes}:
            form.typed["node"] = next((n.pk for n in form.nodes if n.state == NodeState.ONLINE), "")
        return form

    @cached_property
    def nodes(self) -> list[Node]:
        return list(selectors.nodes(self.actor).exclude(redis_password_sha256="").order_by("name"))

    @property
    def node(self) -> Node | None:
        return next((node for node in self.nodes if node.pk == self.typed["node"]), None)

    @property
    def others(self) -> list[Node]:
        return [node for node in self.nodes if node.pk != self.typed["node"]]

    @cached_property
    def _offers(self) -> dict[str, list[dict[str, Any]]]:
        return offers_of(self.nodes)

    @property
    def offers(self) -> list[dict[str, Any]]:
        """What the chosen node shows, each with its ``place``."""
        return [{**offer, "place": f"{offer['kind']}:{offer['path']}"} for offer in self._offers_of(self.typed["node"])]

    def _offers_of(self, node: str) -> list[dict[str, Any]]:
        return self._offers.get(node, [])

    @property
    def kind(self) -> str:
        return self.typed["place"].partition(":")[0]

    @property
    def shown(self) -> list[tuple[Node, dict[str, Any] | None]]:
        """Every node that shall see it, with what it shows there; for a folder and Ceph no node shows anything."""
        if self.kind not in ("lvm", "lvmthin"):
            return []
        path = self.typed["place"].partition(":")[2]
        return [
            (node, next((o for o in self._offers_of(node.pk) if (o["kind"], o["path"]) == (self.kind, path)), None))
            for node in self.nodes
            if node.pk in self._wanted
        ]

    @property
    def _wanted(self) -> list[str]:
        return sorted({self.typed["node"], *self.chosen} - {""})

    @property
    def slots(self) -> list[str]:
        return ["name", "node", "place", "path", "stripes", "ceph_pool", "monitors", "user", "key", "nodes"]

    # --- what it means

    def params(self, stand_in: str = "") -> dict[str, Any] | None:
        """The operation's parameters; None when something typed has no meaning, which ``errors`` then says.

        ``stand_in``: a name for a check while none is typed.
        """
        typed, kind = self.typed, self.kind
        self.errors, self.blank = {}, []
        needed = ("node", "place", *NEEDED.get(kind, ()), *(() if stand_in else ("name",)))
        self.blank = [name for name in needed if not typed[name]]
        params: dict[str, Any] = {
            "name": typed["name"] or stand_in,
            "kind": kind,
            "nodes": self._wanted,
            "path": self._path(),
        }
        if kind == "lvm" and typed["stripes"]:
            params["stripes"] = self._stripes()
        if kind == "rbd":
            monitors = [word for word in re.split(r"[\s,]+", typed["monitors"]) if word]
            params |= {"monitors": monitors, "user": typed["user"].removeprefix("client."), "key": typed["key"]}
        return None if self.errors or self.blank else params

    def _path(self) -> str:
        if self.kind == "directory":
            return self.typed["path"]
        return self.typed["ceph_pool"] if self.kind == "rbd" else self.typed["place"].partition(":")[2]

    def _stripes(self) -> int:
        if re.fullmatch(r"\d{1,4}", self.typed["stripes"], re.ASCII):
            return int(self.typed["stripes"])
        self.errors["stripes"] = [_("A whole number, for example 2.")]
        return 1

    def say_blank(self) -> None:
        """After a try to add, what is missing is an error like any other."""
        for slot in self.blank:
            self.errors.setdefault(slot, []).append(_("Fill this in."))

    def take_refusals(self, refusals: Sequence[Mapping[str, str]]) -> None:
        """Each refusal beside the field that it is about; all of them stand in the list as well."""
        for refusal in refusals:
            if "field" in refusal:
                self.errors.setdefault(self._slot_of(refusal["field"]), []).append(sentence(refusal["cause"]) + ".")

    def take_bad_shape(self, errors: Mapping[str, Sequence[str]]) -> None:
        for name, messages in errors.items():
            slot = self._slot_of(name.partition(".")[0])
            self.errors[slot] = [_shape_of(slot) or " ".join(messages)]

    def _slot_of(self, parameter: str) -> str:
        if parameter == "path":
            return {"directory": "path", "rbd": "ceph_pool"}.get(self.kind, "place")
        return parameter if parameter in self.slots else "name"


def _shape_of(slot: str) -> str:
    return {
        "name": _("1 to 63 characters: a to z, digits and hyphens, with a letter or a digit at both ends."),
        "stripes": _("A whole number from 1 to 128."),
        "monitors": _("Addresses with ports, for example 10.0.0.1:6789."),
        "user": _("A name of letters, digits, hyphens and dots."),
        "path": _("A path, for example /srv/disks."),
        "place": _("Choose one from the list."),
    }.get(slot, "")
