from django.db import models
from django.utils.translation import gettext_lazy as _

from .base import IdField
from .vm import Disk, Vm


class SnapshotState(models.TextChoices):
    CREATING = "creating", _("creating")
    READY = "ready", _("ready")
    DELETING = "deleting", _("deleting")


class Consistency(models.TextChoices):
    """What a guest finds in a copy of its disks."""

    OFF = "off", _("the VM was off")
    QUIESCED = "quiesced", _("its file systems stood still")
    CRASH = "crash", _("as after a power failure")
    MEMORY = "memory", _("with its memory")


class Snapshot(models.Model):
    """The content of a VM's disks at one instant. Its storage knows it by this id; the tree is the panel's alone."""

    id = IdField()
    vm = models.ForeignKey(Vm, on_delete=models.CASCADE, related_name="snapshots")
    name = models.CharField(max_length=100)
    parent = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, related_name="children")
    """The one on which the VM's disks rested when it was made."""
    state = models.CharField(max_length=8, choices=SnapshotState.choices, default=SnapshotState.CREATING)
    consistency = models.CharField(max_length=8, choices=Consistency.choices, blank=True, default="")
    """Empty: not known yet, or it is older than this column."""
    hardware = models.JSONField(default=dict)
    """Of one that keeps the memory: what the guest that goes on from it must have (``vm_snapshot.hardware_of``)."""
    version = models.PositiveBigIntegerField(default=1)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["created", "id"]

    @property
    def memory(self) -> bool:
        """The guest can go on from it as if nothing had happened."""
        return bool(self.hardware)

    @property
    def tenant_id(self) -> str:
        """Whose people may see its jobs."""
        return self.vm.tenant_id

    @property
    def size_bytes(self) -> int:
        """Of all its disks, as they were."""
        return sum(disk.size_bytes for disk in self.disks.all())


class SnapshotDisk(models.Model):
    """One disk in a snapshot."""

    snapshot = models.ForeignKey(Snapshot, on_delete=models.CASCADE, related_name="disks")
    disk = models.ForeignKey(Disk, on_delete=models.CASCADE, related_name="snapshots")
    size_bytes = models.BigIntegerField()
    """What the disk had then."""

    class Meta:
        constraints = [models.UniqueConstraint(fields=["snapshot", "disk"], name="disk_once_per_snapshot")]
