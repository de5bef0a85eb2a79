"""Images and ISOs: what there is, where it lies, who uses it; uploads from the browser."""

from typing import Any

from django.http import HttpResponse
from django.utils.translation import gettext as _

from cluster import library, selectors
from cluster.models import Upload
from cluster.permissions import Actor
from cluster.refusals import Forbidden

from .http import PageRequest, page, show
from .lines import actions_of, running_jobs
from .paging import page_of
from .vm_form import catalogue


@page
def images(request: PageRequest) -> HttpResponse:
    return _library(request, "image")


@page
def isos(request: PageRequest) -> HttpResponse:
    return _library(request, "iso")


def _library(request: PageRequest, kind: str) -> HttpResponse:
    actor = request.actor
    if not actor.may("see.images"):
        raise Forbidden(actor.refusal("see.images"))
    found = selectors.images_with_places(actor) if kind == "image" else selectors.isos_with_places(actor)
    page_now = page_of(found, ("name", "pk"), request.GET.get("cursor", ""))
    jobs = running_jobs(actor, [f"{kind}:{row.pk}" for row in page_now.rows])
    context = {
        "kind": kind,
        "noun": kind + "s",
        "heading": _("Images") if kind == "image" else _("ISOs"),
        "lines": [_line(actor, kind, row) | {"job": jobs.get(f"{kind}:{row.pk}")} for row in page_now.rows],
        "page": page_now,
        "uploads": _uploads(actor, kind),
        "catalogue": catalogue(),
    }
    return show(request, "library/list.html", context)


def _line(actor: Actor, kind: str, file: Any) -> dict[str, Any]:
    """A tenant sees what there is; where it lies and who else uses it is not theirs to know."""
    if actor.is_tenant_side:
        return {"file": file, "actions": []}
    nodes = sorted(copy.node.name for copy in file.copies.all())
    return {"file": file, "nodes": nodes, "actions": actions_of(actor, file, kind + "s")}


def _uploads(actor: Actor, kind: str) -> list[tuple[Upload, int]]:
    """Those that are on their way, each with what has come of it."""
    if not actor.may("image.add"):
        return []
    rows = selectors.uploads(actor).filter(kind=kind).order_by("created", "pk")
    return [(upload, library.received_bytes(upload.pk)) for upload in rows]
