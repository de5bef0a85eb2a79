"""Reads: take an actor, return the rows of which they may know. They feed pages, API and sockets."""

from collections.abc import Callable, Collection
from typing import Any, TypeVar

from django.core.exceptions import ObjectDoesNotExist
from django.db.models import Count, Exists, Model, OuterRef, Prefetch, QuerySet

from .models import (
    Address,
    AffinityGroup,
    AuditEvent,
    Backup,
    Balance,
    Disk,
    Image,
    ImageCopy,
    Iso,
    IsoCopy,
    Job,
    Network,
    Nic,
    Node,
    NodeGroup,
    Pool,
    PoolOnNode,
    Schedule,
    Snapshot,
    Tenant,
    Upload,
    User,
    Vm,
)
from .permissions import Actor, action_of, visible
from .pools import why_guests_stand
from .refusals import NotKnown, Refusal
from .saga.steps import Operation
from .states import IO_ERROR

M = TypeVar("M", bound=Model)
Rows = Callable[[Actor], "QuerySet[Any]"]


WITHOUT_REPORTS = (
    "node__facts",
    "node__platform",
    "node__checks",
    "node__verbs",
    "node__offers",
    "node__strangers",
)
"""What a node has said of itself: some kilobytes of JSON, which nobody wants with each of its VMs."""


RESTED_ON = Exists(Disk.objects.filter(parent=OuterRef("pk")))
"""Whether linked clones rest on a disk."""


def vms(actor: Actor) -> "QuerySet[Vm]":
    """VMs alone."""
    return visible(Vm.objects.all(), actor)


def vms_with_places(actor: Actor) -> "QuerySet[Vm]":
    """VMs with what a list shows of them, in a fixed number of queries."""
    return vms(actor).select_related("node").defer(*WITHOUT_REPORTS).prefetch_related(
        Prefetch("nics", Nic.objects.select_related("lease")),
    )  # fmt: skip


def vms_in_full(actor: Actor) -> "QuerySet[Vm]":
    """VMs with what a card shows of one."""
    disks = Disk.objects.select_related("iso", "pool", "image", "parent__vm").prefetch_related("snapshots")
    found = vms(actor).select_related("tenant", "owner", "node", "home", "moved_from", "node_group")
    return found.defer(*WITHOUT_REPORTS).prefetch_related(
        Prefetch("disks", disks.annotate(rested_on=RESTED_ON)),
        Prefetch("nics", Nic.objects.select_related("lease", "network")),
    )


def troubles(actor: Actor, vms: Collection[Vm]) -> dict[str, Refusal]:
    """VM -> why it is in its state, where people must know. What its storage has to do with it, tenants do not see."""
    found = {vm.pk: Refusal(f"state_{vm.state_reason}") for vm in vms if vm.state_reason}
    stand = [vm.pk for vm in vms if vm.state_reason == IO_ERROR]
    if stand and not actor.is_tenant_side:
        disks = Disk.objects.filter(vm__in=stand, pool__isnull=False).select_related("pool")
        for disk in disks.order_by("-position", "-pk"):  # the first disk has the last word
            if disk.pool and disk.vm_id and (why := why_guests_stand(disk.pool)):
                found[disk.vm_id] = why
    return found


def nodes(actor: Actor) -> "QuerySet[Node]":
    return visible(Node.objects.all(), actor)


def affinity_groups(actor: Actor) -> "QuerySet[AffinityGroup]":
    """With those of their VMs of which the actor may know."""
    members = Prefetch("vms", vms(actor).only("name", "state").order_by("name", "pk"))
    return visible(AffinityGroup.objects.prefetch_related(members), actor)


def node_groups(actor: Actor) -> "QuerySet[NodeGroup]":
    return visible(
        NodeGroup.objects.prefetch_related(Prefetch("nodes", Node.objects.only("group").order_by("pk"))), actor
    )


def balances(actor: Actor) -> "QuerySet[Balance]":
    return visible(Balance.objects.all(), actor)


def pools(actor: Actor) -> "QuerySet[Pool]":
    return visible(Pool.objects.prefetch_related("places"), actor)


def pools_with_places(actor: Actor) -> "QuerySet[Pool]":
    """Pools with the nodes that see them."""
    places = PoolOnNode.objects.select_related("node").defer(*WITHOUT_REPORTS).order_by("node__name")
    return pools(actor).prefetch_related(None).prefetch_related(Prefetch("places", places))


def networks(actor: Actor) -> "QuerySet[Network]":
    return visible(Network.objects.prefetch_related("ranges"), actor)


def addresses(actor: Actor) -> "QuerySet[Address]":
    return visible(Address.objects.select_related("nic"), actor)


def images(actor: Actor) -> "QuerySet[Image]":
    return visible(Image.objects.prefetch_related("copies"), actor)


def isos(actor: Actor) -> "QuerySet[Iso]":
    return visible(Iso.objects.prefetch_related("copies"), actor)


def images_with_places(actor: Actor) -> "QuerySet[Image]":
    """Images with what a list shows of them, in a fixed number of queries."""
    found: QuerySet[Image] = _with_places(visible(Image.objects.all(), actor), ImageCopy)
    return found


def isos_with_places(actor: Actor) -> "QuerySet[Iso]":
    found: QuerySet[Iso] = _with_places(visible(Iso.objects.all(), actor), IsoCopy)
    return found


def _with_places(files: Any, copy_model: Any) -> Any:
    copies = copy_model.objects.select_related("node").defer(*WITHOUT_REPORTS)
    return files.annotate(disks_count=Count("disks")).prefetch_related(Prefetch("copies", copies))


def uploads(actor: Actor) -> "QuerySet[Upload]":
    return visible(Upload.objects.all(), actor)


def disks(actor: Actor) -> "QuerySet[Disk]":
    """Without the copies that belong to backups."""
    return visible(Disk.objects.filter(device="disk", backup=None), actor)


def disks_with_vms(actor: Actor) -> "QuerySet[Disk]":
    return disks(actor).select_related("vm__node", "pool").defer(*(f"vm__{name}" for name in WITHOUT_REPORTS))


def disks_with_places(actor: Actor) -> "QuerySet[Disk]":
    clones = Prefetch("clones", Disk.objects.select_related("vm"))
    rows = disks_with_vms(actor).select_related("image", "parent__vm").annotate(rested_on=RESTED_ON)
    return rows.prefetch_related("snapshots", clones)


def disks_in(actor: Actor, pool: Pool) -> "QuerySet[Disk]":
    """All that fills the pool: also the copies that belong to backups."""
    return visible(Disk.objects.filter(pool=pool), actor).select_related("vm", "backup")


def nics(actor: Actor) -> "QuerySet[Nic]":
    return visible(Nic.objects.select_related("lease"), actor)


def snapshots(actor: Actor) -> "QuerySet[Snapshot]":
    return visible(Snapshot.objects.prefetch_related("disks"), actor)


def snapshots_with_places(actor: Actor) -> "QuerySet[Snapshot]":
    return snapshots(actor).select_related("vm")


def backups(actor: Actor) -> "QuerySet[Backup]":
    return visible(Backup.objects.prefetch_related("disks__pool"), actor)


def schedules(actor: Actor) -> "QuerySet[Schedule]":
    return visible(Schedule.objects.select_related("vm", "pool", "grant__user"), actor)


def jobs(actor: Actor) -> "QuerySet[Job]":
    return visible(Job.objects.all(), actor).select_related("user").prefetch_related("steps__node")


def tenants(actor: Actor) -> "QuerySet[Tenant]":
    return visible(Tenant.objects.all(), actor)


def users(actor: Actor) -> "QuerySet[User]":
    if not actor.may("see.users"):
        return User.objects.filter(pk=actor.user.pk)
    return User.objects.prefetch_related("grants")


def audit_events(actor: Actor) -> "QuerySet[AuditEvent]":
    return AuditEvent.objects.all() if actor.may("see.audit") else AuditEvent.objects.none()


def get(queryset: "QuerySet[M]", pk: str) -> M:
    """The row, or :class:`NotKnown` for one that does not exist or may not be known: the two look alike."""
    try:
        return queryset.get(pk=pk)
    except ObjectDoesNotExist:
        raise NotKnown(f"{queryset.model._meta.model_name} {pk}") from None


TARGETS: dict[str, Rows] = {
    "vms": vms,
    "nodes": nodes,
    "disks": disks_with_vms,
    "snapshots": snapshots_with_places,
    "backups": backups,
    "balances": balances,
    "pools": pools,
    "images": images,
    "isos": isos,
    "networks": networks,
}
IN_FULL: dict[str, Rows] = {**TARGETS, "vms": vms_in_full, "disks": disks_with_places}
"""The same for a page that shows one of them."""


def target(actor: Actor, noun: str, pk: str) -> Any:
    """What an operation is asked of, without what only pages show of it. Raises :class:`NotKnown`."""
    return get(TARGETS[noun](actor).prefetch_related(None), pk)


def allowed_actions(
    actor: Actor, target: Any, noun: str = "vms", codes: Collection[str] | None = None
) -> list[dict[str, Any]]:
    """Every operation of a noun: ``{"code", "allowed", "reasons": [{"code", "cause", "hint"}]}``; or only ``codes``.

    The page, the CLI, the API and the tests read this one list. ``code`` is the name in the URL.
    """
    rows = []
    for operation in Operation.registry.values():
        if operation.noun != noun or operation.creates:
            continue
        if codes is not None and operation.name() not in codes:
            continue
        reasons = possible(actor, operation, target, action_of(operation.code))
        rows.append(
            {"code": operation.name(), "allowed": not reasons, "reasons": [reason.said() for reason in reasons]}
        )
    return rows


def possible(actor: Actor, operation: type[Operation[Any]], target: Any, action: str) -> list[Refusal]:
    """Why not, as a whole list; empty when the operation could be started now."""
    reasons = [] if actor.may(action) else [actor.refusal(action)]
    return reasons + actor.may_hear(operation.obstacles(target))
