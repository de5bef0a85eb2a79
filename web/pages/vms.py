"""The list of VMs, one row of it, and the card of one VM."""

import re
from typing import Any

from django.contrib import messages
from django.db.models import Q, QuerySet
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from cluster import selectors, services
from cluster.domain_drift import lines_of
from cluster.models import Nic, Node, Vm, VmState
from cluster.permissions import Actor
from cluster.states import IO_ERROR, SEEN

from .answers import told
from .http import PageRequest, is_fragment, page, show
from .lines import VmLine, actions_of, backup_lines, disk_lines, job_lines, running_jobs, snapshot_lines, vm_lines
from .paging import page_of

LAST_JOBS = 8
WITH_THEIR_THINGS = ("snapshot", "iso", "backup", "adopt", "reapply", "adopt_claim")
"""Actions of a VM that stand where their things are shown."""
LAST_BACKUPS = 5
PRIORITY = re.compile(r"-?(100|[0-9]{1,2})")


@page
def vm_list(request: PageRequest) -> HttpResponse:
    asked = {name: request.GET.get(name, "").strip()[:200] for name in ("q", "state", "node")}
    found = _filtered(selectors.vms_with_places(request.actor), request.actor, asked)
    page_now = page_of(found, ("name", "pk"), request.GET.get("cursor", ""))
    context = {
        "lines": vm_lines(request.actor, page_now.rows),
        "page": page_now,
        "asked": asked,
        "filtered": any(asked.values()),
        "states": VmState.choices,
        "nodes": selectors.nodes(request.actor).order_by("name").only("name"),
    }
    return show(request, "vms/list.html", context)


def _filtered(vms: "QuerySet[Vm]", actor: Actor, asked: dict[str, str]) -> "QuerySet[Vm]":
    text = asked["q"]
    if text:
        match = Q(nics__in=Nic.objects.filter(lease__address__startswith=text)) | Q(pk=text)
        # SQLite's LIKE folds only ASCII: Cyrillic titles are asked for in each of the ways that people type them.
        for typed in {text, text.lower(), text.upper(), text.capitalize()}:
            match |= Q(name__icontains=typed) | Q(title__icontains=typed)
        vms = vms.filter(pk__in=Vm.objects.filter(match).values("pk"))
    if asked["state"] in VmState.values:
        vms = vms.filter(state=asked["state"])
    if asked["node"]:
        vms = vms.filter(node__in=selectors.nodes(actor).filter(pk=asked["node"]))
    return vms


@page
def vm_row(request: PageRequest, pk: str) -> HttpResponse:
    """One row of the list, fetched again when a frame said that it changed."""
    vm = selectors.get(selectors.vms_with_places(request.actor), pk)
    return render(request, "vms/_row.html", {"line": vm_lines(request.actor, [vm])[0]})


@page
def vm_menu(request: PageRequest, pk: str) -> HttpResponse:
    """Every action, for the menu of a row."""
    vm = selectors.get(selectors.vms_with_places(request.actor).prefetch_related(None), pk)
    return render(request, "vms/menu.html", {"vm": vm, "actions": actions_of(request.actor, vm)})


@page
def vm_card(request: PageRequest, pk: str) -> HttpResponse:
    vm = selectors.get(selectors.vms_in_full(request.actor), pk)
    jobs = job_lines(selectors.jobs(request.actor).filter(subject=f"vm:{pk}").order_by("-created", "-pk")[:LAST_JOBS])
    line = VmLine(vm, actions_of(request.actor, vm), running_jobs(request.actor, [f"vm:{pk}"]).get(f"vm:{pk}"))
    last = jobs[0].job if jobs else None
    overdue = last and vm.state == VmState.RUNNING and (last.error or {}).get("code") == "guest_did_not_shut_down"
    backups = selectors.backups(request.actor).filter(vm=pk)
    context = {
        "line": line,
        "vm": vm,
        "disks": disk_lines(request.actor, vm.disks.all()),
        "iso": line.action("iso"),
        "snapshots": snapshot_lines(request.actor, vm),
        "snapshot": line.action("snapshot"),
        "backups": backup_lines(request.actor, backups.order_by("-created", "-pk")[:LAST_BACKUPS]),
        "backup": line.action("backup"),
        "schedules": list(selectors.schedules(request.actor).filter(vm=pk).order_by("next_run")),
        "jobs": jobs,
        "stop": line.action("stop") if overdue else None,
        "trouble": trouble.said() if (trouble := selectors.troubles(request.actor, [vm]).get(pk)) else None,
        "stands_still": vm.state_reason == IO_ERROR,
        "resume": line.action("resume"),
        "affinity_groups": list(vm.affinity_groups.order_by("name")),
        "elsewhere": WITH_THEIR_THINGS,
        **_behind_our_back(request.actor, line),
    }
    return show(request, "vms/card.html", context)


def _behind_our_back(actor: Actor, line: VmLine) -> dict[str, Any]:
    """What nodes show otherwise; a tenant does not know of nodes."""
    vm = line.vm
    if actor.is_tenant_side:
        return {"reapply": None}
    claims = vm.claims or {}
    nodes = Node.objects.only("name").filter(pk__in=claims).order_by("name") if claims else ()
    return {
        "drift": lines_of(vm),
        "claims": [{"node": node, "word": SEEN[claims[node.pk]].label} for node in nodes],
        "moved_from": vm.moved_from,
        "adopt": line.action("adopt"),
        "reapply": line.action("reapply"),
        "adopt_claim": line.action("adopt_claim"),
    }


@page
@require_POST
def vm_edit(request: PageRequest, pk: str) -> HttpResponse:
    """Title, protection and priority: what no node needs to hear of."""
    vm = selectors.get(selectors.vms(request.actor), pk)
    title = request.POST.get("title")
    protected = {"1": True, "0": False}.get(request.POST.get("protected", ""))
    priority = request.POST.get("restart_priority", "").strip()
    if priority and not PRIORITY.fullmatch(priority):
        words = _("The priority is a whole number from -100 to 100.")
        if is_fragment(request):
            return told(words, level="error")
        messages.error(request, words)
        return redirect("vm", pk)
    services.vm_edit(
        request.actor,
        vm,
        title=None if title is None else title.strip()[:200],
        protected=protected,
        restart_priority=int(priority) if priority else None,
    )
    if is_fragment(request):
        return told(refresh=f"vm:{pk}")
    return redirect("vm", pk)
