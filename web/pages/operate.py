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
ASKS = {"disk.resize": "size", "vm.snapshot": "name", "snapshot.revert": "stop"}
"""Operations whose dialog has a field: for a size, for a name that may be left out, or whether a guest that runs may be
stopped."""


@page
def operate(request: PageRequest, noun: str, pk: str, name: str) -> HttpResponse:
    """GET asks for confirmation or for what is missing, naming what is lost; POST starts the job."""
    operation = operations.operation_of(noun, name)
    home, about = _belongs_to(request.actor, noun, pk)
    if request.method != "POST":
        target: Any = selectors.get(selectors.IN_FULL[noun](request.actor), pk)
        asks = _asked(operation.code, target)
        plan = operations.dry_run(request.actor, operation.code, _presumed(operation.code, target, asks), pk)
        context = {
            "operation": operation,
            "target": target,
            "noun": noun,
            "name": name,
            "home": home,
            "asks": asks,
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
    vm = selectors.target(actor, noun, pk).vm_id if noun in ("disks", "snapshots") else pk
    return (reverse("vm", args=[vm]), f"vm:{vm}") if vm else (reverse("vms"), "vms")


def _asked(code: str, target: Any) -> str:
    """What the dialog has a field for; empty: only whether."""
    asks = ASKS.get(code, "")
    is_off = asks == "stop" and target.vm.state not in (VmState.RUNNING, VmState.PAUSED)
    return "" if is_off else asks


def _presumed(code: str, target: Any, asks: str) -> dict[str, Any]:
    """What the dry run behind an untouched dialog takes as said."""
    if asks == "size":
        return {"size_bytes": target.size_bytes}
    return {"stop": True} if asks == "stop" else PARAMS.get(code, {})


def _typed(request: PageRequest, code: str) -> dict[str, Any]:
    """Parameters from the button or its dialog. Raises :class:`Refused`."""
    asks = ASKS.get(code)
    if asks is None:
        return PARAMS.get(code, {})
    if asks == "name":
        return {"name": request.POST.get("name", "").strip()[:100]}
    if asks == "stop":
        return {"stop": request.POST.get("stop") == "1"}
    typed = request.POST.get("size", "").strip()[:40]
    try:
        return {"size_bytes": parse_size(typed)}
    except ValueError:
        raise Refused(Refusal("not_a_size", {"typed": typed})) from None
