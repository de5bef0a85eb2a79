"""Jobs: the list, one job live, and what people may say to it."""

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpResponse
from django.shortcuts import redirect
from django.urls import NoReverseMatch, reverse
from django.views.decorators.http import require_POST

from cluster import job_words, selectors
from cluster.job_views import job_view
from cluster.models import FINAL, Job, JobState
from cluster.refusals import BadShape, NotKnown, Refused
from cluster.saga.steps import Operation
from web.templatetags.ulei import word_of

from .answers import reasons_of, told
from .http import PageRequest, is_fragment, page, show
from .lines import job_lines
from .paging import page_of

CARDS = {"vm": ("vms", "vm"), "node": ("nodes", "node"), "pool": ("pools", "pool")}


@page
def job_list(request: PageRequest) -> HttpResponse:
    asked = {name: request.GET.get(name, "").strip()[:100] for name in ("state", "operation", "mine")}
    page_now = page_of(_filtered(request, asked), ("-created", "-pk"), request.GET.get("cursor", ""))
    operations = sorted(((o.code, str(o.label)) for o in Operation.registry.values()), key=lambda row: row[1])
    context = {
        "lines": job_lines(page_now.rows),
        "page": page_now,
        "asked": asked,
        "filtered": any(asked.values()),
        "states": [(state, word_of("job", state)) for state in JobState.values],
        "operations": operations,
    }
    return show(request, "jobs/list.html", context)


def _filtered(request: PageRequest, asked: dict[str, str]) -> "QuerySet[Job]":
    jobs = selectors.jobs(request.actor)
    if asked["state"] == "now":
        jobs = jobs.exclude(state__in=FINAL)
    elif asked["state"] in JobState.values:
        jobs = jobs.filter(state=asked["state"])
    if asked["operation"]:
        jobs = jobs.filter(operation=asked["operation"])
    if asked["mine"]:
        jobs = jobs.filter(user=request.actor.user.pk)
    return jobs


@page
def job_page(request: PageRequest, pk: str) -> HttpResponse:
    job = selectors.get(selectors.jobs(request.actor), pk)
    return show(request, "jobs/job.html", job_context(request, job))


def job_context(request: PageRequest, job: Job) -> dict[str, object]:
    view = job_view(request.actor, job)
    return {
        "job": view,
        "can": {action["code"]: action for action in view["actions"]},
        "subject_url": _subject_url(request, job),
        "children": job_lines(selectors.jobs(request.actor).filter(parent=job).order_by("created", "pk")),
        "silent": job_words.must_be_named(job),
        "working": not job.is_final,
    }


def _subject_url(request: PageRequest, job: Job) -> str:
    """A link to what the job is about, while there is such a thing that this person may see."""
    kind, _, pk = job.subject.partition(":")
    if kind not in CARDS:
        return ""
    noun, name = CARDS[kind]
    try:
        selectors.target(request.actor, noun, pk)
        return reverse(name, args=[pk])
    except (NotKnown, NoReverseMatch):
        return ""


@page
@require_POST
def job_word(request: PageRequest, pk: str, word: str) -> HttpResponse:
    """cancel, proceed, retry, resolve, priority: a refusal is said beside the button, nothing typed is lost."""
    job = selectors.get(selectors.jobs(request.actor).prefetch_related(None), pk)
    try:
        _say(request, job, word)
    except (Refused, BadShape) as refused:
        if is_fragment(request):
            return told(reasons_of(refused), level="error", refresh=f"job:{pk}")
        messages.error(request, reasons_of(refused))
    if is_fragment(request):
        return told(refresh=f"job:{pk}")
    return redirect("job", pk)


def _say(request: PageRequest, job: Job, word: str) -> None:
    actor, typed = request.actor, request.POST
    if word == "resolve":
        outcome, node = typed.get("outcome", ""), typed.get("node", "").strip() or None
        job_words.resolve(actor, job, outcome, typed.get("note", "").strip()[:500], node=node)
    elif word == "priority":
        value = typed.get("priority", "")
        if value not in ("-1", "0", "1"):
            raise BadShape({"priority": ["-1, 0, 1"]})
        job_words.set_priority(actor, job, int(value))
    elif word in ("cancel", "proceed", "retry"):
        getattr(job_words, word)(actor, job)
    else:
        raise NotKnown(word)
