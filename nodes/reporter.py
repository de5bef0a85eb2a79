"""What the node tells of itself: heartbeat, inventory, and changes of domains.

Four threads, so that a slow answer to one question holds up nothing else: the heartbeat asks nobody, and goes on
while libvirtd hangs.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from nodes import preflight, storage
from nodes.boot import notice_shutdowns
from nodes.config import Config
from nodes.contract import wire
from nodes.contract.errors import NodeError
from nodes.contract.messages import DomainChanged, Heartbeat, Inventory
from nodes.contract.specs import (
    Check,
    DomainFacts,
    FileFacts,
    LeaseFacts,
    NodeFacts,
    PoolFacts,
    PoolOffer,
    Stranger,
    VolumesSeen,
)
from nodes.facts import Facts, memory
from nodes.hypervisor import Hypervisor, LifecycleEvent
from nodes.images import Scanner
from nodes.ledger import Ledger
from nodes.log import Log
from nodes.pools import Pools
from nodes.self_fencing import check_of
from nodes.shell import Shell
from nodes.stream import Stream

log = Log("ulei.reporter")

INVENTORY_EVERY_S = 60.0
VOLUMES_EVERY_S = 600.0
"""A list of ten thousand volumes is 300 KB on the stream, and a question to each image of a Ceph pool."""
DEFINITIONS_EVERY_S = 1.0
GATHER_S = 0.01
RETRY_S = 1.0


@dataclass(frozen=True)
class Seen:
    """Everything of an inventory but the domains."""

    facts: NodeFacts
    checks: tuple[Check, ...]
    pools: tuple[PoolFacts, ...]
    offers: tuple[PoolOffer, ...]
    images: tuple[FileFacts, ...]
    isos: tuple[FileFacts, ...]
    leases: tuple[LeaseFacts, ...] = ()
    sizes: dict[str, dict[str, int]] | None = None
    """Of the volumes, by pool and disk, as :meth:`Pools.volumes` has them; None: they were not looked at."""
    strangers: dict[str, tuple[Stranger, ...]] = field(default_factory=dict)


class Surroundings:
    """The machine around the hypervisor."""

    def __init__(
        self, config: Config, facts: Facts, shell: Shell, leases: Callable[[], tuple[LeaseFacts, ...]] = tuple
    ) -> None:
        self._config = config
        self._leases = leases
        self._facts = facts
        self._shell = shell
        self._pools = Pools(config, shell)
        self._scanner = Scanner(shell)

    def look(self, *, volumes: bool) -> Seen:
        node = self._facts.read()
        checks, pools, offers = preflight.run(self._config, node), self._pools.facts(), storage.offers(self._shell)
        files = self._scanner.scan(self._config.images_dir, self._config.isos_dir)
        found = self._pools.volumes() if volumes else ()
        return Seen(node, checks, pools, offers, *files, self._leases(), *found)


class Reporter:
    def __init__(
        self,
        hypervisor: Hypervisor,
        ledger: Ledger,
        stream: Stream,
        surroundings: Surroundings,
        incarnation: int,
    ) -> None:
        self._hypervisor = hypervisor
        self._ledger = ledger
        self._stream = stream
        self._surroundings = surroundings
        self._incarnation = incarnation
        self._wanted = threading.Event()
        self._events: dict[str, LifecycleEvent] = {}
        self._changed = threading.Condition()
        self._volumes_due = 0.0
        self._one_at_a_time = threading.Lock()
        self._telling = threading.Lock()
        """From reading domains until that is on the stream: what was read first must not be told last."""

    def start(self) -> None:
        self._hypervisor.on_events = self._note
        self._hypervisor.on_connect = self.ask_for_inventory
        self._stream.on_reconnect = self.ask_for_inventory
        for work in (self._beat, self._take_inventory, self._tell_changes, self._watch_definitions):
            threading.Thread(target=_forever, args=(work,), name=work.__name__.strip("_"), daemon=True).start()

    def ask_for_inventory(self) -> None:
        self._wanted.set()

    # --- heartbeat ----------------------------------------------------------------------------------------

    def _beat(self) -> None:
        self._stream.report(
            Heartbeat(
                incarnation=self._incarnation,
                counter=self._ledger.counter,
                load_1m=os.getloadavg()[0],
                memory_available_bytes=memory("MemAvailable"),
                wall_clock=time.time(),
                libvirt_ok=self._hypervisor.ok,
            )
        )
        time.sleep(wire.HEARTBEAT_S)

    # --- inventory ----------------------------------------------------------------------------------------

    def _take_inventory(self) -> None:
        self._wanted.wait(INVENTORY_EVERY_S)
        self._wanted.clear()
        try:
            self.inventory()
            notice_shutdowns(self._ledger, self._hypervisor)
        except NodeError as error:
            log.warning("no inventory", cause=error.info.cause)

    def inventory(self, *, volumes: bool = False) -> None:
        """Send everything that this node has. Raises ``libvirt_unreachable``.

        :param volumes: the volumes too, although they are not due yet.
        """
        with self._one_at_a_time:
            with_volumes = volumes or time.monotonic() >= self._volumes_due
            began = self._ledger.counter
            seen = self._surroundings.look(volumes=with_volumes)
            # The domains last: they change by themselves, and the rest takes its time.
            with self._telling:
                counter = self._ledger.counter
                taken = self._stream.report(
                    Inventory(
                        incarnation=self._incarnation,
                        counter=counter,
                        facts=seen.facts,
                        checks=seen.checks + check_of(self._ledger),
                        domains=tuple(self._hypervisor.domains()),
                        pools=seen.pools,
                        offers=seen.offers,
                        images=seen.images,
                        isos=seen.isos,
                        leases=seen.leases,
                        volumes=None
                        if seen.sizes is None
                        else VolumesSeen(counter=began, sizes=seen.sizes, strangers=seen.strangers),
                    )
                )
            if with_volumes and taken:
                self._volumes_due = time.monotonic() + VOLUMES_EVERY_S

    # --- changes of domains -------------------------------------------------------------------------------

    def _note(self, event: LifecycleEvent) -> None:
        """Called by libvirt's event loop, which must not be held up."""
        with self._changed:
            before = self._events.get(event.uuid)
            self._events[event.uuid] = before if before is not None and before.definition else event
            self._changed.notify_all()

    def _watch_definitions(self) -> None:
        for event in self._hypervisor.redefined():
            self._note(event)
        time.sleep(DEFINITIONS_EVERY_S)

    def _tell_changes(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._events)
        # A start is several events: a short breath makes one entry of them.
        time.sleep(GATHER_S)
        with self._changed:
            events, self._events = list(self._events.values()), {}
        try:
            with self._telling:
                counter = self._ledger.counter
                domains = self._hypervisor.facts_of(events)
                self._send_changes(domains, counter)
            if any(domain.reason for domain in domains):
                self.ask_for_inventory()  # which storage is full, people must know now
            notice_shutdowns(self._ledger, self._hypervisor, {event.uuid for event in events})
        except NodeError as error:
            # The inventory after the next connection says it all.
            log.warning("changes of domains were not told", cause=error.info.cause)

    def _send_changes(self, domains: list[DomainFacts], counter: int) -> None:
        self._stream.report(DomainChanged(incarnation=self._incarnation, counter=counter, domains=tuple(domains)))


def _forever(work: Callable[[], None]) -> None:
    while True:
        try:
            work()
        except Exception:
            log.exception("a report failed")
            time.sleep(RETRY_S)
