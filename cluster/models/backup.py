from django.db import models
from django.utils.translation import gettext_lazy as _

from .base import IdField
from .snapshot import Consistency


class BackupState(models.TextChoices):
    CREATING = "creating", _("creating")
    READY = "ready", _("ready")
    DELETING = "deleting", _("deleting")


class Backup(models.Model):
    """A full copy of a VM's disks as they were at one instant, with what is needed to make such a VM again.

    Its copies are disks without a VM (``Disk.backup``), so that everything that looks after disks looks after them.
    """

    id = IdField()
    vm = models.ForeignKey("Vm", on_delete=models.SET_NULL, null=True, related_name="backups")
    """None: it was deleted since."""
    vm_name = models.CharField(max_length=63)
    title = models.CharField(max_length=200, blank=True, default="")
    tenant = models.ForeignKey("Tenant", on_delete=models.PROTECT, related_name="backups")
    owner = models.ForeignKey("User", on_delete=models.PROTECT, related_name="backups")
    settings = models.JSONField(default=dict)
    """``vcpus``, ``memory_bytes``, ``os`` and ``nics`` (``network``, ``model``) as the VM had them."""
    state = models.CharField(max_length=8, choices=BackupState.choices, default=BackupState.CREATING)
    consistency = models.CharField(max_length=8, choices=Consistency.choices, blank=True, default="")
    """Empty: not known yet, or it is older than this column."""
    version = models.PositiveBigIntegerField(default=1)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = [models.Index(fields=["-created", "-id"])]

    @property
    def name(self) -> str:
        return self.title or f"{self.vm_name} {self.created:%Y-%m-%d %H:%M}"

    @property
    def size_bytes(self) -> int:
        return sum(disk.size_bytes for disk in self.disks.all())
