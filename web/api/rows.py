"""Rows as design 8 has them: plain dictionaries, made for a whole page at once."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from cluster import checks, library, selectors
from cluster.domain_drift import can_be_held
from cluster.job_views import job_views
from cluster.models import (
    FINAL,
    Address,
    AffinityGroup,
    AffinityMember,
    AuditEvent,
    Backup,
    Balance,
    Balancing,
    Disk,
    Grant,
    Image,
    Iso,
    Job,
    JobState,
    Network,
    Nic,
    Node,
    NodeGroup,
    Pool,
    Schedule,
    Snapshot,
    Tenant,
    Upload,
    User,
    Vm,
)
from cluster.permissions import Actor
from cluster.pools import offers_of, strangers_of, warnings_of, warnings_on
from cluster.refusals import Refusal
from cluster.states import SEEN

Row = dict[str, Any]
BALANCING = ("every_minutes", "threshold_points", "hold_minutes", "cooldown_minutes", "most_moves", "copy_disks")


def vms(actor: Actor, rows: Sequence[Vm]) -> list[Row]:
    """Their disks and interfaces are read here, as values: a list of VMs is what clients ask for most."""
    ids = [vm.pk for vm in rows]
    jobs = _open_jobs([f"vm:{pk}" for pk in ids])
    disks, nics, addresses = _vm_disks(actor, ids), *_vm_nics(ids)
    affinity_groups, troubles = _vm_affinity_groups(ids), selectors.troubles(actor, rows)
    return [
        {
            "id": vm.pk,
            "name": vm.name,
            "title": vm.title,
            "state": vm.state,
            "state_reason": trouble.said() if (trouble := troubles.get(vm.pk)) else None,
            "node": _fabric(actor, vm.node_id),
            "home": _fabric(actor, vm.home_id),
            "group": _fabric(actor, vm.node_group_id),
            "affinity_groups": affinity_groups[vm.pk],
            "tenant": vm.tenant_id,
            "owner": vm.owner_id,
            "vcpus": vm.vcpus,
            "memory_bytes": vm.memory_bytes,
            "os": vm.os,
            "protected": vm.protected,
            "restart_priority": vm.restart_priority,
            "disks": disks[vm.pk],
            "nics": nics[vm.pk],
            "addresses": addresses[vm.pk],
            "job": jobs.get(f"vm:{vm.pk}"),
            "drift": [] if actor.is_tenant_side else _drift(vm),
            "claims": [] if actor.is_tenant_side else _claims(vm),
            "moved_from": _fabric(actor, vm.moved_from_id),
            "version": vm.version,
            "created": vm.created,
        }
        for vm in rows
    ]


def _drift(vm: Vm) -> list[Row]:
    return [
        {"field": field, **values, "adoptable": can_be_held(field, values["seen"])}
        for field, values in vm.drift.items()
    ]


def _claims(vm: Vm) -> list[Row]:
    return [{"node": node, "state": SEEN[state]} for node, state in (vm.claims or {}).items()]


def _vm_disks(actor: Actor, vms: Sequence[str]) -> dict[str, list[Row]]:
    """By the VM's id."""
    found: dict[str, list[Row]] = defaultdict(list)
    rows = Disk.objects.filter(vm__in=vms, device="disk")
    for vm, pk, pool, size_bytes, bus, state in rows.values_list("vm", "pk", "pool", "size_bytes", "bus", "state"):
        row = {"id": pk, "pool": _fabric(actor, pool), "size_bytes": size_bytes, "bus": bus, "state": state}
        found[vm].append(row)
    return found


def _vm_nics(vms: Sequence[str]) -> tuple[dict[str, list[Row]], dict[str, list[Row]]]:
    """Interfaces and addresses, by the VM's id."""
    nics: dict[str, list[Row]] = defaultdict(list)
    addresses: dict[str, list[Row]] = defaultdict(list)
    rows = Nic.objects.filter(vm__in=vms)
    for vm, pk, network, model, mac, lease, address, within in rows.values_list(
        "vm", "pk", "network", "model", "mac", "lease__pk", "lease__address", "lease__network"
    ):
        nics[vm].append({"id": pk, "network": network, "model": model, "mac": mac})
        if lease:
            addresses[vm].append({"id": lease, "address": address, "network": within, "nic": pk})
    return nics, addresses


def _vm_affinity_groups(vms: Sequence[str]) -> dict[str, list[str]]:
    """By the VM's id."""
    found: dict[str, list[str]] = defaultdict(list)
    rows = AffinityMember.objects.filter(vm__in=vms).order_by("group")
    for vm, group in rows.values_list("vm", "group"):
        found[vm].append(group)
    return found


def affinity_groups(actor: Actor, rows: Sequence[AffinityGroup]) -> list[Row]:
    return [
        {
            "id": group.pk,
            "name": group.name,
            "tenant": group.tenant_id,
            "policy": group.policy,
            "hard": group.hard,
            "vms": [vm.pk for vm in group.vms.all()],
            "created": group.created,
        }
        for group in rows
    ]


def nodes(actor: Actor, rows: Sequence[Node]) -> list[Row]:
    offers, warnings = offers_of(rows), warnings_on(rows)
    return [
        {
            "id": node.pk,
            "name": node.name,
            "address": node.address,
            "state": node.state,
            "maintenance": node.in_maintenance,
            "group": node.group_id,
            "declared_dead": node.declared_dead,
            "self_fencing": node.self_fencing,
            "cpus": node.cpus,
            "cpus_allocated": node.cpus_allocated,
            "cpus_limit": node.cpus_limit,
            "cpu_overcommit": float(node.cpu_overcommit),
            "memory_bytes": node.memory_bytes,
            "memory_allocated_bytes": node.memory_allocated_bytes,
            "busy_percent": node.busy_percent,
            "memory_limit_bytes": node.memory_limit_bytes,
            "memory_overcommit": float(node.memory_overcommit),
            "memory_reserve_bytes": node.memory_kept_bytes,
            "checks": [
                {"code": check["code"], "level": check["level"], "text": checks.said(check)} for check in node.checks
            ]
            + [
                {"code": "pool_" + line.code, "level": line.level, "text": f"{pool.name}: {checks.in_one_breath(line)}"}
                for pool, line in warnings[node.pk]
            ],
            "offers": [_offer(offer) for offer in offers[node.pk]],
            "strangers": [_stranger(uuid, stranger) for uuid, stranger in node.strangers.items()],
            "agent_version": node.agent_version,
            "simulated": bool(node.facts.get("simulated")),
            "joined": node.joined,
            "version": node.version,
        }
        for node in rows
    ]


def node_groups(actor: Actor, rows: Sequence[NodeGroup]) -> list[Row]:
    return [
        {
            "id": group.pk,
            "name": group.name,
            "title": group.title,
            "nodes": [node.pk for node in group.nodes.all()],
            "created": group.created,
        }
        for group in rows
    ]


def _stranger(uuid: str, stranger: Row) -> Row:
    disk_fields = ("place", "bus", "format", "size_bytes")
    outline = stranger["outline"] or {"vcpus": None, "memory_bytes": None, "disks": [], "nics": []}
    return {
        "uuid": uuid,
        "name": stranger["name"],
        "state": SEEN[stranger["state"]],
        "vcpus": outline["vcpus"],
        "memory_bytes": outline["memory_bytes"],
        "disks": [{name: disk[name] for name in disk_fields} for disk in outline["disks"]],
        "nics": [{name: nic[name] for name in ("mac", "bridge", "model")} for nic in outline["nics"]],
    }


def _offer(offer: Row) -> Row:
    fields = ("kind", "path", "capacity_bytes", "free_bytes", "extent_bytes", "extents_total", "extents_free")
    pool: Pool | None = offer["pool"]
    more = {"most_stripes": offer.get("most_stripes"), "pool": pool.pk if pool else None}
    return {name: offer.get(name) for name in fields} | more


def pools(actor: Actor, rows: Sequence[Pool]) -> list[Row]:
    default_of: dict[str, list[str]] = defaultdict(list)
    for pool_id, node in Node.objects.filter(default_pool__in=rows).order_by("pk").values_list("default_pool", "pk"):
        default_of[pool_id].append(node)
    return [
        {
            "id": pool.pk,
            "name": pool.name,
            "kind": pool.kind,
            "nodes": sorted(place.node_id for place in pool.places.all()),
            "shared": pool.shared,
            "capacity_bytes": pool.capacity_bytes,
            "free_bytes": pool.free_bytes,
            # The coarsest format: a size that fits it fits every other.
            "granule_bytes": max(pool.granules.values(), default=None),
            "state": pool.state,
            "exact": pool.exact,
            "default_of": default_of[pool.pk],
            "warning_percent": pool.warning_percent,
            "warnings": [
                {"code": line.code, "level": line.level, "text": checks.in_one_breath(line)}
                for line in warnings_of(pool)
            ],
            "strangers": strangers_of(pool),
            "version": pool.version,
        }
        for pool in rows
    ]


def networks(actor: Actor, rows: Sequence[Network]) -> list[Row]:
    bridges = [] if actor.is_tenant_side else list(selectors.nodes(actor).values_list("pk", "facts__bridges"))
    return [
        {
            "id": network.pk,
            "name": network.name,
            "bridge": network.bridge,
            "nodes": sorted(node for node, names in bridges if network.bridge in (names or ())),
            "ranges": [
                {
                    "first": r.first,
                    "last": r.last,
                    "prefix_length": r.prefix_length,
                    "gateway": r.gateway,
                    "nameservers": r.nameservers,
                }
                for r in network.ranges.all()
            ],
        }
        for network in rows
    ]


def addresses(actor: Actor, rows: Sequence[Address]) -> list[Row]:
    return [
        {"id": a.pk, "address": a.address, "network": a.network_id, "vm": a.nic.vm_id, "nic": a.nic_id} for a in rows
    ]


def images(actor: Actor, rows: Sequence[Image]) -> list[Row]:
    return [_file(image, image.virtual_size_bytes) for image in rows]


def isos(actor: Actor, rows: Sequence[Iso]) -> list[Row]:
    return [_file(iso, iso.size_bytes) for iso in rows]


def _file(row: Image | Iso, virtual_size_bytes: int) -> Row:
    return {
        "id": row.pk,
        "name": row.name,
        "os": row.os,
        "size_bytes": row.size_bytes,
        "virtual_size_bytes": virtual_size_bytes,
        "checksum": row.checksum,
        "state": _file_state(row),
    }


def _file_state(row: Image | Iso) -> str:
    if row.state != "active":
        return row.state
    return "ready" if row.copies.all() else "stored" if row.stored else "absent"


def uploads(actor: Actor, rows: Sequence[Upload]) -> list[Row]:
    return [upload(row, library.received_bytes(row.pk)) for row in rows]


def upload(row: Upload, received_bytes: int) -> Row:
    return {
        "id": row.pk,
        "kind": row.kind,
        "name": row.name,
        "os": row.os,
        "size_bytes": row.size_bytes,
        "received_bytes": received_bytes,
        "checksum": row.checksum,
        "complete": received_bytes == row.size_bytes,
        "created": row.created,
    }


def disks(actor: Actor, rows: Sequence[Disk]) -> list[Row]:
    return [
        {
            "id": disk.pk,
            "vm": disk.vm_id,
            "pool": _fabric(actor, disk.pool_id),
            "size_bytes": disk.size_bytes,
            "bus": disk.bus,
            "format": disk.format,
            "boot_order": disk.boot_order,
            "state": disk.state,
            "delete_after": disk.delete_after,
            "pending": disk.pending or None,
            "drift": [
                {"field": field, "panel": getattr(disk, field), "seen": seen} for field, seen in disk.drift.items()
            ],
            "parent": disk.parent_id,
            "title": disk.title,
            "tenant": disk.tenant_id,
            "version": disk.version,
        }
        for disk in rows
    ]


def snapshots(actor: Actor, rows: Sequence[Snapshot]) -> list[Row]:
    return [
        {
            "id": snapshot.pk,
            "vm": snapshot.vm_id,
            "name": snapshot.name,
            "parent": snapshot.parent_id,
            "memory": snapshot.memory,
            "consistency": snapshot.consistency or None,
            "created": snapshot.created,
            "size_bytes": snapshot.size_bytes,
            "state": snapshot.state,
            "version": snapshot.version,
        }
        for snapshot in rows
    ]


def backups(actor: Actor, rows: Sequence[Backup]) -> list[Row]:
    return [
        {
            "id": backup.pk,
            "vm": backup.vm_id,
            "vm_name": backup.vm_name,
            "title": backup.title,
            "tenant": backup.tenant_id,
            "created": backup.created,
            "size_bytes": backup.size_bytes,
            "pool": _fabric(actor, next((disk.pool_id for disk in backup.disks.all()), None)),
            "consistency": backup.consistency or None,
            "state": backup.state,
            "version": backup.version,
        }
        for backup in rows
    ]


def balances(actor: Actor, rows: Sequence[Balance]) -> list[Row]:
    names = ("created", "moves", "spread_before", "spread_after", "undone")
    return [{"id": one.pk} | {name: getattr(one, name) for name in names} for one in rows]


def balancing(wished: Balancing) -> Row:
    return {name: getattr(wished, name) for name in (*BALANCING, "next_run")} | {
        "problem": Refusal.from_kept(wished.problem).said() if wished.problem else None
    }


def schedules(actor: Actor, rows: Sequence[Schedule]) -> list[Row]:
    return [
        {
            "id": schedule.pk,
            "vm": schedule.vm_id,
            "action": schedule.action,
            "every_hours": schedule.every_hours,
            "keep": schedule.keep,
            "pool": _fabric(actor, schedule.pool_id),
            "user": schedule.grant.user_id,
            "next_run": schedule.next_run,
            "problem": _heard(actor, schedule.problem),
        }
        for schedule in rows
    ]


def _heard(actor: Actor, kept: dict[str, Any] | None) -> Row | None:
    """A refusal in a row, without what the person may not know of."""
    return dict(actor.may_hear([Refusal.from_kept(kept)])[0].said()) if kept else None


def nics(actor: Actor, rows: Sequence[Nic]) -> list[Row]:
    return [
        {
            "id": nic.pk,
            "vm": nic.vm_id,
            "network": nic.network_id,
            "model": nic.model,
            "mac": nic.mac,
            "address": lease.pk if (lease := _lease(nic)) else None,
        }
        for nic in rows
    ]


def jobs(actor: Actor, rows: Sequence[Job]) -> list[Row]:
    return job_views(actor, rows)


def tenants(actor: Actor, rows: Sequence[Tenant]) -> list[Row]:
    return [{"id": t.pk, "name": t.name, "title": t.title, "created": t.created} for t in rows]


def users(actor: Actor, rows: Sequence[User]) -> list[Row]:
    return [
        {"id": u.pk, "username": u.username, "language": u.language, "active": u.is_active, "created": u.created}
        for u in rows
    ]


def grants(actor: Actor, rows: Sequence[Grant]) -> list[Row]:
    return [
        {
            "id": grant.pk,
            "user": grant.user_id,
            "role": grant.role,
            "label": str(grant.get_role_display()),
            "tenant": grant.tenant_id,
            "actions": grant.actions,
            "created": grant.created,
        }
        for grant in rows
    ]


def audit(actor: Actor, rows: Sequence[AuditEvent]) -> list[Row]:
    return [
        {
            "id": str(event.pk),
            "at": event.at,
            "user": event.actor_id,
            "username": event.username,
            "role": event.role,
            "tenant": event.tenant_id,
            "action": event.action,
            "subject": event.subject,
            "subject_name": event.subject_name,
            "outcome": event.outcome,
            "job": event.job_id,
            "detail": event.detail,
        }
        for event in rows
    ]


def _open_jobs(subjects: list[str]) -> dict[str, str]:
    """subject -> its job: the one that runs, or the first in the line. Who sees a VM may know of its jobs."""
    jobs = Job.objects.filter(subject__in=subjects).exclude(state__in=FINAL).order_by("created", "pk")
    found: dict[str, str] = {}
    for subject, pk, state in jobs.values_list("subject", "pk", "state"):
        if state != JobState.WAITING or subject not in found:
            found[subject] = pk
    return found


def _fabric(actor: Actor, pk: str | None) -> str | None:
    """A node's or a pool's id; tenants never see them."""
    return None if actor.is_tenant_side else pk


def _lease(nic: Nic) -> Address | None:
    return getattr(nic, "lease", None)
