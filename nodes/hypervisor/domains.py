"""Thin calls about domains."""

import base64
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu
from lxml import etree
from lxml.builder import E  # type: ignore[import-not-found]  # its stubs leave the builder out

from nodes import domain_xml
from nodes.contract.errors import NodeError
from nodes.contract.messages import DomainWhereabouts
from nodes.contract.specs import DomainFacts, DomainState, HostCpu, Outline, Platform
from nodes.domain_xml import GUEST_AGENT, place_in
from nodes.hypervisor.connections import LifecycleEvent
from nodes.hypervisor.migration import Migrating
from nodes.hypervisor.outlines import Outlines
from nodes.names import vm_of
from nodes.shell import Cancellation, Cancelled

COPY_LOOK_S = 0.5
DEFINITIONS_FOLDER = Path("/etc/libvirt/qemu")
"""Has ``<domain>.xml`` of each domain that is defined, and ``autostart/<domain>.xml``. Source: libvirt, qemu_conf.c."""
JOB_LOOK_S = 0.1
_JOB = "ulei-"
STATE_FOLDER = Path("/run/libvirt/qemu")
"""Has ``<domain>.pid`` of each QEMU, and ``<domain>.xml``, its status. Source: libvirt, qemu_conf.c, qemu_process.c."""

WHOLE_CPU = libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES | libvirt.VIR_CONNECT_BASELINE_CPU_MIGRATABLE

POST_COPY = (libvirt.VIR_DOMAIN_PAUSED_POSTCOPY, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED)

STATES: dict[int, DomainState] = {
    libvirt.VIR_DOMAIN_NOSTATE: "running",
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "running",
    libvirt.VIR_DOMAIN_SHUTOFF: "shutoff",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "paused",
}


@dataclass(frozen=True)
class Domain:
    """A domain as libvirt shows it: what we need of it before we touch it."""

    uuid: str
    name: str
    state: DomainState
    active: bool
    defined: bool
    shut_itself_down: bool
    """Off because the guest wanted it, says libvirtd; it forgets the reason when it restarts."""

    @property
    def vm(self) -> str | None:
        """The VM's id; None: the domain is not ours."""
        return vm_of(self.name)


@dataclass(frozen=True)
class Attached:
    """A disk of a domain that is active."""

    uuid: str
    name: str
    device: str
    """As libvirt names it: ``vda``."""


@dataclass(frozen=True)
class Mirror:
    """The volume into which a disk is copied while its guest runs."""

    place: str
    ready: bool
    """It has what the disk has, and gets each further write."""


@dataclass(frozen=True)
class Devices:
    """The disks of a domain as it is now; while it runs they may be others than its definition has."""

    disks: dict[str, str]
    """id of a disk of ours -> its XML."""
    disk_names: dict[str, str]
    """id of a disk of ours -> ``vda``."""
    places: dict[str, str]
    """id of a disk of ours -> where it is (:func:`nodes.domain_xml.place_in`)."""
    mirrors: dict[str, Mirror]
    """id of a disk of ours -> where it is copied."""
    names: frozenset[str]
    """Also those of CD-ROM drives."""
    drive: str | None
    """The first CD-ROM drive's name."""


class Hypervisor(Migrating):
    """What the node's libvirtd is asked, and asked to do."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._outlines = Outlines(None if self.simulated else DEFINITIONS_FOLDER)

    # --- reading ------------------------------------------------------------------------------------------

    def find(self, *, uuid: str | None = None, name: str | None = None) -> Domain | None:
        with self._call() as connection:
            domain = _lookup(connection, uuid, name)
            return describe(domain) if domain else None

    def whereabouts(self, uuid: str) -> DomainWhereabouts:
        with self._call() as connection:
            domain = _lookup(connection, uuid, None)
            if domain is None:
                return DomainWhereabouts(state="absent")
            code, reason = domain.state()
            active = bool(domain.isActive())
            job, incoming = _job(domain) if active else (False, False)
            paused_by_migration = code == libvirt.VIR_DOMAIN_PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_MIGRATION
            return DomainWhereabouts(
                state="incoming" if incoming else STATES[code],
                job_active=job,
                paused_by_migration=paused_by_migration and not incoming,
                post_copy=code == libvirt.VIR_DOMAIN_PAUSED and reason in POST_COPY,
                defined=bool(domain.isPersistent()),
            )

    def may_be_moving(self, uuid: str) -> bool:
        """Whether a migration of this domain may not have ended; never waits for a QEMU that hangs.

        libvirt tells of an incoming migration only by the domain's job, and for that it waits until its present call
        into QEMU has returned. A QEMU that was not started with ``-incoming``, or that there is not, needs no such
        question.
        """
        with self._call() as connection:
            domain = _lookup(connection, uuid, None)
            if domain is None or not domain.isActive():
                return False
            if domain.state() == [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION]:
                return True
            if self.simulated or not _may_take_a_migration(domain.name(), uuid):
                return False
        return self.whereabouts(uuid).state == "incoming"

    def domains(self) -> list[DomainFacts]:
        """Every domain of this node, ours or not."""
        wanted = libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_CPU_TOTAL | libvirt.VIR_DOMAIN_STATS_BALLOON
        # Of a guest whose QEMU hangs, less is told: waiting for it would hold up what is told of all the others.
        flags = 0 if self.simulated else libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        with self._query() as connection:
            found = connection.getAllDomainStats(wanted, flags)
            self._outlines.keep({domain.UUIDString() for domain, _stats in found})
            return [_facts(domain, stats, self._outlines.of(domain)) for domain, stats in found]

    def facts_of(self, events: list[LifecycleEvent]) -> list[DomainFacts]:
        """The present state of the domains that events named."""
        with self._query() as connection:
            return [self._state_of(connection, event) for event in events]

    def _state_of(self, connection: Any, event: LifecycleEvent) -> DomainFacts:
        domain, vm = _lookup(connection, event.uuid, None), vm_of(event.name)
        if domain is None:
            self._outlines.forget(event.uuid)
            return DomainFacts(uuid=event.uuid, name=event.name, state="absent", vm=vm)
        code, reason = domain.state()
        outline = self._outlines.of(domain, anew=True) if event.definition else None
        about = {"reason": _reason(code, reason), "outline": outline}
        return DomainFacts(uuid=event.uuid, name=event.name, state=state_told(code, reason), vm=vm, **about)

    def redefined(self) -> list[LifecycleEvent]:
        """Domains whose definitions were written since they were read: libvirt tells of few of the ways to do that."""
        return [LifecycleEvent(uuid, name, definition=True) for uuid, name in self._outlines.outdated()]

    def outline(self, uuid: str) -> Outline | None:
        """What the definition of a domain says now; None: there is no such domain."""
        with self._call() as connection:
            domain = _lookup(connection, uuid, None)
            return Outlines(None).of(domain) if domain else None

    def all_domains(self) -> list[Domain]:
        with self._query() as connection:
            return [describe(domain) for domain in connection.listAllDomains()]

    def definitions(self) -> list[tuple[str, str]]:
        """(name, XML) of every domain: what it is now, and what it would be after its next start."""
        with self._call() as connection:
            found = []
            for domain in connection.listAllDomains():
                found.append((domain.name(), domain.XMLDesc()))
                if domain.isActive() and domain.isPersistent():
                    found.append((domain.name(), domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)))
            return found

    def definition(self, uuid: str) -> tuple[str, bool]:
        """(what a domain is from its next start on, with what libvirt shows nobody; whether libvirt starts it)"""
        with self._on(uuid) as domain:
            xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
            return str(xml), bool(domain.autostart())

    def keeps_state(self, uuid: str) -> bool:
        """Whether libvirt has more of a domain than its definition: snapshots, or the memory with which it starts."""
        with self._on(uuid) as domain:
            return bool(domain.snapshotNum() or domain.hasManagedSaveImage())

    def guest_on(self, disk_id: str) -> Attached | None:
        """The active domain that has this disk of ours; None: no domain that is active here."""
        with self._call() as connection:
            for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
                try:
                    device = _device_of(domain.XMLDesc(), disk_id)
                except libvirt.libvirtError as error:
                    if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                        continue  # it went off since it was listed
                    raise
                if device is not None:
                    return Attached(domain.UUIDString(), domain.name(), device)
        return None

    def disk_files(self, uuid: str) -> list[str]:
        """The files that the definition of a domain has as disks; of one that is not here, none."""
        with self._call() as connection:
            try:
                xml = connection.lookupByUUIDString(uuid).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return []
                raise
            sources = etree.fromstring(xml).iterfind("devices/disk[@device='disk']/source")
            return [file for source in sources if (file := source.get("file"))]

    def guests_without_local_disks(self) -> list[Domain]:
        """Active domains of ours of which every disk is an image of a Ceph cluster."""
        with self._call() as connection:
            found = []
            for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
                if vm_of(domain.name()) is not None and _has_no_local_disk(domain.XMLDesc()):
                    found.append(describe(domain))
            return found

    def devices(self, uuid: str) -> Devices:
        with self._on(uuid) as domain:
            return _devices(domain.XMLDesc())

    def capabilities(self) -> str:
        with self._query() as connection:
            return str(connection.getCapabilities())

    def platform(self, virt_type: str) -> Platform:
        """Source: libvirt.org/formatdomaincaps.html; libvirt-libvirt-host.html, virConnectBaselineHypervisorCPU."""
        with self._call() as connection:
            place = (None, domain_xml.ARCHITECTURE, domain_xml.MACHINE, virt_type)
            said = etree.fromstring(connection.getDomainCapabilities(*place).encode(), _parser())
            guests = etree.fromstring(connection.getCapabilities().encode(), _parser())
            machines = guests.iterfind(f"guest/arch[@name='{domain_xml.ARCHITECTURE}']/machine")
            model = said.find("cpu/mode[@name='host-model'][@supported='yes']")
            cpu = None
            if virt_type == "kvm" and model is not None:
                model.tag = "cpu"
                asked = [etree.tostring(model, encoding="unicode", with_tail=False)]
                cpu = connection.baselineHypervisorCPU(*place, asked, WHOLE_CPU)
        return Platform(
            cpu=None if cpu is None else _host_cpu(cpu),
            machine=said.findtext("machine") or "",
            machines=tuple(sorted({machine.text or "" for machine in machines})),
        )

    def versions(self) -> tuple[str, str]:
        """(libvirt, hypervisor) as ``9.0.0``."""
        with self._query() as connection:
            return _version(connection.getLibVersion()), _version(connection.getVersion())

    # --- changing -----------------------------------------------------------------------------------------

    def define(self, xml: str) -> None:
        with self._call() as connection:
            domain = connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE if not self.simulated else 0)
            # Law 5: it is no part of the definition, and somebody may have set it by hand.
            if domain.autostart():
                domain.setAutostart(0)

    def rename(self, uuid: str, name: str) -> None:
        """Of a domain that is off."""
        with self._on(uuid) as domain:
            domain.rename(name)

    def set_autostart(self, uuid: str) -> None:
        """Only ever of a domain that is none of ours (law 5)."""
        with self._on(uuid) as domain:
            domain.setAutostart(1)

    def undefine(self, uuid: str) -> None:
        # Whatever hangs on a definition goes with it, or libvirt would refuse; firmware variables only where there
        # are any, because the test driver does not know that flag.
        flags = libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        with self._on(uuid) as domain:
            if "<nvram" in domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE):
                flags |= libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
            domain.undefineFlags(flags)

    def create(self, uuid: str, *, paused: bool) -> None:
        """Start a domain that is off. On a failure that is no refusal, its state says what is true."""
        with self._on(uuid) as domain:
            domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED if paused else 0)

    def create_for_move(self, uuid: str) -> None:
        """Start a domain that is off, paused, with a CPU that every node has; its definition stays as it is.

        libvirt keeps a persistent domain's definition for the next start. Source: virdomainobjlist.c
        """
        with self._call() as connection:
            domain = connection.lookupByUUIDString(uuid)
            xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
            connection.createXML(domain_xml.with_common_cpu(xml), libvirt.VIR_DOMAIN_START_PAUSED)

    def press_power_button(self, uuid: str) -> None:
        with self._on(uuid) as domain:
            domain.shutdownFlags(0 if self.simulated else libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)

    def destroy(self, uuid: str) -> None:
        with self._on(uuid) as domain:
            domain.destroy()

    def suspend(self, uuid: str) -> None:
        with self._on(uuid) as domain:
            domain.suspend()

    def resume(self, uuid: str) -> None:
        with self._on(uuid) as domain:
            domain.resume()

    def reboot(self, uuid: str) -> None:
        with self._on(uuid) as domain:
            domain.reboot()

    def reset(self, uuid: str) -> None:
        with self._on(uuid) as domain:
            domain.reset()

    def resize_disk(self, disk: Attached, size_bytes: int) -> None:
        """Let the guest see that its disk has grown; a file is made larger by that."""
        with self._on(disk.uuid) as domain:
            domain.blockResize(disk.device, size_bytes, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)

    def snapshot_disk(self, disk: Attached, name: str) -> None:
        """Let the QEMU that has a qcow2 file open keep its present content in it. Raises ``snapshot_failed``.

        libvirt itself knows such snapshots only together with the guest's memory. Source: QEMU, block-core.json.
        """
        self._change_snapshots("blockdev-snapshot-internal-sync", disk, name)

    def delete_disk_snapshot(self, disk: Attached, name: str) -> None:
        """Raises ``snapshot_failed``."""
        self._change_snapshots("blockdev-snapshot-delete-internal-sync", disk, name)

    def _change_snapshots(self, command: str, disk: Attached, name: str) -> None:
        with self._on(disk.uuid) as domain:
            _monitor(domain, command, device=_block_node(domain, disk.device), name=name)

    def guest_agent_listens(self, uuid: str) -> bool:
        """Something inside the guest that runs has opened the agent's channel."""
        with self._on(uuid) as domain:
            xml = etree.fromstring(domain.XMLDesc(), etree.XMLParser(resolve_entities=False))
        return bool(xml.xpath("devices/channel/target[@name = $name]/@state = 'connected'", name=GUEST_AGENT))

    def freeze(self, uuid: str, timeout_s: int) -> int:
        """Returns how many of the guest's file systems stand still now."""
        with self._on(uuid) as domain:
            domain.agentSetResponseTimeout(timeout_s)
            return int(domain.fsFreeze())

    def thaw(self, uuid: str, timeout_s: int) -> int:
        """Returns how many of them stood still until now."""
        with self._on(uuid) as domain:
            domain.agentSetResponseTimeout(timeout_s)
            return int(domain.fsThaw())

    def save_memory(self, uuid: str, name: str, devices: Sequence[str]) -> None:
        """Let the guest's QEMU keep its memory in the first of these qcow2 files, and each one's content in itself.

        libvirt can do that too, but then would not let the domain move any more. Raises ``snapshot_failed``.
        Source: QEMU, migration.json, snapshot-save.
        """
        with self._on(uuid) as domain:
            if _ended_job(domain, name):
                return  # it was begun by an agent that was killed, and is done
            nodes = [_block_node(domain, device) for device in devices]
            kept = [device for device in devices if name in _kept_in(domain, device)]
            if len(kept) == len(devices) and _kept_in(domain, devices[0])[name]:
                return
            for device in kept:
                _monitor(
                    domain, "blockdev-snapshot-delete-internal-sync", device=_block_node(domain, device), name=name
                )
            _run_job(domain, "snapshot-save", name, nodes)

    def load_memory(self, uuid: str, name: str, devices: Sequence[str]) -> None:
        """Give a guest that was started paused its memory of then. Raises ``snapshot_failed``."""
        with self._on(uuid) as domain:
            _run_job(domain, "snapshot-load", name, [_block_node(domain, device) for device in devices])

    def attach_device(self, uuid: str, xml: str) -> None:
        """Give it to a guest that runs."""
        with self._on(uuid) as domain:
            domain.attachDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def detach_device(self, uuid: str, xml: str) -> None:
        """Ask a guest that runs to let go of it; whether it has is seen by :meth:`keeps_disk`."""
        with self._on(uuid) as domain:
            domain.detachDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def change_medium(self, uuid: str, xml: str) -> None:
        with self._on(uuid) as domain:
            domain.updateDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def begin_backup(self, uuid: str, xml: str) -> None:
        """Let the guest's QEMU copy disks into volumes that are there."""
        with self._on(uuid) as domain:
            domain.backupBegin(xml, None, libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL)

    def end_backup(self, uuid: str) -> None:
        """End one that is under way, if any."""
        with self._on(uuid) as domain:
            if not domain.isActive() or _backup(domain) is None:
                return
            try:
                domain.abortJob()
            except libvirt.libvirtError as error:
                # It may have reached its end in this moment.
                if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID or _backup(domain) is not None:
                    raise

    def await_backup(self, uuid: str, progress: Callable[[int], None], cancellation: Cancellation) -> None:
        """Wait until none is under way. Raises Cancelled, after ending it, and ``backup_failed``."""
        cancellation.wake(self.changed)
        while True:
            try:
                cancellation.check()
            except Cancelled:
                self.end_backup(uuid)
                raise
            with self._on(uuid) as domain:
                percent = _backup(domain) if domain.isActive() else None
                if percent is None:
                    _check_backup(domain)
                    return
            progress(percent)
            with self.changed:
                self.changed.wait(COPY_LOOK_S)

    def begin_mirror(self, uuid: str, device: str, xml: str) -> None:
        """Let the guest's QEMU copy a disk into a volume that is there, and write to both.

        :param device: as libvirt names the disk: ``vda``.
        """
        # The guest's writes go to both at once, so that the copy ends however much the guest writes.
        flags = libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT | libvirt.VIR_DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES
        # libvirt wants to hear that the copying would not be begun again after a start of the guest.
        flags |= libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
        with self._on(uuid) as domain:
            domain.blockCopy(device, xml, None, flags)

    def end_mirror(self, uuid: str, disk_id: str) -> None:
        """End one that is under way, if any: the guest stays where it is."""
        devices = self.devices(uuid)
        if disk_id in devices.mirrors:
            with self._on(uuid) as domain:
                domain.blockJobAbort(devices.disk_names[disk_id], 0)

    def pivot(self, uuid: str, device: str) -> None:
        """The guest leaves the volume that is copied. libvirt writes that into its definition, too."""
        with self._on(uuid) as domain:
            domain.blockJobAbort(device, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)

    def await_mirror(
        self, uuid: str, disk_id: str, progress: Callable[[int], None], cancellation: Cancellation
    ) -> None:
        """Wait until it is ready. Raises Cancelled, after ending it, and ``mirror_failed``."""
        cancellation.wake(self.changed)
        while True:
            try:
                cancellation.check()
            except Cancelled:
                self.end_mirror(uuid, disk_id)
                raise
            with self._on(uuid) as domain:
                devices = _devices(domain.XMLDesc())
                mirror = devices.mirrors.get(disk_id) if domain.isActive() else None
                if mirror is None:
                    why = "the guest went off, the target is full, or somebody ended it"
                    raise NodeError("mirror_failed", f"the copying of disk {disk_id} did not reach its end: {why}")
                if mirror.ready:
                    return
                how_far = domain.blockJobInfo(devices.disk_names[disk_id], 0)
            if how_far:
                progress(how_far["cur"] * 100 // max(1, how_far["end"]))
            with self.changed:
                self.changed.wait(COPY_LOOK_S)

    def keep_secret(self, uuid: str, name: str, key_base64: str) -> None:
        """Give libvirt a Ceph key. Its value can then not be read back from libvirt."""
        if self.simulated:
            return  # libvirt's test driver keeps no secrets
        usage = E.usage(E.name(name), type="ceph")
        xml = etree.tostring(E.secret(E.uuid(uuid), usage, ephemeral="no", private="yes"), encoding="unicode")
        with self._call() as connection:
            connection.secretDefineXML(xml).setValue(base64.b64decode(key_base64))

    @contextmanager
    def _on(self, uuid: str) -> Iterator[Any]:
        with self._call() as connection:
            yield connection.lookupByUUIDString(uuid)

    def keeps_disk(self, uuid: str, disk_id: str, timeout_s: float) -> bool:
        """Wait, by events, until the guest has let go of a disk. Returns whether it still has it in the end."""
        deadline = time.monotonic() + timeout_s
        while True:
            domain = self.find(uuid=uuid)
            if domain is None or not domain.active or disk_id not in self.devices(uuid).disks:
                return False
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return True
            with self.changed:
                # An event between the look above and this wait is missed: look again after a second.
                self.changed.wait(min(left_s, 1.0))

    def wait_until_off(self, uuid: str, timeout_s: float, cancellation: Cancellation) -> bool:
        """Wait by lifecycle events. Returns whether the domain is off or gone. Raises Cancelled."""
        cancellation.wake(self.changed)
        deadline = time.monotonic() + timeout_s
        while True:
            cancellation.check()
            domain = self.find(uuid=uuid)
            if domain is None or not domain.active:
                return True
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            with self.changed:
                # An event between the look above and this wait is missed: look again after a second.
                self.changed.wait(min(left_s, 1.0))


def _parser() -> etree.XMLParser:
    return etree.XMLParser(resolve_entities=False)


def _host_cpu(xml: str) -> HostCpu:
    cpu = etree.fromstring(xml.encode(), _parser())
    features = (str(feature.get("name")) for feature in cpu.iterfind("feature") if feature.get("policy") == "require")
    return HostCpu(
        vendor=cpu.findtext("vendor") or "", model=cpu.findtext("model") or "", features=tuple(sorted(features))
    )


def _devices(xml: str) -> Devices:
    disks: dict[str, str] = {}
    disk_names: dict[str, str] = {}
    places: dict[str, str] = {}
    mirrors: dict[str, Mirror] = {}
    names: set[str] = set()
    drives: list[str] = []
    for disk in etree.fromstring(xml, etree.XMLParser(resolve_entities=False)).iterfind("devices/disk"):
        name = str(disk.xpath("string(target/@dev)"))
        names.add(name)
        if disk.get("device") == "cdrom":
            drives.append(name)
        elif serial := disk.findtext("serial"):
            disks[serial], disk_names[serial] = etree.tostring(disk, encoding="unicode", with_tail=False), name
            places[serial] = place_in(disk.find("source"))
            if (mirror := disk.find("mirror")) is not None:
                mirrors[serial] = Mirror(place_in(mirror.find("source")), mirror.get("ready") == "yes")
    return Devices(disks, disk_names, places, mirrors, frozenset(names), drives[0] if drives else None)


def _backup(domain: Any) -> int | None:
    """How far a backup of the domain is, in per cent; None: none is under way."""
    stats = domain.jobStats()
    under_way = stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) != libvirt.VIR_DOMAIN_JOB_NONE
    if not under_way or stats.get("operation") != libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP:
        return None
    return int(stats.get("disk_processed", 0) * 100 // max(1, stats.get("disk_total", 0)))


def _check_backup(domain: Any) -> None:
    """Raises ``backup_failed`` unless the last job of the domain was a backup that reached its end."""
    stats = domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED) if domain.isActive() else {}
    reached = stats.get("type") == libvirt.VIR_DOMAIN_JOB_COMPLETED
    if not reached or stats.get("operation") != libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP:
        why = stats.get("errmsg") or "the guest went off, or somebody ended it"
        raise NodeError("backup_failed", f"the backup of {domain.name()} did not reach its end: {why}")


def _lookup(connection: Any, uuid: str | None, name: str | None) -> Any:
    try:
        return connection.lookupByUUIDString(uuid) if uuid is not None else connection.lookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _device_of(xml: str, disk_id: str) -> str | None:
    return _devices(xml).disk_names.get(disk_id) if disk_id in xml else None


def _monitor(domain: Any, command: str, **arguments: Any) -> Any:
    said = libvirt_qemu.qemuMonitorCommand(domain, json.dumps({"execute": command, "arguments": arguments}), 0)
    answer = json.loads(said)
    if "error" in answer:
        raise NodeError("snapshot_failed", f"QEMU of {domain.name()}: {command}: {answer['error'].get('desc')}")
    return answer["return"]


def _run_job(domain: Any, command: str, name: str, nodes: Sequence[str]) -> None:
    """Begin one of QEMU's jobs on snapshots, and wait for its end."""
    arguments = {"job-id": _JOB + name, "tag": name, "vmstate": nodes[0], "devices": list(nodes)}
    _monitor(domain, command, **arguments)
    if not _ended_job(domain, name):
        raise NodeError("snapshot_failed", f"QEMU of {domain.name()} has forgotten its {command}")


def _ended_job(domain: Any, name: str) -> bool:
    """Wait for the end of a job on this snapshot. False: there is none. Raises ``snapshot_failed``."""
    while True:
        job = next((job for job in _monitor(domain, "query-jobs") if job["id"] == _JOB + name), None)
        if job is None:
            return False
        if job["status"] == "concluded":
            _monitor(domain, "job-dismiss", id=_JOB + name)
            if "error" in job:
                raise NodeError("snapshot_failed", f"QEMU of {domain.name()}: {job['error']}")
            return True
        time.sleep(JOB_LOOK_S)


def _kept_in(domain: Any, device: str) -> dict[str, int]:
    """Name of each snapshot inside a disk -> bytes of memory that it keeps there."""
    node = _block_node(domain, device)
    drives = (drive.get("inserted", {}) for drive in _monitor(domain, "query-block"))
    image = next(each["image"] for each in drives if each.get("node-name") == node)
    return {each["name"]: each["vm-state-size"] for each in image.get("snapshots", ())}


def _block_node(domain: Any, device: str) -> str:
    """What QEMU calls the disk that libvirt calls ``vda``."""
    xml = etree.fromstring(domain.XMLDesc(), etree.XMLParser(resolve_entities=False))
    alias = xml.xpath("string(devices/disk[target/@dev = $device]/alias/@name)", device=device)
    for drive in _monitor(domain, "query-block"):
        if alias and alias in drive.get("qdev", "").split("/") and "inserted" in drive:
            return str(drive["inserted"]["node-name"])
    raise NodeError("snapshot_failed", f"QEMU of {domain.name()} has no disk {device}")


def _has_no_local_disk(xml: str) -> bool:
    disks = etree.fromstring(xml).findall("devices/disk[@device='disk']")
    return bool(disks) and all(disk.find("source[@protocol='rbd']") is not None for disk in disks)


def describe(domain: Any) -> Domain:
    code, reason = domain.state()
    return Domain(
        uuid=domain.UUIDString(),
        name=domain.name(),
        state=STATES[code],
        active=bool(domain.isActive()),
        defined=bool(domain.isPersistent()),
        shut_itself_down=code == libvirt.VIR_DOMAIN_SHUTOFF and reason == libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN,
    )


def _may_take_a_migration(name: str, uuid: str) -> bool:
    """By its QEMU: whether it was started with ``-incoming``, or is on its way to be.

    A libvirtd that was killed while it started a guest leaves one that runs, says the next libvirtd, without a QEMU.
    """
    try:
        pid = int((STATE_FOLDER / f"{name}.pid").read_text())
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False  # libvirt writes the file before there is a QEMU
    except (OSError, ValueError):
        return True
    if uuid.encode() in arguments:
        return b"-incoming" in arguments
    # The number is somebody else's by now, or libvirtd's own child that is about to become a QEMU.
    return b"libvirtd" in arguments[0]


def _job(domain: Any) -> tuple[bool, bool]:
    """Is a background job active, and is it a migration that comes in?"""
    try:
        stats = domain.jobStats()
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_OPERATION_INVALID):
            return False, False
        raise
    active = stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) != libvirt.VIR_DOMAIN_JOB_NONE
    return active, active and stats.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN


def state_told(code: int, reason: int) -> DomainState:
    """What a report says of libvirt's state. One that libvirt is just starting stands still, but nobody paused it."""
    starting = (code, reason) == (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP)
    return "running" if starting else STATES[code]


def _facts(domain: Any, stats: dict[str, Any], outline: Outline | None) -> DomainFacts:
    memory_kib = stats.get("balloon.current")
    code, reason = stats.get("state.state", libvirt.VIR_DOMAIN_NOSTATE), stats.get("state.reason", 0)
    return DomainFacts(
        uuid=domain.UUIDString(),
        name=domain.name(),
        state=state_told(code, reason),
        vm=vm_of(domain.name()),
        cpu_time_ns=stats.get("cpu.time"),
        memory_bytes=memory_kib * 1024 if memory_kib is not None else None,
        reason=_reason(code, reason),
        outline=outline,
    )


def _reason(code: int, reason: int) -> str:
    paused_by_io = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR)
    return "io_error" if (code, reason) == paused_by_io else ""


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
