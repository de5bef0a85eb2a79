"""What answers look like, for the schema. Answers themselves are made by :mod:`web.api.rows`."""

from typing import Any

from rest_framework import serializers as s

from cluster.models import (
    AffinityPolicy,
    BackupState,
    Consistency,
    JobState,
    NodeState,
    Pending,
    PoolState,
    Repeated,
    Role,
    SnapshotState,
    StepState,
    VmState,
)


def _id(**kwargs: Any) -> s.CharField:
    return s.CharField(help_text="13 lower-case base32 characters, never reused.", **kwargs)


def _nullable_id(help_text: str = "") -> s.CharField:
    return s.CharField(allow_null=True, help_text=help_text)


def _consistency() -> s.ChoiceField:
    help_text = "What a guest finds on the disks; null: not known yet, or nobody has noted it."
    return s.ChoiceField(Consistency.choices, allow_null=True, help_text=help_text)


def _bytes(**about: Any) -> s.IntegerField:
    return s.IntegerField(min_value=0, **about)


class VmDiskSerializer(s.Serializer[Any]):
    id = _id()
    pool = _nullable_id("Null for tenants.")
    size_bytes = _bytes()
    bus = s.CharField()
    state = s.CharField()


class VmNicSerializer(s.Serializer[Any]):
    id = _id()
    network = _id()
    model = s.CharField()
    mac = s.CharField()


class VmAddressSerializer(s.Serializer[Any]):
    id = _id()
    address = s.IPAddressField(protocol="IPv4")
    network = _id()
    nic = _id()


class StateReasonSerializer(s.Serializer[Any]):
    code = s.CharField()
    cause = s.CharField()
    hint = s.CharField(help_text="The way out.")


class VmDriftSerializer(s.Serializer[Any]):
    field = s.CharField()
    panel = s.JSONField(help_text="Null: it has no such thing.")
    seen = s.JSONField(help_text="Null: there is no such thing.")
    adoptable = s.BooleanField(help_text="Whether the panel can take it over as it is seen.")


class ClaimSerializer(s.Serializer[Any]):
    node = _id()
    state = s.ChoiceField(VmState.choices)


class VmSerializer(s.Serializer[Any]):
    id = _id()
    name = s.CharField(help_text="A DNS label, unique in its tenant.")
    title = s.CharField()
    state = s.ChoiceField(VmState.choices)
    state_reason = StateReasonSerializer(allow_null=True, help_text="Why, where somebody has to do something.")
    node = _nullable_id("Null for tenants.")
    home = _nullable_id("The node in maintenance to which it is put back; null for tenants.")
    group = _nullable_id("The group of nodes that it stays in; null: it goes anywhere. Null for tenants.")
    affinity_groups = s.ListField(child=_id())
    tenant = _id()
    owner = _id()
    vcpus = s.IntegerField()
    memory_bytes = _bytes()
    os = s.CharField(help_text="A code of the OS catalogue, or empty.")
    protected = s.BooleanField(help_text="Refuses to be deleted.")
    restart_priority = s.IntegerField(help_text="Higher ones are started elsewhere first when their node is dead.")
    disks = VmDiskSerializer(many=True)
    nics = VmNicSerializer(many=True)
    addresses = VmAddressSerializer(many=True)
    job = _nullable_id("The job that is under way about this VM.")
    drift = VmDriftSerializer(many=True, help_text="What its definition on the node has otherwise; empty for tenants.")
    claims = ClaimSerializer(many=True, help_text="Other nodes that show the guest too; empty for tenants.")
    moved_from = _nullable_id("The node from which it was moved by hand, until its definition is written again.")
    version = s.IntegerField(help_text="Grows with each change; an event with a lower one is old.")
    created = s.DateTimeField()


class SeenDiskSerializer(s.Serializer[Any]):
    place = s.CharField()
    bus = s.CharField()
    format = s.CharField()
    size_bytes = s.IntegerField(allow_null=True)


class SeenNicSerializer(s.Serializer[Any]):
    mac = s.CharField()
    bridge = s.CharField()
    model = s.CharField()


class StrangerSerializer(s.Serializer[Any]):
    uuid = s.CharField()
    name = s.CharField()
    state = s.ChoiceField(VmState.choices)
    vcpus = s.IntegerField(allow_null=True)
    memory_bytes = s.IntegerField(allow_null=True)
    disks = SeenDiskSerializer(many=True)
    nics = SeenNicSerializer(many=True)


class CheckSerializer(s.Serializer[Any]):
    code = s.CharField()
    level = s.ChoiceField(["ok", "warning", "error"])
    text = s.CharField()


class OfferSerializer(s.Serializer[Any]):
    kind = s.ChoiceField(["lvm", "lvmthin"])
    path = s.CharField()
    capacity_bytes = _bytes()
    free_bytes = _bytes()
    extent_bytes = s.IntegerField(allow_null=True)
    extents_total = s.IntegerField(allow_null=True)
    extents_free = s.IntegerField(allow_null=True)
    most_stripes = s.IntegerField(allow_null=True, help_text="LVM: the number of its physical volumes.")
    pool = _nullable_id("The pool that it is already.")


class NodeSerializer(s.Serializer[Any]):
    id = _id()
    name = s.CharField()
    address = s.IPAddressField()
    state = s.ChoiceField(NodeState.choices)
    maintenance = s.BooleanField(help_text="It gets no VM; true also while it is offline.")
    group = _nullable_id()
    declared_dead = s.DateTimeField(allow_null=True, help_text="Since when; null again when it was taken back.")
    self_fencing = s.BooleanField(help_text="Without the panel it ends guests whose disks are all in Ceph.")
    cpus = s.IntegerField()
    cpus_allocated = s.IntegerField(help_text="vCPUs of the VMs that are placed there.")
    cpus_limit = s.IntegerField(help_text="How many that may be: cpus times cpu_overcommit.")
    cpu_overcommit = s.FloatField()
    memory_bytes = _bytes()
    memory_allocated_bytes = _bytes()
    busy_percent = s.IntegerField(
        allow_null=True,
        help_text="Over the last minutes, the greater of what its processors and its memory were used; null: unknown.",
    )
    memory_limit_bytes = _bytes(
        help_text="How much that may be: memory_bytes without memory_reserve_bytes, times memory_overcommit."
    )
    memory_overcommit = s.FloatField()
    memory_reserve_bytes = _bytes(help_text="What the host keeps for itself.")
    checks = CheckSerializer(many=True)
    offers = OfferSerializer(many=True, help_text="Of what the node could make a pool, as it said last.")
    strangers = StrangerSerializer(many=True, help_text="Domains there that are no VMs of this panel.")
    agent_version = s.CharField()
    simulated = s.BooleanField(help_text="It has no hypervisor: libvirt's test driver stands for one.")
    joined = s.DateTimeField(allow_null=True)
    version = s.IntegerField()


class AffinityGroupSerializer(s.Serializer[Any]):
    id = _id()
    name = s.CharField(help_text="A DNS label, unique in its tenant.")
    tenant = _id()
    policy = s.ChoiceField(AffinityPolicy.choices, help_text="Its VMs belong on different nodes, or on one.")
    hard = s.BooleanField(help_text="Every placement obeys it; false: it weighs.")
    vms = s.ListField(child=_id(), help_text="Those of which the reader may know.")
    created = s.DateTimeField()


class NodeGroupSerializer(s.Serializer[Any]):
    id = _id()
    name = s.CharField()
    title = s.CharField()
    nodes = s.ListField(child=_id())
    created = s.DateTimeField()


class StrangeVolumeSerializer(s.Serializer[Any]):
    name = s.CharField()
    format = s.ChoiceField(["qcow2", "raw"])
    size_bytes = _bytes()


class PoolSerializer(s.Serializer[Any]):
    id = _id()
    name = s.CharField()
    kind = s.ChoiceField(["directory", "lvm", "lvmthin", "rbd"])
    nodes = s.ListField(child=_id())
    shared = s.BooleanField()
    capacity_bytes = _bytes()
    free_bytes = _bytes()
    granule_bytes = s.IntegerField(allow_null=True)
    state = s.ChoiceField(PoolState.choices)
    exact = s.BooleanField(help_text="A size that is no multiple of the granule is refused instead of rounded up.")
    default_of = s.ListField(child=_id(), help_text="Nodes that put new disks here unless told otherwise.")
    warning_percent = s.IntegerField(min_value=1, max_value=100)
    warnings = CheckSerializer(many=True, help_text="Too full, or out of reach; empty: all in order.")
    strangers = StrangeVolumeSerializer(many=True, help_text="Volumes that are no disk and could become one (import).")
    version = s.IntegerField()


class RangeSerializer(s.Serializer[Any]):
    first = s.IPAddressField(protocol="IPv4")
    last = s.IPAddressField(protocol="IPv4")
    prefix_length = s.IntegerField()
    gateway = s.IPAddressField(protocol="IPv4", allow_null=True)
    nameservers = s.ListField(child=s.IPAddressField())


class NetworkSerializer(s.Serializer[Any]):
    id = _id()
    name = s.CharField()
    bridge = s.CharField()
    nodes = s.ListField(child=_id(), help_text="Nodes that have the bridge; empty for tenants.")
    ranges = RangeSerializer(many=True)


class AddressSerializer(s.Serializer[Any]):
    id = _id()
    address = s.IPAddressField(protocol="IPv4")
    network = _id()
    vm = _id()
    nic = _id()


class ImageSerializer(s.Serializer[Any]):
    id = _id()
    name = s.CharField()
    os = s.CharField()
    size_bytes = _bytes()
    virtual_size_bytes = _bytes()
    checksum = s.CharField()
    state = s.ChoiceField(
        ["adding", "ready", "stored", "absent", "removing"],
        help_text="Adding: on its way to the panel. Stored: on the panel, and on no node yet.",
    )


class IsoSerializer(ImageSerializer):
    pass


class UploadSerializer(s.Serializer[Any]):
    id = s.CharField(help_text="Becomes the id of the image or ISO.")
    kind = s.ChoiceField(["image", "iso"])
    name = s.CharField()
    os = s.CharField()
    size_bytes = _bytes()
    received_bytes = s.IntegerField(min_value=0, help_text="Where the next chunk begins.")
    checksum = s.CharField(help_text="As it was promised, or empty.")
    complete = s.BooleanField(help_text="It is an image or an ISO now.")
    created = s.DateTimeField()


class DriftSerializer(s.Serializer[Any]):
    field = s.CharField()
    panel = _bytes()
    seen = s.IntegerField(allow_null=True, help_text="By every node that is online; null: there is no such volume.")


class DiskSerializer(s.Serializer[Any]):
    id = _id()
    vm = _nullable_id()
    pool = _nullable_id("Null for tenants.")
    size_bytes = _bytes()
    bus = s.CharField()
    format = s.CharField()
    boot_order = s.IntegerField(allow_null=True)
    state = s.CharField()
    delete_after = s.DateTimeField(
        allow_null=True,
        help_text="When one in the trash (what a disk left behind when it went elsewhere) is deleted; null: never.",
    )
    pending = s.ChoiceField(
        Pending.choices,
        allow_null=True,
        help_text="What a guest that runs takes part in only when it is off; null: nothing.",
    )
    drift = DriftSerializer(many=True, help_text="What its nodes see otherwise than the panel has it.")
    parent = _nullable_id("The disk on which this linked clone rests; null: on none.")  # type: ignore[assignment]
    title = s.CharField()
    tenant = _id()
    version = s.IntegerField()


class SnapshotSerializer(s.Serializer[Any]):
    id = _id()
    vm = _id()
    name = s.CharField()
    parent = _nullable_id("Null for one that rests on no other.")  # type: ignore[assignment]
    memory = s.BooleanField(help_text="Whether the guest's memory is in it.")
    consistency = _consistency()
    created = s.DateTimeField()
    size_bytes = _bytes()
    state = s.ChoiceField(SnapshotState.choices)
    version = s.IntegerField()


class BackupSerializer(s.Serializer[Any]):
    id = _id()
    vm = _nullable_id("Null when it was deleted since.")
    vm_name = s.CharField()
    title = s.CharField()
    tenant = _id()
    created = s.DateTimeField()
    size_bytes = _bytes()
    pool = _nullable_id("Null for tenants.")
    consistency = _consistency()
    state = s.ChoiceField(BackupState.choices)
    version = s.IntegerField()


class ScheduleSerializer(s.Serializer[Any]):
    id = _id()
    vm = _id()
    action = s.ChoiceField(Repeated.choices)
    every_hours = s.IntegerField(min_value=1)
    keep = s.IntegerField(min_value=1, help_text="So many that it made; the oldest one goes when there is one more.")
    pool = _nullable_id("Of backups; null: the default pool of the VM's node.")
    user = _id()
    next_run = s.DateTimeField()
    problem = s.JSONField(help_text="Why the last one was not made; null: it was.")


class NicSerializer(s.Serializer[Any]):
    id = _id()
    vm = _id()
    network = _id()
    model = s.CharField()
    mac = s.CharField()
    address = _nullable_id()


class ReasonSerializer(s.Serializer[Any]):
    code = s.CharField()
    cause = s.CharField(help_text="Names the thing and the place.")
    hint = s.CharField(help_text="What to do next.")
    field = s.CharField(required=False, help_text="The parameter that it is about.")


class ActionSerializer(s.Serializer[Any]):
    code = s.CharField()
    allowed = s.BooleanField()
    reasons = ReasonSerializer(many=True)


class StepNodeSerializer(s.Serializer[Any]):
    id = _id()
    name = s.CharField()


class StepSerializer(s.Serializer[Any]):
    name = s.CharField()
    label = s.CharField()  # type: ignore[assignment]
    key = s.CharField(help_text="Which of several equal things the step is for.")
    state = s.ChoiceField(StepState.choices)
    progress = s.IntegerField(min_value=0, max_value=100)
    facts = s.DictField(
        child=s.IntegerField(),
        help_text="Of a move under way: memory_left_bytes, disk_left_bytes, speed_bytes and dirty_bytes a second, "
        "elapsed_ms, pass, and left_s where the speed is known.",
    )
    node = StepNodeSerializer(allow_null=True)
    error = ReasonSerializer(allow_null=True)
    waits_for_click = s.BooleanField()
    started = s.DateTimeField(allow_null=True)
    finished = s.DateTimeField(allow_null=True)


class WaitSerializer(s.Serializer[Any]):
    lock = s.CharField()
    job = _nullable_id("Null where the reader may not know of that job.")
    place = s.IntegerField(help_text="1 is next.")


class UndoneSerializer(s.Serializer[Any]):
    step = s.CharField()
    label = s.CharField()  # type: ignore[assignment]
    reason = s.CharField(allow_null=True, help_text="Why the step was kept; null when it was undone.")


class JobSerializer(s.Serializer[Any]):
    id = _id()
    operation = s.CharField()
    label = s.CharField()  # type: ignore[assignment]
    subject = s.CharField(help_text="<kind>:<id>")
    subject_name = s.CharField()
    state = s.ChoiceField(JobState.choices)
    version = s.IntegerField()
    progress = s.IntegerField(min_value=0, max_value=100)
    user = s.CharField(allow_null=True)
    steps = StepSerializer(many=True)
    waits_for = WaitSerializer(many=True)
    waiting_reason = ReasonSerializer(allow_null=True)
    error = ReasonSerializer(allow_null=True)
    undone = UndoneSerializer(many=True)
    leftovers = s.ListField(child=s.JSONField())
    result = s.JSONField(allow_null=True, help_text="What it has found out, of one that only looks; else null.")
    resolution = s.JSONField(allow_null=True)
    cancel_requested = s.BooleanField()
    past_pivot = s.BooleanField()
    priority = s.IntegerField()
    parent = _nullable_id()  # type: ignore[assignment]
    created = s.DateTimeField()
    started = s.DateTimeField(allow_null=True)
    finished = s.DateTimeField(allow_null=True)
    actions = ActionSerializer(many=True)


class TenantSerializer(s.Serializer[Any]):
    id = _id()
    name = s.CharField()
    title = s.CharField()
    created = s.DateTimeField()


class UserSerializer(s.Serializer[Any]):
    id = _id()
    username = s.CharField()
    language = s.ChoiceField(["ru", "en"])
    active = s.BooleanField()
    created = s.DateTimeField()


class GrantSerializer(s.Serializer[Any]):
    id = _id()
    user = _id()
    role = s.ChoiceField(Role.choices)
    label = s.CharField()  # type: ignore[assignment]
    tenant = _nullable_id()
    actions = s.ListField(child=s.CharField())
    created = s.DateTimeField()


class AuditEventSerializer(s.Serializer[Any]):
    id = s.CharField()
    at = s.DateTimeField()
    user = _nullable_id()
    username = s.CharField()
    role = s.CharField()
    tenant = _nullable_id()
    action = s.CharField()
    subject = s.CharField()
    subject_name = s.CharField()
    outcome = s.CharField()
    job = _nullable_id()
    detail = s.JSONField()


class RoleSerializer(s.Serializer[Any]):
    code = s.ChoiceField(Role.choices)
    label = s.CharField()  # type: ignore[assignment]
    actions = s.ListField(child=s.CharField())


class NeedsSerializer(s.Serializer[Any]):
    vcpus = s.IntegerField()
    memory_bytes = _bytes()
    disk_bytes = _bytes()


class OsSerializer(s.Serializer[Any]):
    code = s.CharField()
    name = s.CharField()
    type = s.CharField()
    version = s.CharField()
    minimum = NeedsSerializer()
    recommended = NeedsSerializer()
    bus = s.CharField()
    nic_model = s.CharField()


class SessionSerializer(s.Serializer[Any]):
    user = UserSerializer()
    grant = GrantSerializer(help_text="The one in force.")
    grants = GrantSerializer(many=True)
    actions = s.ListField(child=s.CharField(), help_text="What the grant in force allows.")


class QuotedDiskSerializer(s.Serializer[Any]):
    pool = s.CharField(allow_null=True)
    asked_bytes = _bytes()
    size_bytes = _bytes()
    granule_bytes = _bytes()
    grows_first = s.BooleanField(
        required=False, help_text="Of a move: the disk grows to this size where it is, and keeps it."
    )


class PriceSerializer(s.Serializer[Any]):
    per_hour = s.CharField()
    currency = s.CharField()


class QuoteSerializer(s.Serializer[Any]):
    disks = QuotedDiskSerializer(many=True)
    price = PriceSerializer(allow_null=True)


class PlacementSerializer(s.Serializer[Any]):
    node = _id()
    reasons = ReasonSerializer(many=True)


class MoveTargetSerializer(s.Serializer[Any]):
    node = _id()
    name = s.CharField()
    possible = s.BooleanField()
    chosen = s.BooleanField()
    score = s.IntegerField(help_text="Share of memory that would stay free, in per mille.")
    copied_bytes = _bytes(help_text="Of the disks that this node does not see.")
    takes_s = s.IntegerField(allow_null=True, help_text="About how long; null: it is not known how fast the link is.")
    reasons = ReasonSerializer(many=True, help_text="All that is against it.")


class BalancedSerializer(s.Serializer[Any]):
    vm = _id()
    name = s.CharField()
    source = _id()  # type: ignore[assignment]  # a field of this name, not the base class's argument
    source_name = s.CharField()
    target = _id()
    target_name = s.CharField()
    copied_bytes = _bytes(help_text="Of its disks that the target did not see.")
    gain = s.FloatField(help_text="By how many points, out of 1000, the nodes were to deviate less.")


class BalanceSerializer(s.Serializer[Any]):
    id = _id()
    created = s.DateTimeField()
    moves = BalancedSerializer(many=True)
    spread_before = s.IntegerField(help_text="Points between the fullest and the emptiest node, out of 1000.")
    spread_after = s.IntegerField(help_text="As it was expected.")
    undone = s.BooleanField()


class BalancingSerializer(s.Serializer[Any]):
    every_minutes = s.IntegerField(allow_null=True, help_text="null: only when somebody asks.")
    threshold_points = s.IntegerField()
    hold_minutes = s.IntegerField()
    cooldown_minutes = s.IntegerField()
    most_moves = s.IntegerField()
    copy_disks = s.BooleanField()
    next_run = s.DateTimeField(allow_null=True)
    problem = ReasonSerializer(allow_null=True)


class IntendedSerializer(s.Serializer[Any]):
    vm = _id()
    name = s.CharField()
    state = s.ChoiceField(VmState.choices)
    then = s.ChoiceField(["move", "stop", "start", "restart", "leave"])
    node = _nullable_id("To which it would move.")
    node_name = s.CharField(allow_null=True)
    copied_bytes = _bytes(help_text="Of its disks that this node does not see.")
    takes_s = s.IntegerField(allow_null=True, help_text="About how long; null: it is not known how fast the link is.")
    reasons = ReasonSerializer(many=True, help_text="Why it cannot move.")
    gain = s.FloatField(required=False, help_text="Of a balance: by how many points the nodes deviate less.")


class TurnSerializer(s.Serializer[Any]):
    node = _id()
    name = s.CharField()
    possible = s.BooleanField(help_text="All of its VMs can go elsewhere.")
    copied_bytes = _bytes(help_text="Of disks that the other nodes do not see.")
    moves = IntendedSerializer(many=True)


class StaysSerializer(s.Serializer[Any]):
    pool = _id()
    pool_name = s.CharField()
    size_bytes = _bytes(help_text="At most: what the volumes of the copied disks hold.")
    until = s.DateTimeField(help_text="At the earliest: a volume is deleted so long after it was copied.")


class DryRunSerializer(s.Serializer[Any]):
    refusals = ReasonSerializer(many=True)
    quote = QuoteSerializer()
    placement = PlacementSerializer(allow_null=True)
    moves = IntendedSerializer(many=True, required=False, help_text="Of an operation on many VMs: each of them.")
    targets = MoveTargetSerializer(many=True, required=False, help_text="Of a move: every node.")
    stays = StaysSerializer(many=True, required=False, help_text="Of moves: room that old volumes keep for a while.")


class ReferenceSerializer(s.Serializer[Any]):
    id = _id()


class StartedSerializer(s.Serializer[Any]):
    job = JobSerializer()


class StartedVmSerializer(StartedSerializer):
    vm = ReferenceSerializer()


class StartedDiskSerializer(StartedSerializer):
    disk = ReferenceSerializer()


class StartedImageSerializer(StartedSerializer):
    image = ReferenceSerializer()


class StartedIsoSerializer(StartedSerializer):
    iso = ReferenceSerializer()


class JoinSerializer(s.Serializer[Any]):
    command = s.CharField(help_text="To be run on the machine; shown once.")
    token = s.CharField()
    panel = s.CharField()
    ca_fingerprint = s.CharField()
    expires = s.DateTimeField()


class AddedNodeSerializer(NodeSerializer):
    join = JoinSerializer()


class ProblemSerializer(s.Serializer[Any]):
    code = s.CharField()
    status = s.IntegerField()
    title = s.CharField()
    detail = s.CharField()
    hint = s.CharField()
    errors = s.DictField(child=s.ListField(child=s.CharField()), required=False, help_text="400: field -> messages.")  # type: ignore[assignment]
    refusals = ReasonSerializer(many=True, required=False, help_text="409, 507, 422: every reason.")
    job = s.CharField(allow_null=True, required=False, help_text="409: the job in the way, where there is one.")
