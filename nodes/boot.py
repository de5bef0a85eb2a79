"""Law 5: after a boot of the node the agent itself starts the guests that should run.

A guest with only local disks can run nowhere else, so it starts at once. One with a shared disk, or whose last
message here was a move, may run on another node by now: it waits until the panel has answered.
"""

import time
from collections.abc import Callable, Collection
from pathlib import Path

from nodes.contract.errors import NodeError
from nodes.dispatcher import Dispatcher
from nodes.drain import CallLost, libvirtd_process
from nodes.hypervisor import Hypervisor
from nodes.ledger import Ledger, Wanted
from nodes.log import Log
from nodes.verbs.domains import power_on

log = Log("ulei.boot")

AGAIN_S = 1.0


def notice_boot(ledger: Ledger, run_dir: Path) -> bool:
    """A boot empties ``run_dir``: without the marker there, every guest that should run has to be started."""
    marker = run_dir / "booted"
    if marker.exists():
        return False
    log.info("the node has booted")
    # The ledger first: killed in between, the next agent notices the same boot again, which changes nothing.
    ledger.node_has_booted()
    run_dir.mkdir(parents=True, exist_ok=True)
    marker.touch()
    return True


def _never(uuid: str) -> bool:
    return False


def start_guests(
    ledger: Ledger,
    dispatcher: Dispatcher,
    hypervisor: Hypervisor,
    placed: Collection[str] | None = None,
    held_back: Callable[[str], bool] = _never,
) -> None:
    """Start what the boot left off, one after the other. Messages about a guest wait while it is started.

    :param placed: uuids of the guests that the panel places here, without those that are on their way to another node
        (the job that moves them settles where they run); None: the panel has not answered yet.
    :param held_back: whether the storage of a guest says that it may have been started elsewhere meanwhile.
    """
    waits: set[str] = set()
    while due := [w for w in ledger.wanted() if w.boot and w.vm not in waits and _may_start(ledger, w, placed)]:
        for wanted in due:
            with dispatcher.claim(f"domain:{wanted.vm}") as free:
                # Else a message about this guest is at work, and settles whether it should run.
                if free:
                    holder = libvirtd_process()
                    try:
                        if wanted.uuid not in (placed or ()) and held_back(wanted.uuid):
                            waits.add(wanted.vm)
                            continue
                        _start(ledger, hypervisor, wanted)
                    except CallLost as error:
                        # libvirtd may start it yet: until that is known, no message and no second try touches it.
                        log.error("libvirtd was lost at a start", vm=wanted.vm, cause=error.info.cause)
                        dispatcher.sampler.hold(f"domain:{wanted.vm}", holder)
                    except NodeError as error:
                        log.error(
                            "libvirtd does not say where a guest's disks are", vm=wanted.vm, cause=error.info.cause
                        )
        time.sleep(AGAIN_S)


def _may_start(ledger: Ledger, wanted: Wanted, placed: Collection[str] | None) -> bool:
    row = ledger.get(f"domain:{wanted.vm}")
    if wanted.local_only and not (row is not None and row.move):
        return True
    return placed is not None and wanted.uuid in placed


def _start(ledger: Ledger, hypervisor: Hypervisor, wanted: Wanted) -> None:
    try:
        domain = hypervisor.find(uuid=wanted.uuid)
        if domain is None or domain.vm != wanted.vm:
            log.error("a guest that should run has no domain", vm=wanted.vm, name=wanted.name)
        elif not domain.active:
            power_on(hypervisor, wanted.uuid)
            log.info("started after the boot", vm=wanted.vm, name=wanted.name)
    except CallLost:
        raise
    except NodeError as error:
        log.error("a guest was not started after the boot", vm=wanted.vm, cause=error.info.cause)
        if error.info.retryable:
            return
    ledger.started_at_boot(wanted.vm)


def notice_shutdowns(ledger: Ledger, hypervisor: Hypervisor, among: Collection[str] | None = None) -> None:
    """A guest that shut itself down is not wanted running any more (law 5).

    Only libvirtd's own word "the guest wanted it" counts, at the moment of the event or, for what happened while no
    agent looked, afterwards. A guest that crashed, that somebody destroyed by hand, or of which a restarted libvirtd
    has forgotten the reason, stays wanted: it is not started now, but with the next boot of the node. That is the
    safe side of the doubt, because its disks are here and nobody but this node's agent starts it by itself.

    :param among: uuids of the domains to look at; None: all.
    """
    for wanted in ledger.wanted():
        while wanted.running and not wanted.boot and (among is None or wanted.uuid in among):
            counter = ledger.counter
            domain = hypervisor.find(uuid=wanted.uuid)
            if domain is None or domain.active or not domain.shut_itself_down:
                break
            if ledger.shut_itself_down(wanted.uuid, counter):
                log.info("the guest shut itself down", vm=wanted.vm, name=wanted.name)
                break
