"""Small writes that are no jobs, and the words of people to running jobs."""

import ipaddress
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone
from pydantic import Field

from nodes.contract import image_file
from nodes.contract.messages import EnrolAnswer, EnrolRequest
from nodes.contract.sizes import MAX_BYTES
from nodes.contract.specs import Name

from . import audit, ca, events, groups, library, pools, shapes, wake
from .models import (
    LEAST_RESERVE_BYTES,
    POOL_AT_REST,
    AddressRange,
    IdempotencyKey,
    Image,
    Iso,
    Job,
    JobState,
    JoinToken,
    Look,
    Network,
    Node,
    NodeGroup,
    NodeState,
    Pool,
    PoolState,
    StepState,
    Token,
    Upload,
    Vm,
)
from .os_catalogue import CATALOGUE
from .permissions import Actor, action_of, may_drive, visible
from .refusals import BadShape, Forbidden, Refusal, Refused
from .saga import dispatch
from .saga.context import context_of
from .saga.engine import claim
from .saga.locks import serialise
from .saga.resolve import look_limit_is_over
from .saga.steps import Operation

JOIN_TOKEN_LIFETIME = timedelta(hours=1)
IDEMPOTENCY_LIFETIME = timedelta(hours=24)
UPLOAD_PATIENCE = timedelta(hours=24)
LIBRARY: dict[str, Any] = {"image": Image, "iso": Iso}
CpuOvercommit = Annotated[Decimal, Field(ge=1, le=64, decimal_places=2)]
MemoryOvercommit = Annotated[Decimal, Field(ge=1, le=2, decimal_places=2)]
MemoryReserve = Annotated[int, Field(ge=LEAST_RESERVE_BYTES, le=MAX_BYTES)]
KEEP: Any = object()
"""Of a setting that may also be None: it stays as it is."""


# --- nodes ------------------------------------------------------------------------------------------------


def node_add(actor: Actor, name: str, address: str) -> tuple[Node, dict[str, Any]]:
    """A row for a machine that may join now, and the one command to run there.

    Raises :class:`Forbidden`, :class:`BadShape`, :class:`Refused` (``node_name_taken``, ``node_address_taken``).
    """
    actor.require("node.add")
    shapes.must_be(Name, name, "name")
    address = str(shapes.must_be(ipaddress.IPv4Address, address, "address"))
    taken = []
    with transaction.atomic():
        serialise()
        if Node.objects.filter(name=name).exists():
            taken.append(Refusal("node_name_taken", {"name": name}, field="name", status=409))
        if Node.objects.filter(address=address).exists():
            taken.append(Refusal("node_address_taken", {"address": address}, field="address", status=409))
        if taken:
            raise Refused(*taken)
        node = Node.objects.create(name=name, address=address)
        audit.write(actor, "node.add", "done", subject="node:" + node.pk, subject_name=name)
        events.node_changed(node)
    return node, node_token(actor, node)


def node_token(actor: Actor, node: Node) -> dict[str, Any]:
    """A fresh one-time token; earlier ones of this node stop working."""
    actor.require("node.add")
    # Hexadecimal: on a command line nothing may begin with a hyphen or need quotes.
    secret = secrets.token_hex(24)
    expires = timezone.now() + JOIN_TOKEN_LIFETIME
    with transaction.atomic():
        node.join_tokens.filter(used=None).delete()
        JoinToken.objects.create(node=node, sha256=Token.hash_of(secret), expires=expires)
        audit.write(actor, "node.token", "done", subject="node:" + node.pk, subject_name=node.name)
    panel = settings.INSTALLATION.enrol_url
    fingerprint = ca.fingerprint()
    return {
        "token": secret,
        "panel": panel,
        "ca_fingerprint": fingerprint,
        "expires": expires,
        "command": f"ulei-node join --panel {panel} --token {secret} --ca-fingerprint {fingerprint}",
    }


def node_edit(
    actor: Actor,
    node: Node,
    *,
    group: str | None = KEEP,
    cpu_overcommit: Decimal = KEEP,
    memory_overcommit: Decimal = KEEP,
    memory_reserve_bytes: int | None = KEEP,
) -> Node:
    """Change what the panel decides of a node; what is left out stays. A lower limit moves no VM, and lets none come.

    :param cpu_overcommit: vCPUs for each thread of its processors.
    :param memory_reserve_bytes: what the host keeps; None: by the rule.

    Raises :class:`Forbidden`, :class:`BadShape`, :class:`Refused` (``node_group_unknown``, ``reserve_too_large``).
    """
    actor.require("node.edit")
    changes: dict[str, Any] = {}
    if group is not KEEP:
        changes["group"] = _group(actor, group)
    if cpu_overcommit is not KEEP:
        shapes.must_be(CpuOvercommit, cpu_overcommit, "cpu_overcommit")
        changes["cpu_overcommit_percent"] = int(cpu_overcommit * 100)
    if memory_overcommit is not KEEP:
        shapes.must_be(MemoryOvercommit, memory_overcommit, "memory_overcommit")
        changes["memory_overcommit_percent"] = int(memory_overcommit * 100)
    if memory_reserve_bytes is not KEEP:
        shapes.must_be(MemoryReserve | None, memory_reserve_bytes, "memory_reserve_bytes")
        if node.memory_bytes and (memory_reserve_bytes or 0) > node.memory_bytes:
            facts = {"node": node.name, "size": node.memory_bytes, "asked": memory_reserve_bytes}
            raise Refused(Refusal("reserve_too_large", facts, field="memory_reserve_bytes"))
        changes["memory_reserve_bytes"] = memory_reserve_bytes
    with transaction.atomic():
        Node.objects.filter(pk=node.pk).update(version=F("version") + 1, **changes)
        node.refresh_from_db()
        audit.write(
            actor, "node.edit", "done", subject="node:" + node.pk, subject_name=node.name, fields=sorted(changes)
        )
        events.node_changed(node)
    return node


def _group(actor: Actor, pk: str | None) -> NodeGroup | None:
    if pk is None:
        return None
    group = visible(NodeGroup.objects.all(), actor).filter(pk=pk).first()
    if group is None:
        raise Refused(Refusal("node_group_unknown", field="group"))
    return group


def enrol(request: EnrolRequest) -> EnrolAnswer:
    """Let a machine in: its token works once. Makes the node's certificate and tells its Redis user to the conductor.

    Raises :class:`Refused`: ``token_unknown`` (also used or expired), ``host_uuid_taken``, ``bad_request_pem``.
    """
    with transaction.atomic():
        token = JoinToken.objects.select_related("node").filter(sha256=Token.hash_of(request.token)).first()
        used = token and not JoinToken.objects.filter(pk=token.pk, used=None, expires__gt=timezone.now()).update(
            used=timezone.now()
        )
        if token is None or used:
            raise Refused(Refusal("token_unknown"))
        node = token.node
        if Node.objects.filter(host_uuid=request.host_uuid).exclude(pk=node.pk).exists():
            raise Refused(Refusal("host_uuid_taken", {"uuid": request.host_uuid}, status=409))
        signed = ca.sign(request.certificate_request_pem, node.name, node.address)
        Node.objects.filter(pk=node.pk).update(
            redis_password_sha256=request.redis_password_sha256,
            certificate_sha256=signed.sha256,
            certificate_until=signed.until,
            host_uuid=request.host_uuid,
            agent_version=request.version,
            joined=timezone.now(),
            version=F("version") + 1,
        )
        # A reinstalled machine has a new ledger, whose counter begins anew.
        node.vms.update(observed_counter=0)
        node.refresh_from_db()
        audit.write(None, "node.enrol", "done", subject="node:" + node.pk, subject_name=node.name)
        events.node_changed(node)
        transaction.on_commit(wake.conductor)
    return EnrolAnswer(
        node=node.pk,
        name=node.name,
        certificate_pem=signed.pem,
        ca_pem=ca.certificate_pem(),
        redis_host=settings.INSTALLATION.node_redis_host,
        redis_port=settings.INSTALLATION.node_redis_port,
        peers=dict(Node.objects.values_list("name", "address")),
    )


# --- networks, images ---------------------------------------------------------------------------------------


def network_add(actor: Actor, name: str, bridge: str, ranges: list[dict[str, Any]]) -> Network:
    """A network and its address ranges: ``{"first", "last", "prefix_length", "gateway"?, "nameservers"?}``."""
    actor.require("network.add")
    rows = [_address_range(position, one) for position, one in enumerate(ranges)]
    with transaction.atomic():
        serialise()
        reasons = _range_overlaps(rows)
        if Network.objects.filter(name=name).exists():
            reasons.append(Refusal("network_name_taken", {"name": name}, field="name", status=409))
        if reasons:
            raise Refused(*reasons)
        network = Network.objects.create(name=name, bridge=bridge)
        for row in rows:
            row.network = network
            row.save()
        audit.write(actor, "network.add", "done", subject="network:" + network.pk, subject_name=name)
    return network


def _address_range(position: int, asked: dict[str, Any]) -> AddressRange:
    path = f"ranges.{position}"
    try:
        first, last = ipaddress.IPv4Address(asked["first"]), ipaddress.IPv4Address(asked["last"])
        prefix_length = int(asked["prefix_length"])
        subnet = ipaddress.IPv4Network((first, prefix_length), strict=False)
        gateway = asked.get("gateway") or None
        nameservers = [str(ipaddress.IPv4Address(one)) for one in asked.get("nameservers") or []]
        if first > last or last not in subnet or (gateway and ipaddress.IPv4Address(gateway) not in subnet):
            raise ValueError(f"{first} to {last} and the gateway must lie in one network")
    except (KeyError, TypeError, ValueError) as error:
        raise BadShape({path: [str(error)]}) from None
    return AddressRange(
        first=str(first), last=str(last), prefix_length=prefix_length, gateway=gateway, nameservers=nameservers
    )


def _range_overlaps(rows: list[AddressRange]) -> list[Refusal]:
    known = [(r, r.network.name) for r in AddressRange.objects.select_related("network")]
    reasons = []
    for position, row in enumerate(rows):
        for other, network in known:
            if row.overlaps(other):
                facts = {"first": row.first, "last": row.last, "network": network}
                reasons.append(Refusal("range_overlaps", facts, field=f"ranges.{position}", status=409))
        known.append((row, "-"))
    return reasons


def image_edit(actor: Actor, image: Image, *, os: str) -> Image:
    actor.require("image.edit")
    if os and os not in CATALOGUE:
        raise Refused(Refusal("os_unknown", {"os": os}, field="os"))
    image.os = os
    image.save(update_fields=["os"])
    audit.write(actor, "image.edit", "done", subject="image:" + image.pk, subject_name=image.name, os=os)
    return image


# --- uploads ------------------------------------------------------------------------------------------------


def upload_begin(
    actor: Actor, kind: image_file.Kind, name: str, size_bytes: int, *, checksum: str = "", os: str = ""
) -> Upload:
    """Promise a file to the panel; its chunks follow by :func:`upload_append`.

    :param checksum: ``sha256:<hex>``; empty: computed when the file is whole.

    Raises :class:`Forbidden`, :class:`Refused`: ``file_suffix``, ``file_name_taken``, ``upload_under_way``,
    ``upload_too_large``, ``no_room_on_panel``, ``os_unknown``.
    """
    actor.require("image.add")
    reasons = name_unfit(kind, name)
    if os and os not in CATALOGUE:
        reasons.append(Refusal("os_unknown", {"os": os}, field="os"))
    most_bytes = settings.INSTALLATION.upload_most_bytes
    if size_bytes > most_bytes:
        reasons.append(Refusal("upload_too_large", {"size": size_bytes, "most": most_bytes}, field="size_bytes"))
    with transaction.atomic():
        serialise()
        reasons += name_taken(kind, name)
        promised_bytes = sum(u.size_bytes - library.received_bytes(u.pk) for u in Upload.objects.all())
        if size_bytes > library.free_bytes() - promised_bytes:
            reasons.append(library.no_room(size_bytes + promised_bytes))
        if reasons:
            raise Refused(*reasons)
        return Upload.objects.create(
            kind=kind, name=name, size_bytes=size_bytes, checksum=checksum, os=os, user=actor.user
        )


def name_unfit(kind: image_file.Kind, name: str) -> list[Refusal]:
    """Where the name of an image or an ISO does not say what it is, or could be that of a disk's volume."""
    suffixes = image_file.SUFFIXES[kind]
    if name.lower().endswith(suffixes) and not image_file.is_volume(name):
        return []
    return [Refusal("file_suffix", {"name": name, "suffixes": list(suffixes)}, field="name")]


def name_taken(kind: str, name: str) -> list[Refusal]:
    """Where there is such a file already, or one is being uploaded."""
    reasons = _name_is_held(kind, name)
    if under_way := Upload.objects.filter(kind=kind, name=name).first():
        reasons.append(Refusal("upload_under_way", {"name": name, "upload": under_way.pk}, "name", status=409))
    return reasons


def is_name_taken(kind: str, name: str) -> bool:
    uploads = Upload.objects.filter(kind=kind, name=name).values("pk")
    return bool(uploads.union(LIBRARY[kind].objects.filter(name=name).values("pk")).exists())


def _name_is_held(kind: str, name: str) -> list[Refusal]:
    if LIBRARY[kind].objects.filter(name=name).exists():
        return [Refusal("file_name_taken", {"name": name}, field="name", status=409)]
    return []


def upload_append(actor: Actor, upload: Upload, offset: int, read: Callable[[int], bytes]) -> Image | Iso | None:
    """Take the next chunk. Behind the last one the file is looked at and becomes an image or an ISO, which is returned.

    Raises :class:`Refused`: ``upload_wrong_offset`` (with the right one), ``upload_too_long``, ``upload_busy``,
    ``no_room_on_panel``; and of the whole file, which is then deleted, ``checksum_differs`` or why it is no image.
    """
    actor.require("image.add")
    with library.held(upload.pk) as file:
        present_bytes = library.append(file, offset, read, upload.size_bytes)
        Upload.objects.filter(pk=upload.pk).update(touched=timezone.now())
        return _upload_kept(actor, upload) if present_bytes == upload.size_bytes else None


def _upload_kept(actor: Actor, upload: Upload) -> Image | Iso:
    try:
        checksum, described = _looked_at(upload)
    except Refused as refused:
        with transaction.atomic():
            Upload.objects.filter(pk=upload.pk).delete()
            subject = f"{upload.kind}:{upload.pk}"
            codes = [reason.code for reason in refused.refusals]
            audit.write(actor, "image.add", "refused", subject=subject, subject_name=upload.name, codes=codes)
        library.drop(upload.pk)
        raise
    fields: dict[str, Any] = {"name": upload.name, "os": upload.os, "size_bytes": upload.size_bytes}
    if upload.kind == "image":
        fields |= {"format": described.format, "virtual_size_bytes": described.virtual_size_bytes}
    with transaction.atomic():
        serialise()
        taken = _name_is_held(upload.kind, upload.name)
        if taken:
            raise Refused(*taken)
        row: Image | Iso = LIBRARY[upload.kind].objects.create(pk=upload.pk, checksum=checksum, stored=True, **fields)
        Upload.objects.filter(pk=upload.pk).delete()
        audit.write(actor, "image.add", "done", subject=f"{upload.kind}:{row.pk}", subject_name=row.name)
        library.keep(upload.pk)
    return row


def _looked_at(upload: Upload) -> tuple[str, image_file.Described]:
    path = library.path_of(upload.pk)
    found = library.checksum(path)
    if upload.checksum and upload.checksum != found:
        raise Refused(Refusal("checksum_differs", {"name": upload.name, "promised": upload.checksum, "found": found}))
    try:
        return found, image_file.describe(path, "iso" if upload.kind == "iso" else "image", upload.name)
    except image_file.Unfit as unfit:
        raise Refused(Refusal(unfit.code, unfit.facts)) from None


def upload_drop(actor: Actor, upload: Upload) -> None:
    """Give an upload up: what has come of it is deleted."""
    actor.require("image.add")
    with library.held(upload.pk):
        Upload.objects.filter(pk=upload.pk).delete()
        library.drop(upload.pk)


def forget_abandoned_uploads() -> None:
    """An upload of which nothing came for a day is given up, and files that belong to nothing go."""
    for upload in Upload.objects.filter(touched__lt=timezone.now() - UPLOAD_PATIENCE):
        with suppress(Refused), library.held(upload.pk):
            Upload.objects.filter(pk=upload.pk).delete()
            library.drop(upload.pk)
            audit.write(None, "image.add", "cancelled", subject=f"{upload.kind}:{upload.pk}", subject_name=upload.name)
    if audit.was_restored_before(timezone.now()):
        return  # what looks like a stray may be an image that the backup was too old to know
    rows = (Upload.objects.all(), Image.objects.filter(stored=True), Iso.objects.filter(stored=True))
    library.drop_strays({pk for found in rows for pk in found.values_list("pk", flat=True)})


# --- pools --------------------------------------------------------------------------------------------------


def pool_edit(
    actor: Actor,
    pool: Pool,
    *,
    name: str | None = None,
    exact: bool | None = None,
    state: str | None = None,
    warning_percent: int | None = None,
    default_of: Sequence[str] | None = None,
) -> Pool:
    """Change a pool's settings; what is left out stays.

    ``state``: ``active`` or ``out_of_service``. ``default_of``: the nodes that put new disks here unless told
    otherwise; a node leaves this list only when another pool takes its place.

    Raises :class:`Forbidden`, :class:`BadShape`, :class:`Refused` (``pool_name_taken``, ``pool_in_work``,
    ``pool_elsewhere``, ``pool_out_of_service``, ``default_needed``).
    """
    actor.require("pool.edit")
    if name is not None:
        shapes.must_be(Name, name, "name")
    asked = {"name": name, "exact": exact, "state": state, "warning_percent": warning_percent}
    changes = {field: value for field, value in asked.items() if value is not None}
    with transaction.atomic():
        serialise()
        # A job that removes it changes its state, too.
        pool = Pool.objects.select_for_update().get(pk=pool.pk)
        reasons = []
        if name is not None and Pool.objects.filter(name=name).exclude(pk=pool.pk).exists():
            reasons.append(Refusal("pool_name_taken", {"name": name}, field="name", status=409))
        if state is not None and pool.state not in POOL_AT_REST:
            facts = {"name": pool.name, "state": pool.state}
            reasons.append(Refusal("pool_in_work", facts, field="state", status=409))
        if default_of is not None:
            reasons += _against_default(pool, set(default_of), state or pool.state)
        if reasons:
            raise Refused(*reasons)
        pools.touch(pool.pk, **changes)
        _make_default(pool, default_of or ())
        pool.refresh_from_db()
        fields = sorted([*changes, *([] if default_of is None else ["default_of"])])
        audit.write(actor, "pool.edit", "done", subject="pool:" + pool.pk, subject_name=pool.name, fields=fields)
    return pool


def _against_default(pool: Pool, asked: set[str], state: str) -> list[Refusal]:
    """Why the pool may not be the default of exactly these nodes."""
    places = {place.node_id: place.node for place in pool.places.select_related("node")}
    left = Node.objects.filter(default_pool=pool).exclude(pk__in=asked)
    facts = {"pool": pool.name}
    reasons = [Refusal("default_needed", {**facts, "node": node.name}, field="default_of") for node in left]
    strange = Node.objects.filter(pk__in=asked - places.keys())
    reasons += [Refusal("pool_elsewhere", {**facts, "node": node.name}, field="default_of") for node in strange]
    if len(strange) < len(asked - places.keys()):
        reasons.append(Refusal("node_unknown", field="default_of"))
    if asked and state != PoolState.ACTIVE:
        reasons.append(Refusal("pool_out_of_service", facts, field="default_of", status=409))
    return reasons


def _make_default(pool: Pool, nodes: Sequence[str]) -> None:
    for node in Node.objects.filter(pk__in=nodes).exclude(default_pool=pool):
        Node.objects.filter(pk=node.pk).update(default_pool=pool, version=F("version") + 1)
        node.refresh_from_db()
        events.node_changed(node)


# --- VMs ----------------------------------------------------------------------------------------------------


def vm_edit(
    actor: Actor,
    vm: Vm,
    *,
    title: str | None = None,
    protected: bool | None = None,
    os: str | None = None,
    group: str | None = KEEP,
    affinity_groups: Sequence[str] = KEEP,
    restart_priority: int | None = None,
) -> Vm:
    """Change what no node needs to hear of. A group of nodes is for those who may move the VM: its next move obeys it.

    Raises :class:`Forbidden`, :class:`Refused` (``os_unknown``, ``node_group_unknown``, as :func:`groups.join`).
    """
    actor.require("vm.edit")
    if restart_priority is not None:
        actor.require("vm.restart_priority")
    if os and os not in CATALOGUE:
        raise Refused(Refusal("os_unknown", {"os": os}, field="os"))
    asked = {"title": title, "protected": protected, "os": os, "restart_priority": restart_priority}
    changes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if group is not KEEP:
        actor.require("vm.migrate")
        changes["node_group"] = _group(actor, group)
    with transaction.atomic():
        if affinity_groups is not KEEP:
            groups.join(actor, vm, affinity_groups)
        Vm.objects.filter(pk=vm.pk).update(version=F("version") + 1, **changes)
        vm.refresh_from_db()
        fields = sorted([*changes, *([] if affinity_groups is KEEP else ["affinity_groups"])])
        audit.write(actor, "vm.edit", "done", subject="vm:" + vm.pk, subject_name=vm.name, fields=fields)
        events.vm_changed(vm)
    return vm


def forget_old_answers() -> None:
    """An ``Idempotency-Key`` is remembered for 24 hours."""
    IdempotencyKey.objects.filter(created__lt=timezone.now() - IDEMPOTENCY_LIFETIME).delete()


# --- words to a job -------------------------------------------------------------------------------------------


def cancel(actor: Actor, job: Job) -> Job:
    """Before the pivot everything is put back; after it refused with ``past_pivot``."""
    return _tell(actor, job, "cancel", {}, lambda row: setattr(row, "cancel_requested", True))


def proceed(actor: Actor, job: Job) -> Job:
    """The click that a step waits for."""

    def click(row: Job) -> None:
        row.data["clicked"] = True
        row.steps.filter(waits_for_click=True).update(waits_for_click=False, state=StepState.PENDING)

    return _tell(actor, job, "proceed", {}, click)


def retry(actor: Actor, job: Job) -> Job:
    """Let a stuck job try again, in the direction in which it was going."""

    def again(row: Job) -> None:
        # One out of a backup may not have had its turn yet: it goes back into its line.
        going = JobState.RUNNING if row.started else JobState.WAITING
        row.state = JobState.UNDOING if row.undoing else going
        row.failures, row.resolution = 0, None
        if not row.undoing or row.cancel_requested:
            # A job that a person cancelled ends as cancelled, however long that took.
            row.error = None
        row.steps.filter(state=StepState.RUNNING, phase="settle").update(phase="do", doubts=0)

    return _tell(actor, job, "retry", {}, again)


def set_priority(actor: Actor, job: Job, priority: int) -> Job:
    return _tell(actor, job, "priority", {"priority": priority}, lambda row: setattr(row, "priority", priority))


def resolve(actor: Actor, job: Job, outcome: str, note: str, node: str | None = None) -> Job:
    """An administrator's word for a job that cannot go on: ``done`` or ``undone``.

    The nodes are looked at first; a word that contradicts what they show is refused (``resolution`` says how).
    For a silent node its name must be typed (``node``).
    """
    if outcome not in ("done", "undone"):
        raise BadShape({"outcome": ["done | undone"]})
    if not note.strip():
        raise BadShape({"note": ["required"]})
    check_resolve(actor, job)
    unnamed = [Refusal("type_node_name", {"node": n}, field="node") for n in must_be_named(job) if n != node]
    if unnamed:
        raise Refused(*unnamed)

    def ask(row: Job) -> None:
        row.state = JobState.STUCK
        row.resolution = {
            "state": "asked",
            "outcome": outcome,
            "note": note,
            "user": actor.user.username,
            "node": node,
            "asked_at": timezone.now().isoformat(),
            "contradictions": [],
        }
        row.looks.all().delete()
        _ask_nodes(row)

    return _tell(actor, job, "resolve", {"asked": outcome, "note": note}, ask)


def must_be_named(job: Job) -> list[str]:
    """Nodes that cannot show what they hold of this job: whoever resolves it types their names."""
    steps = list(job.steps.select_related("node"))
    away = {step.node.name for step in steps if step.node and step.node.state == NodeState.OFFLINE}
    silent = {node.name for node in dispatch.silent_nodes(steps).values()}
    looked = set(job.looks.filter(answer__isnull=True).values_list("node__name", flat=True))
    return sorted(away | silent | (looked if look_limit_is_over(job) else set()))


def _ask_nodes(job: Job) -> None:
    """A question for every step that a node was asked to do and that knows how to be looked at."""
    operation = Operation.registry.get(job.operation)
    if operation is None:
        return  # this version of the panel does not know what to ask
    context = context_of(job)
    for step in job.steps.filter(attempt__gt=0):
        spec = operation.step(step.name)
        if spec is None or spec.settle is None:
            continue
        for call in spec.settle.ask(context, step.key):
            Look.objects.create(
                job=job,
                step=step,
                node_id=call.node,
                verb=call.message.verb,
                object=call.message.object,
                body=dispatch.body_text(call.message),
            )


def _tell(actor: Actor, job: Job, word: str, detail: dict[str, Any], change: Callable[[Job], None]) -> Job:
    try:
        with transaction.atomic():
            # Waits where another transaction writes the job just now; on SQLite this one is alone anyway.
            job = Job.objects.select_for_update().get(pk=job.pk)
            claim(job)
            JOB_CHECKS[word](actor, job)
            change(job)
            job.save()
            audit.write(actor, "job." + word, "done", subject=job.subject, job=job, **detail)
            events.job_changed(job, job.steps.all())
            transaction.on_commit(lambda: wake.conductor(job.pk))
    except (Refused, Forbidden):
        audit.write(actor, "job." + word, "refused", subject=job.subject, job=job, **detail)
        raise
    return job


def _may_drive(actor: Actor, job: Job) -> None:
    operation = Operation.registry.get(job.operation)
    if not may_drive(actor, job, operation):
        raise Forbidden(actor.refusal(action_of(operation.code) if operation else "job.resolve"))


def check_cancel(actor: Actor, job: Job) -> None:
    _may_drive(actor, job)
    if job.is_final:
        raise Refused(Refusal("job_ended", status=409))
    if job.undoing:
        raise Refused(Refusal("job_undoing", status=409))
    if job.past_pivot or job.state == JobState.STUCK:
        raise Refused(Refusal("past_pivot", status=409))
    operation = Operation.registry.get(job.operation)
    for step in job.steps.all():
        spec = operation.step(step.name) if operation else None
        if spec and spec.pivot and step.state == StepState.RUNNING and step.doubts:
            raise Refused(Refusal("in_doubt", status=409))


def check_proceed(actor: Actor, job: Job) -> None:
    _may_drive(actor, job)
    if job.is_final:
        raise Refused(Refusal("job_ended", status=409))
    if not any(s.waits_for_click for s in job.steps.all()):
        raise Refused(Refusal("job_waits_for_nothing", status=409))


def check_retry(actor: Actor, job: Job) -> None:
    _may_drive(actor, job)
    if job.state != JobState.STUCK:
        raise Refused(Refusal("job_not_stuck", status=409))


def check_resolve(actor: Actor, job: Job) -> None:
    """Stuck, or waiting for the answer of a node that is away or holds the message."""
    actor.require("job.resolve")
    if job.resolution and job.resolution["state"] == "asked" and not look_limit_is_over(job):
        raise Refused(Refusal("being_resolved", status=409))
    if job.is_final:
        raise Refused(Refusal("job_ended", status=409))
    # In Python: the steps are at hand, and a list of jobs asks this of each.
    if job.state != JobState.STUCK and not dispatch.silent_nodes(job.steps.all()):
        raise Refused(Refusal("job_not_stuck", status=409))


def check_priority(actor: Actor, job: Job) -> None:
    actor.require("job.priority")
    if job.state != JobState.WAITING:
        raise Refused(Refusal("job_not_waiting", status=409))


JOB_CHECKS: dict[str, Callable[[Actor, Job], None]] = {
    "cancel": check_cancel,
    "proceed": check_proceed,
    "retry": check_retry,
    "resolve": check_resolve,
    "priority": check_priority,
}
"""Each raises :class:`Forbidden` or :class:`Refused` with the reason; the job page's buttons read this list too."""
