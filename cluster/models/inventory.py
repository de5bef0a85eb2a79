"""What the cluster consists of: nodes, pools, networks, addresses, images."""

import ipaddress
from decimal import Decimal

from django.db import models
from django.db.models import F, Value
from django.db.models.functions import Coalesce, Greatest
from django.utils.translation import gettext_lazy as _

from .base import IdField


class NodeState(models.TextChoices):
    OFFLINE = "offline", _("offline")
    ONLINE = "online", _("online")
    MAINTENANCE = "maintenance", _("maintenance")


class NodeGroup(models.Model):
    """Nodes that are meant for the same VMs; a node is in one group at most."""

    id = IdField()
    name = models.CharField(max_length=63, unique=True)
    title = models.CharField(max_length=200, blank=True)
    created = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name


LEAST_RESERVE_BYTES = 512 << 20
_RESERVE = Coalesce(
    F("memory_reserve_bytes"),
    Greatest(Value(LEAST_RESERVE_BYTES), F("memory_bytes") / Value(50), output_field=models.BigIntegerField()),
    output_field=models.BigIntegerField(),
)
"""What a host keeps of its memory where nobody has said it: a fiftieth, and 512 MiB at least."""


class Node(models.Model):
    """A hypervisor. What it reports is kept as it said it; what the panel decides has columns of its own."""

    id = IdField()
    name = models.CharField(max_length=63, unique=True)
    address = models.GenericIPAddressField(unique=True)
    state = models.CharField(max_length=16, choices=NodeState.choices, default=NodeState.OFFLINE)
    in_maintenance = models.BooleanField(default=False)
    """It gets no VM; also while it is offline, when ``state`` says only that."""
    declared_dead = models.DateTimeField(null=True)
    """When an administrator said so; until it was taken back its VMs may have been started elsewhere."""
    self_fencing = models.BooleanField(default=False)
    """Without the panel it ends its guests that could be started elsewhere."""
    version = models.PositiveBigIntegerField(default=1)
    created = models.DateTimeField(auto_now_add=True)
    joined = models.DateTimeField(null=True)
    redis_password_sha256 = models.CharField(max_length=64, blank=True)
    """Empty: the node has not joined, or was withdrawn; it has no Redis user."""
    certificate_sha256 = models.CharField(max_length=64, blank=True)
    certificate_until = models.DateTimeField(null=True)
    host_uuid = models.CharField(max_length=36, blank=True)
    agent_version = models.CharField(max_length=32, blank=True)
    verbs = models.JSONField(default=dict)
    """verb -> names of the fields that the agent knows, from its hello."""
    facts = models.JSONField(default=dict)
    platform = models.JSONField(default=dict)
    """``nodes.contract.specs.Platform``, as it said last; empty: it did not."""
    checks = models.JSONField(default=list)
    offers = models.JSONField(default=list)
    """Of what it could make a pool (``nodes.contract.specs.PoolOffer``), as it said last."""
    strangers = models.JSONField(default=dict)
    """uuid -> ``nodes.contract.specs.DomainFacts`` of each domain there that is no VM of this panel."""
    incarnation = models.PositiveBigIntegerField(default=0)
    cpus = models.PositiveIntegerField(default=0)
    memory_bytes = models.BigIntegerField(default=0)
    busy_percent = models.PositiveSmallIntegerField(null=True)
    """What it measured over the last minutes (:mod:`cluster.busy`); None: nobody knows."""
    memory_allocated_bytes = models.BigIntegerField(default=0)
    """Sum over the VMs placed here; raised by a conditional UPDATE, so that many creates at once cannot overshoot."""
    cpus_allocated = models.IntegerField(default=0)
    """The same of their vCPUs."""
    memory_reserve_bytes = models.BigIntegerField(null=True)
    """What the host keeps for itself; None: by the rule."""
    memory_overcommit_percent = models.PositiveSmallIntegerField(default=100)
    cpu_overcommit_percent = models.PositiveSmallIntegerField(default=800)
    """vCPUs for a hundred threads of its processors."""
    memory_kept_bytes = models.GeneratedField(
        expression=_RESERVE, output_field=models.BigIntegerField(), db_persist=True
    )
    """``memory_reserve_bytes``, by the rule too."""
    memory_limit_bytes = models.GeneratedField(
        expression=Greatest(F("memory_bytes") - _RESERVE, Value(0), output_field=models.BigIntegerField())
        * F("memory_overcommit_percent")
        / Value(100),
        output_field=models.BigIntegerField(),
        db_persist=True,
    )
    """What its VMs may have together. The database computes it, so that the reserving UPDATE can ask for it."""
    cpus_limit = models.GeneratedField(
        expression=F("cpus") * F("cpu_overcommit_percent") / Value(100),
        output_field=models.IntegerField(),
        db_persist=True,
    )
    default_pool = models.ForeignKey("Pool", on_delete=models.SET_NULL, null=True, related_name="+")
    group = models.ForeignKey(NodeGroup, on_delete=models.PROTECT, null=True, related_name="nodes")

    def __str__(self) -> str:
        return self.name

    @property
    def cpu_overcommit(self) -> Decimal:
        """vCPUs for each thread of its processors."""
        return Decimal(self.cpu_overcommit_percent) / 100

    @property
    def memory_overcommit(self) -> Decimal:
        return Decimal(self.memory_overcommit_percent) / 100


class Link(models.Model):
    """How fast one node was seen to send to another, last time that somebody looked."""

    source = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="+")
    target = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="+")
    bandwidth_bytes = models.BigIntegerField()
    """A second."""
    measured = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["source", "target"], name="link_once_per_way")]


class JoinToken(models.Model):
    """Lets one machine join as this node, once. Only the hash is kept."""

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="join_tokens")
    sha256 = models.CharField(max_length=64, unique=True)
    expires = models.DateTimeField()
    used = models.DateTimeField(null=True)


class PoolState(models.TextChoices):
    ADDING = "adding", _("is being added")
    ACTIVE = "active", _("in service")
    OUT_OF_SERVICE = "out_of_service", _("out of service")
    REMOVING = "removing", _("is being removed")


POOL_AT_REST = (PoolState.ACTIVE, PoolState.OUT_OF_SERVICE)
"""No job makes or removes it."""


class Pool(models.Model):
    """Storage. One identity is one pool, on however many nodes it is seen."""

    id = IdField()
    name = models.CharField(max_length=63, unique=True)
    kind = models.CharField(max_length=16)
    identity = models.CharField(max_length=100, unique=True)
    path = models.CharField(max_length=255)
    shared = models.BooleanField(default=False)
    capacity_bytes = models.BigIntegerField(default=0)
    free_bytes = models.BigIntegerField(default=0)
    reserved_bytes = models.BigIntegerField(default=0)
    """Promised to disks that running jobs are about to make."""
    granules = models.JSONField(default=dict)
    stripes = models.PositiveSmallIntegerField(default=1)
    """LVM: over how many physical volumes each new volume is laid."""
    monitors = models.JSONField(default=list)
    """RBD: ``host:port`` of each Ceph monitor."""
    user = models.CharField(max_length=100, blank=True)
    key = models.TextField(blank=True)
    """RBD: the Ceph user's key, sealed."""
    attached = models.BooleanField(default=False)
    """Added by a person; False: a node told of it by itself, its folder of images."""
    facts = models.JSONField(default=dict)
    """What the driver said of it last (``nodes.contract.specs.PoolFacts``)."""
    state = models.CharField(max_length=16, choices=PoolState.choices, default=PoolState.ACTIVE)
    """Only an active one takes new disks; those that are in it already stay usable."""
    warning_percent = models.PositiveSmallIntegerField(default=85)
    """Above this share in use a person is warned."""
    exact = models.BooleanField(default=False)
    """A size off the grid is refused instead of rounded up."""
    version = models.PositiveBigIntegerField(default=1)
    nodes: "models.ManyToManyField[Node, PoolOnNode]" = models.ManyToManyField(
        Node, through="PoolOnNode", related_name="pools"
    )

    def __str__(self) -> str:
        return self.name

    @property
    def usual_format(self) -> str:
        """Of a disk for which nobody has said one."""
        return "qcow2" if "qcow2" in self.granules else "raw"


class PoolOnNode(models.Model):
    pool = models.ForeignKey(Pool, on_delete=models.CASCADE, related_name="places")
    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="pool_places")
    odd = models.JSONField(default=dict)
    """Disk -> bytes of its volume, None where there is none: what this node saw last otherwise than it is here."""
    strangers = models.JSONField(default=list)
    """What this node saw in it that is no disk of ours (``nodes.contract.specs.Stranger``)."""

    client_address = models.CharField(max_length=45, blank=True, default="")
    """The node's, as the storage sees it; empty: the node's own."""
    fenced = models.JSONField(default=list)
    """Addresses of this node that were shut out of the pool, or may have been."""

    class Meta:
        constraints = [models.UniqueConstraint(fields=["pool", "node"], name="pool_once_per_node")]


class LeftGuest(models.Model):
    """A guest that was started elsewhere while its node was silent: it is ended there before the node is taken back."""

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="left_guests")
    vm = models.CharField(max_length=13)
    """An id: the VM itself may be deleted meanwhile."""
    uuid = models.CharField(max_length=36)
    nics = models.JSONField(default=dict)
    """NIC -> its bridge."""

    class Meta:
        constraints = [models.UniqueConstraint(fields=["node", "vm"], name="left_guest_once")]


class Network(models.Model):
    """An L2 segment: the bridge of this name on every node that has one."""

    id = IdField()
    name = models.CharField(max_length=63, unique=True)
    bridge = models.CharField(max_length=15)
    created = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name

    def taken(self) -> set[str]:
        """Addresses that nobody else may get: those of guests, routers and name servers, and the networks' own."""
        reserved = {address for span in self.ranges.all() for address in span.reserved()}
        return reserved | set(self.addresses.values_list("address", flat=True))

    def held(self) -> set[str]:
        """Addresses of guests that this panel, put back from a backup, does not know."""
        leases = Node.objects.filter(facts__has_key="held").values_list("facts__held", flat=True)
        return {one["address"] for each in leases for one in each if one["bridge"] == self.bridge}


class AddressRange(models.Model):
    """Addresses that the panel gives out, first and last included."""

    network = models.ForeignKey(Network, on_delete=models.CASCADE, related_name="ranges")
    first = models.GenericIPAddressField(protocol="ipv4")
    last = models.GenericIPAddressField(protocol="ipv4")
    prefix_length = models.PositiveSmallIntegerField()
    gateway = models.GenericIPAddressField(protocol="ipv4", null=True, blank=True)
    nameservers = models.JSONField(default=list)

    def overlaps(self, other: "AddressRange") -> bool:
        return ipaddress.IPv4Address(self.first) <= ipaddress.IPv4Address(other.last) and ipaddress.IPv4Address(
            other.first
        ) <= ipaddress.IPv4Address(self.last)

    def reserved(self) -> set[str]:
        """No guest's: a guest with the router's address would cut off all the others."""
        subnet = ipaddress.IPv4Interface(f"{self.first}/{self.prefix_length}").network
        reserved = {self.gateway, *self.nameservers} if self.gateway else set(self.nameservers)
        if subnet.num_addresses > 2:
            reserved |= {str(subnet.network_address), str(subnet.broadcast_address)}
        return reserved

    def holds(self, address: str) -> bool:
        try:
            wanted = ipaddress.IPv4Address(address)
        except ipaddress.AddressValueError:
            return False
        return ipaddress.IPv4Address(self.first) <= wanted <= ipaddress.IPv4Address(self.last)


class Address(models.Model):
    """A taken address. Free ones have no row; uniqueness here is what makes two takers impossible."""

    id = IdField()
    network = models.ForeignKey(Network, on_delete=models.PROTECT, related_name="addresses")
    address = models.GenericIPAddressField(protocol="ipv4")
    nic = models.OneToOneField("Nic", on_delete=models.CASCADE, related_name="lease")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["network", "address"], name="address_once_per_network")]


class Image(models.Model):
    """A file from which disks are made. ``copies`` are the nodes that hold it."""

    id = IdField()
    name = models.CharField(max_length=255, unique=True)
    os = models.CharField(max_length=40, blank=True)
    format = models.CharField(max_length=8)
    size_bytes = models.BigIntegerField()
    virtual_size_bytes = models.BigIntegerField()
    checksum = models.CharField(max_length=80, blank=True)
    stored = models.BooleanField(default=False)
    """The panel keeps the file (:mod:`cluster.library`); False: nodes found it in their folders."""
    state = models.CharField(max_length=16, default="active")
    """adding, active, removing: only from an active one disks are made."""
    created = models.DateTimeField(auto_now_add=True)


class ImageCopy(models.Model):
    image = models.ForeignKey(Image, on_delete=models.CASCADE, related_name="copies")
    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="image_copies")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["image", "node"], name="image_once_per_node")]


class Iso(models.Model):
    id = IdField()
    name = models.CharField(max_length=255, unique=True)
    os = models.CharField(max_length=40, blank=True)
    size_bytes = models.BigIntegerField()
    checksum = models.CharField(max_length=80, blank=True)
    stored = models.BooleanField(default=False)
    state = models.CharField(max_length=16, default="active")
    """Both as of an image."""
    created = models.DateTimeField(auto_now_add=True)


class IsoCopy(models.Model):
    iso = models.ForeignKey(Iso, on_delete=models.CASCADE, related_name="copies")
    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="iso_copies")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["iso", "node"], name="iso_once_per_node")]


class Upload(models.Model):
    """An image or an ISO on its way to the panel. Its id becomes the image's; how much has come, its file says."""

    id = IdField()
    kind = models.CharField(max_length=8, choices=[("image", "image"), ("iso", "iso")])
    name = models.CharField(max_length=255)
    os = models.CharField(max_length=40, blank=True)
    size_bytes = models.BigIntegerField()
    checksum = models.CharField(max_length=80, blank=True)
    """As it was promised, ``sha256:<hex>``; empty: computed at the end."""
    user = models.ForeignKey("User", on_delete=models.CASCADE, related_name="uploads")
    created = models.DateTimeField(auto_now_add=True)
    touched = models.DateTimeField(auto_now_add=True)
    """When the last chunk came."""

    class Meta:
        constraints = [models.UniqueConstraint(fields=["kind", "name"], name="upload_name_once")]
