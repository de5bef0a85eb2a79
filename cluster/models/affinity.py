"""VMs that belong on different nodes, or on one."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from .base import IdField
from .vm import Vm


class AffinityPolicy(models.TextChoices):
    APART = "apart", _("apart")
    TOGETHER = "together", _("together")


class AffinityGroup(models.Model):
    """VMs of one tenant. What a hard group says is obeyed by each placement; what another says weighs."""

    id = IdField()
    name = models.CharField(max_length=63)
    tenant = models.ForeignKey("Tenant", on_delete=models.PROTECT, related_name="affinity_groups")
    policy = models.CharField(max_length=8, choices=AffinityPolicy.choices)
    hard = models.BooleanField(default=False)
    created = models.DateTimeField(auto_now_add=True)
    vms: "models.ManyToManyField[Vm, AffinityMember]" = models.ManyToManyField(
        Vm, through="AffinityMember", related_name="affinity_groups"
    )

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant", "name"], name="affinity_group_name_once_per_tenant")]

    def __str__(self) -> str:
        return self.name


class AffinityMember(models.Model):
    group = models.ForeignKey(AffinityGroup, on_delete=models.CASCADE, related_name="members")
    vm = models.ForeignKey(Vm, on_delete=models.CASCADE, related_name="memberships")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["group", "vm"], name="vm_once_per_affinity_group")]
