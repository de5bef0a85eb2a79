"""The journal: what was done or refused, by whom."""

from typing import Any

from django.http import HttpResponse

from cluster import selectors
from cluster.models import AuditEvent
from cluster.refusals import NotKnown
from cluster.saga.steps import Operation

from .http import PageRequest, page, show
from .paging import page_of
from .words import word_of_action

OUTCOMES = ("started", "succeeded", "failed", "cancelled", "stuck", "refused", "resolved", "done")


@page
def journal(request: PageRequest) -> HttpResponse:
    if not request.actor.may("see.audit"):
        raise NotKnown("journal")
    asked = {name: request.GET.get(name, "").strip()[:200] for name in ("q", "outcome")}
    rows = selectors.audit_events(request.actor)
    if asked["outcome"] in OUTCOMES:
        rows = rows.filter(outcome=asked["outcome"])
    if asked["q"]:
        rows = rows.filter(subject_name__icontains=asked["q"]) | rows.filter(username__icontains=asked["q"])
    page_now = page_of(rows, ("-pk",), request.GET.get("cursor", ""))
    context = {
        "lines": [_line(event) for event in page_now.rows],
        "page": page_now,
        "asked": asked,
        "filtered": any(asked.values()),
        "outcomes": OUTCOMES,
    }
    return show(request, "journal/list.html", context)


def _line(event: AuditEvent) -> dict[str, Any]:
    operation = Operation.registry.get(event.action)
    label = str(operation.label) if operation else word_of_action(event.action)
    codes = list(event.detail.get("codes", ()))
    if event.detail.get("error"):
        codes.append(event.detail["error"])
    return {"event": event, "label": label, "codes": codes, "note": event.detail.get("note", "")}
