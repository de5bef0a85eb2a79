"""The nouns that people can list: where rows come from, how they look, what one can ask for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any

from django.db.models import QuerySet
from rest_framework.serializers import Serializer

from cluster import selectors
from cluster.models import (
    BackupState,
    Grant,
    JobState,
    NodeState,
    PoolState,
    Repeated,
    Role,
    SnapshotState,
    VmState,
)
from cluster.permissions import Actor

from . import rows, serializers
from .queries import Filter

Rows = Callable[[Actor], "QuerySet[Any]"]
Show = Callable[[Actor, Sequence[Any]], list[rows.Row]]


@dataclass(frozen=True)
class Noun:
    name: str
    rows: Rows
    show: Show
    serializer: type[Serializer[Any]]
    see: str = ""
    """The action that a person needs to ask for the list at all; empty: the rows say it all."""
    search: tuple[str, ...] = ()
    filters: dict[str, Filter] = field(default_factory=dict)
    ordering: tuple[str, ...] = ("id",)
    """Fields that a list may be ordered by, the default first. None of them is ever null."""
    id_kind: str = "id"
    """The path converter of its ids."""


def _grants(actor: Actor) -> "QuerySet[Grant]":
    """Those of the people of whom the actor may know."""
    return Grant.objects.filter(user__in=selectors.users(actor).prefetch_related(None))


def _states(choices: type[Any]) -> tuple[str, ...]:
    return tuple(choices.values)


_NAME = ("name", "id")
_POOL = Filter("pool", cluster_only=True)

NOUNS = {
    noun.name: noun
    for noun in (
        Noun(
            "vms",
            selectors.vms,
            rows.vms,
            serializers.VmSerializer,
            see="see.vms",
            search=("name", "title", "nics__lease__address", "nics__mac"),
            filters={
                "name": Filter("name"),
                "state": Filter("state", _states(VmState)),
                "tenant": Filter("tenant"),
                "owner": Filter("owner"),
                "os": Filter("os"),
                "node": Filter("node", cluster_only=True),
                "group": Filter("node_group", cluster_only=True),
                "affinity_group": Filter("affinity_groups"),
                "image": Filter("disks__image"),
                "network": Filter("nics__network"),
            },
            ordering=("name", "created", "state", "vcpus", "memory_bytes", "id"),
        ),
        Noun(
            "nodes",
            selectors.nodes,
            rows.nodes,
            serializers.NodeSerializer,
            see="see.nodes",
            search=("name", "address"),
            filters={
                "name": Filter("name"),
                "state": Filter("state", _states(NodeState)),
                "group": Filter("group"),
            },
            ordering=("name", "created", "state", "cpus", "memory_bytes", "memory_allocated_bytes", "id"),
        ),
        Noun(
            "node-groups",
            selectors.node_groups,
            rows.node_groups,
            serializers.NodeGroupSerializer,
            see="see.nodes",
            search=("name", "title"),
            filters={"name": Filter("name")},
            ordering=("name", "created", "id"),
        ),
        Noun(
            "affinity-groups",
            selectors.affinity_groups,
            rows.affinity_groups,
            serializers.AffinityGroupSerializer,
            see="see.vms",
            search=("name",),
            filters={"name": Filter("name"), "tenant": Filter("tenant"), "vm": Filter("vms")},
            ordering=("name", "created", "id"),
        ),
        Noun(
            "pools",
            selectors.pools,
            rows.pools,
            serializers.PoolSerializer,
            see="see.pools",
            search=("name", "path"),
            filters={
                "name": Filter("name"),
                "kind": Filter("kind"),
                "node": Filter("places__node"),
                "state": Filter("state", _states(PoolState)),
            },
            ordering=("name", "capacity_bytes", "free_bytes", "id"),
        ),
        Noun(
            "networks",
            selectors.networks,
            rows.networks,
            serializers.NetworkSerializer,
            see="see.networks",
            search=("name", "bridge"),
            filters={"name": Filter("name"), "bridge": Filter("bridge")},
            ordering=_NAME,
        ),
        Noun(
            "addresses",
            selectors.addresses,
            rows.addresses,
            serializers.AddressSerializer,
            see="see.vms",
            search=("address",),
            filters={
                "address": Filter("address", check=IPv4Address),
                "network": Filter("network"),
                "nic": Filter("nic"),
                "vm": Filter("nic__vm"),
            },
            ordering=("address", "id"),
        ),
        Noun(
            "images",
            selectors.images,
            rows.images,
            serializers.ImageSerializer,
            see="see.images",
            search=("name",),
            filters={"name": Filter("name"), "os": Filter("os"), "node": Filter("copies__node", cluster_only=True)},
            ordering=("name", "created", "size_bytes", "id"),
        ),
        Noun(
            "isos",
            selectors.isos,
            rows.isos,
            serializers.IsoSerializer,
            see="see.images",
            search=("name",),
            filters={"name": Filter("name"), "os": Filter("os"), "node": Filter("copies__node", cluster_only=True)},
            ordering=("name", "created", "size_bytes", "id"),
        ),
        Noun(
            "uploads",
            selectors.uploads,
            rows.uploads,
            serializers.UploadSerializer,
            see="image.add",
            search=("name",),
            filters={"name": Filter("name"), "kind": Filter("kind", ("image", "iso"))},
            ordering=("created", "name", "size_bytes", "id"),
        ),
        Noun(
            "disks",
            selectors.disks,
            rows.disks,
            serializers.DiskSerializer,
            see="see.vms",
            search=("title",),
            filters={
                "vm": Filter("vm"),
                "pool": _POOL,
                "image": Filter("image"),
                "state": Filter("state"),
                "tenant": Filter("tenant"),
            },
            ordering=("id", "size_bytes", "title"),
        ),
        Noun(
            "nics",
            selectors.nics,
            rows.nics,
            serializers.NicSerializer,
            see="see.vms",
            search=("mac",),
            filters={"vm": Filter("vm"), "network": Filter("network"), "mac": Filter("mac")},
            ordering=("id", "mac"),
        ),
        Noun(
            "snapshots",
            selectors.snapshots,
            rows.snapshots,
            serializers.SnapshotSerializer,
            see="see.vms",
            search=("name",),
            filters={"vm": Filter("vm"), "state": Filter("state", _states(SnapshotState))},
            ordering=("created", "name", "id"),
        ),
        Noun(
            "balances",
            selectors.balances,
            rows.balances,
            serializers.BalanceSerializer,
            see="see.nodes",
            ordering=("created", "id"),
        ),
        Noun(
            "backups",
            selectors.backups,
            rows.backups,
            serializers.BackupSerializer,
            see="see.vms",
            search=("title", "vm_name"),
            filters={"vm": Filter("vm"), "tenant": Filter("tenant"), "state": Filter("state", _states(BackupState))},
            ordering=("-created", "vm_name", "id"),
        ),
        Noun(
            "schedules",
            selectors.schedules,
            rows.schedules,
            serializers.ScheduleSerializer,
            see="see.vms",
            filters={"vm": Filter("vm"), "action": Filter("action", _states(Repeated))},
            ordering=("next_run", "id"),
        ),
        Noun(
            "jobs",
            selectors.jobs,
            rows.jobs,
            serializers.JobSerializer,
            see="see.jobs",
            search=("subject_name", "operation"),
            filters={
                "state": Filter("state", _states(JobState)),
                "operation": Filter("operation"),
                "subject": Filter("subject"),
                "vm": Filter("subject", prefix="vm:"),
                "user": Filter("user"),
                "parent": Filter("parent"),
                "tenant": Filter("tenant"),
            },
            ordering=("-created", "priority", "state", "operation", "id"),
        ),
        Noun(
            "tenants",
            selectors.tenants,
            rows.tenants,
            serializers.TenantSerializer,
            search=("name", "title"),
            filters={"name": Filter("name")},
            ordering=("name", "created", "id"),
        ),
        Noun(
            "users",
            selectors.users,
            rows.users,
            serializers.UserSerializer,
            search=("username",),
            filters={"username": Filter("username")},
            ordering=("username", "created", "id"),
        ),
        Noun(
            "grants",
            _grants,
            rows.grants,
            serializers.GrantSerializer,
            filters={"user": Filter("user"), "role": Filter("role", _states(Role)), "tenant": Filter("tenant")},
            ordering=("created", "id"),
        ),
        Noun(
            "audit",
            selectors.audit_events,
            rows.audit,
            serializers.AuditEventSerializer,
            see="see.audit",
            search=("username", "action", "subject", "subject_name"),
            filters={
                "action": Filter("action"),
                "subject": Filter("subject"),
                "outcome": Filter("outcome"),
                "user": Filter("actor"),
                "tenant": Filter("tenant"),
                "job": Filter("job"),
            },
            ordering=("-id",),
            id_kind="number",
        ),
    )
}
