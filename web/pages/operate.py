"""One door for every button: ask where it is dangerous, then start the operation."""

from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _

from cluster import operations, selectors
from cluster.models import VmState
from cluster.permissions import Actor
from cluster.refusals import BadShape, Refusal, Refused
from nodes.contract.sizes import parse_size

from .answers import reasons_of, told
from .http import PageRequest, is_fragment, page

PARAMS: dict[str, dict[str, Any]] = {"vm.delete": {"disks": True}}
"""What a button says beside its name. Disks go with their VM, and the dialog names each of them."""
ASKS_SIZE = {"disk.resize"}
"""Operations whose dialog has a field for a size."""
ASKS_NAME = {"vm.snapshot"}
"""Or for a name, which may be left out."""
ASKS_STOP = {"snapshot.revert"}
"""Or whether a guest that runs may be stopped."""


@page
def operate(request: PageRequest, noun: str, pk: str, name: str) -> HttpResponse:
    """GET asks for confirmation or for what is missing, naming what is lost; POST starts the job."""
    operation = operations.operation_of(noun, name)
    home, about = _belongs_to(request.actor, noun, pk)
    if request.method != "POST":
        target: Any = selectors.get(selectors.IN_FULL[noun](request.actor), pk)
        asks_size, asks_stop = operation.code in ASKS_SIZE, _asks_stop(operation.code, target)
        params = {"size_bytes": target.size_bytes} if asks_size else PARAMS.get(operation.code, {})
        params |= {"stop": True} if asks_stop else {}
        plan = operations.dry_run(request.actor, operation.code, params, pk)
        context = {
            "operation": operation,
            "target": target,
            "noun": noun,
            "name": name,
            "home": home,
            "asks_size": asks_size,
            "asks_name": operation.code in ASKS_NAME,
            "asks_stop": asks_stop,
            "refusals": [r.said() for r in plan.refusals],
        }
        template = "parts/_confirm.html" if is_fragment(request) else "parts/confirm.html"
        return render(request, template, context)
    try:
        started = operations.start(request.actor, operation.code, _typed(request, operation.code), pk)
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


def _belongs_to(actor: Actor, noun: str, pk: str) -> tuple[str, str]:
    """The page on which a thing is shown, and what that page is about."""
    if noun == "nodes":
        return reverse("node", args=[pk]), f"node:{pk}"
    if noun == "pools":
        return reverse("nodes"), "nodes"
    vm: str | None = pk
    if noun == "snapshots":
        vm = selectors.get(selectors.snapshots(actor), pk).vm_id
    elif noun == "disks":
        vm = selectors.get(selectors.disks(actor), pk).vm_id
    return (reverse("vm", args=[vm]), f"vm:{vm}") if vm else (reverse("vms"), "vms")


def _asks_stop(code: str, target: Any) -> bool:
    return code in ASKS_STOP and target.vm.state in (VmState.RUNNING, VmState.PAUSED)


def _typed(request: PageRequest, code: str) -> dict[str, Any]:
    """Parameters from the button or its dialog. Raises :class:`Refused`."""
    if code in ASKS_NAME:
        return {"name": request.POST.get("name", "").strip()[:100]}
    if code in ASKS_STOP:
        return {"stop": request.POST.get("stop") == "1"}
    if code not in ASKS_SIZE:
        return PARAMS.get(code, {})
    typed = request.POST.get("size", "").strip()[:40]
    try:
        return {"size_bytes": parse_size(typed)}
    except ValueError:
        raise Refused(Refusal("not_a_size", {"typed": typed})) from None
