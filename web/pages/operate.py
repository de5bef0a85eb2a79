"""One door for every button: ask where it is dangerous, then start the operation."""

from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _

from cluster import operations, selectors
from cluster.refusals import BadShape, Refused

from .answers import reasons_of, told
from .http import PageRequest, is_fragment, page

PARAMS: dict[str, dict[str, Any]] = {"vm.delete": {"disks": True}}
"""What a button says beside its name. Disks go with their VM, and the dialog names each of them."""
HOME = {"vms": "vm", "nodes": "node"}


@page
def operate(request: PageRequest, noun: str, pk: str, name: str) -> HttpResponse:
    """GET asks for confirmation, naming what is lost; POST starts the job."""
    operation = operations.operation_of(noun, name)
    kind = noun.removesuffix("s")
    params = PARAMS.get(operation.code, {})
    home = reverse(HOME[noun], args=[pk])
    if request.method != "POST":
        target: Any = selectors.get(selectors.IN_FULL[noun](request.actor), pk)
        plan = operations.dry_run(request.actor, operation.code, params, pk)
        context = {
            "operation": operation,
            "target": target,
            "noun": noun,
            "name": name,
            "home": home,
            "refusals": [r.said() for r in plan.refusals],
        }
        template = "parts/_confirm.html" if is_fragment(request) else "parts/confirm.html"
        return render(request, template, context)
    try:
        started = operations.start(request.actor, operation.code, params, pk)
    except (Refused, BadShape) as refused:
        words = reasons_of(refused)
        if is_fragment(request):
            return told(words, level="error", refresh=f"{kind}:{pk}")
        messages.error(request, words)
        return redirect(home)
    job = reverse("job", args=[started.job.pk])
    if is_fragment(request) and not operation.danger:
        text = _("%(action)s: %(name)s") % {"action": operation.label, "name": started.subject.name}
        return told(text, link=job, refresh=f"{kind}:{pk}")
    if is_fragment(request):
        response = told()
        response["HX-Redirect"] = job
        return response
    return redirect(job)
