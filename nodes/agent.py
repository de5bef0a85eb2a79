"""The agent: a Celery worker with one queue, whose tasks are the verbs.

Start, in this order: take the ledger, end the children of the agent before, notice a boot, say hello, apply the
panel's welcome, and only then read the queue.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from celery import Celery, signals
from celery.app.amqp import AMQP
from kombu import Connection, Queue

from nodes import __version__, boot, probe, quiesce, verbs
from nodes.config import Config
from nodes.contract import wire
from nodes.contract.errors import NodeError
from nodes.contract.messages import VERBS
from nodes.dispatcher import Dispatcher
from nodes.drain import Drain, Sampler, libvirtd_process
from nodes.facts import Facts
from nodes.hypervisor import Hypervisor
from nodes.ledger import Ledger
from nodes.log import Log
from nodes.network import Network
from nodes.node import Node
from nodes.probe import VirtType
from nodes.reporter import Reporter, Surroundings
from nodes.self_fencing import SelfFencing
from nodes.session import introduce
from nodes.shell import Shell, end_children
from nodes.storage import directory
from nodes.stream import Stream, connect, tls_options

log = Log("ulei.agent")

THREADS = 24
STOP_AFTER_S = 10.0
RECONNECT_AT_MOST_S = 5
BROKER_TIMEOUT_S = 5
KEEPALIVE_EVERY_S = 5
HELLO_WAITS_S = 5.0


class Agent:
    def __init__(self, config: Config) -> None:
        verbs.load()
        self.config = config
        self.ledger = Ledger(config.ledger_file)
        # dnsmasq reads its part of this folder without our rights; what is secret there is so by its own mode.
        config.state_dir.chmod(0o755)
        self.incarnation = self.ledger.new_incarnation()
        log.info("agent starts", version=__version__, node=config.id, name=config.name, incarnation=self.incarnation)
        family = end_children(self.ledger, config.state_dir / "children.lock")
        self.shell = Shell(self.ledger, family)
        self.booted = boot.notice_boot(self.ledger, config.run_dir)
        self.client = connect(config)
        self.stream = Stream(self.client, config.id)
        self._make_parts()
        drain = Drain(self.shell, self.hypervisor.calls_in_flight)
        self.sampler = Sampler(drain.is_over, lambda name: self.dispatcher.release(name))
        self.dispatcher = Dispatcher(self.node, self.ledger, self.stream, self.sampler, self.incarnation)
        self.self_fencing = SelfFencing(self.ledger, self.dispatcher, self.hypervisor, self.stream, config.run_dir)
        self.stopping = threading.Event()

    def _make_parts(self) -> None:
        """What stands for this machine: its hypervisor, its facts, and what verbs work with."""
        config = self.config
        _or_say(lambda: directory.make_pool(config.images_dir), "no pool")
        self.hypervisor = Hypervisor(config.libvirt_uri)
        virt = known_virt_type(config, self.hypervisor, self.shell)
        network = Network(config.state_dir, config.run_dir, config.uplinks, self.shell)
        self.facts = Facts(self.hypervisor, virt, config.state_dir, self.shell)
        surroundings = Surroundings(config, self.facts, self.shell, network.given)
        self.reporter = Reporter(self.hypervisor, self.ledger, self.stream, surroundings, self.incarnation)
        self.node = Node(
            config,
            self.hypervisor,
            network,
            self.shell,
            virt,
            self.reporter.inventory,
            self.ledger.set_self_fencing,
        )

    def run(self) -> None:
        """Work until SIGTERM."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: self.stopping.set())
        if self.begin():
            self._take_messages()

    def begin(self) -> bool:
        """Everything before the first message is taken. False: this agent is to end."""
        self._hold_orphans()
        if not self.hypervisor.simulated:
            _or_say(self.node.network.arrivals.restore, "the ports of a migration are not closed to strangers")
            _or_say(self.node.network.restore, "leases and filters were not restored")
        self.hypervisor.start()
        self.self_fencing.start()
        self._start_guests()
        # The facts of a hello are better with libvirt's part in them, but a silent libvirtd must not hide the node.
        self.hypervisor.await_ok(HELLO_WAITS_S)
        if not self.hypervisor.simulated:
            quiesce.thaw_left_over(self.config.frozen_dir, self.hypervisor)
        self.reporter.start()
        welcome = introduce(
            self.config, self.client, self.stream, self.ledger, self.facts.read(), self.incarnation, self.stopping
        )
        if welcome is None:
            return False
        self.ledger.set_self_fencing(welcome.self_fencing_after_s)
        self._start_guests(welcome.placed)
        self.reporter.ask_for_inventory()
        return True

    def _take_messages(self) -> None:
        celery_app(self.config, self.dispatcher).Worker(
            pool="threads",
            concurrency=THREADS,
            queues=[wire.COMMANDS],
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
            hostname=f"node@{self.config.name}",
        ).start()

    def _hold_orphans(self) -> None:
        """What a dead agent asked of libvirtd may still be asked for; a node that has booted asks nothing."""
        if self.booted or self.hypervisor.simulated:
            return
        for row in self.ledger.rows():
            if row.in_doubt and row.object.startswith("domain:"):
                log.info("may still be in libvirtd", object=row.object, dispatch=row.number, verb=row.verb)
                self.sampler.hold(row.object, row.libvirtd)
        for wanted in self.ledger.wanted():
            if wanted.boot:
                # The agent that noticed the boot ended before it was done: it may have asked for this start.
                log.info("may still be in libvirtd", object=f"domain:{wanted.vm}", verb="start after the boot")
                self.sampler.hold(f"domain:{wanted.vm}", libvirtd_process())

    def _start_guests(self, placed: Collection[str] | None = None) -> None:
        start = partial(
            boot.start_guests, self.ledger, self.dispatcher, self.hypervisor, placed, held_back=self._is_held_back
        )
        threading.Thread(target=start, name="boot", daemon=True).start()

    def _is_held_back(self, uuid: str) -> bool:
        """Whether this node was declared dead, and the guest may run elsewhere."""
        if self.hypervisor.simulated:
            return False
        files = self.hypervisor.disk_files(uuid)
        return any(directory.may_be_shut_out(Path(file), self.config.id) for file in files)


def _or_say(work: Callable[[], object], what: str) -> None:
    """What fails on this node must not hide the node: the preflight and the verbs say it again."""
    try:
        work()
    except NodeError as error:
        log.error(what, code=error.info.code, cause=error.info.cause)


class _Connection(Connection):
    """Tries again after a few seconds; Celery's consumer would wait up to 30."""

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        return super().ensure_connection(
            *args, **{"interval_start": 1, "interval_step": 1, "interval_max": RECONNECT_AT_MOST_S, **kwargs}
        )


class _Amqp(AMQP):
    Connection = _Connection


def known_virt_type(config: Config, hypervisor: Hypervisor, shell: Shell) -> VirtType:
    if hypervisor.simulated:
        return VirtType("test", "the test driver has no guests")
    if config.virt_type != "auto":
        return VirtType(config.virt_type, "set in the node's configuration")
    return probe.virt_type(config.state_dir, shell)


def celery_app(config: Config, dispatcher: Dispatcher) -> Celery:
    """One queue, no results, no remote control, no events: what the node's Redis user may do is all that it needs."""
    scheme = "rediss" if config.redis_tls else "redis"
    user = f"{wire.redis_user(config.id)}:{quote(config.redis_password(), safe='')}"
    broker = f"{scheme}://{user}@{config.redis_host}:{config.redis_port}/0"
    # No fixups: a DJANGO_SETTINGS_MODULE in the environment is not for us.
    app = Celery("ulei-node", broker=broker, amqp=_Amqp, fixups=[], set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "global_keyprefix": wire.key_prefix(config.id),
            # A message is gone when it is taken. The panel sends until it is answered, so keeping a copy in Redis
            # would only bring old messages back an hour later.
            "ack_emulation": False,
            # A broker that vanished without a word is noticed: the worker itself only ever waits for its next message.
            "socket_connect_timeout": BROKER_TIMEOUT_S,
            "socket_keepalive": True,
            "socket_keepalive_options": {
                socket.TCP_KEEPIDLE: KEEPALIVE_EVERY_S,
                socket.TCP_KEEPINTVL: KEEPALIVE_EVERY_S,
                socket.TCP_KEEPCNT: 3,
                socket.TCP_USER_TIMEOUT: 4 * KEEPALIVE_EVERY_S * 1000,
            },
        },
        task_create_missing_queues=False,
        task_default_queue=wire.COMMANDS,
        task_ignore_result=True,
        # Not declared: declaring would bind it to an exchange, which the panel does not use and Redis would keep.
        task_queues=[Queue(wire.COMMANDS, no_declare=True)],
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_prefetch_multiplier=1,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
    )
    if config.redis_tls:
        app.conf.broker_use_ssl = tls_options(config)
    for verb in VERBS:
        app.task(name=wire.CELERY_TASK_PREFIX + verb)(_take_message(dispatcher))
    app.task(name=wire.CANCEL_TASK)(_take_cancel(dispatcher))
    # Celery holds receivers weakly.
    signals.task_unknown.connect(partial(_take_unknown, dispatcher), weak=False)
    signals.setup_logging.connect(_keep_our_logging, weak=False)
    signals.worker_shutting_down.connect(_end_soon, weak=False)
    return app


def _take_message(dispatcher: Dispatcher) -> Any:
    def take(envelope: dict[str, Any]) -> None:
        dispatcher.message(envelope)

    return take


def _take_cancel(dispatcher: Dispatcher) -> Any:
    def take(cancel: dict[str, Any]) -> None:
        dispatcher.cancel(cancel)

    return take


def _take_unknown(dispatcher: Dispatcher, message: Any, **ignored: Any) -> None:
    """A verb of a newer panel: the dispatcher answers that this agent is too old for it."""
    _, keywords, _ = message.payload
    dispatcher.message(keywords.get("envelope", {}))


def _keep_our_logging(**ignored: Any) -> None:
    pass


def _end_soon(**ignored: Any) -> None:
    """SIGTERM has stopped the intake; verbs that still run after a while are left to the next agent's ledger."""
    timer = threading.Timer(STOP_AFTER_S, os._exit, args=(0,))
    timer.daemon = True
    timer.start()
