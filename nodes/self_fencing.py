"""Where it is wanted, a node that the panel cannot hear ends the guests that could be started on another node.

Without the panel is who Redis has not answered for so long: the conductor hears what Redis takes, so of nobody else can
an administrator say that the node is dead. A guest with a disk that only this node has runs on: nobody can start it
elsewhere. What was ended is not started again without a person's word.
"""

import threading
from pathlib import Path

from nodes.contract.errors import NodeError
from nodes.contract.specs import Check
from nodes.dispatcher import Dispatcher
from nodes.drain import CallLost, libvirtd_process
from nodes.files import write_atomically
from nodes.hypervisor import Domain, Hypervisor
from nodes.ledger import Ledger
from nodes.log import Log
from nodes.stream import Stream, uptime_s

log = Log("ulei.self_fencing")

LOOK_EVERY_S = 1.0


class SelfFencing:
    def __init__(
        self, ledger: Ledger, dispatcher: Dispatcher, hypervisor: Hypervisor, stream: Stream, run_dir: Path
    ) -> None:
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._hypervisor = hypervisor
        self._stream = stream
        self._heard = run_dir / "panel.heard"
        """When it was heard last: an agent that is restarted meanwhile does not begin to count anew."""
        self._stop = threading.Event()
        stream.taken_at = min(stream.taken_at, _number_in(self._heard, stream.taken_at))

    def start(self) -> None:
        threading.Thread(target=self._watch, name="self-fencing", daemon=True).start()

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            try:
                self.look()
            except NodeError as error:
                log.error("guests cannot be looked at", cause=error.info.cause)
            except Exception:
                log.exception("self-fencing failed")

    def look(self) -> None:
        """End what has to be ended now."""
        heard, after_s = self._stream.taken_at, self._ledger.self_fencing_after_s
        if after_s is None:
            return
        if heard != _number_in(self._heard, -1.0):
            write_atomically(self._heard, repr(heard))
        if uptime_s() - heard <= after_s:
            return
        for domain in self._hypervisor.guests_without_local_disks():
            self._end(domain, after_s)

    def _end(self, domain: Domain, after_s: int) -> None:
        name = f"domain:{domain.vm}"
        with self._dispatcher.claim(name) as free:
            # A message about it is at work, or it is on its way to another node: the next look sees what came of that.
            if not free or self._hypervisor.may_be_moving(domain.uuid):
                return
            holder = libvirtd_process()
            try:
                self._hypervisor.destroy(domain.uuid)
            except CallLost:
                self._dispatcher.sampler.hold(name, holder)
                return
            self._ledger.ended_by_itself(domain.uuid, domain.name)
            log.error("ended, for the panel did not answer", vm=domain.vm, name=domain.name, after_s=after_s)


def check_of(ledger: Ledger) -> tuple[Check, ...]:
    """What people must know of it, until they have said what becomes of these guests."""
    names = ledger.self_fenced().values()
    if not names:
        return ()
    return (Check(code="self_fenced", level="warning", facts={"count": len(names), "names": ", ".join(names)}),)


def _number_in(file: Path, otherwise: float) -> float:
    try:
        return float(file.read_text())
    except (OSError, ValueError):
        return otherwise
