"""Groups that say where VMs may go: of nodes, made by those who run the cluster; of VMs, made by their tenants too."""

from collections.abc import Sequence
from typing import Annotated

from django.db import transaction
from django.db.models import F, Q
from pydantic import Field

from nodes.contract.specs import Name

from . import audit, shapes, states
from .affinity import MOST_OF_A_VM, Rule, rules_of_groups
from .models import AffinityGroup, AffinityPolicy, NodeGroup, Tenant, Vm
from .permissions import Actor, visible
from .refusals import Refusal, Refused
from .saga.locks import serialise

# --- of nodes -----------------------------------------------------------------------------------------------


def node_group_add(actor: Actor, name: str, title: str = "") -> NodeGroup:
    """Raises :class:`Forbidden`, :class:`BadShape`, :class:`Refused` (``node_group_name_taken``)."""
    actor.require("node_group.edit")
    shapes.must_be(Name, name, "name")
    with transaction.atomic():
        serialise()
        _node_group_name_is_free(name)
        group = NodeGroup.objects.create(name=name, title=title)
        _node_group_noted(actor, "add", group)
    return group


def node_group_edit(actor: Actor, group: NodeGroup, *, name: str | None = None, title: str | None = None) -> NodeGroup:
    """What is left out stays. Raises as :func:`node_group_add`."""
    actor.require("node_group.edit")
    if name is not None:
        shapes.must_be(Name, name, "name")
    with transaction.atomic():
        serialise()
        if name not in (None, group.name):
            _node_group_name_is_free(name)
        group.name, group.title = name or group.name, group.title if title is None else title
        group.save(update_fields=["name", "title"])
        _node_group_noted(actor, "edit", group)
    return group


def node_group_remove(actor: Actor, group: NodeGroup) -> None:
    """Raises :class:`Forbidden`, :class:`Refused` (``node_group_in_use``)."""
    actor.require("node_group.edit")
    with transaction.atomic():
        serialise()
        nodes, vms = group.nodes.count(), group.vms.count()
        if nodes or vms:
            facts = {"name": group.name, "nodes": nodes, "vms": vms}
            raise Refused(Refusal("node_group_in_use", facts, status=409))
        _node_group_noted(actor, "remove", group)
        group.delete()


def _node_group_name_is_free(name: str | None) -> None:
    if NodeGroup.objects.filter(name=name).exists():
        raise Refused(Refusal("node_group_name_taken", {"name": name}, field="name", status=409))


def _node_group_noted(actor: Actor, what: str, group: NodeGroup) -> None:
    audit.write(actor, f"node_group.{what}", "done", subject=f"node_group:{group.pk}", subject_name=group.name)


# --- of VMs -------------------------------------------------------------------------------------------------


def affinity_group_add(
    actor: Actor, name: str, policy: str, *, hard: bool = False, tenant: str | None = None
) -> AffinityGroup:
    """
    :param tenant: its id or name; None: the actor's own, or the built-in one.

    Raises :class:`Forbidden`, :class:`BadShape`, :class:`Refused` (``affinity_group_name_taken``, ``tenant_unknown``).
    """
    actor.require("affinity_group.edit")
    shapes.must_be(Name, name, "name")
    shapes.must_be(AffinityPolicy, policy, "policy")
    asked = tenant or (actor.tenant.pk if actor.tenant else Tenant.DEFAULT)
    whose = visible(Tenant.objects.all(), actor).filter(Q(pk=asked) | Q(name=asked)).first()
    if whose is None:
        raise Refused(Refusal("tenant_unknown", field="tenant"))
    with transaction.atomic():
        serialise()
        _affinity_name_is_free(whose.pk, name)
        group = AffinityGroup.objects.create(name=name, tenant=whose, policy=policy, hard=hard)
        _affinity_group_noted(actor, "add", group)
    return group


def affinity_group_edit(
    actor: Actor, group: AffinityGroup, *, name: str | None = None, hard: bool | None = None
) -> AffinityGroup:
    """What is left out stays. A group becomes hard only while its VMs are where it wants them.

    Raises as :func:`affinity_group_add`, and :class:`Refused` (``affinity_broken``).
    """
    actor.require("affinity_group.edit")
    if name is not None:
        shapes.must_be(Name, name, "name")
    with transaction.atomic():
        serialise()
        if name not in (None, group.name):
            _affinity_name_is_free(group.tenant_id, name)
        group.name, group.hard = name or group.name, group.hard if hard is None else hard
        group.save(update_fields=["name", "hard"])
        if hard:
            _refuse_broken(rules_of_groups([group]))
        _affinity_group_noted(actor, "edit", group)
        _tell(group)
    return group


def affinity_group_remove(actor: Actor, group: AffinityGroup) -> None:
    """Its VMs stay where they are. Raises :class:`Forbidden`."""
    actor.require("affinity_group.edit")
    with transaction.atomic():
        serialise()
        _affinity_group_noted(actor, "remove", group)
        _tell(group)
        group.delete()


def join(actor: Actor, vm: Vm, groups: Sequence[str]) -> None:
    """Let the VM be in these affinity groups and in no other; in the transaction of the caller.

    Raises :class:`BadShape`, :class:`Refused` (``affinity_group_unknown``, ``affinity_broken``).
    """
    shapes.must_be(Annotated[list[str], Field(max_length=MOST_OF_A_VM)], list(groups), "affinity_groups")
    serialise()
    own = visible(AffinityGroup.objects.filter(tenant=vm.tenant_id), actor)
    found = list(own.select_for_update().filter(pk__in=groups).order_by("pk"))
    if len(found) < len(set(groups)):
        raise Refused(Refusal("affinity_group_unknown", field="affinity_groups"))
    vm.affinity_groups.set(found)
    _refuse_broken(rules_of_groups(group for group in found if group.hard))


def _tell(group: AffinityGroup) -> None:
    """Its VMs' cards show it."""
    vms = list(group.vms.values_list("pk", flat=True))
    Vm.objects.filter(pk__in=vms).update(version=F("version") + 1)
    states.tell(vms)


def _refuse_broken(rules: Sequence[Rule]) -> None:
    for rule in rules:
        if pair := rule.broken_by():
            facts = {"vm": pair[0].name, "other": pair[1].name, "group": rule.name, "policy": rule.policy}
            raise Refused(Refusal("affinity_broken", facts, field="affinity_groups", status=409))


def _affinity_name_is_free(tenant: str, name: str | None) -> None:
    if AffinityGroup.objects.filter(tenant=tenant, name=name).exists():
        raise Refused(Refusal("affinity_group_name_taken", {"name": name}, field="name", status=409))


def _affinity_group_noted(actor: Actor, what: str, group: AffinityGroup) -> None:
    audit.write(actor, f"affinity_group.{what}", "done", subject=f"affinity_group:{group.pk}", subject_name=group.name)
