"""Nodes that are filled alike: how that is wished, and what was moved for it."""

from django.db import models

from .base import IdField


class Balancing(models.Model):
    """How the panel balances by itself. There is one row, and none before somebody says something."""

    every_minutes = models.PositiveIntegerField(null=True)
    """None: only when somebody asks."""
    threshold_points = models.PositiveSmallIntegerField(default=200)
    """Between the fullest and the emptiest node, out of 1000: nothing is moved below it."""
    hold_minutes = models.PositiveIntegerField(default=10)
    """For so long it must have been above the threshold."""
    cooldown_minutes = models.PositiveIntegerField(default=60)
    """A VM that has moved is left where it is for so long."""
    most_moves = models.PositiveSmallIntegerField(default=4)
    copy_disks = models.BooleanField(default=False)
    """VMs whose disks the other node does not see move, too."""
    grant = models.ForeignKey("Grant", on_delete=models.SET_NULL, null=True, related_name="+")
    """In whose name."""
    next_run = models.DateTimeField(null=True)
    uneven_since = models.DateTimeField(null=True)
    problem = models.JSONField(null=True)
    """Why the last one was refused, as a refusal is kept."""


class Balance(models.Model):
    """What was moved at once so that nodes are filled alike."""

    id = IdField()
    created = models.DateTimeField(auto_now_add=True)
    moves = models.JSONField(default=list)
    """``{"vm", "name", "source", "target", "source_name", "target_name", "copied_bytes", "gain"}`` of each."""
    spread_before = models.PositiveSmallIntegerField()
    """Points between the fullest and the emptiest node."""
    spread_after = models.PositiveSmallIntegerField()
    """As it was expected."""
    undone = models.BooleanField(default=False)

    class Meta:
        ordering = ["-created", "-id"]

    @property
    def name(self) -> str:
        return f"{self.created:%Y-%m-%d %H:%M}"
