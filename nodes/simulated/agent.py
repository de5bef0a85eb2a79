"""The agent of one simulated node: the real one, with other parts around it and a queue that is read by a thread."""

import tomllib
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from kombu import Connection, Consumer, Queue
from kombu.message import Message
from kombu.mixins import ConsumerMixin

from nodes.agent import Agent, celery_app
from nodes.config import Config
from nodes.contract import wire
from nodes.contract.specs import Check, NodeFacts
from nodes.facts import Facts
from nodes.hypervisor.simulated import SimulatedHypervisor
from nodes.log import Log
from nodes.probe import VirtType
from nodes.reporter import Reporter, Seen, Surroundings
from nodes.simulated.memory import Memory
from nodes.simulated.parts import BRIDGES, MICRO, SimulatedDriver, SimulatedNetwork, SimulatedNode

log = Log("ulei.simulated")

CPUS = 64
MEMORY_BYTES = 512 << 30
REASON = "libvirt's test driver has no guests"


def configuration(folder: Path) -> Path:
    return folder / "node.toml"


def config_of(folder: Path) -> Config:
    """A simulated node's settings: everything that it has is in its folder."""
    given = tomllib.loads(configuration(folder).read_text())
    return Config(
        **given,
        state_dir=folder,
        pki_dir=folder / "pki",
        run_dir=folder / "run",
        images_dir=folder / "images",
        isos_dir=folder / "boot",
        console_log_dir=folder / "console",
        libvirt_uri="test:///",
    )


class SimulatedFacts(Facts):
    """A large machine."""

    def __init__(self, name: str, host_uuid: str, hypervisor: SimulatedHypervisor) -> None:
        self._name, self._host_uuid, self._hypervisor = name, host_uuid, hypervisor

    def read(self) -> NodeFacts:
        return NodeFacts(
            hostname=self._name,
            cpus=CPUS,
            memory_bytes=MEMORY_BYTES,
            cpu_model="simulated",
            virt_type="test",
            virt_reason=REASON,
            libvirt_version=self._hypervisor.versions()[0],
            qemu_version="",
            host_uuid=self._host_uuid,
            bridges=BRIDGES,
            simulated=True,
        )


class SimulatedSurroundings(Surroundings):
    """Which is always well."""

    def __init__(self, facts: SimulatedFacts, driver: SimulatedDriver) -> None:
        self._facts, self._driver = facts, driver

    def look(self, *, volumes: bool) -> Seen:
        kvm = Check(code="kvm", level="ok", facts={"type": "test", "reason": REASON})
        sizes = {self._driver.identity(): self._driver.sizes()} if volumes else None
        return Seen(self._facts.read(), (kvm,), (self._driver.facts(),), (), (MICRO,), (), sizes=sizes)


class SimulatedAgent(Agent):
    def __init__(self, folder: Path, workers: Executor) -> None:
        self.memory = Memory(folder / "simulated.sqlite3")
        self._workers = workers
        super().__init__(config_of(folder))

    def _make_parts(self) -> None:
        config = self.config
        self.hypervisor: SimulatedHypervisor = SimulatedHypervisor(config.state_dir, self.memory, CPUS, MEMORY_BYTES)
        driver = SimulatedDriver(config.id, self.memory, self.shell)
        facts = SimulatedFacts(config.name, (config.state_dir / "host_uuid").read_text(), self.hypervisor)
        self.facts = facts
        surroundings = SimulatedSurroundings(facts, driver)
        self.reporter = Reporter(self.hypervisor, self.ledger, self.stream, surroundings, self.incarnation)
        self.node = SimulatedNode(
            driver,
            config,
            self.hypervisor,
            SimulatedNetwork(config.state_dir, self.memory, self.shell),
            self.shell,
            VirtType("test", REASON),
            self.reporter.inventory,
            self.ledger.set_self_fencing,
        )

    def run(self) -> None:
        """In a thread, until the process ends."""
        if self.begin():
            self._take_messages()

    def _take_messages(self) -> None:
        """A Celery worker fills a process; this reads the same messages from the same list."""
        with celery_app(self.config, self.dispatcher).connection_for_read() as connection:
            Intake(connection, self).run()

    def take(self, task: str, arguments: dict[str, Any]) -> None:
        if task == wire.CANCEL_TASK:
            self.dispatcher.cancel(arguments.get("cancel", {}))
        else:
            self.dispatcher.message(arguments.get("envelope", {}))


class Intake(ConsumerMixin):
    def __init__(self, connection: Connection, agent: SimulatedAgent) -> None:
        self.connection = connection
        self._agent = agent

    def get_consumers(self, consumer: Any, channel: Any) -> list[Consumer]:
        queue = Queue(wire.COMMANDS, no_declare=True)
        return [consumer([queue], on_message=self._take, accept=["json"], no_ack=True, prefetch_count=1)]

    def _take(self, message: Message) -> None:
        """Celery's message protocol 2: the task's name in the headers, ``[args, kwargs, embed]`` in the body."""
        _args, arguments, _embed = message.payload
        self._agent._workers.submit(self._agent.take, message.headers["task"], arguments)

    def on_connection_error(self, error: Exception, interval: float) -> None:
        log.warning("the queue cannot be read", node=self._agent.config.name, cause=error)
