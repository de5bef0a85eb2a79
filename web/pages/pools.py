"""Storage pools: how full each is and of what it is made, and one card with its disks."""

from typing import Any

from django.http import HttpResponse

from cluster import selectors
from cluster.models import Pool
from cluster.permissions import Actor
from cluster.pools import fills_of, warnings_of
from cluster.refusals import NotKnown

from .http import PageRequest, page, show
from .lines import actions_of, job_lines, running_jobs
from .paging import page_of

LAST_JOBS = 6


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
    context = _line(pool) | {
        "actions": actions_of(actor, pool, "pools"),
        "job": running_jobs(actor, [f"pool:{pool.pk}"]).get(f"pool:{pool.pk}"),
        "page": page_of(disks, ("-size_bytes", "pk"), request.GET.get("cursor", "")),
        "jobs": job_lines(jobs),
    }
    return show(request, "pools/card.html", context)
