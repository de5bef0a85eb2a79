"""Groups: which VMs are kept apart or together, and which nodes are meant for the same VMs."""

from django.db.models import Count
from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _

from cluster import groups, selectors, services
from cluster.models import AffinityGroup, AffinityPolicy, NodeGroup, Vm
from cluster.permissions import Actor
from cluster.refusals import NotKnown

from .dialogs import Dialog, answer, ask
from .fields import Field, read
from .http import PageRequest, page, show
from .words import rule_of

MOST_SHOWN = 200
ABOUT = "groups"


@page
def group_list(request: PageRequest) -> HttpResponse:
    actor = request.actor
    affinity = selectors.affinity_groups(actor).select_related("tenant").order_by("name", "pk")
    context = {"affinity_groups": affinity[:MOST_SHOWN], "sees_nodes": actor.may("see.nodes")}
    if context["sees_nodes"]:
        context["node_groups"] = selectors.node_groups(actor).annotate(vms_count=Count("vms")).order_by("name")
    return show(request, "groups/list.html", context)


# --- of VMs -------------------------------------------------------------------------------------------------


@page
def affinity_group_add(request: PageRequest) -> HttpResponse:
    request.actor.require("affinity_group.edit")
    fields = [_name(), _policy(), _hard(), *_tenant(request.actor)]
    if request.method != "POST":
        return ask(request, Dialog(_("Add a group of VMs"), icon="plus"), fields, reverse("groups"))

    def add() -> None:
        typed = {"name": "", "policy": "", **read(fields, request.POST)}
        groups.affinity_group_add(request.actor, **typed)

    return answer(request, add, reverse("groups"), ABOUT)


@page
def affinity_group_edit(request: PageRequest, pk: str) -> HttpResponse:
    group = _affinity_group(request, pk)
    fields = [_name(group.name), _hard(group)]
    if request.method != "POST":
        return ask(request, Dialog(_("Change the group")), fields, reverse("groups"), group)
    return answer(
        request,
        lambda: groups.affinity_group_edit(request.actor, group, **read(fields, request.POST)),
        reverse("groups"),
        ABOUT,
    )


@page
def affinity_group_remove(request: PageRequest, pk: str) -> HttpResponse:
    group = _affinity_group(request, pk)
    if request.method != "POST":
        hint = _("its VMs stay where they are, and nothing keeps them apart or together any more")
        return ask(request, _removal(hint), [], reverse("groups"), group)
    return answer(request, lambda: groups.affinity_group_remove(request.actor, group), reverse("groups"), ABOUT)


def _affinity_group(request: PageRequest, pk: str) -> AffinityGroup:
    group = selectors.get(selectors.affinity_groups(request.actor), pk)
    request.actor.require("affinity_group.edit")
    return group


def _policy() -> Field:
    return Field(
        "policy",
        _("Its VMs"),
        "select",
        value=AffinityPolicy.APART,
        required=True,
        choices=[
            (AffinityPolicy.APART, _("apart: each on another node")),
            (AffinityPolicy.TOGETHER, _("together: all on one node")),
        ],
    )


def _hard(group: AffinityGroup | None = None) -> Field:
    return Field(
        "hard",
        _("Strictly"),
        "check",
        value="1" if group and group.hard else "",
        hint=_("A VM for which there is no such node is not created, and does not move. Otherwise as far as it goes."),
    )


def _tenant(actor: Actor) -> list[Field]:
    tenants = [] if actor.is_tenant_side else list(selectors.tenants(actor).order_by("name"))
    choices = [(tenant.pk, tenant.title or tenant.name) for tenant in tenants]
    default = next((tenant.pk for tenant in tenants if tenant.name == "default"), "")
    return [Field("tenant", _("Tenant"), "select", value=default, choices=choices)] if len(tenants) > 1 else []


# --- of nodes -----------------------------------------------------------------------------------------------


@page
def node_group_add(request: PageRequest) -> HttpResponse:
    _see_nodes(request.actor)
    request.actor.require("node_group.edit")
    fields = [_name(), _title()]
    if request.method != "POST":
        return ask(request, Dialog(_("Add a group of nodes"), icon="plus"), fields, reverse("groups"))
    return answer(
        request,
        lambda: groups.node_group_add(request.actor, **{"name": "", **read(fields, request.POST)}),
        reverse("groups"),
        ABOUT,
    )


@page
def node_group_edit(request: PageRequest, pk: str) -> HttpResponse:
    group = _node_group(request, pk)
    fields = [_name(group.name), _title(group.title)]
    if request.method != "POST":
        return ask(request, Dialog(_("Change the group")), fields, reverse("groups"), group)
    return answer(
        request,
        lambda: groups.node_group_edit(request.actor, group, **read(fields, request.POST)),
        reverse("groups"),
        ABOUT,
    )


@page
def node_group_remove(request: PageRequest, pk: str) -> HttpResponse:
    group = _node_group(request, pk)
    if request.method != "POST":
        hint = _("only a group in which there is no node, and to which no VM is bound")
        return ask(request, _removal(hint), [], reverse("groups"), group)
    return answer(request, lambda: groups.node_group_remove(request.actor, group), reverse("groups"), ABOUT)


def _see_nodes(actor: Actor) -> None:
    """A tenant does not know that there are nodes."""
    if not actor.may("see.nodes"):
        raise NotKnown("nodes")


def _node_group(request: PageRequest, pk: str) -> NodeGroup:
    group = selectors.get(selectors.node_groups(request.actor), pk)
    request.actor.require("node_group.edit")
    return group


def _title(value: str = "") -> Field:
    return Field("title", _("Title"), value=value, placeholder=_("what it is for"))


def _name(value: str = "") -> Field:
    return Field("name", _("Name"), value=value, required=True, placeholder="web", hint=_("a to z, digits and hyphens"))


def _removal(hint: str) -> Dialog:
    return Dialog(_("Remove the group"), hint, "trash", danger=True)


# --- of one VM ----------------------------------------------------------------------------------------------


@page
def vm_groups(request: PageRequest, pk: str) -> HttpResponse:
    """In which groups a VM is, and to which nodes it is bound."""
    actor = request.actor
    vm = selectors.get(selectors.vms(actor), pk)
    actor.require("vm.edit")
    known = list(selectors.affinity_groups(actor).filter(tenant=vm.tenant_id).order_by("name"))
    bound = _bound(actor, vm)
    fields = [*_memberships(vm, known), *bound]
    home = reverse("vm", args=[pk])
    if request.method != "POST":
        hint = _("each move obeys it; where the VM is now does not change")
        if not fields:
            hint = _("there is no group yet; they are made on the page “Groups”")
        return ask(request, Dialog(_("Change the groups"), hint), fields, home, vm)

    def change() -> None:
        ticked = [group.pk for group in known if request.POST.get(f"affinity-{group.pk}") == "1"]
        services.vm_edit(actor, vm, affinity_groups=ticked, **read(bound, request.POST))

    return answer(request, change, home, f"vm:{pk}")


def _memberships(vm: Vm, known: list[AffinityGroup]) -> list[Field]:
    joined = set(vm.affinity_groups.values_list("pk", flat=True))
    return [
        Field("affinity", rule_of(group), "check", value="1" if group.pk in joined else "", key=group.pk)
        for group in known
    ]


def _bound(actor: Actor, vm: Vm) -> list[Field]:
    found = selectors.node_groups(actor).order_by("name") if actor.may("vm.migrate") else NodeGroup.objects.none()
    choices = [("", _("any node")), *((group.pk, group.title or group.name) for group in found)]
    value = vm.node_group_id or ""
    return [Field("group", _("Nodes"), "select", value=value, choices=choices, nothing=True)] if choices[1:] else []
