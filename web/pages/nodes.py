"""Nodes: the list, one card with its checks, and the command that adds one."""

from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from cluster import rolling, selectors, services
from cluster.checks import Line, lines_of, worst_of
from cluster.models import Node
from cluster.permissions import Actor
from cluster.pools import warnings_of
from cluster.refusals import BadShape, NotKnown, Refused
from cluster.states import SEEN
from cluster.strangers import name_for_vm

from .dialogs import answer
from .http import PageRequest, page, show
from .lines import actions_of, job_lines, running_jobs
from .paging import page_of
from .sizes import typed_size
from .vm_form import shape_of

MOST_VMS, LAST_JOBS = 50, 6
ACTIONS = {
    "inspect",
    "maintenance",
    "evacuate",
    "put_back",
    "self_fencing",
    "declare_dead",
    "take_back",
    "remove",
}


def _see(actor: Actor) -> None:
    """A tenant does not know that there are nodes."""
    if not actor.may("see.nodes"):
        raise NotKnown("nodes")


@page
def node_list(request: PageRequest) -> HttpResponse:
    _see(request.actor)
    nodes = selectors.nodes(request.actor).select_related("group")
    page_now = page_of(nodes, ("name", "pk"), request.GET.get("cursor", ""))
    lines = [{"node": node, "worst": worst_of(node), "facts": node.facts} for node in page_now.rows]
    return show(request, "nodes/list.html", {"lines": lines, "page": page_now})


@page
def reboot_order(request: PageRequest) -> HttpResponse:
    _see(request.actor)
    return show(request, "nodes/order.html", {"turns": rolling.order(request.actor)})


@page
def node_card(request: PageRequest, pk: str) -> HttpResponse:
    _see(request.actor)
    node = selectors.get(selectors.nodes(request.actor).select_related("group"), pk)
    return show(request, "nodes/card.html", _card(request, node))


def _card(request: PageRequest, node: Node) -> dict[str, Any]:
    actor = request.actor
    vms = list(selectors.vms(actor).filter(node=node).order_by("name")[: MOST_VMS + 1])
    jobs = selectors.jobs(actor).filter(subject=f"node:{node.pk}").order_by("-created", "-pk")[:LAST_JOBS]
    pools = selectors.pools(actor).prefetch_related(None).filter(nodes=node)
    claimed = selectors.vms(actor).filter(claims__isnull=False).select_related("node").order_by("name")
    return _state(node) | {
        "facts": node.facts,
        "actions": actions_of(actor, node, "nodes", ACTIONS),
        "job": running_jobs(actor, [f"node:{node.pk}"]).get(f"node:{node.pk}"),
        "strangers": list(_strangers(node)),
        "claimed": [vm for vm in claimed.only("name", "claims", "node__name") if node.pk in (vm.claims or {})],
        "vms": vms[:MOST_VMS],
        "more_vms": len(vms) > MOST_VMS,
        "pools": [(pool, warnings_of(pool)) for pool in pools.order_by("name")],
        "jobs": job_lines(jobs),
        "groups": list(selectors.node_groups(actor).prefetch_related(None).order_by("name")),
    }


def _strangers(node: Node) -> Iterator[dict[str, Any]]:
    for uuid, stranger in sorted(node.strangers.items(), key=lambda item: str(item[1]["name"])):
        named = {"uuid": uuid, "vm_name": name_for_vm(stranger)}
        yield {**named, "vm_state": SEEN[stranger["state"]].value, **stranger}


def _state(node: Node) -> dict[str, Any]:
    """The node itself and what its checks say."""
    checks = lines_of(node)
    return {"node": node, "checks": checks, "bad": _count(checks, "error"), "doubtful": _count(checks, "warning")}


def _count(checks: list[Line], level: str) -> int:
    return sum(1 for check in checks if check.level == level)


@page
@require_POST
def node_edit(request: PageRequest, pk: str) -> HttpResponse:
    """Group and limits: what the node itself need not hear of."""
    _see(request.actor)
    node = selectors.get(selectors.nodes(request.actor), pk)
    home = reverse("node", args=[pk])
    return answer(
        request, lambda: services.node_edit(request.actor, node, **_typed(request)), home, f"node:{pk}", _("Saved")
    )


def _typed(request: PageRequest) -> dict[str, Any]:
    """What of the settings was sent. Raises :class:`BadShape`."""
    sent = {name: value.strip()[:40] for name, value in request.POST.items() if isinstance(value, str)}
    asked: dict[str, Any] = {}
    if "group" in sent:
        asked["group"] = sent["group"] or None
    for name, word in (("cpu_overcommit", _("vCPUs for each CPU")), ("memory_overcommit", _("Memory overcommit"))):
        if name in sent:
            try:
                asked[name] = Decimal(sent[name].replace(",", "."))
            except InvalidOperation:
                raise BadShape({word: [_("a number, such as 1.5")]}) from None
    if "memory_reserve_bytes" in sent:
        text = sent["memory_reserve_bytes"]
        try:
            asked["memory_reserve_bytes"] = typed_size(text) if text else None
        except ValueError as wrong:
            raise BadShape({_("The host keeps"): [str(wrong)]}) from None
    return asked


@page
def node_add(request: PageRequest) -> HttpResponse:
    """The form; after it the node's own page, with the one command to run there."""
    _see(request.actor)
    request.actor.require("node.add")
    typed = {name: request.POST.get(name, "").strip()[:100] for name in ("name", "address")}
    if request.method != "POST":
        return render(request, "nodes/add.html", {"typed": typed})
    try:
        node, join = services.node_add(request.actor, typed["name"], typed["address"])
    except BadShape as bad:
        errors = {name: [shape_of(name) or words[0]] for name, words in bad.errors.items()}
        return render(request, "nodes/add.html", {"typed": typed, "errors": errors}, status=422)
    except Refused as refused:
        refusals = [r.said() for r in refused.refusals]
        errors = {r.get("field", "name"): [r["cause"]] for r in refusals}
        context = {"typed": typed, "errors": errors, "refusals": refusals}
        return render(request, "nodes/add.html", context, status=refused.status)
    return render(request, "nodes/join.html", _state(node) | {"join": join}, status=201)


@page
@require_POST
def node_token(request: PageRequest, pk: str) -> HttpResponse:
    """A new command for a node that has not joined, or whose machine was reinstalled."""
    _see(request.actor)
    node = selectors.get(selectors.nodes(request.actor), pk)
    join = services.node_token(request.actor, node)
    return render(request, "nodes/join.html", _state(node) | {"join": join}, status=201)


@page
def node_state(request: PageRequest, pk: str) -> HttpResponse:
    """What the page with the command watches: has the machine come?"""
    _see(request.actor)
    node = selectors.get(selectors.nodes(request.actor), pk)
    return render(request, "nodes/_joining.html", _state(node))
