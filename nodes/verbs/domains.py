"""Domains: each verb looks, does what is missing, and says where the domain is afterwards."""

import time
from collections.abc import Callable

from nodes import domain_xml, quiesce
from nodes.contract.errors import NodeError
from nodes.contract.faults import point
from nodes.contract.messages import (
    BackedUpDomain,
    DomainBackup,
    DomainDefine,
    DomainFreeze,
    DomainLoad,
    DomainLook,
    DomainMedium,
    DomainMirror,
    DomainPivot,
    DomainPlug,
    DomainRead,
    DomainReboot,
    DomainReset,
    DomainResume,
    DomainSave,
    DomainShutdown,
    DomainStart,
    DomainStop,
    DomainSuspend,
    DomainThaw,
    DomainUndefine,
    DomainUnplug,
    DomainWhereabouts,
    FrozenDomain,
    PluggedDisk,
    ReadDomain,
)
from nodes.contract.specs import DiskSource, DomainDisk, DomainSpec, FileSource
from nodes.drain import CallLost
from nodes.hypervisor import Devices, Domain, Hypervisor
from nodes.ledger import Wanted, WantedChange
from nodes.node import Node, check_off
from nodes.verbs import handles
from nodes.verbs.run import Run

PRESS_AGAIN_S = 10.0


def call_libvirt(verb: str, call: Callable[[], None]) -> None:
    """With the named points at which tests end the agent before and after a call."""
    point("domain.before-call", verb)
    call()
    point("domain.after-call", verb)


@handles(DomainDefine)
def define(node: Node, message: DomainDefine, run: Run) -> DomainWhereabouts:
    spec = message.domain
    node.own_domain(spec.id, spec.uuid)
    namesake = node.hypervisor.find(name=spec.domain_name)
    if namesake is not None and namesake.uuid != spec.uuid:
        raise NodeError("exists_not_ours", f"another domain is named {namesake.name}: it was left untouched")
    xml = definition_of(node, spec)
    call_libvirt(message.verb, lambda: node.hypervisor.define(xml))
    run.wanted = WantedChange(spec.id, defined=wanted_of(spec))
    return node.hypervisor.whereabouts(spec.uuid)


def definition_of(node: Node, spec: DomainSpec) -> str:
    """The XML of a domain on this node."""
    found = ((disk.id, source_of(node, disk)) for disk in spec.disks)
    sources = {disk: source for disk, source in found if source is not None}
    return domain_xml.build(spec, node.virt.type, sources, node.paths.console_log_dir)


def wanted_of(spec: DomainSpec) -> Wanted:
    """Law 5's note of a domain that is defined."""
    return Wanted(spec.id, spec.uuid, spec.domain_name, spec.only_local_disks, running=False)


def source_of(node: Node, disk: DomainDisk) -> DiskSource | None:
    """Where a disk is on this node; None: a drive with nothing in it."""
    if disk.iso is not None:
        return FileSource(path=str(node.iso(disk.iso)))
    return node.driver(disk.pool).source(disk.id, disk.format) if disk.pool is not None else None


@handles(DomainUndefine)
def undefine(node: Node, message: DomainUndefine, run: Run) -> DomainWhereabouts:
    domain = node.own_domain(message.vm, message.uuid)
    if domain is not None:
        check_off(domain)
        call_libvirt(message.verb, lambda: node.hypervisor.undefine(message.uuid))
    drop_remains(node, message.vm, message.uuid)
    run.wanted = WantedChange(message.vm, forget=True)
    return node.hypervisor.whereabouts(message.uuid)


def drop_remains(node: Node, vm: str, uuid: str) -> None:
    """What goes with its domain: what its guest wrote to the serial console, and what it was before it was ours."""
    (node.paths.taken_dir / f"{uuid}.json").unlink(missing_ok=True)
    for file in node.paths.console_log_dir.glob(f"*.{vm}.console.log"):
        file.unlink(missing_ok=True)


@handles(DomainStart)
def start(node: Node, message: DomainStart, run: Run) -> DomainWhereabouts:
    required(node, message.vm, message.uuid)
    where = _not_moving(node, message.uuid)
    if where.state == "paused" and not message.paused:
        call_libvirt(message.verb, lambda: node.hypervisor.resume(message.uuid))
    elif where.state in ("shutoff", "crashed"):
        for_move = message.for_now and message.paused
        call_libvirt(
            message.verb, lambda: power_on(node.hypervisor, message.uuid, paused=message.paused, for_move=for_move)
        )
    if not message.for_now:
        run.wanted = WantedChange(message.vm, running=True)
    return node.hypervisor.whereabouts(message.uuid)


def power_on(hypervisor: Hypervisor, uuid: str, *, paused: bool = False, for_move: bool = False) -> None:
    """Start a domain that is off. Raises a certain ``start_failed`` where libvirt tried and the domain is off.

    :param for_move: it is moved and ended: whatever CPU the other node has, nothing of the guest is executed.
    """
    try:
        if for_move:
            hypervisor.create_for_move(uuid)
        else:
            hypervisor.create(uuid, paused=paused)
    except CallLost:
        raise
    except NodeError as error:
        # QEMU's failures come as "internal error": whether the guest runs is seen by looking.
        state = hypervisor.whereabouts(uuid).state
        if state in ("running", "paused"):
            return
        raise NodeError("start_failed", error.info.cause, "Look at the domain's log on the node.") from None


@handles(DomainShutdown)
def shutdown(node: Node, message: DomainShutdown, run: Run) -> DomainWhereabouts:
    domain = node.own_domain(message.vm, message.uuid)
    if domain is not None and domain.active:
        _not_moving(node, message.uuid)
        if not _pressed_until_off(node, message, run):
            raise NodeError(
                "guest_did_not_shut_down",
                f"the guest of {domain.name} still runs {message.timeout_s:g} s after the power button was pressed",
                "Shut it down from inside, or stop it by force.",
                timeout_s=message.timeout_s,
            )
    run.wanted = WantedChange(message.vm, running=False)
    return node.hypervisor.whereabouts(message.uuid)


def _pressed_until_off(node: Node, message: DomainShutdown, run: Run) -> bool:
    """A guest that is still booting does not hear the button, so it is pressed again."""
    deadline = time.monotonic() + message.timeout_s
    while (left_s := deadline - time.monotonic()) > 0:
        call_libvirt(message.verb, lambda: _unless_off(node, message.uuid, node.hypervisor.press_power_button))
        if node.hypervisor.wait_until_off(message.uuid, min(left_s, PRESS_AGAIN_S), run.cancellation):
            return True
    return False


@handles(DomainStop)
def stop(node: Node, message: DomainStop, run: Run) -> DomainWhereabouts:
    # An absent domain is stopped: this is also the undo of a start that may not have happened.
    domain = node.own_domain(message.vm, message.uuid)
    if domain is not None and domain.active:
        # Not by the domain's whereabouts: a QEMU that hangs must be possible to end.
        if node.hypervisor.may_be_moving(message.uuid):
            raise moving()
        call_libvirt(message.verb, lambda: _unless_off(node, message.uuid, node.hypervisor.destroy))
    run.wanted = WantedChange(message.vm, running=False)
    return node.hypervisor.whereabouts(message.uuid)


def _unless_off(node: Node, uuid: str, end: Callable[[str], None]) -> None:
    """A guest may go off by itself between our look and our call; then the call's refusal is no failure."""
    try:
        end(uuid)
    except CallLost:
        raise
    except NodeError:
        if node.hypervisor.whereabouts(uuid).state not in ("shutoff", "absent"):
            raise


@handles(DomainSuspend)
def suspend(node: Node, message: DomainSuspend, run: Run) -> DomainWhereabouts:
    if _active(node, message).state == "running":
        call_libvirt(message.verb, lambda: node.hypervisor.suspend(message.uuid))
    return node.hypervisor.whereabouts(message.uuid)


@handles(DomainResume)
def resume(node: Node, message: DomainResume, run: Run) -> DomainWhereabouts:
    if _active(node, message).state == "paused":
        call_libvirt(message.verb, lambda: node.hypervisor.resume(message.uuid))
    return node.hypervisor.whereabouts(message.uuid)


@handles(DomainReboot)
def reboot(node: Node, message: DomainReboot, run: Run) -> DomainWhereabouts:
    _active(node, message)
    call_libvirt(message.verb, lambda: node.hypervisor.reboot(message.uuid))
    return node.hypervisor.whereabouts(message.uuid)


@handles(DomainReset)
def reset(node: Node, message: DomainReset, run: Run) -> DomainWhereabouts:
    _active(node, message)
    call_libvirt(message.verb, lambda: node.hypervisor.reset(message.uuid))
    return node.hypervisor.whereabouts(message.uuid)


@handles(DomainPlug)
def plug(node: Node, message: DomainPlug, run: Run) -> PluggedDisk:
    required(node, message.vm, message.uuid)
    where = _not_moving(node, message.uuid)
    if where.state not in ("running", "paused"):
        return _plugged(where, None)
    disk, devices = message.disk, node.hypervisor.devices(message.uuid)
    if disk.id in devices.disks:
        return _plugged(where, True)
    # Of a SCSI controller that the definition does not have libvirt would add one; the others know no hotplug.
    if disk.bus != "virtio" and not (disk.bus == "scsi" and any(name.startswith("sd") for name in devices.names)):
        return _plugged(where, False)
    xml = domain_xml.disk_xml(disk, source_of(node, disk), domain_xml.free_name(disk.bus, devices.names))
    why = _refusal(message.verb, lambda: node.hypervisor.attach_device(message.uuid, xml))
    if why is not None and disk.id not in node.hypervisor.devices(message.uuid).disks:
        if why.info.code == "unsupported":
            return _plugged(where, False)
        raise NodeError("plug_failed", why.info.cause, "Look at the domain's log on the node.")
    return _plugged(where, True)


@handles(DomainUnplug)
def unplug(node: Node, message: DomainUnplug, run: Run) -> PluggedDisk:
    domain = node.own_domain(message.vm, message.uuid)
    if domain is None or not domain.active:
        return _plugged(node.hypervisor.whereabouts(message.uuid), None)
    where = _not_moving(node, message.uuid)
    device = node.hypervisor.devices(message.uuid).disks.get(message.disk)
    if device is None:
        return _plugged(where, False)
    why = _refusal(message.verb, lambda: node.hypervisor.detach_device(message.uuid, device))
    # A bus that knows no unplugging, or a guest that said no, is not asked twice.
    has = node.hypervisor.keeps_disk(message.uuid, message.disk, 0.0 if why else message.timeout_s)
    return _plugged(node.hypervisor.whereabouts(message.uuid), has)


@handles(DomainMedium)
def medium(node: Node, message: DomainMedium, run: Run) -> PluggedDisk:
    required(node, message.vm, message.uuid)
    where = _not_moving(node, message.uuid)
    if where.state not in ("running", "paused"):
        return _plugged(where, None)
    drive = node.hypervisor.devices(message.uuid).drive
    if drive is None:
        return _plugged(where, False)
    # By the drive's own name, whatever it would be by now: a guest keeps it as long as it runs.
    xml = domain_xml.disk_xml(message.disk, source_of(node, message.disk), drive)
    why = _refusal(message.verb, lambda: node.hypervisor.change_medium(message.uuid, xml))
    if why is not None:
        raise NodeError("medium_failed", why.info.cause, "Eject it from inside the guest first.")
    return _plugged(where, True)


@handles(DomainFreeze)
def freeze(node: Node, message: DomainFreeze, run: Run) -> FrozenDomain:
    required(node, message.vm, message.uuid)
    where = _not_moving(node, message.uuid)
    frozen = where.state == "running" and quiesce.freeze(node.paths.frozen_dir, node.hypervisor, message.uuid)
    if message.required and not frozen:
        raise quiesce.silent()
    return FrozenDomain(**where.model_dump(), frozen=frozen)


@handles(DomainThaw)
def thaw(node: Node, message: DomainThaw, run: Run) -> FrozenDomain:
    node.own_domain(message.vm, message.uuid)
    frozen = quiesce.thaw(node.paths.frozen_dir, node.hypervisor, message.uuid)
    return FrozenDomain(**node.hypervisor.whereabouts(message.uuid).model_dump(), frozen=frozen)


@handles(DomainSave)
def save(node: Node, message: DomainSave, run: Run) -> DomainWhereabouts:
    _active(node, message)
    devices = _named_disks(node, message)
    call_libvirt(message.verb, lambda: node.hypervisor.save_memory(message.uuid, message.snapshot, devices))
    return node.hypervisor.whereabouts(message.uuid)


@handles(DomainLoad)
def load(node: Node, message: DomainLoad, run: Run) -> DomainWhereabouts:
    domain = required(node, message.vm, message.uuid)
    _not_moving(node, message.uuid)
    if domain.active:
        call_libvirt(message.verb, lambda: _unless_off(node, message.uuid, node.hypervisor.destroy))
    call_libvirt(message.verb, lambda: power_on(node.hypervisor, message.uuid, paused=True))
    devices = _named_disks(node, message)
    try:
        node.hypervisor.load_memory(message.uuid, message.snapshot, devices)
    except CallLost:
        raise
    except NodeError as error:
        # What it has in its memory by now belongs to no disk: it must not run.
        call_libvirt(message.verb, lambda: _unless_off(node, message.uuid, node.hypervisor.destroy))
        raise NodeError(
            "memory_not_loaded", error.info.cause, "Start the VM: its disks are as they were then."
        ) from None
    call_libvirt(message.verb, lambda: node.hypervisor.resume(message.uuid))
    run.wanted = WantedChange(message.vm, running=True)
    return node.hypervisor.whereabouts(message.uuid)


def _named_disks(node: Node, message: DomainSave | DomainLoad) -> list[str]:
    """As the guest's QEMU has them: ``vda``. Raises ``disks_differ``."""
    names = node.hypervisor.devices(message.uuid).disk_names
    if set(names) != set(message.disks):
        raise NodeError("disks_differ", f"the guest has {len(names)} disks, and {len(message.disks)} were named")
    return [names[disk] for disk in message.disks]


@handles(DomainBackup)
def backup(node: Node, message: DomainBackup, run: Run) -> BackedUpDomain:
    domain = node.own_domain(message.vm, message.uuid)
    if domain is not None and domain.active:
        node.hypervisor.end_backup(message.uuid)
    if not message.disks:
        return BackedUpDomain(**node.hypervisor.whereabouts(message.uuid).model_dump())
    _active(node, message)
    devices, targets = node.hypervisor.devices(message.uuid), {}
    for copied in message.disks:
        name = devices.disk_names.get(copied.disk)
        if name is None:
            raise NodeError("disk_absent", f"the guest does not have the disk {copied.disk}")
        target = copied.target
        targets[name] = (node.driver(target.pool).source(target.id, target.format), target.format)
    try:
        xml = domain_xml.backup_xml(devices.names, targets)
    except ValueError as error:
        raise NodeError("unsupported", str(error), "Choose a pool of files or of volumes on this node.") from None
    quiesced = _begin_backup(node, message, xml)
    node.hypervisor.await_backup(message.uuid, run.progress, run.cancellation)
    return BackedUpDomain(**node.hypervisor.whereabouts(message.uuid).model_dump(), quiesced=quiesced)


def _begin_backup(node: Node, message: DomainBackup, xml: str) -> bool:
    """The copy is of the instant at which it begins: only then have the file systems to stand still."""

    def begin() -> None:
        call_libvirt(message.verb, lambda: node.hypervisor.begin_backup(message.uuid, xml))

    return quiesce.during(node.paths.frozen_dir, node.hypervisor, message.uuid, message.quiesce, begin)


@handles(DomainMirror)
def mirror(node: Node, message: DomainMirror, run: Run) -> DomainWhereabouts:
    target = message.target
    if target is None:
        domain = node.own_domain(message.vm, message.uuid)
        if domain is not None and domain.active:
            node.hypervisor.end_mirror(message.uuid, message.disk)
        return node.hypervisor.whereabouts(message.uuid)
    _active(node, message)
    source = node.driver(target.pool).source(target.id, target.format)
    place, devices = domain_xml.place_of(source), _devices_with(node, message)
    if devices.places[message.disk] == place:
        return node.hypervisor.whereabouts(message.uuid)
    present = devices.mirrors.get(message.disk)
    if present is not None and present.place != place:
        node.hypervisor.end_mirror(message.uuid, message.disk)
    if present is None or present.place != place:
        xml = domain_xml.copy_xml(source, target.format)
        call_libvirt(
            message.verb, lambda: node.hypervisor.begin_mirror(message.uuid, devices.disk_names[message.disk], xml)
        )
    node.hypervisor.await_mirror(message.uuid, message.disk, run.progress, run.cancellation)
    return node.hypervisor.whereabouts(message.uuid)


@handles(DomainPivot)
def pivot(node: Node, message: DomainPivot, run: Run) -> DomainWhereabouts:
    required(node, message.vm, message.uuid)
    target = message.target
    place = domain_xml.place_of(node.driver(target.pool).source(target.id, target.format))
    devices = _devices_with(node, message)
    if devices.places[message.disk] != place:
        _active(node, message)
        present = devices.mirrors.get(message.disk)
        if present is None or present.place != place or not present.ready:
            raise NodeError("mirror_lost", f"the guest does not write disk {message.disk} to {place}")
        call_libvirt(message.verb, lambda: node.hypervisor.pivot(message.uuid, devices.disk_names[message.disk]))
    return node.hypervisor.whereabouts(message.uuid)


def _devices_with(node: Node, message: DomainMirror | DomainPivot) -> Devices:
    """Raises ``disk_absent``."""
    devices = node.hypervisor.devices(message.uuid)
    if message.disk not in devices.places:
        raise NodeError("disk_absent", f"the guest does not have the disk {message.disk}")
    return devices


def _refusal(verb: str, call: Callable[[], None]) -> NodeError | None:
    """Why libvirt or the guest would not; what came of a call that was lost is not known here."""
    try:
        call_libvirt(verb, call)
    except CallLost:
        raise
    except NodeError as error:
        if error.info.code == "domain_busy":
            raise
        return error
    return None


def _plugged(where: DomainWhereabouts, has: bool | None) -> PluggedDisk:
    return PluggedDisk(**where.model_dump(), has=has)


@handles(DomainLook)
def look(node: Node, message: DomainLook, run: Run) -> DomainWhereabouts:
    node.own_domain(message.vm, message.uuid)
    return node.hypervisor.whereabouts(message.uuid)


@handles(DomainRead)
def read(node: Node, message: DomainRead, run: Run) -> ReadDomain:
    domain = node.hypervisor.find(uuid=message.uuid)
    if domain is None or domain.name != message.name:
        node.own_domain(message.vm, message.uuid)
    where, outline = node.hypervisor.whereabouts(message.uuid), node.hypervisor.outline(message.uuid)
    return ReadDomain(**where.model_dump(), outline=outline)


_Named = (
    DomainBackup | DomainMirror | DomainPivot | DomainReboot | DomainReset | DomainResume | DomainSave | DomainSuspend
)


def required(node: Node, vm: str, uuid: str) -> Domain:
    """Raises ``domain_absent``."""
    domain = node.own_domain(vm, uuid)
    if domain is None:
        raise NodeError("domain_absent", f"this node has no domain with the uuid {uuid}")
    return domain


def _active(node: Node, message: _Named) -> DomainWhereabouts:
    required(node, message.vm, message.uuid)
    where = _not_moving(node, message.uuid)
    if where.state not in ("running", "paused"):
        raise NodeError("domain_not_active", f"the domain is {where.state}", "Start it first.")
    return where


def _not_moving(node: Node, uuid: str) -> DomainWhereabouts:
    """A domain in a migration belongs to two nodes: a plain power verb on one of them could make it run twice."""
    where = node.hypervisor.whereabouts(uuid)
    if where.state == "incoming" or where.paused_by_migration or where.post_copy:
        raise moving()
    return where


def moving() -> NodeError:
    """The refusal of everything that has to wait for the end of a migration."""
    return NodeError("domain_migrating", "a migration of this domain has not ended", retryable=True)
