"""What a dialog asks for before its operation begins: one table, read by the page that shows it and by its answer."""

import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from cluster import selectors
from cluster.domain_drift import lines_of
from cluster.models import Backup, Disk, IsoCopy, Node, NodeState, Pool, PoolOnNode, Vm, VmState
from cluster.operations.disk_image import can_generalise, node_of
from cluster.operations.image_distribute import nodes_without
from cluster.operations.vm_snapshot import VmSnapshot, disks_of, hardware_of
from cluster.operations.vm_stranger_plan import OFF
from cluster.permissions import Actor
from cluster.pools import strangers_of
from cluster.refusals import Refusal, Refused
from nodes.contract.sizes import parse_size
from nodes.contract.specs import MOST_NAME_BYTES, DiskBus, DiskCache, DiskFormat
from web.templatetags.ulei import os_name, size

from .vm_form import catalogue

MOST_CHOICES = 500
LONGEST = 100


NAME = re.compile(r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$")


@dataclass(frozen=True)
class Field:
    name: str
    """The parameter that it fills; a size is typed as people say it."""
    label: str
    kind: str = "text"
    """text, number, size, select or check."""
    value: str = ""
    """Of a check: 1 where it is ticked."""
    presumed: Any = None
    """What the dry run behind an untouched dialog takes as said; None: the parameter is left out of it."""
    required: bool = False
    placeholder: str = ""
    hint: str = ""
    choices: list[tuple[str, str]] = field(default_factory=list)
    """(value, word); an empty value leaves the parameter out, unless ``nothing`` says that it means something."""
    quote: str = ""
    """Of a size, or of a pool for a size that is known: who says what it comes to while one types or chooses."""
    nothing: bool = False
    """An empty value is sent as null."""
    longest: int = LONGEST
    as_list: bool = False
    """The one that is chosen is sent as a list of one."""
    key: str = ""
    """The parameter is a table of which this is one line: ``pools`` with the line of a disk."""
    named_by_link: bool = False
    """A DNS label that a link to the dialog may fill in."""
    more: bool = False
    """Shown only to those who open the further settings."""

    @property
    def slot(self) -> str:
        """Its name in the form."""
        return f"{self.name}-{self.key}" if self.key else self.name

    def read(self, typed: Mapping[str, str]) -> dict[str, Any]:
        """The parameter as typed; empty where it is left out. Raises :class:`Refused`."""
        text = typed.get(self.slot, "").strip()[: self.longest]
        if self.kind == "check":
            return {self.name: text == "1"}
        if not text and self.more:
            return {}
        if self.kind == "number":
            if not text.isdecimal():
                raise Refused(Refusal("not_a_number", {"typed": text}, field=self.name))
            return {self.name: int(text)}
        if self.kind == "size":
            try:
                return {self.name: parse_size(text)}
            except ValueError:
                raise Refused(Refusal("not_a_size", {"typed": text}, field=self.name)) from None
        if text or (self.kind == "text" and not self.required and not self.nothing):
            return {self.name: {self.key: text} if self.key else [text] if self.as_list else text}
        return {self.name: None} if self.nothing else {}


def _resize(actor: Actor, disk: Disk) -> list[Field]:
    hint = _("It has %(size)s now. A disk can only grow.") % {"size": size(disk.size_bytes)}
    shown = str(size(disk.size_bytes))
    quote = reverse("disk-size", args=[disk.pk])
    hinders = disk.pool is not None and disk.pool.facts.get("snapshots_take_room")
    first = [] if hinders else _first(actor)
    return [_size(value=shown, presumed=disk.size_bytes, hint=hint, quote=quote), *first]


def _first(actor: Actor) -> list[Field]:
    able = actor.may(VmSnapshot.code)
    return [Field("snapshot_first", _("Take a snapshot of the VM first"), "check")] if able else []


def _size(**more: Any) -> Field:
    return Field("size_bytes", _("Size"), "size", required=True, placeholder=_("20 GB"), **more)


def _bus() -> Field:
    return Field("bus", _("Bus"), "select", value="virtio", choices=[(bus, bus) for bus in get_args(DiskBus)])


def _snapshot(actor: Actor, vm: Vm) -> list[Field]:
    hint = _(
        "Of a guest that runs and whose disks are all qcow2 files. It goes on from there as if nothing had happened."
    )
    memory = Field("memory", _("Keep the guest's memory, too"), "check", hint=hint)
    return [Field("name", _("Name"), placeholder=_("the present time")), _quiesce(), memory]


def _quiesce() -> Field:
    ways = [
        ("auto", _("where the agent inside the guest answers")),
        ("required", _("yes, or no copy at all")),
        ("no", _("no: as after a power failure")),
    ]
    return Field("quiesce", _("Let its file systems stand still"), "select", value="auto", choices=ways)


def _revert(actor: Actor, snapshot: Any) -> list[Field]:
    fields = []
    if snapshot.vm.state in (VmState.RUNNING, VmState.PAUSED):
        label = _("Stop %(name)s by force: it runs") % {"name": snapshot.vm.name}
        fields.append(Field("stop", label, "check", presumed=True, required=True))
    if snapshot.memory:
        hint = _("Otherwise only the disks go back, and the VM is off.")
        same = hardware_of(snapshot.vm) == snapshot.hardware
        words = _("Let the guest go on from its memory of then")
        fields.append(Field("memory", words, "check", value="1" if same else "", presumed=same, hint=hint))
    return [*fields, *_first(actor)]


def _attach(actor: Actor, disk: Disk) -> list[Field]:
    vms = selectors.vms(actor).filter(tenant=disk.tenant_id, node__pool_places__pool=disk.pool_id)
    found = [(vm.pk, vm.name) for vm in vms.only("name").order_by("name")[:MOST_CHOICES]]
    none = "" if found else _("No VM of its tenant is on a node that has its storage.")
    first = found[0][0] if found else None
    return [Field("vm", _("VM"), "select", presumed=first, required=True, choices=found, hint=none), _bus()]


def _iso(actor: Actor, vm: Vm) -> list[Field]:
    isos = selectors.isos(actor).filter(pk__in=IsoCopy.objects.filter(node=vm.node_id).values("iso"))
    drive = vm.disks.filter(device="cdrom").first()
    lies = drive.iso_id if drive else None
    choices = [
        ("", _("nothing: an empty drive")),
        *((iso.pk, iso.name) for iso in isos.order_by("name")[:MOST_CHOICES]),
    ]
    first = next((value for value, _word in choices if value), None)
    shown = lies or ("" if drive else first or "")
    hint = "" if first else _("There is no ISO on this VM's node yet.")
    return [
        Field("iso", _("ISO"), "select", value=shown, presumed=lies or first, choices=choices, nothing=True, hint=hint)
    ]


def _disk(actor: Actor, vm: Vm | None) -> list[Field]:
    pools = [] if actor.is_tenant_side else list(selectors.pools(actor).filter(state="active").order_by("name"))
    if vm:
        pools = [pool for pool in pools if any(place.node_id == vm.node_id for place in pool.places.all())]
    own = [("", _("the node's own"))] if vm else []
    choices = [*own, *_pools(pools)]
    quote = reverse("disk-new-size") + (f"?vm={vm.pk}" if vm else "")
    fields = [_size(presumed=1 << 20, hint=_("Rounded up to what the storage gives out at a time."), quote=quote)]
    if pools:
        presumed = None if vm else choices[0][0]
        fields.append(Field("pool", _("Storage"), "select", presumed=presumed, required=not vm, choices=choices))
    return [*fields, *([_bus()] if vm else []), Field("title", _("Title"), placeholder=_("what it is for"))]


def _move(actor: Actor, disk: Disk) -> list[Field]:
    places = PoolOnNode.objects.filter(pool=disk.pool_id, **({"node": disk.vm.node_id} if disk.vm else {}))
    seen = selectors.pools(actor).prefetch_related(None).filter(state="active", places__node__in=places.values("node"))
    # Last where it is now: there it can only change its format.
    pools = sorted(seen.distinct().order_by("name"), key=lambda pool: pool.pk == disk.pool_id)
    pool = pools[0].pk if pools else disk.pool_id
    quote = reverse("disk-place", args=[disk.pk])
    formats = [("", _("what suits the storage")), *((each, each) for each in get_args(DiskFormat))]
    return [
        Field(
            "pool",
            _("Storage"),
            "select",
            value=pool or "",
            presumed=pool,
            required=True,
            choices=_pools(pools),
            quote=quote,
        ),
        Field("format", _("Format"), "select", choices=formats),
    ]


def _change(actor: Actor, disk: Disk) -> list[Field]:
    title = Field("title", _("Title"), value=disk.title, placeholder=_("what it is for"))
    if disk.vm is None:
        return [title]
    if disk.vm.state not in (VmState.STOPPED, VmState.ERROR):
        return [replace(title, hint=_("Bus, cache and boot order can be changed while the VM is off."))]
    suits = [("", _("what suits the storage"))] if not disk.cache else []
    caches = [*suits, *((cache, cache) for cache in get_args(DiskCache))]
    fields = [
        title,
        replace(_bus(), value=disk.bus),
        Field("cache", _("Cache"), "select", value=disk.cache, choices=caches),
    ]
    return fields if disk.boot_order == 1 else [*fields, Field("boot_first", _("Boot from it first"), "check")]


def _backup(actor: Actor, vm: Vm) -> list[Field]:
    title = Field("title", _("Title"), placeholder=_("the VM's name and the time"))
    return [*pools_of(actor, vm), title, _quiesce()]


def pools_of(actor: Actor, vm: Vm) -> list[Field]:
    """A choice among the pools of a VM's node, for those who may know of pools."""
    pools = [] if actor.is_tenant_side else selectors.pools(actor).filter(state="active", places__node=vm.node_id)
    choices = [("", _("the node's own")), *_pools(pools)]
    return [Field("pool", _("Storage"), "select", choices=choices)] if pools else []


def _pools(pools: Iterable[Pool]) -> list[tuple[str, str]]:
    words = _("%(pool)s, %(free)s free")
    return [(pool.pk, words % {"pool": pool.name, "free": size(pool.free_bytes)}) for pool in pools]


def _restore(actor: Actor, thing: Backup | Vm) -> list[Field]:
    name = Field("name", _("Name"), presumed="copy-" + thing.pk, required=True, hint=_("Of the new VM."))
    return [name, Field("start", _("Start it at once"), "check")]


def _clone(actor: Actor, vm: Vm) -> list[Field]:
    disks = disks_of(vm)
    if not disks or any(disk.pool is None or "linked" not in disk.pool.facts.get("clones", ()) for disk in disks):
        return _restore(actor, vm)
    rests = any(disk.pool and disk.pool.facts.get("clones_rest") for disk in disks)
    hint = _("Made at once, and takes room only for what is written from then on.")
    if rests:
        hint += " " + _("This VM's disks cannot be deleted until the clone is deleted or made independent.")
    return [*_restore(actor, vm), Field("linked", _("Linked clone: share the content"), "check", hint=hint)]


def _distribute(actor: Actor, file: Any) -> list[Field]:
    nodes = [(node.pk, node.name) for node in nodes_without(file) if node.state == NodeState.ONLINE]
    choices = [("", _("every node that is online and has none")), *nodes[:MOST_CHOICES]]
    return [Field("nodes", _("Nodes"), "select", choices=choices, as_list=True)]


def _migrate(actor: Actor, vm: Vm) -> list[Field]:
    nodes = selectors.nodes(actor).exclude(pk=vm.node_id).exclude(redis_password_sha256="").order_by("name")
    choices = [("", _("the panel chooses")), *((node.pk, node.name) for node in nodes[:MOST_CHOICES])]
    fields = [Field("target", _("Node"), "select", choices=choices)]
    if vm.state == VmState.RUNNING:
        fields.append(Field("live", _("The guest goes on running while it moves"), "check", value="1", presumed=True))
    pools = selectors.pools(actor).filter(state="active").prefetch_related("places__node").order_by("name")
    there = [pool for pool in pools if any(place.node_id != vm.node_id for place in pool.places.all())]
    own = ("", _("one that both nodes see, else the other node's own"))
    for disk in vm.disks.all():
        if disk.device == "disk" and there:
            label = _("Storage of the disk %(name)s") % {"name": disk.name}
            fields.append(Field("pools", label, "select", key=disk.pk, more=True, choices=[own, *_placed(there)]))
    if vm.state != VmState.RUNNING:
        return fields
    return [
        *fields,
        Field("auto_converge", _("Slow the guest down if it writes faster than the link takes"), "check", more=True),
        Field("compressed", _("Compress its memory on the way"), "check", more=True),
        Field(
            "post_copy",
            _("Post-copy: go on over there after the first pass"),
            "check",
            more=True,
            hint=_("If the link or a node fails after that, the guest is lost as if it had lost power."),
        ),
        Field("bandwidth_bytes", _("At most, a second"), "size", more=True, placeholder=_("100 MB")),
        Field("max_pause_ms", _("Longest pause, ms"), "number", more=True, placeholder="300"),
        Field("time_limit_s", _("Time limit, s"), "number", more=True, placeholder="600"),
        Field(
            "on_time_limit",
            _("After the time limit"),
            "select",
            value="abort",
            more=True,
            choices=[("abort", _("leave it where it was")), ("force", _("pause it until it has arrived"))],
        ),
    ]


def _maintenance(actor: Actor, node: Node) -> list[Field]:
    label = _("Put no VMs on %(name)s") % {"name": node.name}
    return [Field("on", label, "check", value="" if node.in_maintenance else "1", presumed=not node.in_maintenance)]


def _self_fencing(actor: Actor, node: Node) -> list[Field]:
    label = _("%(name)s ends such guests itself when it does not hear the panel") % {"name": node.name}
    return [Field("on", label, "check", value="" if node.self_fencing else "1", presumed=not node.self_fencing)]


def _powered_off(name: str) -> Field:
    label = _("I have seen that the power of %(name)s is off") % {"name": name}
    words = _("Only then are VMs started whose storage cannot shut the node out, such as a shared folder.")
    return Field("powered_off", label, "check", presumed=False, hint=words)


def _declare_dead(actor: Actor, node: Node) -> list[Field]:
    label = _("Type the name of the node: %(name)s") % {"name": node.name}
    return [Field("confirm", label, presumed=node.name, required=True), _powered_off(node.name)]


def _restart_elsewhere(actor: Actor, vm: Vm) -> list[Field]:
    return [_powered_off(vm.node.name)]


def _moves(actor: Actor, node: Node) -> list[Field]:
    late = [("abort", _("leave the VM where it was")), ("force", _("pause it until it has arrived"))]
    return [
        Field("time_limit_s", _("Time limit of a move, s"), "number", more=True, placeholder="600"),
        Field("on_time_limit", _("After the time limit"), "select", value="abort", more=True, choices=late),
    ]


def _evacuate(actor: Actor, node: Node) -> list[Field]:
    off = [("move", _("move them too")), ("leave", _("leave them there"))]
    nowhere = [("leave", _("leave it as it is")), ("stop", _("shut it down until it is put back"))]
    return [
        Field("cannot", _("A VM that can go nowhere"), "select", value="leave", presumed="leave", choices=nowhere),
        Field("stopped", _("VMs that are off"), "select", value="move", choices=off),
        *_moves(actor, node),
    ]


def _placed(pools: Iterable[Pool]) -> list[tuple[str, str]]:
    """With the nodes on which they are."""
    words = _("%(pool)s on %(nodes)s, %(free)s free")
    return [
        (
            pool.pk,
            words
            % {
                "pool": pool.name,
                "nodes": ", ".join(sorted(place.node.name for place in pool.places.all())),
                "free": size(pool.free_bytes),
            },
        )
        for pool in pools
    ]


def _download(actor: Actor, noun: str) -> list[Field]:
    kind = "iso" if noun == "isos" else "qcow2"
    some = f"https://example.org/{secrets.token_hex(6)}.{kind}"
    nodes = selectors.nodes(actor).filter(state=NodeState.ONLINE).order_by("name")[:MOST_CHOICES]
    choices = [("", _("the first one that is online")), *((node.pk, node.name) for node in nodes)]
    return [
        Field("url", _("Address (URL)"), presumed=some, required=True, placeholder="https://…", longest=2000),
        Field("name", _("Name"), nothing=True, placeholder=_("as in the address"), longest=MOST_NAME_BYTES),
        Field("checksum", _("SHA-256 checksum"), hint=_("compared when the file is whole; may be left out")),
        _os(_("not said")),
        Field("node", _("Node that fetches it"), "select", choices=choices),
    ]


def _image(actor: Actor, disk: Disk) -> list[Field]:
    node = node_of(disk)
    able = node is not None and can_generalise(node)
    words = _("Generalise it: machine-id, SSH host keys, names of NICs and what cloud-init has done are taken out")
    lacking = _("The node %(node)s has no libguestfs for that.") % {"node": node.name} if node and not able else ""
    name = f"{disk.vm.name if disk.vm else disk.pk}-{timezone.now():%Y-%m-%d}"
    return [
        Field("name", _("Name"), value=name, presumed=name, required=True, longest=MOST_NAME_BYTES),
        _os(_("that of its VM") if disk.vm else _("not said")),
        Field("generalise", words, "check", value="1" if able else "", presumed=able, hint=lacking),
    ]


def _os(otherwise: str) -> Field:
    systems = [(os.code, os_name(os.code)) for _kind, found in catalogue() for os in found]
    return Field("os", _("OS type and version"), "select", choices=[("", otherwise), *systems])


def _adopt(actor: Actor, vm: Vm) -> list[Field]:
    lines = lines_of(vm)
    choices = [(line.field, f"{line.what}: {line.seen}") for line in lines if line.adoptable]
    if len(choices) == len(lines):
        choices.insert(0, ("", _("all of it")))
    return [Field("field", _("What"), "select", presumed=choices[0][0] or None if choices else None, choices=choices)]


def _adopt_claim(actor: Actor, vm: Vm) -> list[Field]:
    nodes = Node.objects.only("name").filter(pk__in=vm.claims or {}).order_by("name")
    choices = [(node.pk, node.name) for node in nodes]
    return [Field("node", _("Node"), "select", presumed=choices[0][0] if choices else None, choices=choices)]


def _adopt_domain(actor: Actor, node: Node) -> list[Field]:
    found = sorted(node.strangers.items(), key=lambda item: str(item[1]["name"]))
    choices = [(uuid, stranger["name"]) for uuid, stranger in found]
    words = _("as the domain is called")
    name = Field("name", _("Name of the VM"), placeholder=words, nothing=True, longest=63, named_by_link=True)
    domain = Field("uuid", _("Domain"), "select", presumed=choices[0][0] if choices else None, choices=choices)
    tenants = [(tenant.pk, tenant.title or tenant.name) for tenant in selectors.tenants(actor).order_by("name")]
    tenant = Field("tenant", _("Tenant"), "select", choices=[("", _("the built-in one")), *tenants[:MOST_CHOICES]])
    networks = list(selectors.networks(actor).order_by("name"))
    nics = [nic for _uuid, stranger in found for nic in (stranger["outline"] or {}).get("nics", ())]
    own = ("", _("the one on its bridge"))
    off = {nic["mac"] for _uuid, one in found if one["state"] in OFF for nic in (one["outline"] or {}).get("nics", ())}
    return [
        replace(domain, required=True),
        name,
        tenant,
        *(
            Field(
                "networks",
                _("Network of the interface %(mac)s") % {"mac": nic["mac"]},
                "select",
                key=nic["mac"],
                more=True,
                choices=[
                    own,
                    *((net.pk, net.name) for net in networks if net.bridge == nic["bridge"] or nic["mac"] in off),
                ],
            )
            for nic in nics
        ),
    ]


def _import(actor: Actor, pool: Pool) -> list[Field]:
    words = _("%(name)s, %(size)s")
    found = [(each["name"], words % {**each, "size": size(each["size_bytes"])}) for each in strangers_of(pool)]
    some = found[0][0] if found else "volume"
    if found:
        name = Field("name", _("Volume"), "select", value=some, presumed=some, required=True, choices=found)
    else:
        hint = _("None was seen there yet. The node looks every ten minutes, and when it is checked.")
        name = Field("name", _("Volume"), presumed=some, required=True, hint=hint, longest=MOST_NAME_BYTES)
    return [name, Field("title", _("Title"), placeholder=_("the name of the volume"))]


FIELDS: dict[str, Callable[[Actor, Any], list[Field]]] = {
    "disk.create": _disk,
    "disk.image": _image,
    "disk.import": _import,
    "disk.change": _change,
    "disk.resize": _resize,
    "disk.move": _move,
    "disk.attach": _attach,
    "vm.adopt": _adopt,
    "vm.adopt_claim": _adopt_claim,
    "node.adopt_domain": _adopt_domain,
    "vm.iso": _iso,
    "vm.clone": _clone,
    "vm.backup": _backup,
    "vm.snapshot": _snapshot,
    "vm.migrate": _migrate,
    "node.maintenance": _maintenance,
    "node.evacuate": _evacuate,
    "node.put_back": _moves,
    "balance.undo": _moves,
    "node.self_fencing": _self_fencing,
    "node.declare_dead": _declare_dead,
    "vm.restart_elsewhere": _restart_elsewhere,
    "backup.restore": _restore,
    "snapshot.revert": _revert,
    "image.distribute": _distribute,
    "iso.distribute": _distribute,
    "image.download": _download,
    "iso.download": _download,
}
"""Operation -> its fields, by whom it is asked and of what."""


def fields_of(code: str, actor: Actor, target: Any) -> list[Field]:
    fields = FIELDS.get(code)
    return fields(actor, target) if fields else []


def said_before(field: Field, asked: Mapping[str, str]) -> Field:
    """A link to the dialog may choose in it what its page is about, and name what it makes."""
    chosen = asked.get(field.name, "")
    known = NAME.findall(chosen) if field.named_by_link else [value for value, _word in field.choices]
    if not chosen or chosen not in known:
        return field
    return replace(field, value=chosen, presumed=chosen)


def read(fields: Iterable[Field], typed: Mapping[str, str]) -> dict[str, Any]:
    """All that was typed. Raises :class:`Refused`."""
    params: dict[str, Any] = {}
    for one in fields:
        for name, value in one.read(typed).items():
            params[name] = params.get(name, {}) | value if one.key else value
    return params
