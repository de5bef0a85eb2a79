"""Connections to libvirtd.

One connection carries events and the reports' queries; each verb has a connection of its own while it calls (libvirtd
serves five requests of one client at a time, and a stop must get through while starts hang).

Two rules keep clear of CVE-2024-4418, a use after free in libvirt's client before 10.4 that ends the process when a
call is woken by anything but its answer: two threads never call on one connection at the same time, and a connection
is not used again after a call so long that a keepalive may have woken it.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import libvirt
import libvirt_qemu

from nodes.hypervisor.errors import node_error, unreachable
from nodes.log import Log

log = Log("ulei.hypervisor")

KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT = 5, 3
SILENT_AFTER_S = 10.0
"""A libvirtd that answered nothing for so long is not asked to do more."""
WAIT_FOR_LIBVIRT_S = 20.0
RECONNECT_S = 1.0


@dataclass(frozen=True)
class LifecycleEvent:
    uuid: str
    name: str
    definition: bool = False
    """It is about its definition, too."""


class Connections:
    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.simulated = uri.startswith("test:")
        self.on_events: Callable[[LifecycleEvent], None] = lambda event: None
        self.on_connect: Callable[[], None] = lambda: None
        self.changed = threading.Condition()
        """Notified at each lifecycle event and each new connection."""
        self.copy_errors: dict[str, str] = {}
        """uuid -> QEMU's words about the last copy of a disk that failed: what libvirt says of it in the end may be
        only what came of that."""
        self.connections = 0
        """How many it has had for events: a libvirtd that was restarted takes a new one."""
        self._events: Any = None
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        self._answered = float("-inf")
        self._in_flight: dict[int, float] = {}
        self._next_call = 0
        self._events_lock = threading.Lock()
        """Held by whoever calls on the events' connection."""
        self._events_worn = False
        self._callbacks: list[int] = []

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
            raise unreachable(error.get_error_message()) from None
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
                for callback in self._callbacks:
                    self._events.domainEventDeregisterAny(callback)
                self._events.close()
        self._events = None
        events = self._open()
        self._callbacks = [
            events.domainEventRegisterAny(None, event, callback, None)
            for event, callback in (
                (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle),
                (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, self._device_removed),
            )
        ]
        if not self.simulated:
            ended = "BLOCK_JOB_COMPLETED"
            libvirt_qemu.qemuMonitorEventRegister(events, None, ended, self._copy_ended, None, 0)
        self._events, self._events_worn = events, False
        self.connections += 1
        self._heard()
        log.info("connected to libvirt", uri=self.uri)

    def _open(self) -> Any:
        connection = libvirt.open(self.uri)
        if not self.simulated:
            connection.setKeepAlive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT)
        return connection

    def _lifecycle(self, connection: Any, domain: Any, event: int, detail: int, opaque: Any) -> None:
        definition = event in (libvirt.VIR_DOMAIN_EVENT_DEFINED, libvirt.VIR_DOMAIN_EVENT_UNDEFINED)
        self.on_events(LifecycleEvent(domain.UUIDString(), domain.name(), definition))
        with self.changed:
            self.changed.notify_all()

    def _device_removed(self, connection: Any, domain: Any, device: str, opaque: Any) -> None:
        with self.changed:
            self.changed.notify_all()

    def _copy_ended(
        self, connection: Any, domain: Any, event: str, seconds: int, micros: int, details: str, opaque: Any
    ) -> None:
        error = json.loads(details or "{}").get("error")
        if error:
            self.copy_errors[domain.UUIDString()] = str(error)

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
            raise unreachable(f"no answer for {WAIT_FOR_LIBVIRT_S:g} s")

    @contextmanager
    def _query(self) -> Iterator[Any]:
        """The events' connection, for the reports' questions: they never block for long."""
        self._require_ok()
        with self._events_lock, self._counted() as began:
            connection = self._events
            if connection is None:
                raise unreachable("the connection is gone")
            try:
                yield connection
            except libvirt.libvirtError as error:
                raise node_error(error, connection) from None
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
                raise node_error(error, connection) from None
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
            raise unreachable(error.get_error_message()) from None


def _wears(began: float) -> bool:
    """Was a call that began then so long that a keepalive may have woken it?"""
    return time.monotonic() - began >= KEEPALIVE_INTERVAL_S - 1
