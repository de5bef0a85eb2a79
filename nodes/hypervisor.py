"""The only module that knows libvirt's binding: thin calls, and libvirtError turned into NodeError.

One connection carries events and the reports' queries; each verb has a connection of its own while it calls (libvirtd
serves five requests of one client at a time, and a stop must get through while starts hang).

Two rules keep clear of CVE-2024-4418, a use after free in libvirt's client before 10.4 that ends the process when a
call is woken by anything but its answer: two threads never call on one connection at the same time, and a connection
is not used again after a call so long that a keepalive may have woken it.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import libvirt

from nodes.contract.errors import NodeError
from nodes.contract.messages import DomainWhereabouts
from nodes.contract.specs import DomainFacts, DomainState
from nodes.drain import CallLost
from nodes.log import Log
from nodes.names import vm_of
from nodes.shell import Cancellation

log = Log("ulei.hypervisor")

KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT = 5, 3
SILENT_AFTER_S = 10.0
"""A libvirtd that answered nothing for so long is not asked to do more."""
WAIT_FOR_LIBVIRT_S = 20.0
RECONNECT_S = 1.0

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

REFUSALS = {
    libvirt.VIR_ERR_OPERATION_INVALID: "domain_state",
    libvirt.VIR_ERR_NO_DOMAIN: "domain_absent",
    libvirt.VIR_ERR_DOM_EXIST: "exists_not_ours",
    libvirt.VIR_ERR_XML_ERROR: "domain_invalid",
    libvirt.VIR_ERR_XML_DETAIL: "domain_invalid",
    libvirt.VIR_ERR_XML_INVALID_SCHEMA: "domain_invalid",
    libvirt.VIR_ERR_INVALID_ARG: "domain_invalid",
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: "unsupported",
    libvirt.VIR_ERR_NO_SUPPORT: "unsupported",
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: "unsupported",
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED: "unsupported",
    libvirt.VIR_ERR_OPERATION_DENIED: "denied",
    libvirt.VIR_ERR_ACCESS_DENIED: "denied",
    libvirt.VIR_ERR_AUTH_FAILED: "denied",
}
"""Errors by which libvirt says that it did not even begin."""


@dataclass(frozen=True)
class LifecycleEvent:
    uuid: str
    name: str


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


class Hypervisor:
    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.simulated = uri.startswith("test:")
        self.on_events: Callable[[LifecycleEvent], None] = lambda event: None
        self.on_connect: Callable[[], None] = lambda: None
        self.changed = threading.Condition()
        """Notified at each lifecycle event and each new connection."""
        self._events: Any = None
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        self._answered = float("-inf")
        self._in_flight: dict[int, float] = {}
        self._next_call = 0
        self._events_lock = threading.Lock()
        """Held by whoever calls on the events' connection."""
        self._events_worn = False
        self._callback = 0

    # --- connections --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect, and keep connected, in threads of our own."""
        libvirt.registerErrorHandler(lambda context, error: None, None)  # errors are raised, and logged once
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=self._turn_event_loop, name="libvirt-events", daemon=True).start()
        threading.Thread(target=self._keep_connected, name="libvirt-connection", daemon=True).start()

    def open_for_queries(self) -> None:
        """Connect once, without events: for a command that asks and ends. Raises ``libvirt_unreachable``."""
        libvirt.registerErrorHandler(lambda context, error: None, None)
        try:
            self._events = libvirt.open(self.uri)
        except libvirt.libvirtError as error:
            raise _silent(error.get_error_message()) from None
        self._heard()

    @staticmethod
    def _turn_event_loop() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    def _keep_connected(self) -> None:
        said = False
        while True:
            try:
                with self._events_lock:
                    if self._events is None or self._events_worn or not self._events.isAlive():
                        self._connect()
                        said = False
                        self.on_connect()
                    with self._counted() as began:
                        self._events.getLibVersion()
                    self._events_worn = _wears(began)
                self._heard()
            except libvirt.libvirtError as error:
                if not said:
                    log.error("libvirtd cannot be reached", uri=self.uri, cause=error.get_error_message())
                    said = True
            time.sleep(RECONNECT_S)

    def _connect(self) -> None:
        if self._events is not None:
            with contextlib.suppress(libvirt.libvirtError):  # it may be dead already
                self._events.domainEventDeregisterAny(self._callback)
                self._events.close()
        self._events = None
        events = self._open()
        self._callback = events.domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None
        )
        self._events, self._events_worn = events, False
        self._heard()
        log.info("connected to libvirt", uri=self.uri)

    def _open(self) -> Any:
        connection = libvirt.open(self.uri)
        if not self.simulated:
            connection.setKeepAlive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT)
        return connection

    def _lifecycle(self, connection: Any, domain: Any, event: int, detail: int, opaque: Any) -> None:
        self.on_events(LifecycleEvent(domain.UUIDString(), domain.name()))
        with self.changed:
            self.changed.notify_all()

    def _heard(self) -> None:
        self._answered = time.monotonic()
        with self.changed:
            self.changed.notify_all()

    @property
    def ok(self) -> bool:
        """libvirtd has answered lately."""
        return time.monotonic() - self._answered < SILENT_AFTER_S

    def await_ok(self, timeout_s: float) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.ok, timeout_s)

    @contextmanager
    def _counted(self) -> Iterator[float]:
        """Count a call as ours while libvirtd may work on it. Gives the moment at which it began."""
        began = time.monotonic()
        with self._lock:
            self._next_call += 1
            call = self._next_call
            self._in_flight[call] = began
        try:
            yield began
        finally:
            with self._lock:
                del self._in_flight[call]

    def calls_in_flight(self) -> dict[int, float]:
        """Our own calls that libvirtd works on: a number for each, and when it was sent (monotonic seconds)."""
        with self._lock:
            return dict(self._in_flight)

    def _require_ok(self) -> None:
        if not self.await_ok(WAIT_FOR_LIBVIRT_S):
            raise _silent(f"no answer for {WAIT_FOR_LIBVIRT_S:g} s")

    @contextmanager
    def _query(self) -> Iterator[Any]:
        """The events' connection, for the reports' questions: they never block for long."""
        self._require_ok()
        with self._events_lock, self._counted() as began:
            connection = self._events
            if connection is None:
                raise _silent("the connection is gone")
            try:
                yield connection
            except libvirt.libvirtError as error:
                raise _node_error(error, connection) from None
            finally:
                self._events_worn = self._events_worn or _wears(began)

    @contextmanager
    def _call(self) -> Iterator[Any]:
        """A connection of one's own while a verb calls."""
        connection = self._own_connection()
        with self._counted() as began:
            try:
                yield connection
            except libvirt.libvirtError as error:
                raise _node_error(error, connection) from None
            finally:
                if connection.isAlive() and not _wears(began):
                    with self._lock:
                        self._idle.append(connection)

    def _own_connection(self) -> Any:
        """One that is not in use, or a new one. A libvirtd that is just being restarted is waited for."""
        self._require_ok()
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if connection.isAlive():
                    return connection
        try:
            return self._open()
        except libvirt.libvirtError:
            self._answered = float("-inf")
        self._require_ok()
        try:
            return self._open()
        except libvirt.libvirtError as error:
            raise _silent(error.get_error_message()) from None

    # --- reading ------------------------------------------------------------------------------------------

    def find(self, *, uuid: str | None = None, name: str | None = None) -> Domain | None:
        with self._call() as connection:
            domain = _lookup(connection, uuid, name)
            return _describe(domain) if domain else None

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
                defined=bool(domain.isPersistent()),
            )

    def domains(self) -> list[DomainFacts]:
        """Every domain of this node, ours or not."""
        wanted = libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_CPU_TOTAL | libvirt.VIR_DOMAIN_STATS_BALLOON
        with self._query() as connection:
            return [_facts(domain, stats) for domain, stats in connection.getAllDomainStats(wanted)]

    def facts_of(self, events: list[LifecycleEvent]) -> list[DomainFacts]:
        """The present state of the domains that events named."""
        found = {domain.uuid: domain for domain in self.domains()}
        return [
            found.get(event.uuid) or DomainFacts(uuid=event.uuid, name=event.name, state="absent", vm=vm_of(event.name))
            for event in events
        ]

    def all_domains(self) -> list[Domain]:
        with self._query() as connection:
            return [_describe(domain) for domain in connection.listAllDomains()]

    def definitions(self) -> list[tuple[str, str]]:
        """(name, XML) of every domain: what it is now, and what it would be after its next start."""
        with self._call() as connection:
            found = []
            for domain in connection.listAllDomains():
                found.append((domain.name(), domain.XMLDesc()))
                if domain.isActive() and domain.isPersistent():
                    found.append((domain.name(), domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)))
            return found

    def capabilities(self) -> str:
        with self._query() as connection:
            return str(connection.getCapabilities())

    def versions(self) -> tuple[str, str]:
        """(libvirt, hypervisor) as ``9.0.0``."""
        with self._query() as connection:
            return _version(connection.getLibVersion()), _version(connection.getVersion())

    # --- changing -----------------------------------------------------------------------------------------

    def define(self, xml: str) -> None:
        with self._call() as connection:
            connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE if not self.simulated else 0)

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

    @contextmanager
    def _on(self, uuid: str) -> Iterator[Any]:
        with self._call() as connection:
            yield connection.lookupByUUIDString(uuid)

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


def _wears(began: float) -> bool:
    """Was a call that began then so long that a keepalive may have woken it?"""
    return time.monotonic() - began >= KEEPALIVE_INTERVAL_S - 1


def _silent(cause: str) -> NodeError:
    """Never certain: a verb that repeats an earlier attempt, or has called before, does not know what came of that."""
    hint = "Look at libvirtd on this node: systemctl status libvirtd."
    return NodeError("libvirt_unreachable", f"libvirtd: {cause}", hint, retryable=True, certain=False)


def _lookup(connection: Any, uuid: str | None, name: str | None) -> Any:
    try:
        return connection.lookupByUUIDString(uuid) if uuid is not None else connection.lookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _describe(domain: Any) -> Domain:
    code, reason = domain.state()
    return Domain(
        uuid=domain.UUIDString(),
        name=domain.name(),
        state=STATES[code],
        active=bool(domain.isActive()),
        defined=bool(domain.isPersistent()),
        shut_itself_down=code == libvirt.VIR_DOMAIN_SHUTOFF and reason == libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN,
    )


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


def _facts(domain: Any, stats: dict[str, Any]) -> DomainFacts:
    memory_kib = stats.get("balloon.current")
    return DomainFacts(
        uuid=domain.UUIDString(),
        name=domain.name(),
        state=STATES[stats.get("state.state", libvirt.VIR_DOMAIN_NOSTATE)],
        vm=vm_of(domain.name()),
        cpu_time_ns=stats.get("cpu.time"),
        memory_bytes=memory_kib * 1024 if memory_kib is not None else None,
    )


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def _node_error(error: libvirt.libvirtError, connection: Any) -> NodeError:
    """Certain only where libvirtd itself said no over a connection that still stands."""
    message = error.get_error_message() or str(error)
    if error.get_error_domain() in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE) or not connection.isAlive():
        return CallLost("libvirt_lost", f"the connection to libvirtd was lost before the answer: {message}")
    refusal = REFUSALS.get(error.get_error_code())
    if refusal:
        return NodeError(refusal, f"libvirt: {message}")
    return NodeError("libvirt_error", f"libvirt: {message}", certain=False, retryable=True)
