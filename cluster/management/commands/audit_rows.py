import json
from typing import Any

from django.core.management.base import BaseCommand
from django.db.models import Count

from cluster.models import FINAL, Disk, Job, Lock, Node, ObjectNumber, Pool, RaisedNumber, Vm
from cluster.saga import dispatch
from nodes.contract.wire import redis_user


class Command(BaseCommand):
    help = "Print what the panel believes to be on the nodes, as JSON: the panel's half of an audit."
    requires_system_checks = []  # they would load every page, and an audit is made often

    def handle(self, *args: Any, **options: Any) -> None:
        numbers: dict[str, dict[str, int]] = {}
        for row in ObjectNumber.objects.all():
            numbers.setdefault(row.node_id, {})[row.object] = row.number
        raised: dict[str, dict[str, int]] = {}
        for raise_ in RaisedNumber.objects.all():
            raised.setdefault(raise_.node_id, {})[raise_.object] = raise_.number
        nodes = Node.objects.all()
        answer = {
            "nodes": [
                {
                    "id": n.pk,
                    "name": n.name,
                    "state": n.state,
                    "joined": bool(n.redis_password_sha256),
                    "certificate_sha256": n.certificate_sha256,
                    "memory_allocated_bytes": n.memory_allocated_bytes,
                    "cpus_allocated": n.cpus_allocated,
                }
                for n in nodes
            ],
            "vms": [_vm(vm) for vm in Vm.objects.prefetch_related("disks", "nics__lease")],
            "unattached_disks": [
                {"id": d.pk, "pool": d.pool_id, "format": d.format, "state": d.state, "size_bytes": d.size_bytes}
                for d in Disk.objects.filter(vm=None)
            ],
            "jobs_open": [
                {"id": j.pk, "operation": j.operation, "subject": j.subject, "state": j.state}
                for j in Job.objects.exclude(state__in=FINAL)
            ],
            "outbox": list(dispatch.outbox().values_list("pk", flat=True)),
            "locks": [{"name": lock.name, "job": lock.job_id, "held": lock.held} for lock in Lock.objects.all()],
            "numbers": numbers,
            "raised": raised,
            "shared_pools": [p.pk for p in Pool.objects.annotate(on=Count("places")).filter(on__gt=1)],
            "redis_users": [redis_user(n.pk) for n in nodes if n.redis_password_sha256],
        }
        self.stdout.write(json.dumps(answer, indent=1))


def _vm(vm: Vm) -> dict[str, Any]:
    return {
        "id": vm.pk,
        "uuid": vm.uuid,
        "name": vm.name,
        "domain": vm.domain_name,
        "node": vm.node_id,
        "state": vm.state,
        "memory_bytes": vm.memory_bytes,
        "vcpus": vm.vcpus,
        "disks": [
            {"id": d.pk, "pool": d.pool_id, "format": d.format, "state": d.state, "size_bytes": d.size_bytes}
            for d in vm.disks.all()
            if d.device == "disk"
        ],
        "nics": [
            {"id": n.pk, "mac": n.mac, "address": n.lease.address if hasattr(n, "lease") else None}
            for n in vm.nics.all()
        ],
    }
