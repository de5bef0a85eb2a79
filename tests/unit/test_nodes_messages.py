"""Messages only grow: what an earlier version wrote, as a golden JSON of each, is read back by every later one.

A new message, or a new optional field, gets a new golden file; an old file is never edited.
``ULEI_GOLDEN=write`` writes the missing ones.
"""

import json
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from nodes.contract import messages as m
from nodes.contract.errors import ErrorInfo
from nodes.contract.specs import (
    BackupDisk,
    BlockSource,
    Check,
    DiskSpec,
    DomainDisk,
    DomainFacts,
    DomainSpec,
    FileFacts,
    FileSource,
    HostCpu,
    LeaseFacts,
    MovedDisk,
    NicSpec,
    NodeFacts,
    Outline,
    Platform,
    PoolFacts,
    PoolOffer,
    PoolSpec,
    RbdSource,
    SeenDisk,
    SeenNic,
    Stranger,
    VolumeSpec,
    VolumesSeen,
)

GOLDEN = Path(__file__).parent / "golden" / "messages"
VM, UUID = "v" * 13, "11111111-2222-3333-4444-555555555555"
POOL = PoolSpec(id="p" * 13, kind="directory", identity="6f0c", path="/var/lib/libvirt/images")
STRIPED = PoolSpec(id="q" * 13, kind="lvm", identity="vg-uuid", path="vg0", stripes=2)
THIN = PoolSpec(id="r" * 13, kind="lvmthin", identity="vg-uuid/lv-uuid", path="vg0/thin")
CEPH = PoolSpec(id="p" * 13, kind="rbd", identity="fsid/3", path="rbd", monitors=("10.0.0.1:6789",), user="ulei")
NIC = NicSpec(
    id="n" * 13,
    bridge="br0",
    mac="52:54:00:00:00:01",
    address="10.0.0.2",
    prefix_length=24,
    gateway="10.0.0.1",
    nameservers=("10.0.0.1",),
)
DISK = DiskSpec(
    id="d" * 13, pool=POOL, format="qcow2", size_bytes=1 << 30, backing=POOL.path + "/a.qcow2", backing_format="qcow2"
)
DOMAIN = DomainSpec(
    id=VM,
    uuid=UUID,
    name="web",
    title="Веб",
    vcpus=2,
    memory_bytes=1 << 30,
    disks=(
        DomainDisk(id="d" * 13, bus="virtio", pool=POOL, format="qcow2", boot_order=2),
        DomainDisk(id="c" * 13, device="cdrom", bus="ide", iso="install.iso", boot_order=1),
    ),
    nics=(NIC,),
)
ONE_DOMAIN = {"vm": VM, "uuid": UUID}
ONE_FILE = {"id": "f" * 13, "kind": "image", "name": "debian 12.qcow2"}

MOVED = (
    MovedDisk(id="d" * 13, source=FileSource(path="/pool/d.qcow2", direct_io=False), format="qcow2", copied=True),
    MovedDisk(id="e" * 13, source=BlockSource(path="/dev/vg0/e"), cache="none"),
    MovedDisk(id="f" * 13, source=RbdSource(name="rbd/f", monitors=("10.0.0.1:6789",), user="ulei", secret_uuid=UUID)),
    MovedDisk(id="c" * 13),
)

BODIES: dict[str, m.Message] = {
    "disk.create": m.DiskCreate(disk=DISK),
    "disk.delete": m.DiskDelete(id="d" * 13, pool=POOL, format="qcow2"),
    "disk.rename": m.DiskRename(id="d" * 13, pool=POOL, format="qcow2", new="e" * 13),
    "disk.look": m.DiskLook(id="d" * 13, pool=POOL, format="qcow2"),
    "disk.unused": m.DiskUnused(id="d" * 13, pool=CEPH, format="raw"),
    "disk.take": m.DiskTake(id="d" * 13, pool=POOL, format="qcow2", name="their web.qcow2"),
    "disk.give_back": m.DiskGiveBack(id="d" * 13, pool=STRIPED, format="raw", name="their-web"),
    "disk.resize": m.DiskResize(id="d" * 13, pool=THIN, format="raw", size_bytes=2 << 30),
    "disk.clone": m.DiskClone(
        disk=DiskSpec(id="e" * 13, pool=THIN, format="raw", size_bytes=1 << 30),
        source=VolumeSpec(id="d" * 13, pool=THIN, format="raw"),
        snapshot="s" * 13,
        linked=True,
    ),
    "disk.flatten": m.DiskFlatten(id="d" * 13, pool=CEPH, format="raw"),
    "disk.snapshot": m.DiskSnapshot(id="d" * 13, pool=STRIPED, format="raw", snapshot="s" * 13, room_bytes=1 << 28),
    "disk.snapshot_delete": m.DiskSnapshotDelete(id="d" * 13, pool=POOL, format="qcow2", snapshot="s" * 13),
    "disk.revert": m.DiskRevert(id="d" * 13, pool=POOL, format="qcow2", snapshot="s" * 13),
    "disk.fence": m.DiskFence(
        id="d" * 13, pool=CEPH, format="raw", node="b" * 13, addresses=("10.99.0.12", "fd00::12")
    ),
    "pool.attach": m.PoolAttach(pool=CEPH, key="c2VjcmV0"),
    "pool.find": m.PoolFind(pool=CEPH, name="their-web"),
    "pool.detach": m.PoolDetach(id="p" * 13),
    "pool.unfence": m.PoolUnfence(pool=CEPH, node="b" * 13, addresses=("10.99.0.12",)),
    "file.fetch": m.FileFetch(
        **ONE_FILE,
        url="https://10.99.0.1:8101/api/v1/files/f/",
        token="t:1:s",
        size_bytes=1 << 30,
        checksum="sha256:" + "0" * 64,
    ),
    "file.download": m.FileDownload(
        **ONE_FILE,
        url="https://example.org/debian.iso?key=x",
        checksum="sha256:" + "0" * 64,
        most_bytes=1 << 36,
        networks=("10.1.0.0/16", "fd00::/8"),
    ),
    "file.make": m.FileMake(**ONE_FILE, source=VolumeSpec(id="d" * 13, pool=THIN, format="raw"), generalise=True),
    "file.send": m.FileSend(
        **ONE_FILE,
        url="https://10.99.0.1:8101/api/v1/files/f/",
        token="t:1:s",
        size_bytes=1 << 30,
        checksum="sha256:" + "0" * 64,
    ),
    "file.delete": m.FileDelete(**ONE_FILE),
    "file.look": m.FileLook(**ONE_FILE),
    "nic.plug": m.NicPlug(nic=NIC),
    "nic.unplug": m.NicUnplug(id="n" * 13, bridge="br0"),
    "domain.define": m.DomainDefine(domain=DOMAIN),
    "domain.undefine": m.DomainUndefine(**ONE_DOMAIN),
    "domain.start": m.DomainStart(**ONE_DOMAIN, paused=True),
    "domain.shutdown": m.DomainShutdown(**ONE_DOMAIN, timeout_s=30),
    "domain.stop": m.DomainStop(**ONE_DOMAIN),
    "domain.suspend": m.DomainSuspend(**ONE_DOMAIN),
    "domain.resume": m.DomainResume(**ONE_DOMAIN),
    "domain.reboot": m.DomainReboot(**ONE_DOMAIN),
    "domain.reset": m.DomainReset(**ONE_DOMAIN),
    "domain.plug": m.DomainPlug(**ONE_DOMAIN, disk=DOMAIN.disks[0].model_copy(update={"cache": "writeback"})),
    "domain.unplug": m.DomainUnplug(**ONE_DOMAIN, disk="d" * 13, timeout_s=5),
    "domain.medium": m.DomainMedium(**ONE_DOMAIN, disk=DOMAIN.disks[1]),
    "domain.backup": m.DomainBackup(
        **ONE_DOMAIN,
        disks=(BackupDisk(disk="d" * 13, target=VolumeSpec(id="e" * 13, pool=POOL, format="qcow2")),),
    ),
    "domain.mirror": m.DomainMirror(
        **ONE_DOMAIN, disk="d" * 13, target=VolumeSpec(id="d" * 13, pool=CEPH, format="raw")
    ),
    "domain.pivot": m.DomainPivot(
        **ONE_DOMAIN, disk="d" * 13, target=VolumeSpec(id="d" * 13, pool=STRIPED, format="raw")
    ),
    "domain.freeze": m.DomainFreeze(**ONE_DOMAIN, required=True),
    "domain.thaw": m.DomainThaw(**ONE_DOMAIN),
    "domain.save": m.DomainSave(**ONE_DOMAIN, snapshot="s" * 13, disks=("d" * 13, "e" * 13)),
    "domain.load": m.DomainLoad(**ONE_DOMAIN, snapshot="s" * 13, disks=("d" * 13,)),
    "domain.expect": m.DomainExpect(domain=DOMAIN, source_address="10.99.0.11"),
    "domain.dismiss": m.DomainDismiss(**ONE_DOMAIN),
    "domain.move": m.DomainMove(
        **ONE_DOMAIN,
        target="n2",
        target_address="10.99.0.12",
        disks=MOVED,
        bandwidth_bytes=1 << 20,
        max_pause_ms=300,
        auto_converge=True,
        compressed=True,
        post_copy=True,
        time_limit_s=600,
        on_time_limit="force",
    ),
    "domain.keep": m.DomainKeep(**ONE_DOMAIN, paused=True),
    "domain.adopt": m.DomainAdopt(domain=DOMAIN, state="shutoff"),
    "domain.take": m.DomainTake(domain=DOMAIN, name="Their web"),
    "domain.give_back": m.DomainGiveBack(**ONE_DOMAIN, name="Their web"),
    "domain.leave": m.DomainLeave(**ONE_DOMAIN),
    "domain.read": m.DomainRead(**ONE_DOMAIN),
    "domain.look": m.DomainLook(**ONE_DOMAIN),
    "domain.measure": m.DomainMeasure(**ONE_DOMAIN, disks=("d" * 13,)),
    "domain.open_path": m.PathOpen(**ONE_DOMAIN, source_address="10.99.0.11"),
    "domain.measure_path": m.PathMeasure(**ONE_DOMAIN, target="n2", target_address="10.99.0.12", port=49215),
    "node.inspect": m.NodeInspect(),
    "node.self_fencing": m.NodeSelfFencing(after_s=60),
    "demo.mark": m.DemoMark(id="m" * 13),
    "demo.unmark": m.DemoUnmark(id="m" * 13),
}

SEEN = {"incarnation": 3, "counter": 7}
NODE = NodeFacts(
    hostname="n1",
    cpus=2,
    memory_bytes=1 << 34,
    cpu_model="EPYC",
    virt_type="qemu",
    virt_reason="no /dev/kvm",
    libvirt_version="9.0.0",
    qemu_version="7.2.22",
    host_uuid=UUID,
    bridges=("br0",),
)
PLATFORM = Platform(
    cpu=HostCpu(vendor="AMD", model="EPYC", features=("aes", "avx")),
    machine="pc-i440fx-7.2",
    machines=("pc-i440fx-7.2", "pc-q35-7.2"),
)
SEEN_DOMAIN = DomainFacts(uuid=UUID, name="web." + VM, state="running", vm=VM, cpu_time_ns=1, memory_bytes=1 << 30)
LEASE = LeaseFacts(nic="n" * 13, bridge="br0", address="10.99.0.100")
FILE = FileFacts(name="a.qcow2", format="qcow2", size_bytes=1, virtual_size_bytes=2, modified=3.5)
FAILURE = ErrorInfo(code="no_room", cause="full", hint="another pool", facts={"free": 1})
PLACE = {"object": "disk:" + "d" * 13, "dispatch": 4, "job": "j", "step": "s"}
FACTS = PoolFacts(
    kind="directory", identity="6f0c", path=POOL.path, capacity_bytes=9, free_bytes=8, granules={"qcow2": 65536}
)

THIN_FACTS = PoolFacts(
    kind="lvmthin",
    identity=THIN.identity,
    path=THIN.path,
    capacity_bytes=9,
    free_bytes=8,
    granules={"raw": 4 << 20},
    shared=False,
    snapshots=True,
    snapshot_formats=("raw",),
    snapshots_online=True,
    clones=("full", "linked"),
    extent_bytes=4 << 20,
    extents_total=10,
    extents_free=5,
    stripes=1,
    chunk_bytes=1 << 16,
    data_percent=12.5,
    metadata_percent=1.5,
    problem="command_timeout",
)
OUTLINE = Outline(
    title="Веб",
    vcpus=2,
    vcpus_current=1,
    memory_bytes=1 << 28,
    memory_current_bytes=1 << 27,
    autostart=True,
    persistent=False,
    disks=(
        SeenDisk(
            name="vda",
            device="disk",
            id="d" * 13,
            place=f"{POOL.path}/{'d' * 13}.qcow2",
            bus="virtio",
            format="qcow2",
            boot_order=1,
            size_bytes=1 << 30,
        ),
    ),
    nics=(SeenNic(mac="52:54:00:00:00:01", bridge="br0", model="virtio", tap="ul" + "n" * 13),),
)
OFFER = PoolOffer(
    kind="lvm",
    path="vg0",
    identity="vg-uuid",
    capacity_bytes=9,
    free_bytes=8,
    extent_bytes=4 << 20,
    extents_total=10,
    extents_free=5,
    most_stripes=2,
)

LATER: dict[str, m.Message] = {
    "domain.start-for-now": m.DomainStart(**ONE_DOMAIN, paused=True, for_now=True),
    "domain.backup-quiesced": m.DomainBackup(**ONE_DOMAIN, quiesce="required"),
    "disk.take-of-a-domain": m.DiskTake(id="d" * 13, pool=POOL, format="qcow2", name="their web.qcow2", user=UUID),
    "pool.find-of-a-domain": m.PoolFind(pool=CEPH, name="their-web", user=UUID),
    "domain.read-of-theirs": m.DomainRead(**ONE_DOMAIN, name="Their web"),
}
"""Fields that a verb got after its first golden file was written."""

OTHERS = {
    "envelope": m.Envelope(**PLACE, verb="demo.mark", phase="do", attempt=1, body={"id": "m" * 13}),
    "cancel": m.Cancel(**PLACE),
    "welcome": m.Welcome(incarnation=3, raises={"domain:" + VM: 5}, placed=(UUID,), pools=(POOL,)),
    "welcome-of-one-that-fences-itself": m.Welcome(incarnation=3, self_fencing_after_s=60),
    "entry.reply": m.Reply(
        **SEEN, **PLACE, verb="disk.create", phase="undo", attempt=2, outcome="failed", result={}, error=FAILURE
    ),
    "entry.progress": m.Progress(**SEEN, **PLACE, percent=40),
    "entry.progress-of-a-move": m.Progress(**SEEN, **PLACE, percent=40, facts={"speed_bytes": 1 << 20}),
    "entry.hello-with-a-platform": m.Hello(
        **SEEN, protocol=1, version="0.1.0", verbs={}, facts=NODE.model_copy(update={"platform": PLATFORM})
    ),
    "entry.hello": m.Hello(**SEEN, protocol=1, version="0.1.0", verbs={"demo.mark": ("id",)}, facts=NODE),
    "entry.heartbeat": m.Heartbeat(**SEEN, load_1m=0.5, memory_available_bytes=1, wall_clock=2.5, libvirt_ok=False),
    "entry.inventory": m.Inventory(
        **SEEN,
        facts=NODE,
        checks=(Check(code="kvm", level="warning", facts={"type": "qemu"}),),
        domains=(SEEN_DOMAIN,),
        pools=(FACTS,),
        images=(FILE,),
        isos=(),
    ),
    "entry.inventory-storage": m.Inventory(
        **SEEN, facts=NODE, checks=(), domains=(), pools=(THIN_FACTS,), offers=(OFFER,), images=(), isos=()
    ),
    "entry.inventory-library": m.Inventory(
        **SEEN,
        facts=NODE,
        checks=(),
        domains=(),
        pools=(),
        images=(),
        isos=(FILE.model_copy(update={"mark": "f" * 13}),),
    ),
    "entry.inventory-leases": m.Inventory(
        **SEEN, facts=NODE, checks=(), domains=(), pools=(), images=(), isos=(), leases=(LEASE,)
    ),
    "entry.inventory-volumes": m.Inventory(
        **SEEN,
        facts=NODE,
        checks=(),
        domains=(),
        pools=(),
        images=(),
        isos=(),
        volumes=VolumesSeen(counter=6, sizes={"6f0c": {"d" * 13: 1 << 30}}),
    ),
    "entry.inventory-strangers": m.Inventory(
        **SEEN,
        facts=NODE,
        checks=(),
        domains=(),
        pools=(),
        images=(),
        isos=(),
        volumes=VolumesSeen(
            counter=6, sizes={}, strangers={"6f0c": (Stranger(name="a.raw", format="raw", size_bytes=512),)}
        ),
    ),
    "entry.domains": m.DomainChanged(**SEEN, domains=(SEEN_DOMAIN,)),
    "entry.domains-of-theirs": m.DomainChanged(
        **SEEN,
        domains=(
            SEEN_DOMAIN.model_copy(
                update={
                    "outline": OUTLINE.model_copy(
                        update={
                            "beyond": ("firmware",),
                            "disks": (SeenDisk(name="vda", place="rbd/theirs", hosts=("10.0.0.1",)),),
                        }
                    )
                }
            ),
        ),
    ),
    "entry.domains-outline": m.DomainChanged(**SEEN, domains=(SEEN_DOMAIN.model_copy(update={"outline": OUTLINE}),)),
    "enrol.request": m.EnrolRequest(
        token="t",
        certificate_request_pem="c",
        redis_password_sha256="a" * 64,
        version="0.1.0",
        hostname="h",
        host_uuid=UUID,
    ),
    "enrol.answer": m.EnrolAnswer(
        node="a" * 13,
        name="n1",
        certificate_pem="c",
        ca_pem="a",
        redis_host="10.0.0.1",
        redis_port=6379,
        peers={"n1": "10.0.0.2"},
    ),
}


def golden(name, value):
    file = GOLDEN / f"{name}.json"
    if not file.exists() and os.environ.get("ULEI_GOLDEN") == "write":
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(value.model_dump(mode="json"), ensure_ascii=False, indent=1) + "\n")
    return file.read_text()


def test_every_verb_has_its_golden_file():
    assert BODIES.keys() == m.VERBS.keys()


@pytest.mark.parametrize("verb", BODIES)
def test_a_verb_is_read_back(verb):
    assert m.VERBS[verb].model_validate_json(golden(verb, BODIES[verb])) == BODIES[verb]


@pytest.mark.parametrize("name", LATER)
def test_a_later_field_of_a_verb_is_read_back(name):
    assert type(LATER[name]).model_validate_json(golden(name, LATER[name])) == LATER[name]


@pytest.mark.parametrize("name", OTHERS)
def test_what_else_travels_is_read_back(name):
    raw = golden(name, OTHERS[name])
    read = m.read_entry(raw) if name.startswith("entry.") else type(OTHERS[name]).model_validate_json(raw)
    assert read == OTHERS[name]


@pytest.mark.parametrize("verb", BODIES)
def test_a_field_that_an_agent_does_not_know_is_refused_by_it(verb):
    body = {**m.body_of(BODIES[verb]), "invented_later": 1}
    with pytest.raises(ValidationError):
        m.VERBS[verb].model_validate(body)


def test_a_field_that_a_panel_does_not_know_is_ignored_by_it():
    assert m.DomainWhereabouts.model_validate({"state": "running", "invented_later": 1}).state == "running"


@pytest.mark.parametrize("verb", BODIES)
def test_what_was_not_said_does_not_travel(verb):
    """An older agent is not asked what it cannot know."""
    told = m.body_of(BODIES[verb])
    assert told.keys() == BODIES[verb].model_fields_set


def test_a_message_names_one_object():
    assert {verb: body.object.partition(":")[0] for verb, body in BODIES.items()} == {
        verb: verb.partition(".")[0] for verb in BODIES
    }
