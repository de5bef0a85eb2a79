"""Add a pool: what each node offers, and beside it what would be made, or why not."""

import secrets
from typing import Any

from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from cluster import operations
from cluster.refusals import BadShape, Refused

from .http import PageRequest, is_fragment, page
from .pool_form import PoolForm
from .pools import see


@page
def pool_add(request: PageRequest) -> HttpResponse:
    """The form; ``?node=`` is the one whose offers are shown. A fragment is the form anew, for another node."""
    see(request.actor)
    request.actor.require("pool.add")
    form = PoolForm.read(request.actor, request.POST if request.method == "POST" else request.GET)
    if is_fragment(request):
        return render(request, "pools/_form.html", {"form": form})
    if request.method != "POST" or "refresh" in request.POST:
        return _whole(request, form, check_of(form))
    params = form.params()
    if params is None:
        form.say_blank()
        return _whole(request, form, {"state": "errors"}, status=422)
    try:
        return redirect("job", operations.start(request.actor, "pool.add", params).job.pk)
    except BadShape as bad:
        form.take_bad_shape(bad.errors)
        return _whole(request, form, {"state": "errors"}, status=422)
    except Refused as refused:
        refusals = [r.said() for r in refused.refusals]
        form.take_refusals(refusals)
        return _whole(request, form, {"state": "refused", "refusals": refusals}, status=refused.status)


@page
@require_POST
def pool_check(request: PageRequest) -> HttpResponse:
    """The dry run of what is typed so far; with each answer every field's own error is renewed."""
    see(request.actor)
    request.actor.require("pool.add")
    form = PoolForm.read(request.actor, request.POST)
    return render(request, "pools/_check.html", {"form": form, "check": check_of(form), "answer": True})


def check_of(form: PoolForm) -> dict[str, Any]:
    # A name that nobody has: the rest can be checked before one is typed.
    params = form.params(stand_in="check-" + secrets.token_hex(6))
    if params is None:
        return {"state": "errors" if form.errors else "blank"}
    try:
        plan = operations.dry_run(form.actor, "pool.add", params)
    except BadShape as bad:
        form.take_bad_shape(bad.errors)
        return {"state": "errors"}
    refusals = [r.said() for r in plan.refusals]
    form.take_refusals(refusals)
    return {
        "state": "refused" if refusals else "named" if form.typed["name"] else "possible",
        "refusals": refusals,
        "shown": form.shown,
        "stripes": params.get("stripes", 1),
    }


def _whole(request: PageRequest, form: PoolForm, check: dict[str, Any], status: int = 200) -> HttpResponse:
    return render(request, "pools/add.html", {"form": form, "check": check}, status=status)
