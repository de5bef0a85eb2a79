"""Milliseconds until it is planned where a VM goes, in a cluster whose nodes have reported all that nodes report."""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import django

django.setup()

from django.db import connection  # noqa: E402

from cluster.models import AffinityGroup, AffinityMember, Node, Pool, PoolOnNode, Vm  # noqa: E402
from cluster.operations.vm_create import VmCreate  # noqa: E402
from cluster.operations.vm_move_plan import MovePlanning  # noqa: E402
from cluster.operations.vm_plan import Planning  # noqa: E402
from cluster.saga.steps import Plan  # noqa: E402
from nodes.contract.sizes import GIB, MIB  # noqa: E402
from tests.bench.work.rows import Filler, administrator, make_nodes  # noqa: E402

WARM_UP = 3
MEMBERS = 20
FEATURES = [f"feature{number:03}" for number in range(110)]
MACHINES = [f"pc-i440fx-{major}.{minor}" for major in range(3, 11) for minor in range(4)]
CHECK = {"level": "ok", "facts": {"path": "/var/lib/libvirt/images", "free_bytes": 1 << 40, "least_bytes": 10 << 30}}
CHECKS = ("cpu_virtualisation", "kvm", "memory", "pool_xattr", "disk_space", "ssd", "libvirt_version", "qemu_version")
CHECKS += ("bridges", "host_uuid", "names_resolve", "migration_ports", "guestfs", "clock_skew")
OFFER = {"kind": "lvm", "path": "vg-data", "identity": "x" * 38, "capacity_bytes": 1 << 42, "free_bytes": 1 << 41}


def report(nodes: list[Node]) -> None:
    """As after their first inventories; each has a pool of its own, and half of its room is taken."""
    facts = {
        "hostname": "bench", "cpus": 64, "memory_bytes": 512 * GIB, "cpu_model": "Intel(R) Xeon(R) Gold 6230",
        "virt_type": "kvm", "virt_reason": "a probe guest booted in 0.9 s", "libvirt_version": "9.0.0",
        "qemu_version": "7.2.22", "host_uuid": "x" * 36, "bridges": ["br0", "br1"], "simulated": False,
    }  # fmt: skip
    cpu = {"vendor": "Intel", "model": "Cascadelake-Server", "features": FEATURES}
    platform = {"cpu": cpu, "machine": MACHINES[0], "machines": MACHINES}
    numbers = {"capacity_bytes": 1 << 42, "free_bytes": 1 << 41, "granules": {"qcow2": 65536, "raw": 512}}
    pools = [
        Pool(
            name=f"{node.name}-images",
            kind="directory",
            identity=node.pk,
            path="/var/lib/libvirt/images",
            facts={"takes_backups": True, "identity": node.pk, "path": "/var/lib/libvirt/images", **numbers},
            **numbers,
        )
        for node in nodes
    ]
    Pool.objects.bulk_create(pools)
    PoolOnNode.objects.bulk_create(PoolOnNode(pool=pool, node=node) for pool, node in zip(pools, nodes, strict=True))
    said = {"facts": facts, "platform": platform, "offers": [OFFER] * 4}
    checks = [{"code": code, **CHECK} for code in CHECKS]
    for number, (node, pool) in enumerate(zip(nodes, pools, strict=True)):
        taken = {"memory_allocated_bytes": 256 * GIB + number * 7919 % 1000 * MIB, "cpus_allocated": 100}
        Node.objects.filter(pk=node.pk).update(default_pool=pool, checks=checks, **said, **taken)


def group(filler: Filler) -> AffinityGroup:
    apart = AffinityGroup.objects.create(name="apart", tenant=filler.tenant, policy="apart", hard=True)
    vms = filler.owner.vms.order_by("name")[:MEMBERS]
    AffinityMember.objects.bulk_create(AffinityMember(group=apart, vm=vm) for vm in vms)
    return apart


def created(filler: Filler, **more: Any) -> Plan:
    asked = {"disks": [{"size_bytes": GIB}], "nics": [{"network": filler.network.pk}]}
    params = VmCreate.Params(name="new", vcpus=2, memory_bytes=2 * GIB, **asked, **more)
    return Planning(administrator(), params).plan()


def moved(vm: str) -> Plan:
    return MovePlanning(Vm.objects.select_related("node").get(pk=vm)).plan()


def took(plan: Callable[[], Plan]) -> float:
    began = time.monotonic()
    found = plan()
    ms = (time.monotonic() - began) * 1000
    assert not found.refusals, found.refusals[0]
    return ms


def main(nodes: int, vms: int, pairs: int) -> None:
    every = make_nodes(nodes)
    filler = Filler(every)
    filler.fill_up(nodes * vms)
    report(every)
    apart = group(filler)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
    vm = filler.owner.vms.order_by("-name")[0].pk
    plans = {
        "create": partial(created, filler),
        "create-apart": partial(created, filler, affinity_groups=[apart.pk]),
        "move": partial(moved, vm),
    }
    found: dict[str, list[float]] = {}
    for kind, plan in plans.items():
        for _ in range(WARM_UP):
            took(plan)
        found[kind] = [took(plan) for _ in range(pairs)]
    print(json.dumps(found))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
