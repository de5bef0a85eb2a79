"""Many rows at once, as a cluster of that size would have them."""

import ipaddress
import uuid

from cluster.models import Address, Disk, Grant, Image, Network, Nic, Node, Pool, PoolOnNode, Role, Tenant, User, Vm
from cluster.permissions import Actor
from nodes.contract.messages import VERBS, known_fields
from nodes.contract.sizes import GIB, MIB

AT_ONCE = 2000
FIRST_ADDRESS = int(ipaddress.IPv4Address("10.0.0.10"))


def administrator() -> Actor:
    grant = Grant.objects.select_related("user").filter(role=Role.ADMINISTRATOR)[0]
    return Actor(grant.user, grant)


def make_nodes(count: int) -> list[Node]:
    """So many nodes that are online, as far as the rows know."""
    verbs = {verb: list(known_fields(verb)) for verb in VERBS}
    nodes = [
        Node(
            name=f"bench{number:04}",
            address=str(ipaddress.IPv4Address("10.255.0.1") + number),
            state="online",
            redis_password_sha256=f"{number:064x}",
            agent_version="1",
            verbs=verbs,
            facts={"bridges": ["br0"]},
            cpus=64,
            memory_bytes=512 * GIB,
        )
        for number in range(count)
    ]
    Node.objects.bulk_create(nodes)
    return nodes


class Filler:
    """VMs of one disk, one NIC and one address each, spread over nodes."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.count = 0
        self.tenant, _ = Tenant.objects.get_or_create(name=Tenant.DEFAULT)
        self.owner: User = administrator().user
        self.network = Network.objects.create(name="bench", bridge="br0")
        self.pool = Pool.objects.create(name="bench", kind="directory", identity="bench", path="/var/lib/bench")
        PoolOnNode.objects.bulk_create(PoolOnNode(pool=self.pool, node=node) for node in nodes)
        self.image = Image.objects.create(
            name="bench.qcow2", format="qcow2", size_bytes=9 * MIB, virtual_size_bytes=48 * MIB
        )

    def fill_up(self, count: int) -> None:
        """Until there are so many."""
        while self.count < count:
            self._add(range(self.count, min(count, self.count + AT_ONCE)))

    def _add(self, numbers: range) -> None:
        common = {"tenant": self.tenant, "owner": self.owner, "vcpus": 1, "memory_bytes": 128 * MIB}
        vms = [
            Vm(
                name=f"vm-{number:06}",
                title=f"Machine {number}",
                uuid=str(uuid.uuid4()),
                node=self.nodes[number % len(self.nodes)],
                state="running",
                **common,
            )
            for number in numbers
        ]
        disk = {"pool": self.pool, "image": self.image, "size_bytes": GIB, "state": "ready"}
        nics = [
            Nic(vm=vm, network=self.network, mac=f"52:54:00:{n >> 16:02x}:{n >> 8 & 255:02x}:{n & 255:02x}")
            for n, vm in zip(numbers, vms, strict=True)
        ]
        Vm.objects.bulk_create(vms)
        Disk.objects.bulk_create(Disk(vm=vm, tenant_id=vm.tenant_id, owner_id=vm.owner_id, **disk) for vm in vms)
        Nic.objects.bulk_create(nics)
        Address.objects.bulk_create(
            Address(network=self.network, nic=nic, address=str(ipaddress.IPv4Address(FIRST_ADDRESS + n)))
            for n, nic in zip(numbers, nics, strict=True)
        )
        self.count += len(vms)
