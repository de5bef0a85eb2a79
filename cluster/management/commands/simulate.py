import ipaddress
import json
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from cluster import services
from cluster.domain_specs import pool_spec
from cluster.models import Address, AddressRange, Disk, Grant, Network, Nic, Node, Pool, PoolOnNode, Role, Tenant, Vm
from cluster.permissions import Actor
from nodes.contract.sizes import GIB
from nodes.contract.specs import DomainDisk, DomainSpec, NicSpec

NETWORK, BRIDGE = "simulated", "br0"
FIRST_NODE = ipaddress.IPv4Address("127.1.0.1")
FIRST_GUEST, LAST_GUEST, PREFIX_LENGTH = ipaddress.IPv4Address("10.128.0.1"), "10.255.255.254", 9
DISK_BYTES = 20 * GIB
AT_ONCE = 2000
STOPPED_OF = 5
"""One guest of so many is switched off."""


class Command(BaseCommand):
    help = "Rows for simulated nodes and their guests; prints what python -m nodes.simulated takes."

    def add_arguments(self, parser: CommandParser) -> None:
        kinds = parser.add_subparsers(dest="kind", required=True)
        nodes = kinds.add_parser("nodes", help="nodes sim1 to simN; prints the tickets of those that have to join")
        nodes.add_argument("count", type=int)
        guests = kinds.add_parser("guests", help="guests for each simulated node that has never run; prints them")
        guests.add_argument("count", type=int)

    def handle(self, *args: Any, **options: Any) -> None:
        grant = Grant.objects.filter(role=Role.ADMINISTRATOR, user__is_active=True).first()
        if grant is None:
            raise CommandError("there is no administrator yet; run first_user")
        actor = Actor(grant.user, grant)
        with transaction.atomic():
            if options["kind"] == "nodes":
                self.stdout.write(json.dumps(list(_tickets(actor, options["count"])), default=str))
            else:
                self.stdout.write(json.dumps(_guests(actor, options["count"])))


def _tickets(actor: Actor, count: int) -> Iterator[dict[str, Any]]:
    known = {node.name: node for node in Node.objects.all()}
    for number in range(count):
        name = f"sim{number + 1}"
        node = known.get(name)
        if node is not None and node.redis_password_sha256:
            continue
        if node is None:
            _node, ticket = services.node_add(actor, name, str(FIRST_NODE + number))
        else:
            ticket = services.node_token(actor, node)
        yield {"name": name, **ticket}


def _guests(actor: Actor, count: int) -> dict[str, Any]:
    """As if they had been created by jobs long ago: rows in bulk, because 10,000 jobs take their minutes."""
    network, made = Network.objects.get_or_create(name=NETWORK, defaults={"bridge": BRIDGE})
    if made:
        AddressRange.objects.create(
            network=network, first=str(FIRST_GUEST), last=LAST_GUEST, prefix_length=PREFIX_LENGTH
        )
    nodes = list(Node.objects.filter(name__startswith="sim", pools=None).order_by("created"))
    tenant = Tenant.objects.get(name=Tenant.DEFAULT)
    number = Vm.objects.count()
    vms: list[Vm] = []
    disks: list[Disk] = []
    nics: list[Nic] = []
    addresses: list[Address] = []
    told: dict[str, Any] = {}
    for node in nodes:
        pool = _pool(node)
        told[node.name] = []
        for _ in range(count):
            number += 1
            off = number % STOPPED_OF == 0
            vm = Vm(
                name=f"guest{number}",
                tenant=tenant,
                owner=actor.user,
                node=node,
                state="stopped" if off else "running",
                vcpus=1,
                memory_bytes=GIB,
            )
            disk = Disk(
                vm=vm,
                tenant=tenant,
                owner=actor.user,
                pool=pool,
                size_bytes=DISK_BYTES,
                boot_order=1,
                state="ready",
            )
            mac = ":".join(f"{byte:02x}" for byte in (0x52, 0x54, 0x01, *number.to_bytes(3, "big")))
            nic = Nic(vm=vm, network=network, mac=mac)
            address = Address(network=network, address=str(FIRST_GUEST + number), nic=nic)
            told[node.name].append({"domain": _domain(vm, disk, nic, address), "running": not off} | _sizes(disk))
            vms.append(vm)
            disks.append(disk)
            nics.append(nic)
            addresses.append(address)
        taken = {"memory_allocated_bytes": count * GIB, "cpus_allocated": count}
        Node.objects.filter(pk=node.pk).update(**taken, default_pool=pool)
    Vm.objects.bulk_create(vms, AT_ONCE)
    Disk.objects.bulk_create(disks, AT_ONCE)
    Nic.objects.bulk_create(nics, AT_ONCE)
    Address.objects.bulk_create(addresses, AT_ONCE)
    return told


def _pool(node: Node) -> Pool:
    """What the node's first inventory would have made of its pool."""
    pool = Pool.objects.create(
        name=f"{node.name}-images",
        kind="directory",
        identity=f"simulated:{node.pk}",
        path="/var/lib/libvirt/images",
        granules={"qcow2": 65536, "raw": 512},
    )
    PoolOnNode.objects.create(pool=pool, node=node)
    return pool


def _domain(vm: Vm, disk: Disk, nic: Nic, address: Address) -> dict[str, Any]:
    assert disk.pool
    spec = DomainSpec(
        id=vm.pk,
        uuid=vm.uuid,
        name=vm.name,
        vcpus=vm.vcpus,
        memory_bytes=vm.memory_bytes,
        disks=(DomainDisk(id=disk.pk, bus="virtio", pool=pool_spec(disk.pool), format="qcow2", boot_order=1),),
        nics=(NicSpec(id=nic.pk, bridge=BRIDGE, mac=nic.mac, address=address.address, prefix_length=PREFIX_LENGTH),),
    )
    return spec.model_dump(mode="json")


def _sizes(disk: Disk) -> dict[str, Any]:
    return {"disks": {disk.pk: disk.size_bytes}}
