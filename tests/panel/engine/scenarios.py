"""For every registered operation: rows and a world in which it can be asked, so that generic tests break it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.db.models import F
from django.utils import timezone

from cluster import domain_drift, placement
from cluster.domain_specs import domain_spec
from cluster.models import (
    AddressRange,
    Backup,
    Balance,
    Disk,
    Grant,
    Image,
    ImageCopy,
    Iso,
    IsoCopy,
    LeftGuest,
    Lock,
    Network,
    Nic,
    Node,
    Pool,
    PoolOnNode,
    Role,
    Snapshot,
    SnapshotDisk,
    Tenant,
    User,
    Vm,
)
from cluster.operations import Started, start
from cluster.permissions import Actor
from nodes.contract.messages import VERBS, known_fields
from nodes.contract.sizes import GIB, MIB
from nodes.contract.specs import Outline, SeenDisk, SeenNic

from .world import SCENE_POOL, World, definition

OF_CHILDREN = {"balance.apply", "balance.undo"}
"""Operations that send nothing themselves, and that are refused where they would have no children."""


@dataclass
class Scene:
    """A cluster of one node with a pool, a network, an image and two VMs: one runs, one is off."""

    world: World
    actor: Actor
    node: Node
    pool: Pool
    network: Network
    image: Image
    running: Vm
    stopped: Vm

    def start(self, code: str, actor: Actor | None = None) -> Started:
        target, params = SCENARIOS[code](self)
        return start(actor or self.actor, code, params, target)

    def fingerprint(self) -> dict[str, Any]:
        """Everything that must be as before when an operation was undone."""
        return {
            "world": dict(self.world.objects),
            "vms": list(Vm.objects.order_by("pk").values("pk", "name", "state", "node_id", "snapshot_id")),
            "disks": list(
                Disk.objects.order_by("pk").values("pk", "vm_id", "pool_id", "state", "size_bytes", "pending", "iso_id")
            ),
            "nics": list(Nic.objects.order_by("pk").values("pk", "vm_id", "lease__address")),
            "memory": list(Node.objects.order_by("pk").values("pk", "memory_allocated_bytes", "cpus_allocated")),
            "room": list(Pool.objects.order_by("pk").values("pk", "reserved_bytes", "state")),
            "backups": list(Backup.objects.order_by("pk").values("pk", "state")),
            "snapshots": list(Snapshot.objects.order_by("pk").values("pk", "vm_id", "parent_id", "state")),
            "copies": list(ImageCopy.objects.order_by("pk").values("image_id", "node_id", "image__state")),
            "isos": list(IsoCopy.objects.order_by("pk").values("iso_id", "node_id", "iso__state")),
            "files": [
                *Image.objects.order_by("pk").values("pk", "name", "state", "size_bytes"),
                *Iso.objects.order_by("pk").values("pk", "name", "state", "size_bytes"),
            ],
            "locks": list(Lock.objects.values("name")),
        }


def make_scene() -> Scene:
    world = World()
    user = User.objects.create(username="root")
    actor = Actor(user, Grant.objects.create(user=user, role=Role.ADMINISTRATOR))
    node = Node.objects.create(
        name="n1",
        address="10.99.0.11",
        state="online",
        redis_password_sha256="0" * 64,
        agent_version="1",
        verbs={verb: list(known_fields(verb)) for verb in VERBS},
        facts={"bridges": ["br0"]},
        cpus=8,
        memory_bytes=16 * GIB,
    )
    pool = Pool.objects.create(
        name="p1",
        kind="directory",
        identity="identity-1",
        path=SCENE_POOL,
        capacity_bytes=100 * GIB,
        free_bytes=80 * GIB,
        granules={"qcow2": 65536, "raw": 512},
        facts={"snapshot_formats": ["qcow2"], "snapshots_online": True, "takes_backups": True},
    )
    PoolOnNode.objects.create(pool=pool, node=node)
    Node.objects.filter(pk=node.pk).update(default_pool=pool)
    node.refresh_from_db()
    network = Network.objects.create(name="lan", bridge="br0")
    AddressRange.objects.create(network=network, first="10.99.0.100", last="10.99.0.200", prefix_length=24)
    image = Image.objects.create(name="micro.qcow2", format="qcow2", size_bytes=9 * MIB, virtual_size_bytes=48 * MIB)
    ImageCopy.objects.create(image=image, node=node)
    scene = Scene(world, actor, node, pool, network, image, None, None)  # type: ignore[arg-type]
    scene.running = _vm(scene, "running", "running")
    scene.stopped = _vm(scene, "stopped", "shutoff")
    return scene


def _vm(scene: Scene, state: str, domain: str) -> Vm:
    vm = Vm.objects.create(
        name=f"vm-{state}",
        tenant=Tenant.objects.get_or_create(name="default")[0],
        owner=scene.actor.user,
        node=scene.node,
        state=state,
        vcpus=1,
        memory_bytes=128 * MIB,
    )
    placement.reserve(scene.node.pk, vm)
    scene.node.refresh_from_db()
    for position in range(2):
        disk = Disk.objects.create(
            vm=vm,
            tenant=vm.tenant,
            owner=vm.owner,
            pool=scene.pool,
            size_bytes=GIB,
            state="ready",
            position=position,
        )
        scene.world.objects[scene.node.pk, "disk:" + disk.pk] = "disk"
    nic = Nic.objects.create(
        vm=vm, network=scene.network, mac="52:54:00:00:00:0" + ("1" if state == "running" else "2")
    )
    scene.world.objects[scene.node.pk, "nic:" + nic.pk] = "there"
    scene.world.objects[scene.node.pk, "domain:" + vm.pk] = domain
    scene.world.objects[scene.node.pk, "definition:" + vm.pk] = definition(domain_spec(vm))
    for disk in vm.disks.all() if domain == "running" else ():
        scene.world.objects[scene.node.pk, f"guest:{vm.pk} {disk.pk}"] = "has"
    return vm


def loose_disk(scene: Scene) -> str:
    vm = scene.running
    disk = Disk.objects.create(tenant=vm.tenant, owner=vm.owner, pool=scene.pool, size_bytes=GIB, state="ready")
    scene.world.objects[scene.node.pk, "disk:" + disk.pk] = "disk"
    return disk.pk


def linked_clone(scene: Scene) -> str:
    """Of a disk of the VM that is off."""
    pk = loose_disk(scene)
    Disk.objects.filter(pk=pk).update(parent=scene.stopped.disks.all()[0])
    return pk


def second_pool(scene: Scene, **facts: Any) -> Pool:
    """A volume group of the node, of 4 MiB extents."""
    pool = Pool.objects.create(
        pk="p" * 13,
        name="fast",
        kind="lvm",
        identity="vg-uuid",
        path="vg0",
        capacity_bytes=100 * GIB,
        free_bytes=80 * GIB,
        granules={"raw": 4 * MIB},
        facts={"extent_bytes": 4 * MIB, "names": "vg-uuid", **facts},
    )
    PoolOnNode.objects.create(pool=pool, node=scene.node)
    return pool


def backup_of(scene: Scene, vm: Vm) -> str:
    nics = [{"network": scene.network.pk, "model": "virtio"}]
    settings = {"vcpus": 1, "memory_bytes": 128 * MIB, "os": "", "nics": nics}
    whose = {"tenant": vm.tenant, "owner": vm.owner}
    backup = Backup.objects.create(vm=vm, vm_name=vm.name, settings=settings, state="ready", **whose)
    for position in range(2):
        copy = Disk.objects.create(
            backup=backup, pool=scene.pool, size_bytes=GIB, state="ready", position=position, **whose
        )
        scene.world.objects[scene.node.pk, "disk:" + copy.pk] = "disk"
    return backup.pk


def _iso(scene: Scene) -> str:
    """Lies on the node; another one is in the drive of the VM that runs."""
    vm, isos = scene.running, [Iso.objects.create(name=name, size_bytes=MIB) for name in ("old.iso", "new.iso")]
    IsoCopy.objects.bulk_create(IsoCopy(iso=iso, node=scene.node) for iso in isos)
    drive = {"device": "cdrom", "bus": "ide", "format": "raw", "position": 9, "state": "ready"}
    disk = Disk.objects.create(vm=vm, tenant=vm.tenant, owner=vm.owner, iso=isos[0], **drive)
    scene.world.objects[scene.node.pk, "definition:" + vm.pk] = definition(domain_spec(vm))
    scene.world.objects[scene.node.pk, f"guest:{vm.pk} {disk.pk}"] = "old.iso"
    return isos[1].pk


def _create(scene: Scene) -> tuple[str | None, dict[str, Any]]:
    return None, {
        "name": "new",
        "vcpus": 1,
        "memory_bytes": 128 * MIB,
        "image": scene.image.pk,
        "disks": [{"size_bytes": GIB}, {"size_bytes": 1}],
        "nics": [{"network": scene.network.pk}, {"network": scene.network.pk}],
    }


def _empty_node(scene: Scene) -> tuple[str, dict[str, Any]]:
    node = Node.objects.create(name="n2", address="10.99.0.12", redis_password_sha256="1" * 64, state="online")
    return node.pk, {}


def _paused(scene: Scene) -> tuple[str, dict[str, Any]]:
    Vm.objects.filter(pk=scene.running.pk).update(state="paused")
    scene.world.objects[scene.node.pk, "domain:" + scene.running.pk] = "paused"
    return scene.running.pk, {}


def second_node(scene: Scene) -> tuple[Node, list[Pool]]:
    """With a pool of its own, and one that both nodes see."""
    there = Node.objects.get(pk=scene.node.pk)
    there.pk, there.name, there.address, there.redis_password_sha256 = "b" * 13, "n2", "10.99.0.12", "2" * 64
    there.memory_allocated_bytes, there.cpus_allocated, there.default_pool = 0, 0, None
    there.save(force_insert=True)
    pools = []
    for name, nodes in (("p2", [there]), ("both", [there, scene.node])):
        pool = Pool.objects.get(pk=scene.pool.pk)
        pool.pk, pool.name, pool.identity = name.ljust(13, "a"), name, f"identity-{name}"
        pool.save(force_insert=True)
        pools.append(pool)
        PoolOnNode.objects.bulk_create(PoolOnNode(pool=pool, node=node) for node in nodes)
    Node.objects.filter(pk=there.pk).update(default_pool=pools[0])
    return there, pools


def balanced(scene: Scene) -> Balance:
    """The one that runs was moved here from the second node."""
    there = Node.objects.filter(pk="b" * 13).first() or second_node(scene)[0]
    scene.running.snapshots.all().delete()
    names = {"source_name": there.name, "target_name": scene.node.name, "name": scene.running.name}
    ids = {"vm": scene.running.pk, "source": there.pk, "target": scene.node.pk}
    moves = [{**ids, **names, "copied_bytes": 0, "gain": 10.0}]
    return Balance.objects.create(moves=moves, spread_before=300, spread_after=100)


def uneven(scene: Scene) -> tuple[None, dict[str, Any]]:
    """Both VMs are on one node, and the second node is empty."""
    second_node(scene)
    scene.running.snapshots.all().delete()
    scene.running.memberships.all().delete()
    Vm.objects.filter(pk__in=[scene.running.pk, scene.stopped.pk]).update(memory_bytes=4 * GIB)
    Node.objects.filter(pk=scene.node.pk).update(memory_allocated_bytes=8 * GIB)
    return None, {}


def moving(scene: Scene) -> tuple[str, dict[str, Any]]:
    """From a second node with a pool of its own to the first one; the VM's second disk is in a pool that both see."""
    there, pools = second_node(scene)
    vm = scene.running
    vm.snapshots.all().delete()  # they would stay behind with the first disk
    Vm.objects.filter(pk=vm.pk).update(node=there)
    placement.reserve(there.pk, vm)
    placement.release(scene.node.pk, vm)
    for disk, pool in zip(vm.disks.filter(device="disk"), pools, strict=False):
        Disk.objects.filter(pk=disk.pk).update(pool=pool)
    its = [name for _node, name in scene.world.objects if vm.pk in name]
    its += [f"disk:{pk}" for pk in vm.disks.values_list("pk", flat=True)]
    its += [f"nic:{pk}" for pk in vm.nics.values_list("pk", flat=True)]
    for name in its:
        if (scene.node.pk, name) in scene.world.objects:
            scene.world.objects[there.pk, name] = scene.world.objects.pop((scene.node.pk, name))
    return vm.pk, {}


def on_dead_node(scene: Scene) -> tuple[str, dict[str, Any]]:
    """A VM with all of its disks in a pool that can shut its node out, which an administrator has declared dead."""
    moving(scene)
    there, both = Node.objects.get(name="n2"), Pool.objects.get(name="both")
    Pool.objects.filter(pk=both.pk).update(facts={**both.facts, "fences": True})
    scene.running.disks.update(pool=both)
    Vm.objects.filter(pk=scene.running.pk).update(state="unknown", known_state="running")
    declared = timezone.now()
    Node.objects.filter(pk=there.pk).update(state="offline", in_maintenance=True, declared_dead=declared)
    return scene.running.pk, {}


def _silent_node(scene: Scene) -> tuple[str, dict[str, Any]]:
    there = second_node(scene)[0]
    Node.objects.filter(pk=there.pk).update(state="offline")
    return there.pk, {"confirm": "n2"}


def returned(scene: Scene) -> tuple[str, dict[str, Any]]:
    """A node that still runs what was started elsewhere meanwhile."""
    there, (_own, both) = second_node(scene)
    vm = scene.running
    vm.disks.update(pool=both)
    for at, name in list(scene.world.objects):
        mine = [vm.pk, *vm.disks.values_list("pk", flat=True), *vm.nics.values_list("pk", flat=True)]
        if any(pk in name for pk in mine):
            scene.world.objects[there.pk, name] = scene.world.objects[at, name]
    nics = {nic.pk: "br0" for nic in vm.nics.all()}
    LeftGuest.objects.create(node=scene.node, vm=vm.pk, uuid=vm.uuid, nics=nics)
    Vm.objects.filter(pk=vm.pk).update(node=there)
    PoolOnNode.objects.filter(node=scene.node, pool=both).update(fenced=["10.99.0.11"])
    closed = {"in_maintenance": True, "declared_dead": timezone.now()}
    Node.objects.filter(pk=scene.node.pk).update(state="maintenance", **closed)
    return scene.node.pk, {}


def _closed(scene: Scene) -> tuple[str, dict[str, Any]]:
    Node.objects.filter(pk=scene.node.pk).update(in_maintenance=True, state="maintenance")
    return scene.node.pk, {}


def _attached_pool(scene: Scene) -> tuple[str, dict[str, Any]]:
    pool = Pool.objects.create(pk="p" * 13, name="old", kind="lvm", identity="vg-uuid", path="vg1", attached=True)
    PoolOnNode.objects.create(pool=pool, node=scene.node)
    scene.world.objects[scene.node.pk, "pool:" + pool.pk] = "attached"
    return pool.pk, {}


def _snapshot(scene: Scene, vm: Vm) -> str:
    snapshot = Snapshot.objects.create(pk="s" * 13, vm=vm, name="before", state="ready")
    for disk in vm.disks.all():
        SnapshotDisk.objects.create(snapshot=snapshot, disk=disk, size_bytes=disk.size_bytes)
        scene.world.objects[scene.node.pk, f"disk:{disk.pk}/{snapshot.pk}"] = "kept"
    Vm.objects.filter(pk=vm.pk).update(snapshot=snapshot)
    return snapshot.pk


def _stored_image(scene: Scene) -> tuple[str, dict[str, Any]]:
    image = _stored(Image, "i" * 13, "debian.qcow2", format="qcow2", virtual_size_bytes=MIB)
    return image, {}


def _stored_iso(scene: Scene) -> tuple[str, dict[str, Any]]:
    return _stored(Iso, "j" * 13, "debian.iso"), {"nodes": [scene.node.pk]}


def _copied_image(scene: Scene) -> tuple[str, dict[str, Any]]:
    image, _params = _stored_image(scene)
    ImageCopy.objects.create(image_id=image, node=scene.node)
    scene.world.objects[scene.node.pk, "file:" + image] = "copy"
    return image, {}


def _copied_iso(scene: Scene) -> tuple[str, dict[str, Any]]:
    iso, _params = _stored_iso(scene)
    IsoCopy.objects.create(iso_id=iso, node=scene.node)
    scene.world.objects[scene.node.pk, "file:" + iso] = "copy"
    return iso, {}


def disk_of_able_node(scene: Scene) -> str:
    """Of which an image can be made and generalised."""
    Node.objects.filter(pk=scene.node.pk).update(checks=[{"code": "guestfs", "level": "ok", "facts": {}}])
    return scene.stopped.disks.all()[0].pk


def _stored(model: Any, pk: str, name: str, **fields: Any) -> str:
    checksum = "sha256:" + "0" * 64
    model.objects.create(pk=pk, name=name, size_bytes=MIB, checksum=checksum, stored=True, **fields)
    return pk


def _deleted_with_snapshot(scene: Scene) -> tuple[str, dict[str, Any]]:
    _snapshot(scene, scene.running)
    return scene.running.pk, {"disks": True}


def _grown_by_hand(scene: Scene) -> tuple[str, dict[str, Any]]:
    disk = scene.running.disks.all()[0]
    Disk.objects.filter(pk=disk.pk).update(drift={"size_bytes": 3 * GIB})
    scene.world.objects[scene.node.pk, "disk:" + disk.pk] = f"disk {3 * GIB}"
    return disk.pk, {}


def changed_by_hand(scene: Scene, vm: Vm, **changes: Any) -> str:
    """Its definition on the node says otherwise, and the panel has noted that."""
    here = domain_drift.expected([vm.pk])[vm.pk]
    seen = here.model_copy(update=changes)
    Vm.objects.filter(pk=vm.pk).update(drift=domain_drift.differences(here, seen))
    scene.world.outlines[vm.node_id, "domain:" + vm.pk] = seen.model_dump(mode="json")
    return vm.pk


def claimed(scene: Scene, here: str = "shutoff", there: str = "running") -> tuple[str, dict[str, Any]]:
    """The VM that is off here is shown by a second node, too, with its disks, which both see."""
    node, pools = second_node(scene)
    vm, world = scene.stopped, scene.world
    vm.disks.filter(device="disk").update(pool=pools[1])
    Vm.objects.filter(pk=vm.pk).update(claims={node.pk: there})
    world.objects[scene.node.pk, "domain:" + vm.pk] = here
    world.objects[node.pk, "domain:" + vm.pk] = there
    outline = domain_drift.expected([vm.pk])[vm.pk]
    world.outlines[node.pk, "domain:" + vm.pk] = outline.model_dump(mode="json")
    return vm.pk, {"node": node.pk}


def stranger(scene: Scene) -> tuple[str, dict[str, Any]]:
    """The VM that runs has no row any more: the panel was put back from a backup that is older than it."""
    vm = scene.running
    networks = dict(vm.nics.values_list("mac", "network"))
    outline = domain_drift.expected([vm.pk])[vm.pk].model_dump(mode="json")
    shown = {"name": vm.domain_name, "state": "running", "vm": vm.pk, "outline": outline}
    Node.objects.filter(pk=scene.node.pk).update(
        strangers={vm.uuid: shown}, memory_allocated_bytes=F("memory_allocated_bytes") - vm.memory_bytes
    )
    scene.world.outlines[scene.node.pk, "domain:" + vm.pk] = outline
    Vm.objects.filter(pk=vm.pk).update(snapshot=None)
    Disk.objects.filter(vm=vm).delete()
    Vm.objects.filter(pk=vm.pk).delete()
    return scene.node.pk, {"uuid": vm.uuid, "networks": networks}


def made_by_hand(scene: Scene) -> tuple[str, dict[str, Any]]:
    """A domain that is off, of which nothing is the panel's but the pool in which its volume lies."""
    node, uuid = scene.node.pk, "77777777-2222-3333-4444-555555555555"
    disk = SeenDisk(name="vda", place=f"{SCENE_POOL}/theirs.qcow2", bus="virtio", format="qcow2", size_bytes=GIB)
    nic = SeenNic(mac="52:54:00:77:00:01", bridge="br0", model="e1000", tap="vnet3")
    has = {"vcpus": 1, "vcpus_current": 1, "memory_bytes": 128 * MIB, "memory_current_bytes": 128 * MIB}
    outline = Outline(**has, disks=(disk,), nics=(nic,)).model_dump(mode="json")
    shown = {"name": "Their web", "state": "shutoff", "vm": None, "outline": outline}
    Node.objects.filter(pk=node).update(strangers={uuid: shown})
    _strange_volume(scene)
    scene.world.objects[node, "foreign:Their web"] = "shutoff"
    scene.world.outlines[node, "foreign:Their web"] = outline
    return node, {"uuid": uuid, "name": "new", "networks": {nic.mac: scene.network.pk}}


def _strange_volume(scene: Scene) -> tuple[str, dict[str, Any]]:
    strangers = [{"name": "theirs.qcow2", "format": "qcow2", "size_bytes": GIB}]
    PoolOnNode.objects.filter(pool=scene.pool).update(strangers=strangers)
    scene.world.objects[scene.node.pk, "volume:theirs.qcow2"] = "disk"
    return scene.pool.pk, {"name": "theirs.qcow2"}


SCENARIOS: dict[str, Callable[[Scene], tuple[str | None, dict[str, Any]]]] = {
    "vm.create": _create,
    "vm.start": lambda s: (s.stopped.pk, {}),
    "vm.shutdown": lambda s: (s.running.pk, {}),
    "vm.stop": lambda s: (s.running.pk, {}),
    "vm.suspend": lambda s: (s.running.pk, {}),
    "vm.resume": _paused,
    "vm.reboot": lambda s: (s.running.pk, {}),
    "vm.reset": lambda s: (s.running.pk, {}),
    "vm.migrate": moving,
    "vm.forecast": moving,
    "balance.apply": uneven,
    "balance.undo": lambda s: (balanced(s).pk, {}),
    "vm.reapply": lambda s: (changed_by_hand(s, s.running, vcpus=2), {}),
    "vm.adopt_claim": claimed,
    "vm.adopt": lambda s: (changed_by_hand(s, s.running, vcpus=2, vcpus_current=2), {}),
    "vm.delete": _deleted_with_snapshot,
    "vm.snapshot": lambda s: (s.running.pk, {"name": "before"}),
    "snapshot.delete": lambda s: (_snapshot(s, s.running), {}),
    "snapshot.revert": lambda s: (_snapshot(s, s.running), {"stop": True}),
    "vm.iso": lambda s: (s.running.pk, {"iso": _iso(s)}),
    "disk.create": lambda s: (None, {"vm": s.running.pk, "size_bytes": GIB}),
    "disk.attach": lambda s: (loose_disk(s), {"vm": s.running.pk}),
    "disk.detach": lambda s: (s.running.disks.get(position=1).pk, {}),
    "disk.delete": lambda s: (loose_disk(s), {}),
    "vm.clone": lambda s: (s.stopped.pk, {"name": "new"}),
    "vm.backup": lambda s: (s.running.pk, {}),
    "backup.restore": lambda s: (backup_of(s, s.stopped), {"name": "new", "start": True}),
    "backup.delete": lambda s: (backup_of(s, s.stopped), {}),
    "disk.change": lambda s: (
        s.stopped.disks.all()[1].pk,
        {"title": "data", "bus": "sata", "cache": "writeback", "boot_first": True},
    ),
    "disk.move": lambda s: (s.running.disks.get(position=1).pk, {"pool": second_pool(s).pk}),
    "disk.adopt": _grown_by_hand,
    "disk.flatten": lambda s: (linked_clone(s), {}),
    "disk.import": _strange_volume,
    "disk.resize": lambda s: (s.running.disks.all()[0].pk, {"size_bytes": 2 * GIB}),
    "pool.add": lambda s: (None, {"name": "fast", "kind": "lvm", "nodes": [s.node.pk], "path": "vg0"}),
    "pool.remove": _attached_pool,
    "image.distribute": _stored_image,
    "image.delete": _copied_image,
    "iso.distribute": _stored_iso,
    "iso.delete": _copied_iso,
    "node.maintenance": lambda s: (s.node.pk, {}),
    "node.adopt_domain": made_by_hand,
    "node.evacuate": lambda s: (second_node(s)[0].pk, {}),
    "node.put_back": _closed,
    "node.declare_dead": _silent_node,
    "node.take_back": returned,
    "node.self_fencing": lambda s: (s.node.pk, {}),
    "vm.restart_elsewhere": on_dead_node,
    "image.download": lambda s: (None, {"url": "https://example.org/new.qcow2"}),
    "iso.download": lambda s: (None, {"url": "http://example.org/a?b", "name": "new.iso", "node": s.node.pk}),
    "disk.image": lambda s: (disk_of_able_node(s), {"name": "new"}),
    "node.inspect": lambda s: (s.node.pk, {}),
    "node.remove": _empty_node,
    "demo.wait": lambda s: (s.node.pk, {}),
}
