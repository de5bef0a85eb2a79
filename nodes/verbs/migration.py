"""A guest on its way to another node: what its two nodes do, each for itself. The panel decides in between.

Laws 1 and 2: nothing here ends a guest that may be the only one. What runs, or is defined, is never removed from the
target; what runs is never removed from the source; and after a doubt a move only looks.
"""

from nodes.contract.errors import NodeError
from nodes.contract.faults import point
from nodes.contract.messages import (
    DomainAdopt,
    DomainDismiss,
    DomainExpect,
    DomainKeep,
    DomainLeave,
    DomainMove,
    DomainWhereabouts,
    ExpectedDomain,
)
from nodes.contract.specs import DomainDisk, MovedDisk
from nodes.drain import CallLost
from nodes.hypervisor import Domain
from nodes.ledger import WantedChange
from nodes.node import Node
from nodes.shell import Cancelled
from nodes.storage.directory import says_no_room
from nodes.verbs import handles
from nodes.verbs.domains import (
    call_libvirt,
    definition_of,
    drop_remains,
    moving,
    power_on,
    required,
    source_of,
    wanted_of,
)
from nodes.verbs.run import Run

ON = ("running", "paused")


@handles(DomainExpect)
def expect(node: Node, message: DomainExpect, run: Run) -> ExpectedDomain:
    spec = message.domain
    domain = node.own_domain(spec.id, spec.uuid)
    namesake = node.hypervisor.find(name=spec.domain_name)
    if domain is not None or namesake is not None:
        raise NodeError(
            "domain_here",
            f"this node has a domain named {(domain or namesake or spec).name} already: it was left untouched",
            "Look at it on the node: it may be what an earlier move has left behind.",
        )
    disks = tuple(_moved(node, disk) for disk in spec.disks)
    node.network.arrivals.expect(spec.id, message.source_address)
    return ExpectedDomain(**node.hypervisor.whereabouts(spec.uuid).model_dump(), disks=disks)


def _moved(node: Node, disk: DomainDisk) -> MovedDisk:
    return MovedDisk(id=disk.id, source=source_of(node, disk), format=disk.format, cache=disk.cache)


@handles(DomainDismiss)
def dismiss(node: Node, message: DomainDismiss, run: Run) -> DomainWhereabouts:
    # Nothing is expected where ``expect`` refused, or where this was done before: then nothing here is ours to remove.
    if node.network.arrivals.expected(message.vm):
        domain = node.own_domain(message.vm, message.uuid)
        where = node.hypervisor.whereabouts(message.uuid)
        if domain is not None and where.state != "incoming":
            raise NodeError(
                "domain_here",
                f"the domain {domain.name} is {where.state} on this node: it was left untouched",
                "Compare both nodes, then resolve the job.",
            )
        if domain is not None:
            call_libvirt(message.verb, lambda: node.hypervisor.destroy(message.uuid))
        node.network.arrivals.forget(message.vm)
    return node.hypervisor.whereabouts(message.uuid)


@handles(DomainMove)
def move(node: Node, message: DomainMove, run: Run) -> DomainWhereabouts:
    if run.repeats:
        return _looked_at(node, message)
    required(node, message.vm, message.uuid)
    before = node.hypervisor.whereabouts(message.uuid)
    if before.job_active or before.paused_by_migration or before.state not in ON:
        raise NodeError("domain_state", f"the domain is {before.state}, or something is under way with it")
    run.cancellation.check()
    names = _names(node, message)
    point("domain.before-call", message.verb)
    try:
        ended = node.hypervisor.move(message, names, run.progress, run.cancellation)
    except CallLost:
        raise
    except NodeError as error:
        _stayed(node, message, error)
        raise _failed(message, names, error) from None
    finally:
        point("domain.after-call", message.verb)
    if ended:
        _stayed(node, message, None)
        if ended == "cancel":
            raise Cancelled
        raise NodeError(
            "move_time_limit",
            f"the guest was not over there after {message.time_limit_s} s",
            "Allow more time or a longer pause, or choose auto-converge or post-copy.",
            limit_s=message.time_limit_s or 0,
        )
    run.wanted = WantedChange(message.vm, running=False)
    return node.hypervisor.whereabouts(message.uuid)


def _failed(message: DomainMove, names: dict[str, MovedDisk], error: NodeError) -> NodeError:
    """Why the guest has stayed here."""
    cause = error.info.cause
    copied = {name: disk for name, disk in names.items() if disk.copied}
    if not (copied and says_no_room(error)):
        return NodeError("move_failed", cause, "Look at the domain's log on both nodes.")
    named = [disk for name, disk in copied.items() if f"disk {name} " in cause]
    pools = sorted({disk.pool for disk in named or copied.values()})
    return NodeError(
        "move_no_room",
        f"the pool {', '.join(pools)} of node {message.target} was full before the guest was over there: {cause}",
        "Free something there, or choose another pool or another node; then move it again.",
        pool=", ".join(pools),
        node=message.target,
    )


def _names(node: Node, message: DomainMove) -> dict[str, MovedDisk]:
    """The message's disks by their names in the guest that runs. Raises ``disks_differ``."""
    devices = node.hypervisor.devices(message.uuid)
    named = {devices.disk_names[disk.id]: disk for disk in message.disks if disk.id in devices.disk_names}
    others = [disk for disk in message.disks if disk.id not in devices.disk_names]
    if devices.drive is not None and len(others) == 1:
        named[devices.drive] = others.pop()
    if others or set(named) != devices.names:
        raise NodeError(
            "disks_differ",
            f"the guest has the disks {', '.join(sorted(devices.names))}, and {len(message.disks)} were expected",
            "Restart the VM, so that it has the disks of its definition.",
        )
    return named


def _stayed(node: Node, message: DomainMove, error: NodeError | None) -> None:
    """Returns if the guest is here and goes on; else raises an uncertain ``move_unknown``."""
    where = node.hypervisor.whereabouts(message.uuid)
    if where.state in ON and not (where.job_active or where.paused_by_migration or where.post_copy):
        return
    cause = error.info.cause if error else "it was ended"
    raise _unknown(f"the move did not end well ({cause}); here the domain is {where.state}")


def _looked_at(node: Node, message: DomainMove) -> DomainWhereabouts:
    node.own_domain(message.vm, message.uuid)
    node.hypervisor.await_end_of_move(message.uuid)
    raise _unknown(f"here the domain is {node.hypervisor.whereabouts(message.uuid).state}")


def _unknown(cause: str) -> NodeError:
    return NodeError("move_unknown", cause, "Both nodes are asked where the guest is.", certain=False)


@handles(DomainKeep)
def keep(node: Node, message: DomainKeep, run: Run) -> DomainWhereabouts:
    domain, where = _settled(node, message.vm, message.uuid)
    if where.post_copy:
        raise moving()
    if domain.shut_itself_down:
        run.wanted = WantedChange(message.vm, running=False)
        return where
    _power(node, message.verb, message.uuid, where, paused=message.paused)
    run.wanted = WantedChange(message.vm, running=True)
    return node.hypervisor.whereabouts(message.uuid)


def _settled(node: Node, vm: str, uuid: str) -> tuple[Domain, DomainWhereabouts]:
    """Raises ``domain_absent``; ``domain_migrating`` while a migration has not ended."""
    where = node.hypervisor.whereabouts(uuid)
    # Behind it: that the guest has just shut itself down must not be missed.
    domain = required(node, vm, uuid)
    if where.job_active or where.state == "incoming":
        raise moving()
    return domain, where


def _power(node: Node, verb: str, uuid: str, where: DomainWhereabouts, *, paused: bool) -> None:
    """Let the guest be on, and run unless it is to be paused."""
    if where.state not in ON:
        call_libvirt(verb, lambda: power_on(node.hypervisor, uuid, paused=paused))
    elif where.state == "paused" and not paused:
        call_libvirt(verb, lambda: node.hypervisor.resume(uuid))


@handles(DomainAdopt)
def adopt(node: Node, message: DomainAdopt, run: Run) -> DomainWhereabouts:
    spec = message.domain
    domain, where = _settled(node, spec.id, spec.uuid)
    if message.state == "shutoff":
        if domain.active:
            call_libvirt(message.verb, lambda: node.hypervisor.destroy(spec.uuid))
    elif not domain.shut_itself_down:
        # One that is off was to run here when the node lost power.
        _power(node, message.verb, spec.uuid, where, paused=message.state == "paused")
    node.hypervisor.define(definition_of(node, spec))
    node.network.arrivals.forget(spec.id)
    runs = message.state != "shutoff" and not domain.shut_itself_down
    run.wanted = WantedChange(spec.id, defined=wanted_of(spec), running=runs)
    return node.hypervisor.whereabouts(spec.uuid)


@handles(DomainLeave)
def leave(node: Node, message: DomainLeave, run: Run) -> DomainWhereabouts:
    domain = node.own_domain(message.vm, message.uuid)
    if domain is not None and domain.active:
        where = node.hypervisor.whereabouts(message.uuid)
        if where.job_active:
            raise moving()
        if not (where.paused_by_migration or where.post_copy):
            raise NodeError(
                "domain_active",
                f"the domain {domain.name} is {where.state} on this node, although it has moved: it was left untouched",
                "Compare both nodes, then resolve the job.",
            )
        call_libvirt(message.verb, lambda: node.hypervisor.destroy(message.uuid))
        domain = node.own_domain(message.vm, message.uuid)
    if domain is not None:
        call_libvirt(message.verb, lambda: node.hypervisor.undefine(message.uuid))
    drop_remains(node, message.vm, message.uuid)
    run.wanted = WantedChange(message.vm, forget=True)
    return node.hypervisor.whereabouts(message.uuid)
