"""The forecast of a move, inside its dialog: measured by a job, looked at until it has ended."""

from typing import Any

from django.http import HttpResponse
from django.shortcuts import render

from cluster import operations, selectors
from cluster.job_views import job_view
from cluster.models import Vm
from cluster.refusals import BadShape, Refused

from .answers import reasons_of
from .fields import fields_of, read
from .http import PageRequest, page

OPERATION = "vm.forecast"


@page
def forecast(request: PageRequest, pk: str) -> HttpResponse:
    """POST begins with what the dialog says; GET ``?job=`` looks at how far it is."""
    vm = selectors.get(selectors.IN_FULL["vms"](request.actor), pk)
    request.actor.require(OPERATION)
    if request.method == "POST":
        return _answer(request, vm, _begun(request, vm))
    asked = request.GET.get("job", "")
    if not asked:
        return _answer(request, vm, {})
    job = selectors.get(selectors.jobs(request.actor).filter(operation=OPERATION), asked)
    view = job_view(request.actor, job)
    nodes = selectors.nodes(request.actor).in_bulk([view["result"]["node"]]) if view["result"] else {}
    return _answer(request, vm, {"job": view, "final": job.is_final, "node": next(iter(nodes.values()), None)})


def _begun(request: PageRequest, vm: Vm) -> dict[str, Any]:
    try:
        params = read(fields_of("vm.migrate", request.actor, vm), request.POST)
        job = operations.start(request.actor, OPERATION, params, vm.pk).job
    except (Refused, BadShape) as refused:
        return {"why_not": reasons_of(refused)}
    return {"job": job_view(request.actor, job), "final": False}


def _answer(request: PageRequest, vm: Vm, context: dict[str, Any]) -> HttpResponse:
    return render(request, "vms/forecast.html", {"vm": vm, **context})
