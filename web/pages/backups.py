"""Backups: all of them, also of VMs that are no more."""

from django.http import HttpResponse

from cluster import selectors

from .http import PageRequest, page, show
from .lines import backup_lines
from .paging import page_of


@page
def backup_list(request: PageRequest) -> HttpResponse:
    page_now = page_of(selectors.backups(request.actor), ("-created", "-pk"), request.GET.get("cursor", ""))
    context = {"backups": backup_lines(request.actor, page_now.rows), "page": page_now}
    return show(request, "backups/list.html", context)
