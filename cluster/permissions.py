"""Who may do what: one table, asked by the page, the API, the socket, the console and the CLI alike."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from django.db.models import CharField, Model, Q, QuerySet, Value
from django.db.models.functions import Concat

from .models import (
    Address,
    AffinityGroup,
    Backup,
    Grant,
    Image,
    Iso,
    Job,
    Network,
    Nic,
    Node,
    NodeGroup,
    Pool,
    Role,
    Schedule,
    Snapshot,
    Tenant,
    Upload,
    User,
    Vm,
)
from .models.vm import Disk
from .refusals import Forbidden, Refusal

if TYPE_CHECKING:
    from .saga.steps import Operation

A, F, V, R, T, S = (
    Role.ADMINISTRATOR,
    Role.FABRIC,
    Role.VM_ADMINISTRATOR,
    Role.READ_ONLY,
    Role.TENANT_ADMINISTRATOR,
    Role.SELF_SERVICE,
)

TABLE: dict[str, frozenset[Role]] = {
    # What a person sees. Rows are narrowed further by ``visible``.
    "see.vms": frozenset({A, F, V, R, T, S}),
    "see.jobs": frozenset({A, F, V, R, T, S}),
    "see.images": frozenset({A, F, V, R, T, S}),
    "see.networks": frozenset({A, F, V, R, T, S}),
    "see.nodes": frozenset({A, F, V, R}),
    "see.pools": frozenset({A, F, V, R}),
    "see.audit": frozenset({A, F, R}),
    "see.users": frozenset({A, R}),
    # Operations on VMs. A self-service user needs the tick as well.
    "vm.create": frozenset({A, F, V, T, S}),
    "vm.start": frozenset({A, F, V, T, S}),
    "vm.shutdown": frozenset({A, F, V, T, S}),
    "vm.stop": frozenset({A, F, V, T, S}),
    "vm.suspend": frozenset({A, F, V, T, S}),
    "vm.resume": frozenset({A, F, V, T, S}),
    "vm.reboot": frozenset({A, F, V, T, S}),
    "vm.reset": frozenset({A, F, V, T, S}),
    "vm.migrate": frozenset({A, F, V}),
    "vm.forecast": frozenset({A, F, V}),
    "balance.apply": frozenset({A, F}),
    "balance.undo": frozenset({A, F}),
    "vm.reapply": frozenset({A, F, V}),
    "vm.adopt": frozenset({A, F, V}),
    "vm.adopt_claim": frozenset({A, F}),
    "vm.delete": frozenset({A, F, V, T, S}),
    "vm.edit": frozenset({A, F, V, T, S}),
    "affinity_group.edit": frozenset({A, F, V, T}),
    "vm.restart_priority": frozenset({A, F, V}),
    "vm.snapshot": frozenset({A, F, V, T, S}),
    "vm.clone": frozenset({A, F, V, T, S}),
    "vm.backup": frozenset({A, F, V, T, S}),
    "backup.restore": frozenset({A, F, V, T, S}),
    "backup.delete": frozenset({A, F, V, T, S}),
    "snapshot.revert": frozenset({A, F, V, T, S}),
    "snapshot.delete": frozenset({A, F, V, T, S}),
    "vm.iso": frozenset({A, F, V, T, S}),
    "disk.create": frozenset({A, F, V, T, S}),
    "disk.attach": frozenset({A, F, V, T, S}),
    "disk.detach": frozenset({A, F, V, T, S}),
    "disk.delete": frozenset({A, F, V, T, S}),
    "disk.change": frozenset({A, F, V, T, S}),
    "disk.resize": frozenset({A, F, V, T, S}),
    "disk.flatten": frozenset({A, F, V, T, S}),
    "disk.move": frozenset({A, F, V}),
    "disk.adopt": frozenset({A, F, V}),
    "disk.import": frozenset({A, F}),
    # The fabric.
    "node.add": frozenset({A, F}),
    "node.edit": frozenset({A, F}),
    "node_group.edit": frozenset({A, F}),
    "node.remove": frozenset({A, F}),
    "node.inspect": frozenset({A, F}),
    "node.maintenance": frozenset({A, F}),
    "node.adopt_domain": frozenset({A, F}),
    "node.evacuate": frozenset({A, F}),
    "node.put_back": frozenset({A, F}),
    "node.declare_dead": frozenset({A, F}),
    "node.take_back": frozenset({A, F}),
    "node.self_fencing": frozenset({A, F}),
    "vm.restart_elsewhere": frozenset({A, F}),
    "network.add": frozenset({A, F}),
    "pool.add": frozenset({A, F}),
    "pool.remove": frozenset({A, F}),
    "image.add": frozenset({A, F}),
    "pool.edit": frozenset({A, F}),
    "image.edit": frozenset({A, F}),
    "image.distribute": frozenset({A, F}),
    "image.delete": frozenset({A, F}),
    "image.download": frozenset({A, F}),
    "iso.download": frozenset({A, F}),
    "disk.image": frozenset({A, F}),
    "iso.distribute": frozenset({A, F}),
    "iso.delete": frozenset({A, F}),
    "demo.run": frozenset({A}),
    # Jobs: beside these, whoever may start the operation on the subject may cancel and proceed its jobs.
    "job.priority": frozenset({A, F, V}),
    "job.resolve": frozenset({A}),
}
"""action -> roles. ``tests/unit/golden/rights.txt`` is this table printed for people."""

M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class Actor:
    """A person with the one grant that is in force."""

    user: User
    grant: Grant

    @property
    def role(self) -> Role:
        return Role(self.grant.role)

    @property
    def tenant(self) -> Tenant | None:
        return self.grant.tenant

    @property
    def is_tenant_side(self) -> bool:
        """Never sees nodes, pools or other tenants."""
        return self.role in (T, S)

    def may(self, action: str) -> bool:
        if self.role not in TABLE[action]:
            return False
        return self.role != S or action.startswith("see.") or action in self.grant.actions

    def require(self, action: str, **facts: Any) -> None:
        """Raises :class:`Forbidden` with the reason."""
        if not self.may(action):
            raise Forbidden(self.refusal(action, **facts))

    def may_hear(self, reasons: Iterable[Refusal]) -> list[Refusal]:
        """The same reasons without what this person may not know of."""
        return [reason.without_places() if self.is_tenant_side else reason for reason in reasons]

    def refusal(self, action: str, **facts: Any) -> Refusal:
        code = "not_ticked" if self.role in TABLE[action] else "role_may_not"
        return Refusal(code, {"action": action, "role": self.role.value, **facts})


def visible(queryset: "QuerySet[M]", actor: Actor) -> "QuerySet[M]":
    """The rows of which the actor may know. Every read goes through here."""
    model = queryset.model
    if not actor.is_tenant_side:
        return queryset
    own = {"tenant": actor.tenant} if actor.role == T else {"tenant": actor.tenant, "owner": actor.user}
    vms = Vm.objects.filter(**own)
    if model is Vm:
        return queryset.filter(**own)
    if model in (Backup, Disk):
        return queryset.filter(**own)
    if model in (Nic, Schedule, Snapshot):
        return queryset.filter(vm__in=vms)
    if model is Address:
        return queryset.filter(nic__vm__in=vms)
    if model is Job:
        jobs = Q(tenant=actor.tenant) if actor.role == T else Q(tenant=actor.tenant, user=actor.user)
        subjects = vms.annotate(subject=Concat(Value("vm:"), "pk", output_field=CharField())).values("subject")
        return queryset.filter(jobs | Q(subject__in=subjects))
    if model is AffinityGroup:
        return queryset.filter(tenant=actor.tenant)
    if model is Tenant:
        return queryset.filter(pk=actor.grant.tenant_id)
    if model in (Network, Image, Iso):
        return queryset
    if model in (Node, NodeGroup, Pool, Upload):
        return queryset.none()
    return queryset.none()


def may_drive(actor: Actor, job: Job, operation: "type[Operation[Any]] | None") -> bool:
    """Whether the actor may cancel, retry or proceed this job: it is theirs, or they could have started it."""
    action = action_of(operation.code) if operation else "job.resolve"
    return actor.may(action) and (actor.role != S or job.user_id == actor.user.pk)


def action_of(code: str) -> str:
    """The row of the table for an operation."""
    return "demo.run" if code.startswith("demo.") else code
