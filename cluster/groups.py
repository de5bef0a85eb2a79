"""Groups that say where VMs may go: of nodes, made by those who run the cluster."""

from django.db import transaction

from nodes.contract.specs import Name

from . import audit, shapes
from .models import NodeGroup
from .permissions import Actor
from .refusals import Refusal, Refused
from .saga.locks import serialise


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
