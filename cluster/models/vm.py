import uuid

from django.db import models
from django.utils.translation import gettext_lazy as _

from .base import IdField


class VmState(models.TextChoices):
    CREATING = "creating", _("creating")
    STOPPED = "stopped", _("stopped")
    STARTING = "starting", _("starting")
    RUNNING = "running", _("running")
    PAUSED = "paused", _("paused")
    STOPPING = "stopping", _("stopping")
    MIGRATING = "migrating", _("migrating")
    DELETING = "deleting", _("deleting")
    ERROR = "error", _("error")
    UNKNOWN = "unknown", _("unknown")


def _uuid() -> str:
    return str(uuid.uuid4())


class Vm(models.Model):
    """A virtual machine. ``state`` is what people see; it changes only through :mod:`cluster.states`."""

    id = IdField()
    uuid = models.CharField(max_length=36, unique=True, default=_uuid, editable=False)
    name = models.CharField(max_length=63)
    title = models.CharField(max_length=200, blank=True)
    tenant = models.ForeignKey("Tenant", on_delete=models.PROTECT, related_name="vms")
    owner = models.ForeignKey("User", on_delete=models.PROTECT, related_name="vms")
    node = models.ForeignKey("Node", on_delete=models.PROTECT, related_name="vms")
    state = models.CharField(max_length=16, choices=VmState.choices, default=VmState.CREATING)
    state_reason = models.CharField(max_length=16, blank=True, default="")
    """Why, where people must know: ``io_error``, its QEMU has paused it."""
    known_state = models.CharField(max_length=16, blank=True, default="")
    """While it is unknown: what it was when its node fell silent."""
    restart_priority = models.SmallIntegerField(default=0)
    """When a node is declared dead, its VMs with a higher one are started elsewhere first."""
    version = models.PositiveBigIntegerField(default=1)
    vcpus = models.PositiveIntegerField()
    memory_bytes = models.BigIntegerField()
    os = models.CharField(max_length=40, blank=True)
    protected = models.BooleanField(default=False)
    observed_counter = models.BigIntegerField(default=0)
    """Counter of the agent at the last applied reply about this VM: an older observation changes nothing."""
    snapshot = models.ForeignKey("Snapshot", on_delete=models.SET_NULL, null=True, related_name="+")
    """On which its disks rest now: the parent of the next one."""
    home = models.ForeignKey("Node", on_delete=models.SET_NULL, null=True, related_name="away")
    """The node in maintenance to which it is put back afterwards."""
    starts_at_home = models.BooleanField(default=False)
    """It was shut down for the maintenance of its node."""
    moving_to = models.ForeignKey("Node", on_delete=models.SET_NULL, null=True, related_name="+")
    """The node that a move has reserved for it; None: no move is under way, or it is there."""
    started_on = models.ForeignKey("Node", on_delete=models.SET_NULL, null=True, related_name="+")
    """The node whose CPU and machine its guest has, since a move has brought it here; None: where it is."""
    node_group = models.ForeignKey("NodeGroup", on_delete=models.PROTECT, null=True, related_name="vms")
    """It goes to no node outside of this group; None: anywhere."""
    drift = models.JSONField(default=dict)
    """field -> {"panel", "seen"}: what its definition on the node has otherwise (:mod:`cluster.domain_drift`)."""
    claims = models.JSONField(null=True, default=None)
    """node -> state of the domain there: nodes that show it although it belongs to another one (law 6); None: none."""
    moved_from = models.ForeignKey("Node", on_delete=models.SET_NULL, null=True, related_name="+")
    """The node from which it was moved by hand: its leases and filters are there still."""
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant", "name"], name="vm_name_once_per_tenant")]
        indexes = [
            models.Index(fields=["node", "state"]),
            models.Index(fields=["id"], condition=models.Q(claims__isnull=False), name="vm_claimed"),
            # The list, in its order: without it a page sorts every VM of the cluster.
            models.Index(fields=["name", "id"]),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def domain_name(self) -> str:
        return f"{self.name}.{self.id}"


class Pending(models.TextChoices):
    """What a guest that runs has not taken part in: it becomes so when it is off."""

    ATTACH = "attach", _("from its next start on")
    DETACH = "detach", _("until it is off")


class Disk(models.Model):
    """A disk of a VM, or a CD-ROM (``device``), in boot order; a disk may also have no VM."""

    id = IdField()
    vm = models.ForeignKey(Vm, on_delete=models.PROTECT, null=True, related_name="disks")
    tenant = models.ForeignKey("Tenant", on_delete=models.PROTECT, related_name="disks")
    owner = models.ForeignKey("User", on_delete=models.PROTECT, null=True, related_name="disks")
    """Tenant and owner: its VM's, and whose it stays when it has none."""
    title = models.CharField(max_length=200, blank=True, default="")
    backup = models.ForeignKey("Backup", on_delete=models.PROTECT, null=True, related_name="disks")
    """Of which it is a copy's part; such a disk never comes to a VM."""
    pending = models.CharField(max_length=8, blank=True, default="", choices=Pending.choices)
    device = models.CharField(max_length=8, default="disk")
    pool = models.ForeignKey("Pool", on_delete=models.PROTECT, null=True, related_name="disks", db_index=False)
    image = models.ForeignKey("Image", on_delete=models.PROTECT, null=True, related_name="disks")
    """The image that its first content comes from; a backing file where the driver uses one."""
    parent = models.ForeignKey("self", on_delete=models.PROTECT, null=True, related_name="clones")
    """The disk on whose volume this linked clone rests, until it is flattened."""
    iso = models.ForeignKey("Iso", on_delete=models.PROTECT, null=True, related_name="disks")
    format = models.CharField(max_length=8, default="qcow2")
    size_bytes = models.BigIntegerField(default=0)
    bus = models.CharField(max_length=8, default="virtio")
    cache = models.CharField(max_length=12, blank=True, default="")
    """Empty: what suits its storage."""
    boot_order = models.PositiveSmallIntegerField(null=True)
    position = models.PositiveSmallIntegerField(default=0)
    state = models.CharField(max_length=16, default="creating")
    """creating, ready, deleted; trash: what a disk left behind when it went elsewhere."""
    delete_after = models.DateTimeField(null=True)
    """Of one in the trash: when it is deleted."""
    trashed_by = models.ForeignKey("Grant", on_delete=models.SET_NULL, null=True, related_name="+")
    """Of one in the trash: in whose name it is deleted."""
    drift = models.JSONField(default=dict)
    """``size_bytes`` as its nodes see the volume, None where there is none (:mod:`cluster.drift`); empty: as here."""
    version = models.PositiveBigIntegerField(default=1)

    class Meta:
        ordering = ["position"]
        indexes = [
            # A pool's disks as its page lists them, and as the API does: without these each sorts all of them.
            models.Index(fields=["pool", "-size_bytes", "id"]),
            models.Index(fields=["pool", "id"]),
            models.Index(fields=["delete_after"], condition=models.Q(state="trash"), name="disk_in_trash"),
        ]

    @property
    def name(self) -> str:
        """For people: its VM's and its place there; without a VM what it was called or came from."""
        return f"{self.vm.name}/{self.position + 1}" if self.vm else self.title or self.pk


class Nic(models.Model):
    id = IdField()
    vm = models.ForeignKey(Vm, on_delete=models.CASCADE, related_name="nics")
    network = models.ForeignKey("Network", on_delete=models.PROTECT, related_name="nics")
    model = models.CharField(max_length=8, default="virtio")
    mac = models.CharField(max_length=17, unique=True)
    position = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ["position"]
