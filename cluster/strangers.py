"""Domains of a node that are no VMs of this panel: made by hand, or since the backup from which it was put back."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from django.db.models import F

from nodes.contract.specs import DomainFacts

from . import events
from .models import Node
from .states import SEEN

Strangers = dict[str, dict[str, Any]]


def observe(unknown: Mapping[str, Collection[DomainFacts]], complete: Collection[str]) -> None:
    """Keep what nodes show of them.

    :param unknown: node -> domains there that are no VMs.
    :param complete: nodes of which this is all.
    """
    spoken_of = [node_id for node_id, domains in unknown.items() if domains or node_id in complete]
    for node_id, before in Node.objects.filter(pk__in=spoken_of).values_list("pk", "strangers"):
        now = _now({} if node_id in complete else before, before, unknown[node_id])
        if now != before:
            Node.objects.filter(pk=node_id).update(strangers=now, version=F("version") + 1)
            events.node_changed(Node.objects.get(pk=node_id))


def _now(others: Strangers, before: Strangers, shown: Iterable[DomainFacts]) -> Strangers:
    """
    :param others: those that are kept where nothing is said of them.
    """
    now = dict(others)
    for domain in shown:
        now.pop(domain.uuid, None)
        if domain.state in SEEN:
            had = before.get(domain.uuid, {}).get("outline")
            outline = domain.outline.model_dump(mode="json") if domain.outline else had
            now[domain.uuid] = {"name": domain.name, "state": domain.state, "vm": domain.vm, "outline": outline}
    return now


def name_for_vm(stranger: dict[str, Any]) -> str:
    """What it could be called as a VM; empty: it keeps the name that it has, or has nothing of one."""
    return "" if stranger["vm"] else re.sub("[^a-z0-9]+", "-", stranger["name"].lower()).strip("-")[:63].strip("-")


def forget(node_id: str, uuid: str) -> None:
    """It is a VM now."""
    node = Node.objects.get(pk=node_id)
    if uuid in node.strangers:
        node.strangers.pop(uuid)
        Node.objects.filter(pk=node_id).update(strangers=node.strangers, version=F("version") + 1)
        node.refresh_from_db()
        events.node_changed(node)
