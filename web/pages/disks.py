"""Disks: those that no VM has, and all of them."""

from django.http import HttpResponse

from cluster import selectors

from .http import PageRequest, page, show
from .lines import disk_lines
from .paging import page_of

ALL = "all"


@page
def disk_list(request: PageRequest) -> HttpResponse:
    which = ALL if request.GET.get("which") == ALL else ""
    disks = selectors.disks_with_places(request.actor)
    page_now = page_of(disks if which else disks.filter(vm=None), ("title", "pk"), request.GET.get("cursor", ""))
    context = {"disks": disk_lines(request.actor, page_now.rows), "page": page_now, "which": which}
    return show(request, "disks/list.html", context)
