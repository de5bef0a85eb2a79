"""One door for every button: ask where it is dangerous, then start the operation."""

from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext as _

from cluster import operations, selectors
from cluster.refusals import BadShape, Refused
from cluster.saga.steps import Operation, Plan

from .answers import reasons_of, told
from .fields import Field, fields_of, read, said_before
from .http import PageRequest, is_fragment, page
from .sizes import said_of_all

PARAMS: dict[str, dict[str, Any]] = {"vm.delete": {"disks": True}}
"""What a button says beside its name. Disks go with their VM, and the dialog names each of them."""


@page
def operate(request: PageRequest, noun: str, pk: str, name: str) -> HttpResponse:
    """GET asks for confirmation or for what is missing, naming what is lost; POST starts the job."""
    operation = operations.operation_of(noun, name)
    # Read only by whom it concerns: most buttons say nothing beside their name.
    asked: Any = SimpleLazyObject(lambda: selectors.target(request.actor, noun, pk))
    home, about = _belongs_to(noun, pk, asked)
    if request.method != "POST":
        target: Any = selectors.get(selectors.IN_FULL[noun](request.actor), pk)
        fields = [said_before(field, request.GET) for field in fields_of(operation.code, request.actor, target)]
        params = PARAMS.get(operation.code, {}) | _presumed(fields)
        plan = operations.dry_run(request.actor, operation.code, params, pk)
        return _dialog(request, operation, target, fields, plan, home)
    fields = fields_of(operation.code, request.actor, asked)
    return _start(request, operation, fields, PARAMS.get(operation.code, {}), pk, home, about)


@page
def disk_create(request: PageRequest) -> HttpResponse:
    """A further disk, for the VM that the query names or for later."""
    operation = operations.operation_of("disks", "create")
    asked = request.GET.get("vm", "")
    vm = selectors.get(selectors.vms(request.actor).select_related("node"), asked) if asked else None
    home, about = (reverse("vm", args=[vm.pk]), f"vm:{vm.pk}") if vm else (reverse("disks"), "disks")
    fields = fields_of(operation.code, request.actor, vm)
    params = {"vm": vm.pk} if vm else {}
    if request.method == "POST":
        return _start(request, operation, fields, params, None, home, about)
    plan = operations.dry_run(request.actor, operation.code, params | _presumed(fields))
    return _dialog(request, operation, vm, fields, plan, home)


@page
def download(request: PageRequest, noun: str) -> HttpResponse:
    """An image or an ISO from the web."""
    operation = operations.operation_of(noun, "download")
    request.actor.require(operation.code)
    fields = fields_of(operation.code, request.actor, noun)
    if request.method == "POST":
        return _start(request, operation, fields, {}, None, reverse(noun), noun)
    plan = operations.dry_run(request.actor, operation.code, _presumed(fields))
    return _dialog(request, operation, None, fields, plan, reverse(noun))


def _dialog(
    request: PageRequest,
    operation: type[Operation[Any]],
    target: Any,
    fields: list[Field],
    plan: Plan,
    home: str,
) -> HttpResponse:
    typed = {field.name for field in fields}
    context = {
        "operation": operation,
        "target": target,
        "fields": [field for field in fields if not field.more],
        "refusals": [r.said() for r in plan.refusals],
        # What is wrong with a field can be put right in it.
        "hindered": any(r.field not in typed for r in plan.refusals),
        "said": said_of_all(request.actor, plan) if any(field.quote and field.value for field in fields) else [],
        "home": home,
        "targets": plan.targets,
        "moves": plan.moves,
        "stays": plan.stays,
        "more": [field for field in fields if field.more],
    }
    template = "parts/_confirm.html" if is_fragment(request) else "parts/confirm.html"
    return render(request, template, context)


def _presumed(fields: list[Field]) -> dict[str, Any]:
    return {field.name: field.presumed for field in fields if field.presumed is not None}


def _start(
    request: PageRequest,
    operation: type[Operation[Any]],
    fields: list[Field],
    params: dict[str, Any],
    pk: str | None,
    home: str,
    about: str,
) -> HttpResponse:
    try:
        params = params | read(fields, request.POST)
        started = operations.start(request.actor, operation.code, params, pk)
    except (Refused, BadShape) as refused:
        words = reasons_of(refused)
        if is_fragment(request):
            return told(words, level="error", refresh=about)
        messages.error(request, words)
        return redirect(home)
    job = reverse("job", args=[started.job.pk])
    if is_fragment(request) and not operation.danger:
        text = _("%(action)s: %(name)s") % {"action": operation.label, "name": started.subject.name}
        return told(text, link=job, refresh=about)
    if is_fragment(request):
        response = told()
        response["HX-Redirect"] = job
        return response
    return redirect(job)


def _belongs_to(noun: str, pk: str, target: Any) -> tuple[str, str]:
    """The page on which a thing is shown, and what that page is about."""
    if noun == "nodes":
        return reverse("node", args=[pk]), f"node:{pk}"
    if noun == "pools":
        return reverse("pool", args=[pk]), f"pool:{pk}"
    if noun == "backups":
        return reverse("backups"), "backups"
    if noun == "balances":
        return reverse("balance"), "balance"
    if noun in ("images", "isos"):
        return reverse(noun), noun
    vm = target.vm_id if noun in ("disks", "snapshots") else pk
    return (reverse("vm", args=[vm]), f"vm:{vm}") if vm else (reverse("disks"), "disks")
