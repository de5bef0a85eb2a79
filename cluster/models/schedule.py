from django.core.validators import MinValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from .base import IdField


class Repeated(models.TextChoices):
    SNAPSHOT = "snapshot", _("Snapshot")
    BACKUP = "backup", _("Backup")


class Schedule(models.Model):
    """A snapshot or a backup of a VM, again and again, in the name of who asked for it; so many of them are kept."""

    id = IdField()
    vm = models.ForeignKey("Vm", on_delete=models.CASCADE, related_name="schedules")
    action = models.CharField(max_length=8, choices=Repeated.choices)
    every_hours = models.PositiveIntegerField(validators=[MinValueValidator(1)])
    keep = models.PositiveSmallIntegerField(validators=[MinValueValidator(1)])
    pool = models.ForeignKey("Pool", on_delete=models.PROTECT, null=True, related_name="+")
    """Of backups; None: the default pool of the VM's node."""
    grant = models.ForeignKey("Grant", on_delete=models.CASCADE, related_name="+")
    next_run = models.DateTimeField(db_index=True)
    prune_at = models.DateTimeField(null=True)
    """When the oldest one that is too many may be tried again to be deleted."""
    problem = models.JSONField(null=True)
    """Why the last one was refused or failed, as a refusal is kept; None: it was made."""
    created = models.DateTimeField(auto_now_add=True)


class ScheduledRun(models.Model):
    """What a schedule has begun. ``thing``: id of the snapshot or backup, from the job's success on."""

    schedule = models.ForeignKey(Schedule, on_delete=models.CASCADE, related_name="runs")
    job = models.OneToOneField("Job", on_delete=models.CASCADE, related_name="+")
    thing = models.CharField(max_length=13, blank=True, default="")
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["created", "id"]
