"""libvirt's test driver as a node's hypervisor: one private connection for everything, and domains that come back."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import libvirt

from nodes.hypervisor.domains import Domain, Hypervisor, describe
from nodes.hypervisor.errors import node_error, unreachable
from nodes.simulated.memory import Memory

# A file of its own gives each connection a hypervisor of its own. Source: libvirt.org/drvtest.html
HOST_XML = """\
<node>
  <cpu>
    <mhz>3000</mhz><model>simulated</model><active>{cpus}</active>
    <nodes>1</nodes><sockets>2</sockets><cores>{cores}</cores><threads>2</threads>
  </cpu>
  <memory>{memory_kib}</memory>
</node>
"""


class SimulatedHypervisor(Hypervisor):
    """The driver lives in this process: there is no daemon that could hang, and no client to protect from threads."""

    def __init__(self, folder: Path, memory: Memory, cpus: int, memory_bytes: int) -> None:
        description = folder / "host.xml"
        description.write_text(HOST_XML.format(cpus=cpus, cores=cpus // 4, memory_kib=memory_bytes // 1024))
        super().__init__(f"test://{description}")
        self._memory = memory
        self._complete = False
        """All kept domains are there again: until then nobody may start or stop one of them."""

    def start(self) -> None:
        libvirt.registerErrorHandler(lambda context, error: None, None)
        self._connect()
        for kept in self._memory.domains():
            domain = self._events.defineXML(kept.xml)
            if kept.state in ("running", "paused"):
                domain.create()
            if kept.state == "paused":
                domain.suspend()
        self._complete = True
        self._heard()
        self.on_connect()

    @property
    def ok(self) -> bool:
        return self._complete

    @contextmanager
    def _query(self) -> Iterator[Any]:
        if self._events is None:
            raise unreachable("it was not yet started")
        try:
            yield self._events
        except libvirt.libvirtError as error:
            raise node_error(error, self._events) from None

    _call = _query

    # --- changes are kept -----------------------------------------------------------------------------------

    def define(self, xml: str) -> None:
        with self._call() as connection:
            domain = connection.defineXML(xml)
            self._memory.keep_domain(domain.UUIDString(), xml, self.whereabouts(domain.UUIDString()).state)

    def rename(self, uuid: str, name: str) -> None:
        super().rename(uuid, name)
        self._memory.keep_domain(uuid, self.definition(uuid)[0], self.whereabouts(uuid).state)

    def undefine(self, uuid: str) -> None:
        super().undefine(uuid)
        self._memory.drop_domain(uuid)

    def create(self, uuid: str, *, paused: bool) -> None:
        super().create(uuid, paused=paused)
        self._keep(uuid)

    def press_power_button(self, uuid: str) -> None:
        super().press_power_button(uuid)
        self._keep(uuid)

    def destroy(self, uuid: str) -> None:
        super().destroy(uuid)
        self._keep(uuid)

    def suspend(self, uuid: str) -> None:
        super().suspend(uuid)
        self._keep(uuid)

    def resume(self, uuid: str) -> None:
        super().resume(uuid)
        self._keep(uuid)

    def _keep(self, uuid: str) -> None:
        self._memory.keep_state(uuid, self.whereabouts(uuid).state)

    def domain_by_number(self, number: int) -> Domain | None:
        """One of the domains, any; None where there are none."""
        with self._query() as connection:
            domains = connection.listAllDomains()
            return describe(domains[number % len(domains)]) if domains else None


def start_event_loop() -> None:
    """Once, before the first hypervisor starts: libvirt has one event loop for a process, however many are in it."""
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=Hypervisor._turn_event_loop, name="libvirt-events", daemon=True).start()
