"""Many simulated nodes in one process: join them, start them, and let their guests come and go."""

import os
import random
import signal
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nodes import enrol
from nodes.config import Paths
from nodes.contract.errors import NodeError
from nodes.contract.specs import DomainSpec, FileSource
from nodes.domain_xml import build
from nodes.hypervisor.simulated import start_event_loop
from nodes.log import Log
from nodes.simulated.agent import SimulatedAgent, configuration
from nodes.simulated.memory import Memory
from nodes.simulated.parts import volume_name, volume_path

log = Log("ulei.simulated")

JOIN_AT_ONCE = 8
WORKERS = 16
BEGIN_AT_ONCE = 8
SLOWEST_STEP_S = 0.05


def join(folder: Path, tickets: Iterable[dict[str, str]]) -> None:
    """The same enrolment as everybody's.

    :param tickets: ``name``, ``panel``, ``token`` and ``ca_fingerprint`` of each node. One that has joined is left.
    """
    with ThreadPoolExecutor(JOIN_AT_ONCE) as pool:
        list(pool.map(lambda ticket: _join(folder / ticket["name"], ticket), tickets))


def _join(folder: Path, ticket: dict[str, str]) -> None:
    if configuration(folder).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    host_uuid = str(uuid.uuid4())
    (folder / "host_uuid").write_text(host_uuid)
    paths = Paths(state_dir=folder, pki_dir=folder / "pki", libvirt_uri="test:///default")
    enrol.join(
        paths,
        ticket["panel"],
        ticket["token"],
        ticket["ca_fingerprint"],
        host_uuid=host_uuid,
        configuration=configuration(folder),
    )


def seed(folder: Path, guests: Iterable[dict[str, Any]]) -> None:
    """Guests as if messages had made them: ``{"domain": DomainSpec, "disks": {id: size_bytes}, "running": bool}``."""
    memory = Memory(folder / "simulated.sqlite3")
    for guest in guests:
        spec = DomainSpec.model_validate(guest["domain"])
        sources = {disk: FileSource(path=volume_path(disk, "qcow2")) for disk in guest["disks"]}
        xml = build(spec, "test", sources, folder / "console")
        memory.keep_domain(spec.uuid, xml, "running" if guest["running"] else "shutoff")
        for disk, size_bytes in guest["disks"].items():
            memory.keep_volume(volume_name(disk, "qcow2"), disk, size_bytes)
        for nic in spec.nics:
            memory.keep_nic(nic.id, nic.model_dump_json())


def run(folders: Sequence[Path], changes_per_s: float) -> None:
    """Every node of this process, until SIGTERM."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stopping.set())
    workers = ThreadPoolExecutor(WORKERS, "verb")
    with ThreadPoolExecutor(BEGIN_AT_ONCE) as pool:
        agents = list(pool.map(lambda folder: SimulatedAgent(folder, workers), folders))
    start_event_loop()
    for agent in agents:
        threading.Thread(target=_live, args=(agent,), name=agent.config.name, daemon=True).start()
    if changes_per_s:
        _change(agents, changes_per_s, stopping)
    stopping.wait()
    for agent in agents:
        agent.stopping.set()


def _live(agent: SimulatedAgent) -> None:
    """A node that cannot go on ends the process: a simulation with a part missing would only mislead."""
    try:
        agent.run()
    except Exception:
        log.exception("a simulated node ended", node=agent.config.name)
        os._exit(1)


def _change(agents: Sequence[SimulatedAgent], per_s: float, stopping: threading.Event) -> None:
    """Guests go off and come back by themselves, so many a second over all nodes of this process."""
    began, done = time.monotonic(), 0
    chance = random.Random()  # noqa: S311 - which guest goes off is no secret
    while not stopping.wait(SLOWEST_STEP_S):
        due = int((time.monotonic() - began) * per_s) - done
        for _ in range(due):
            _change_one(chance.choice(agents), chance)
        done += due


def _change_one(agent: SimulatedAgent, chance: random.Random) -> None:
    hypervisor = agent.hypervisor
    if not hypervisor.ok:
        return
    try:
        domain = hypervisor.domain_by_number(chance.randrange(1 << 30))
        if domain is None or domain.vm is None:
            return
        # A job's verb is not disturbed: it would fail for a reason that no real guest gives.
        with agent.dispatcher.claim(f"domain:{domain.vm}") as free:
            if free and domain.active:
                hypervisor.press_power_button(domain.uuid)
            elif free:
                hypervisor.create(domain.uuid, paused=False)
    except NodeError as error:
        log.warning("a guest did not change", node=agent.config.name, cause=error.info.cause)
