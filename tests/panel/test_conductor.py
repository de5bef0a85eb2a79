"""The conductor on a real Redis: what nodes say takes effect once, and what is to be sent is sent until answered."""

import base64
import hashlib
import json
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from django.db import connection
from django.test import override_settings

from cluster import job_words
from cluster.broker import Broker, Unreachable
from cluster.conductor import Conductor
from cluster.models import Job, Node, NodeState, ObjectNumber, PoolOnNode, StreamCursor, Vm
from cluster.operations import start
from cluster.panel_backup import aftermath
from nodes.contract import messages
from nodes.contract.errors import ErrorInfo
from nodes.contract.messages import Cancel, Envelope, Reply
from nodes.contract.wire import OFFLINE_AFTER_S, commands_queue, events_stream, redis_user, welcome_list
from tests.panel.engine.scenarios import Scene, second_node

pytestmark = pytest.mark.django_db(transaction=True)


class RedisServer:
    """A redis-server of one test, which may end it and start it again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.socket = folder, folder / "redis.sock"
        self.start()

    def start(self) -> None:
        argv = [
            "redis-server",
            "--port",
            "0",
            "--unixsocket",
            str(self.socket),
            "--dir",
            str(self.folder),
            "--save",
            "",
        ]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        next(line for line in self.process.stdout if "eady to accept connections" in line)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def restart_empty(self) -> None:
        self.stop()
        self.start()

    def client(self, **options: Any) -> Any:
        return redis.Redis(unix_socket_path=str(self.socket), decode_responses=True, **options)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    url = f"unix://{server.socket}?db=0"
    with override_settings(REDIS_CONDUCTOR_URL=url):
        yield server
    server.stop()


@pytest.fixture
def conductor(server: RedisServer, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Conductor:
    monkeypatch.setattr("cluster.events._send", lambda frames: None)
    monkeypatch.setattr("cluster.wake.conductor", lambda job="": None)
    conductor = Conductor(Broker())
    conductor.turn(block_ms=1)
    return conductor


class FakeAgent:
    """What a node says and hears, word by word."""

    def __init__(self, server: RedisServer, node: Node) -> None:
        self.redis, self.node, self.counter = server.client(), node, 0
        self.cancels: list[Cancel] = []

    def say(self, entry: Any) -> None:
        self.redis.xadd(events_stream(self.node.pk), {"e": entry.model_dump_json()})

    def hear(self) -> list[Envelope]:
        heard: list[Envelope] = []
        while raw := self.redis.rpop(commands_queue(self.node.pk)):
            arguments = json.loads(base64.b64decode(json.loads(raw)["body"]))[1]
            self.cancels += [Cancel.model_validate(arguments["cancel"])] if "cancel" in arguments else []
            heard += [Envelope.model_validate(arguments["envelope"])] if "envelope" in arguments else []
        return heard

    def answer(self, envelope: Envelope, outcome: str = "done", **fields: Any) -> None:
        self.counter += 1
        asked = envelope.model_dump(exclude={"body"})
        self.say(Reply(incarnation=1, counter=self.counter, outcome=outcome, **asked, **fields))  # type: ignore[arg-type]

    def domains(self, states: dict[str, str], counter: int | None = None, reason: str = "") -> None:
        seen = tuple({"uuid": u, "name": "x", "state": state, "reason": reason} for u, state in states.items())
        counter = self.counter if counter is None else counter
        self.say(messages.DomainChanged.model_validate({"incarnation": 1, "counter": counter, "domains": seen}))

    def hello(self, incarnation: int = 1) -> None:
        facts = {
            "hostname": "n1", "cpus": 8, "memory_bytes": 16 << 30, "cpu_model": "x", "virt_type": "qemu",
            "libvirt_version": "9.0.0", "qemu_version": "7.2.0", "host_uuid": "u", "bridges": ["br0"],
        }  # fmt: skip
        verbs = {verb: messages.known_fields(verb) for verb in messages.VERBS}
        said = {"incarnation": incarnation, "counter": 0, "protocol": 1, "version": "1", "verbs": verbs, "facts": facts}
        self.say(messages.Hello.model_validate(said))


@pytest.fixture
def agent(server: RedisServer, scene: Scene, conductor: Conductor) -> FakeAgent:
    agent = FakeAgent(server, scene.node)
    agent.hello()
    conductor.turn(block_ms=1)
    agent.hear()
    return agent


def settle(conductor: Conductor, turns: int = 3) -> None:
    for _ in range(turns):
        conductor.turn(block_ms=1)


def test_a_job_goes_through_queue_and_stream_to_its_end(scene: Scene, conductor: Conductor, agent: FakeAgent) -> None:
    job = scene.start("vm.stop").job
    conductor.advance(job.pk)
    [stop] = agent.hear()
    assert (stop.verb, stop.object, stop.dispatch) == ("domain.stop", "domain:" + scene.running.pk, 1)
    agent.answer(stop, result={"state": "shutoff", "defined": True})
    settle(conductor)
    assert Job.objects.get(pk=job.pk).state == "succeeded"
    assert Vm.objects.get(pk=scene.running.pk).state == "stopped"


def test_what_is_not_answered_is_sent_again_by_the_clock_and_at_once_to_a_new_incarnation(
    scene: Scene, conductor: Conductor, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    conductor.advance(scene.start("vm.stop").job.pk)
    [first] = agent.hear()
    conductor.tick()
    assert agent.hear() == []
    agent.hello(incarnation=2)
    settle(conductor)
    assert agent.hear() == [first]
    now = time.monotonic() + 25
    monkeypatch.setattr("cluster.conductor.time.monotonic", lambda: now)
    conductor.heard[scene.node.pk] = now
    conductor.tick()
    assert agent.hear() == [first]


def test_a_cancel_names_the_number_that_runs_and_its_answer_turns_the_job_round(
    scene: Scene, conductor: Conductor, agent: FakeAgent
) -> None:
    job = scene.start("vm.shutdown").job
    conductor.advance(job.pk)
    [shutdown] = agent.hear()
    job_words.cancel(scene.actor, job)
    conductor.advance(job.pk)
    agent.hear()
    assert [(c.object, c.dispatch) for c in agent.cancels] == [(shutdown.object, shutdown.dispatch)]
    agent.answer(shutdown, "cancelled")
    settle(conductor)
    assert Job.objects.get(pk=job.pk).state == "cancelled"
    assert Vm.objects.get(pk=scene.running.pk).state == "running"


def test_a_hello_is_answered_past_the_queue_with_what_was_raised_and_placed(
    scene: Scene, conductor: Conductor, agent: FakeAgent, server: RedisServer
) -> None:
    scene.node.raised.create(object="domain:" + scene.running.pk, number=7)
    agent.hello(incarnation=3)
    conductor.turn(block_ms=1)
    welcome = messages.Welcome.model_validate_json(server.client().lindex(welcome_list(scene.node.pk), 0))
    assert welcome.incarnation == 3
    assert welcome.raises == {"domain:" + scene.running.pk: 7}
    assert set(welcome.placed) == {scene.running.uuid, scene.stopped.uuid}


def test_a_node_that_was_declared_dead_is_told_at_its_hello_to_start_nothing_that_is_shut_out(
    scene: Scene, conductor: Conductor, agent: FakeAgent, server: RedisServer
) -> None:
    _there, (_own, both) = second_node(scene)
    scene.running.disks.filter(position=1).update(pool=both)
    PoolOnNode.objects.filter(pool=both, node=scene.node).update(fenced=["10.99.0.11"])
    Node.objects.filter(pk=scene.node.pk).update(self_fencing=True)
    conductor.refresh_nodes(conductor.run_id)
    agent.hello(incarnation=3)
    conductor.turn(block_ms=1)
    welcome = messages.Welcome.model_validate_json(server.client().lindex(welcome_list(scene.node.pk), 0))
    assert welcome.placed == (scene.stopped.uuid,)
    assert welcome.self_fencing_after_s == 60


def test_a_silent_node_is_offline_and_its_vms_unknown_and_both_come_back_by_themselves(
    scene: Scene, conductor: Conductor, agent: FakeAgent
) -> None:
    conductor.heard[scene.node.pk] = time.monotonic() - OFFLINE_AFTER_S - 1
    conductor.tick()
    assert Node.objects.get(pk=scene.node.pk).state == NodeState.OFFLINE
    assert set(Vm.objects.values_list("state", flat=True)) == {"unknown"}
    conductor.refresh_nodes(conductor.run_id)
    agent.domains({scene.running.uuid: "running"})
    settle(conductor)
    assert Node.objects.get(pk=scene.node.pk).state == NodeState.ONLINE
    assert [e.verb for e in agent.hear()] == ["node.inspect"]
    assert Vm.objects.get(pk=scene.running.pk).state == "running"
    assert Vm.objects.count() == 2


def test_two_conductors_apply_a_batch_once(scene: Scene, conductor: Conductor, agent: FakeAgent) -> None:
    other = Conductor(Broker())
    other.connect()
    job = scene.start("vm.reboot").job
    conductor.advance(job.pk)
    [reboot] = agent.hear()
    agent.answer(reboot, result={"state": "running", "defined": True})
    settle(conductor)
    settle(other)
    assert Job.objects.get(pk=job.pk).state == "succeeded"
    assert StreamCursor.objects.get(node=scene.node).last == other.positions[events_stream(scene.node.pk)]


def test_an_entry_that_cannot_be_read_does_not_stop_the_ones_after_it(
    scene: Scene, conductor: Conductor, agent: FakeAgent
) -> None:
    agent.redis.xadd(events_stream(scene.node.pk), {"e": '{"type": "nonsense"}'})
    agent.redis.xadd(events_stream(scene.node.pk), {"x": "y"})
    agent.domains({scene.running.uuid: "paused"})
    settle(conductor)
    assert Vm.objects.get(pk=scene.running.pk).state == "paused"


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param({"e": b"\xff\xfe"}, id="bytes that are no text"),
        pytest.param({b"\xff": b"\xff"}, id="a name that is no text"),
    ],
)
def test_bytes_that_are_no_text_stop_nobody(
    scene: Scene, conductor: Conductor, agent: FakeAgent, entry: dict[Any, Any]
) -> None:
    agent.redis.xadd(events_stream(scene.node.pk), entry)
    agent.domains({scene.running.uuid: "paused"})
    settle(conductor)
    assert Vm.objects.get(pk=scene.running.pk).state == "paused"


@pytest.mark.parametrize("started", [False, True], ids=["before", "while the conductor runs"])
def test_a_node_that_makes_something_else_of_its_stream_stops_nobody(
    scene: Scene, conductor: Conductor, agent: FakeAgent, server: RedisServer, started: bool
) -> None:
    other = Node.objects.create(name="n2", address="10.99.0.12", redis_password_sha256="2" * 64, state="online")
    conductor.refresh_nodes(conductor.run_id)
    agent.redis.delete(events_stream(other.pk))
    agent.redis.set(events_stream(other.pk), "no stream")
    if not started:
        conductor.run_id = ""
    agent.domains({scene.running.uuid: "paused"})
    settle(conductor)
    assert Vm.objects.get(pk=scene.running.pk).state == "paused"
    FakeAgent(server, other).hello(incarnation=7)
    settle(conductor)
    assert Node.objects.get(pk=other.pk).incarnation == 7


def test_an_entry_that_cannot_be_stored_is_dropped_and_the_others_are_not(
    scene: Scene, conductor: Conductor, agent: FakeAgent
) -> None:
    job = scene.start("vm.stop").job
    conductor.advance(job.pk)
    [stop] = agent.hear()
    progress = {"incarnation": 1, "counter": 1, "object": stop.object, "dispatch": 1, "job": "x", "step": stop.step}
    agent.say(messages.Progress(percent=1, **progress))
    agent.hello(incarnation=1 << 70)
    agent.answer(stop, result={"state": "shutoff", "defined": True})
    settle(conductor)
    assert Job.objects.get(pk=job.pk).state == "succeeded"


@pytest.mark.skipif(connection.vendor != "postgresql", reason="only a server can end a connection")
def test_what_is_said_while_the_database_has_ended_the_connection_takes_effect_at_once(
    scene: Scene, conductor: Conductor, agent: FakeAgent
) -> None:
    job = scene.start("vm.stop").job
    conductor.advance(job.pk)
    [stop] = agent.hear()
    agent.answer(stop, result={"state": "shutoff", "defined": True})
    other = connection.copy()
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.connection.info.backend_pid])
    other.close()
    conductor.turn(block_ms=1)
    settle(conductor)
    assert Job.objects.get(pk=job.pk).state == "succeeded"


def test_an_observation_older_than_the_last_reply_or_during_a_job_changes_nothing(
    scene: Scene, conductor: Conductor, agent: FakeAgent
) -> None:
    job = scene.start("vm.stop").job
    conductor.advance(job.pk)
    [stop] = agent.hear()
    agent.domains({scene.running.uuid: "paused"})
    settle(conductor)
    assert Vm.objects.get(pk=scene.running.pk).state == "stopping"
    agent.answer(stop, result={"state": "shutoff", "defined": True})
    agent.domains({scene.running.uuid: "running"}, counter=0)
    settle(conductor)
    assert Vm.objects.get(pk=scene.running.pk).state == "stopped"
    agent.domains({scene.running.uuid: "running"})
    settle(conductor)
    assert Vm.objects.get(pk=scene.running.pk).state == "running"


def test_a_guest_that_its_qemu_has_paused_says_why_until_it_goes_on(
    scene: Scene, conductor: Conductor, agent: FakeAgent
) -> None:
    def shown() -> tuple[str, str]:
        settle(conductor)
        vm = Vm.objects.get(pk=scene.running.pk)
        return vm.state, vm.state_reason

    agent.domains({scene.running.uuid: "paused"}, reason="io_error")
    assert shown() == ("paused", "io_error")
    agent.domains({scene.running.uuid: "running"})
    assert shown() == ("running", "")
    agent.domains({scene.running.uuid: "paused"})
    assert shown() == ("paused", "")
    agent.domains({scene.running.uuid: "paused"}, reason="io_error")
    assert shown() == ("paused", "io_error")
    agent.domains({scene.running.uuid: "paused"}, reason="of a later version")
    assert shown() == ("paused", "")
    agent.domains({scene.running.uuid: "paused"}, reason="io_error")
    settle(conductor)
    conductor.advance(scene.start("vm.resume").job.pk)
    agent.answer(agent.hear()[-1], result={"state": "running", "defined": True})
    assert shown() == ("running", "")


def test_a_guest_that_ends_beside_its_job_is_looked_at_when_the_job_ends(
    scene: Scene, conductor: Conductor, agent: FakeAgent
) -> None:
    """It is reported once, while the job runs and says what the VM is."""
    conductor.advance(scene.start("vm.suspend").job.pk)
    [suspend] = agent.hear()
    agent.domains({scene.running.uuid: "paused"})
    agent.answer(suspend, result={"state": "paused", "defined": True})
    settle(conductor)
    assert agent.hear() == []
    conductor.advance(scene.start("vm.resume").job.pk)
    [resume] = agent.hear()
    agent.answer(resume, result={"state": "running", "defined": True})
    agent.domains({scene.running.uuid: "shutoff"})
    settle(conductor)
    assert [envelope.verb for envelope in agent.hear()] == ["node.inspect"]


def test_after_a_job_that_failed_its_node_is_looked_at(scene: Scene, conductor: Conductor, agent: FakeAgent) -> None:
    conductor.advance(scene.start("vm.reset").job.pk)
    [reset] = agent.hear()
    agent.answer(reset, "failed", error=ErrorInfo(code="domain_not_active", cause="the domain is shutoff"))
    settle(conductor)
    assert [envelope.verb for envelope in agent.hear()] == ["node.inspect"]


def test_a_claim_of_another_node_moves_nothing(scene: Scene, conductor: Conductor, server: RedisServer) -> None:
    other = Node.objects.create(name="n2", address="10.99.0.12", redis_password_sha256="2" * 64, state="online")
    conductor.refresh_nodes(conductor.run_id)
    FakeAgent(server, other).domains({scene.running.uuid: "paused"}, counter=99)
    settle(conductor)
    vm = Vm.objects.get(pk=scene.running.pk)
    assert (vm.node_id, vm.state) == (scene.node.pk, "running")


def test_redis_restarted_empty_gets_its_users_back_and_the_message_is_sent_again(
    scene: Scene, conductor: Conductor, agent: FakeAgent, server: RedisServer
) -> None:
    conductor.advance(scene.start("vm.stop").job.pk)
    [stop] = agent.hear()
    server.restart_empty()
    with pytest.raises(Unreachable):
        conductor.sweep()
    conductor.run_id = ""
    settle(conductor)
    assert redis_user(scene.node.pk) in server.client().acl_users()
    assert agent.hear() == [stop]
    agent.answer(stop, result={"state": "shutoff", "defined": True})
    settle(conductor)
    assert Vm.objects.get(pk=scene.running.pk).state == "stopped"


def test_a_panel_put_back_from_a_backup_hears_nothing_and_carries_out_nothing_of_before(
    scene: Scene, conductor: Conductor, agent: FakeAgent
) -> None:
    """One order is answered and one still waits for its node when the panel is lost; the backup knows of neither."""
    lost = scene.start("vm.stop").job
    conductor.advance(lost.pk)
    [stop] = agent.hear()
    waiting = start(scene.actor, "vm.start", {}, scene.stopped.pk).job
    conductor.advance(waiting.pk)
    agent.answer(stop, result={"state": "shutoff", "defined": True})
    agent.domains({scene.running.uuid: "running", scene.stopped.uuid: "running"})
    Job.objects.all().delete()
    ObjectNumber.objects.all().delete()
    aftermath.settle(datetime.now(UTC), "0.1.0")
    restored = Conductor(Broker())
    settle(restored)
    assert agent.hear() == []
    assert Node.objects.get(pk=scene.node.pk).state == NodeState.OFFLINE
    agent.domains({scene.running.uuid: "shutoff", scene.stopped.uuid: "shutoff"})
    settle(restored)
    assert [(e.verb, e.dispatch) for e in agent.hear()] == [("node.inspect", None)]
    assert dict(Vm.objects.values_list("name", "state")) == {"vm-running": "stopped", "vm-stopped": "stopped"}
    assert Node.objects.get(pk=scene.node.pk).state == NodeState.ONLINE
    job = scene.start("vm.start").job
    restored.advance(job.pk)
    [first] = agent.hear()
    agent.answer(first, "superseded", result={"number": 9})
    settle(restored)
    [second] = agent.hear()
    assert (first.dispatch, second.dispatch) == (1, 10)
    agent.answer(second, result={"state": "running", "defined": True})
    settle(restored)
    assert Job.objects.get(pk=job.pk).state == "succeeded"


def test_a_certain_failure_is_shown_with_the_nodes_own_words(
    scene: Scene, conductor: Conductor, agent: FakeAgent
) -> None:
    job = scene.start("vm.start").job
    conductor.advance(job.pk)
    [start] = agent.hear()
    agent.answer(start, "failed", error=ErrorInfo(code="no_such_code", cause="the disk is gone", hint="look for it"))
    settle(conductor)
    conductor.advance(job.pk)
    [stop] = agent.hear()
    assert stop.phase == "undo"
    agent.answer(stop, result={"state": "shutoff", "defined": True})
    settle(conductor)
    job.refresh_from_db()
    assert (job.state, job.error["cause"]) == ("failed", "the disk is gone")


def test_after_a_resolve_the_silent_nodes_queue_is_gone_and_its_numbers_are_raised(
    scene: Scene, conductor: Conductor, agent: FakeAgent, server: RedisServer
) -> None:
    job = scene.start("vm.reset").job
    conductor.advance(job.pk)
    Node.objects.filter(pk=scene.node.pk).update(state="offline")
    job.refresh_from_db()
    job_words.resolve(scene.actor, job, "undone", "the machine burnt", node="n1")
    conductor.advance(job.pk)
    assert Job.objects.get(pk=job.pk).state == "failed"
    assert not server.client().exists(commands_queue(scene.node.pk))
    assert scene.node.raised.get().number == 2


def test_a_machine_whose_node_was_joined_by_another_is_cut_off_and_nobody_else(
    scene: Scene, conductor: Conductor, server: RedisServer
) -> None:
    """Else both would take messages of one queue: a guest could be started on the old machine and the new one."""
    other = Node.objects.create(name="n2", address="10.99.0.12", redis_password_sha256="2" * 64, state="online")
    machines = []
    for node, password in ((scene.node, "old"), (other, "stays")):
        digest = hashlib.sha256(password.encode()).hexdigest()
        Node.objects.filter(pk=node.pk).update(redis_password_sha256=digest)
        conductor.refresh_nodes(conductor.run_id)
        machines.append(server.client(username=redis_user(node.pk), password=password))
        assert machines[-1].client_id()
    Node.objects.filter(pk=scene.node.pk).update(redis_password_sha256=hashlib.sha256(b"new").hexdigest())
    # The next conductor may be the first to see it.
    Conductor(Broker()).connect()
    with pytest.raises((redis.ConnectionError, redis.AuthenticationError)):
        machines[0].llen(commands_queue(scene.node.pk))
    before = machines[1].client_id()
    Conductor(Broker()).connect()
    assert machines[1].client_id() == before


def test_a_vm_whose_job_was_resolved_shows_again_what_its_node_sees(
    scene: Scene, conductor: Conductor, agent: FakeAgent
) -> None:
    job = scene.start("vm.stop").job
    conductor.advance(job.pk)
    Node.objects.filter(pk=scene.node.pk).update(state="offline")
    job.refresh_from_db()
    job_words.resolve(scene.actor, job, "done", "I pulled the plug", node="n1")
    conductor.advance(job.pk)
    assert Job.objects.get(pk=job.pk).state == "succeeded"
    Node.objects.filter(pk=scene.node.pk).update(state="online")
    new = scene.start("vm.create").subject
    seen = ({"uuid": vm.uuid, "name": "x", "state": "shutoff"} for vm in (scene.running, scene.stopped))
    facts = {**Node.objects.get(pk=scene.node.pk).facts, "simulated": False}
    report = {"incarnation": 1, "counter": 9, "facts": facts, "checks": (), "domains": tuple(seen)}
    agent.say(messages.Inventory.model_validate({**report, "pools": (), "images": (), "isos": ()}))
    settle(conductor, turns=1)
    assert Vm.objects.get(pk=scene.running.pk).state == "stopped"
    assert Vm.objects.get(pk=new.pk).state == "creating"


def test_one_nodes_credentials_reach_nothing_of_another_node_nor_of_the_panel(
    scene: Scene, conductor: Conductor, server: RedisServer
) -> None:
    password = "a node's own"
    digest = hashlib.sha256(password.encode()).hexdigest()
    Node.objects.filter(pk=scene.node.pk).update(redis_password_sha256=digest)
    other = Node.objects.create(name="n2", address="10.99.0.12", redis_password_sha256="2" * 64)
    conductor.refresh_nodes(conductor.run_id)
    node = server.client(username=redis_user(scene.node.pk), password=password)
    assert node.xadd(events_stream(scene.node.pk), {"e": "mine"})
    refused = [
        ("XADD", events_stream(other.pk), "*", "e", "forged"),
        ("LPUSH", commands_queue(other.pk), "forged"),
        ("BRPOP", commands_queue(other.pk), "1"),
        ("XADD", "panel.wake", "*", "job", "x"),
        ("GET", "panel.epoch"),
        ("XRANGE", events_stream(other.pk), "-", "+"),
        ("PUBLISH", "panel.ch", "x"),
        ("SUBSCRIBE", "panel.ch"),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("ACL", "LIST"),
        ("CLIENT", "PAUSE", "1000"),
        ("CLIENT", "KILL", "TYPE", "normal"),
        ("EVAL", "return 1", "0"),
        ("SCRIPT", "FLUSH"),
        ("SHUTDOWN",),
        ("SWAPDB", "0", "1"),
    ]
    for command in refused:
        with pytest.raises(redis.exceptions.NoPermissionError):
            node.execute_command(*command)
    Node.objects.filter(pk=scene.node.pk).update(redis_password_sha256="")
    conductor.refresh_nodes(conductor.run_id)
    assert redis_user(scene.node.pk) not in server.client().acl_users()


# --- how busy a node is ---------------------------------------------------------------------------------


def beat(agent: FakeAgent, load: float, free_bytes: int = 16 << 30) -> None:
    numbers = {"load_1m": load, "memory_available_bytes": free_bytes, "wall_clock": time.time()}
    agent.say(messages.Heartbeat(incarnation=1, counter=agent.counter, **numbers))


def test_what_heartbeats_measure_is_kept_of_the_last_minutes(
    agent: FakeAgent, conductor: Conductor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy() -> int | None:
        conductor.turn(block_ms=1)
        conductor.sweep()
        return Node.objects.get(pk=agent.node.pk).busy_percent

    now = time.monotonic()
    monkeypatch.setattr("cluster.conductor.time.monotonic", lambda: now)
    version = Node.objects.get(pk=agent.node.pk).version
    assert busy() is None
    beat(agent, load=2.0)  # of 8 processors
    assert busy() == 25
    # A peak of a moment says little, and one that lasts says all.
    now += 3
    beat(agent, load=80.0)
    assert busy() == 25
    for _ in range(10):
        now += 60
        beat(agent, load=80.0)
        conductor.turn(block_ms=1)
    assert (busy() or 0) >= 90
    # Memory counts like processors: the greater of both.
    for _ in range(20):
        now += 60
        beat(agent, load=0.0, free_bytes=8 << 30)
        conductor.turn(block_ms=1)
    assert 48 <= (busy() or 0) <= 55
    assert Node.objects.get(pk=agent.node.pk).version == version


@pytest.mark.parametrize("load", [float("nan"), float("inf"), -1.0])
def test_a_load_that_is_none_does_no_harm(agent: FakeAgent, conductor: Conductor, load: float) -> None:
    entry = {"type": "heartbeat", "incarnation": 1, "counter": 0, "memory_available_bytes": 16 << 30}
    said = json.dumps({**entry, "load_1m": load, "wall_clock": time.time()})
    agent.redis.xadd(events_stream(agent.node.pk), {"e": said})
    conductor.turn(block_ms=1)
    conductor.sweep()
    assert Node.objects.get(pk=agent.node.pk).busy_percent in (None, 0)
