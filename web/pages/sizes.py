"""The size field: what a typed size means, and what it comes to in its pool, while one types."""

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from django.http import HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _

from cluster import operations, placement, selectors
from cluster.models import Pool
from cluster.permissions import Actor
from cluster.refusals import BadShape
from cluster.saga.steps import Plan
from nodes.contract.sizes import parse_size

from .http import PageRequest, page


def typed_size(text: str) -> int:
    """Bytes. Raises ValueError with words for the person who typed it."""
    if re.fullmatch(r"[\d.,]+", text, re.ASCII):
        raise ValueError(_("Add the unit: %(text)s GB or %(text)s MB?") % {"text": text})
    try:
        return parse_size(text)
    except ValueError:
        raise ValueError(_("This is not a size. Type for example 20 GB or 512 MB.")) from None


def said_of(quoted: Mapping[str, Any], pool: Pool | None) -> dict[str, Any]:
    """A row of a quote in full. ``pool``: None for those who know of none."""
    facts = pool.facts if pool else {}
    extent_bytes = facts.get("extent_bytes")
    return {
        **quoted,
        "extent_bytes": extent_bytes,
        "extents": quoted["size_bytes"] // extent_bytes if extent_bytes else None,
        "pool_name": pool.name if pool else "",
        "free_bytes": max(0, placement.free_room_bytes(pool)) if pool else None,
    }


def said_of_all(actor: Actor, plan: Plan) -> list[dict[str, Any]]:
    """Every disk of a plan's quote."""
    rows = plan.quote["disks"]
    pools = selectors.pools(actor).prefetch_related(None).in_bulk({row["pool"] for row in rows if row["pool"]})
    return [said_of(row, pools.get(row["pool"])) for row in rows]


@page
def disk_size(request: PageRequest, pk: str) -> HttpResponse:
    """What the disk would grow to."""
    selectors.target(request.actor, "disks", pk)
    return _said(request, "disk.resize", {}, pk)


@page
def new_disk_size(request: PageRequest) -> HttpResponse:
    """What a new disk would have, in the pool and for the VM that the query names."""
    asked = {name: request.GET.get(name, "")[:40] for name in ("vm", "pool")}
    return _said(request, "disk.create", {name: pk for name, pk in asked.items() if pk}, None)


@page
def disk_place(request: PageRequest, pk: str) -> HttpResponse:
    """What the disk would have where it would move."""
    request.actor.require("disk.move")
    asked = {name: request.GET.get(name, "")[:40] for name in ("pool", "format")}
    params = {name: value for name, value in asked.items() if value}
    context: dict[str, Any] = {}
    with suppress(BadShape):  # nothing was chosen yet
        plan = operations.dry_run(request.actor, "disk.move", params, pk)
        context["said"] = said_of_all(request.actor, plan)
        context["refusals"] = [r.said() for r in plan.refusals if r.field]
    return render(request, "parts/disk_size.html", context)


def _said(request: PageRequest, code: str, params: dict[str, Any], pk: str | None) -> HttpResponse:
    """A dry run of the size that is typed so far."""
    request.actor.require(code)
    text = request.GET.get("size_bytes", "").strip()[:40]
    context: dict[str, Any] = {}
    try:
        if text:
            plan = operations.dry_run(request.actor, code, params | {"size_bytes": typed_size(text)}, pk)
            context["said"] = said_of_all(request.actor, plan)
            context["refusals"] = [r.said() for r in plan.refusals if r.field == "size_bytes"]
    except ValueError as wrong:
        context["wrong"] = str(wrong)
    except BadShape:
        context["wrong"] = _("A size greater than zero, for example 20 GB.")
    return render(request, "parts/disk_size.html", context)
