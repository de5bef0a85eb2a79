"""Where an administrator runs the demo operation: to see the engine wait for a click, cancel and undo."""

from django.http import HttpResponse

from cluster import selectors
from cluster.refusals import NotKnown

from .http import PageRequest, page, show
from .lines import actions_of, job_lines

LAST_JOBS = 10


@page
def demo(request: PageRequest) -> HttpResponse:
    if not request.actor.may("demo.run"):
        raise NotKnown("demo")
    actor = request.actor
    lines = [
        {"node": node, "action": next(iter(actions_of(actor, node, "nodes", {"wait"})), None)}
        for node in selectors.nodes(actor).order_by("name")
    ]
    jobs = selectors.jobs(actor).filter(operation__startswith="demo.").order_by("-created", "-pk")[:LAST_JOBS]
    return show(request, "demo/demo.html", {"lines": lines, "jobs": job_lines(jobs)})
