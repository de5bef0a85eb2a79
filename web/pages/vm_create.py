"""Create a VM: the form, and beside it what would be made, where, at what size, or why not."""

import secrets
from typing import Any

from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from cluster import operations
from cluster.refusals import BadShape, NotKnown, Refused
from cluster.saga.steps import Plan

from .http import PageRequest, is_fragment, page
from .sizes import said_of
from .vm_form import VmForm


@page
def vm_create(request: PageRequest) -> HttpResponse:
    request.actor.require("vm.create")
    if request.method != "POST":
        return _whole(request, VmForm.new(request.actor))
    form = VmForm.read(request.actor, request.POST)
    changed = request.htmx.trigger_name if is_fragment(request) else None
    if changed == "image":
        form.take_os_of_image()
    if changed == "os":
        form.fill()
    if "fill" in request.POST:
        form.fill(by_hand=True)
    if "add" in request.POST:
        form.add(request.POST["add"])
    if "remove" in request.POST:
        form.remove(request.POST["remove"])
    if is_fragment(request):
        return render(request, "vms/_form.html", {"form": form})
    if {"fill", "add", "remove", "refresh"} & set(request.POST):
        return _whole(request, form)
    return _create(request, form)


def _create(request: PageRequest, form: VmForm) -> HttpResponse:
    params = form.params()
    if params is None:
        form.say_blank()
        return _whole(request, form, status=422)
    try:
        return redirect("job", operations.start(request.actor, "vm.create", params).job.pk)
    except BadShape as bad:
        form.take_bad_shape(bad.errors)
        return _whole(request, form, status=422)
    except NotKnown:
        form.errors["node"] = [_("There is no such node any more.")]
        return _whole(request, form, status=422)
    except Refused as refused:
        refusals = [r.said() for r in refused.refusals]
        form.take_refusals(refusals)
        return _whole(request, form, {"refusals": refusals}, status=refused.status)


@page
@require_POST
def vm_check(request: PageRequest) -> HttpResponse:
    """The dry run of what is typed so far; with each answer every field's own error is renewed."""
    request.actor.require("vm.create")
    form = VmForm.read(request.actor, request.POST)
    return render(request, "vms/_check.html", {"form": form, "check": check_of(request, form), "answer": True})


def check_of(request: PageRequest, form: VmForm) -> dict[str, Any]:
    # A name that nobody has: the rest can be checked before one is typed.
    params = form.params(stand_in="check-" + secrets.token_hex(6))
    if params is None:
        return {"state": "errors" if form.errors else "blank"}
    try:
        plan = operations.dry_run(request.actor, "vm.create", params)
    except BadShape as bad:
        form.take_bad_shape(bad.errors)
        return {"state": "errors"}
    except NotKnown:
        form.errors["node"] = [_("There is no such node any more.")]
        return {"state": "errors"}
    refusals = [r.said() for r in plan.refusals]
    form.take_refusals(refusals)
    return _said(form, plan, refusals)


def _said(form: VmForm, plan: Plan, refusals: list[dict[str, str]]) -> dict[str, Any]:
    pools = {pool.pk: pool for pool in form.pools}
    disks = [said_of(disk, pools.get(disk["pool"])) for disk in plan.data["disks"]]
    form.said = {disk["position"]: disk for disk in disks}
    return {
        "state": "refused" if refusals else "named" if form.typed["name"] else "possible",
        "refusals": refusals,
        "disks": disks,
        "disks_bytes": sum(disk["size_bytes"] for disk in disks),
        "price": plan.quote.get("price"),
        "placement": plan.placement,
        "vcpus": form.typed["vcpus"],
        "memory_bytes": (form.params(stand_in="x") or {}).get("memory_bytes", 0) if not refusals else 0,
    }


def _whole(request: PageRequest, form: VmForm, tried: dict[str, Any] | None = None, status: int = 200) -> HttpResponse:
    """The page with everything as it was typed. A refused try is shown with its own reasons, not with new ones."""
    if tried:
        check = {"state": "refused", **tried}
    else:
        check = check_of(request, form) if status == 200 else {"state": "errors"}
    return render(request, "vms/create.html", {"form": form, "check": check}, status=status)
