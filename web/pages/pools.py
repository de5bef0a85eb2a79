"""Storage pools: how full each is and of what it is made, and one card with its disks."""

import re
from typing import Any

from django.contrib import messages
from django.db.models import Count
from django.http import HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from cluster import drift, selectors, services
from cluster.models import Image, Node, Pool, PoolState
from cluster.permissions import Actor
from cluster.pools import fills_of, strangers_of, warnings_of
from cluster.refusals import BadShape, NotKnown, Refused

from .answers import reasons_of, told
from .http import PageRequest, is_fragment, page, show
from .lines import actions_of, job_lines, running_jobs
from .paging import page_of

LAST_JOBS = 6
MOST_DRIFTED = 20


def see(actor: Actor) -> None:
    """A tenant does not know that there are pools. Raises :class:`NotKnown`."""
    if not actor.may("see.pools"):
        raise NotKnown("pools")


@page
def pool_list(request: PageRequest) -> HttpResponse:
    see(request.actor)
    page_now = page_of(selectors.pools_with_places(request.actor), ("name", "pk"), request.GET.get("cursor", ""))
    return show(request, "pools/list.html", {"lines": [_line(pool) for pool in page_now.rows], "page": page_now})


def _line(pool: Pool) -> dict[str, Any]:
    return {
        "pool": pool,
        "fills": fills_of(pool),
        "warnings": warnings_of(pool),
        "facts": pool.facts,
    }


@page
def pool_card(request: PageRequest, pk: str) -> HttpResponse:
    see(request.actor)
    actor = request.actor
    pool = selectors.get(selectors.pools_with_places(actor), pk)
    disks = selectors.disks_in(actor, pool)
    jobs = selectors.jobs(actor).filter(subject=f"pool:{pool.pk}").order_by("-created", "-pk")[:LAST_JOBS]
    defaults = set(selectors.nodes(actor).filter(default_pool=pool).values_list("pk", flat=True))
    seen_alike = drift.seen_alike(pool.places.all())
    drifted = list(disks.filter(pk__in=seen_alike).exclude(drift={}).order_by("pk")) if seen_alike else []
    context = _line(pool) | {
        "drifted": drifted[:MOST_DRIFTED],
        "drifted_count": len(drifted),
        "strangers": _strangers(pool),
        "places": [(place.node, place.node_id in defaults) for place in pool.places.all()],
        "is_default": bool(defaults),
        "actions": actions_of(actor, pool, "pools"),
        "job": running_jobs(actor, [f"pool:{pool.pk}"]).get(f"pool:{pool.pk}"),
        "page": page_of(disks, ("-size_bytes", "pk"), request.GET.get("cursor", "")),
        "jobs": job_lines(jobs),
    }
    return show(request, "pools/card.html", context)


def _strangers(pool: Pool) -> list[dict[str, Any]]:
    """With ``image``: in a node's folder of images each file is one, too; without those that disks rest on."""
    strangers = strangers_of(pool)
    if pool.attached or not strangers:
        return strangers
    images = Image.objects.filter(name__in=[each["name"] for each in strangers], copies__node__pool_places__pool=pool)
    used = dict(images.annotate(disks_count=Count("disks", distinct=True)).values_list("name", "disks_count"))
    return [{**each, "image": each["name"] in used} for each in strangers if not used.get(each["name"])]


@page
@require_POST
def pool_edit(request: PageRequest, pk: str) -> HttpResponse:
    """Settings: what no node needs to hear of. ``default``: the node that shall put new disks here."""
    see(request.actor)
    pool = selectors.get(selectors.pools(request.actor), pk)
    try:
        services.pool_edit(request.actor, pool, **_typed(request, pool))
    except (Refused, BadShape) as refused:
        words = reasons_of(refused)
        if is_fragment(request):
            return told(words, level="error", refresh=f"pool:{pk}")
        messages.error(request, words)
        return redirect("pool", pk)
    if not is_fragment(request):
        return redirect("pool", pk)
    answer = told(_("Saved"), refresh=f"pool:{pk}")
    if request.POST.get("name", pool.name) != pool.name:
        answer["HX-Refresh"] = "true"  # the heading stands outside of what is fetched again
    return answer


def _typed(request: PageRequest, pool: Pool) -> dict[str, Any]:
    """What of the settings was sent. Raises :class:`BadShape`."""
    sent = request.POST
    asked: dict[str, Any] = {}
    if "name" in sent:
        asked["name"] = sent["name"].strip()[:100]
    if "warning_percent" in sent:
        text = sent["warning_percent"].strip()
        if not re.fullmatch(r"\d{1,3}", text, re.ASCII) or not 1 <= int(text) <= 100:
            raise BadShape({str(_("Warning level")): [_("A whole number from 1 to 100.")]})
        asked["warning_percent"] = int(text)
    if sent.get("exact") in ("0", "1"):
        asked["exact"] = sent["exact"] == "1"
    if sent.get("state") in (PoolState.ACTIVE, PoolState.OUT_OF_SERVICE):
        asked["state"] = sent["state"]
    if "default" in sent:
        now = Node.objects.filter(default_pool=pool).values_list("pk", flat=True)
        asked["default_of"] = [*now, sent["default"]]
    return asked
