"""``/ws/``: who may open it, what each person may hear, and what ends it."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import transaction
from django.test import Client

from cluster import events, pools
from cluster.models import Node, Pool, Vm
from cluster.operations import start
from tests.panel.engine.scenarios import Scene
from tests.people import PEOPLE, Person
from web.asgi import application
from web.live import consumers

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("no_connection_is_left")]
Open = Callable[..., Any]
HOST = "127.0.0.1:8100"


class Socket:
    """A browser's end."""

    def __init__(self, token: str | None = None, path: str = "/ws/", **headers: str) -> None:
        sent = {"host": HOST, **headers}
        if token:
            sent["authorization"] = f"Bearer {token}"
        pairs = [(name.encode(), value.encode()) for name, value in sent.items()]
        self._wire = ApplicationCommunicator(application, {"type": "websocket", "path": path, "headers": pairs})

    async def connect(self) -> bool:
        """Whether the handshake was accepted."""
        await self._wire.send_input({"type": "websocket.connect"})
        return (await self._wire.receive_output(5))["type"] == "websocket.accept"

    async def close(self) -> None:
        await self._wire.send_input({"type": "websocket.disconnect", "code": 1000})
        await self._wire.wait(5)

    async def send(self, message: Any) -> None:
        text = message if isinstance(message, str) else json.dumps(message)
        await self._wire.send_input({"type": "websocket.receive", "text": text})

    async def send_bytes(self, raw: bytes) -> None:
        await self._wire.send_input({"type": "websocket.receive", "bytes": raw})

    async def receive(self) -> Any:
        """The next message, or the number with which the socket was closed."""
        output = await self._wire.receive_output(5)
        return output["code"] if output["type"] == "websocket.close" else json.loads(output["text"])

    async def subscribe(self, *topics: str) -> list[Any]:
        await self.send({"subscribe": topics})
        return [await self.receive() for _ in topics]

    async def is_silent(self) -> bool:
        return await self._wire.receive_nothing(0.3)


@asynccontextmanager
async def opened(token: str) -> AsyncIterator[Socket]:
    """A socket after its hello."""
    socket = Socket(token)
    assert await socket.connect()
    assert (await socket.receive())["hello"] == 1
    yield socket
    await socket.close()


@pytest.fixture
def epoch(redis_socket: Path) -> str:
    client = redis.Redis(unix_socket_path=str(redis_socket))
    client.set(consumers.EPOCH_KEY, "first")
    client.close()
    return "first"


async def change(vm: Vm) -> None:
    """What the panel does when a VM changes: the event leaves after the commit."""

    def commit() -> None:
        with transaction.atomic():
            events.vm_changed(vm)

    await sync_to_async(commit)()


async def test_the_first_word_is_the_epoch_and_a_new_one_is_told(people: dict[str, Person], epoch: str) -> None:
    socket = Socket(people["owner"].token)
    assert await socket.connect()
    assert await socket.receive() == {"hello": 1, "epoch": epoch}
    events.new_epoch("second")
    assert await socket.receive() == {"hello": 1, "epoch": "second"}
    await socket.close()


async def test_a_change_is_heard_under_each_topic_that_was_asked_for(
    scene: Scene, people: dict[str, Person], epoch: str
) -> None:
    vm = scene.running
    async with opened(people["owner"].token) as socket:
        answers = await socket.subscribe("vms", f"vm:{vm.pk}")
        assert answers == [{"subscribed": "vms"}, {"subscribed": f"vm:{vm.pk}"}]
        await change(vm)
        heard = [await socket.receive(), await socket.receive()]
        assert {frame["topic"] for frame in heard} == {"vms", f"vm:{vm.pk}"}
        for frame in heard:
            assert frame.items() >= {"type": "changed", "id": vm.pk, "version": vm.version, "state": "running"}.items()


async def test_every_person_may_subscribe_to_what_they_may_see(
    scene: Scene, people: dict[str, Person], epoch: str, golden: Callable[[str, Any], None]
) -> None:
    job = await sync_to_async(
        lambda: start(people["owner"].actor, "vm.start", {}, scene.stopped.pk).job.pk, thread_sensitive=True
    )()
    topics = {
        "vms": "vms",
        "jobs": "jobs",
        "nodes": "nodes",
        "vm:<the owner's>": f"vm:{scene.running.pk}",
        "vm:<unknown>": "vm:aaaaaaaaaaaaa",
        "job:<the owner's>": f"job:{job}",
        "node:<id>": f"node:{scene.node.pk}",
        "pools": "pools",
        "pool:<id>": f"pool:{scene.pool.pk}",
        "vm:": "vm:",
        "vm:<NUL>": "vm:a\0b",
        "vms.all": "vms.all",
        "<empty>": "",
    }
    matrix = {}
    for name in people:
        async with opened(people[name].token) as socket:
            answers = await socket.subscribe(*topics.values())
            matrix[name] = {
                label: answer.keys() == {"subscribed"} for label, answer in zip(topics, answers, strict=True)
            }
    assert set(matrix) == set(PEOPLE) - {"anonymous"}
    golden("topics.json", matrix)


async def test_a_change_reaches_only_those_who_may_see_it(scene: Scene, people: dict[str, Person], epoch: str) -> None:
    heard = {}
    for name in people:
        async with opened(people[name].token) as socket:
            await socket.subscribe("vms")
            await change(scene.running)
            heard[name] = not await socket.is_silent()
    assert {name for name, hears in heard.items() if not hears} == {"member", "stranger"}


async def test_people_of_the_cluster_hear_of_nodes(scene: Scene, people: dict[str, Person], epoch: str) -> None:
    def commit() -> None:
        with transaction.atomic():
            events.node_changed(Node.objects.get(pk=scene.node.pk))

    async with opened(people["read_only"].token) as socket:
        await socket.subscribe("nodes")
        await sync_to_async(commit)()
        assert (await socket.receive())["topic"] == "nodes"


async def test_people_of_the_cluster_hear_of_a_pool_that_changes_and_goes(
    scene: Scene, people: dict[str, Person], epoch: str
) -> None:
    def commit() -> None:
        with transaction.atomic():
            pool = Pool.objects.create(name="fast", kind="lvm", identity="vg-1", path="vg0")
            pools.touch(pool.pk, free_bytes=1)
            pools.forget(pool.pk)

    async with opened(people["read_only"].token) as socket:
        await socket.subscribe("pools")
        await sync_to_async(commit)()
        heard = [await socket.receive() for _ in range(2)]
    assert [(frame["topic"], frame["type"], frame["version"]) for frame in heard] == [
        ("pools", "changed", 2),
        ("pools", "deleted", 3),
    ]


async def test_an_anonymous_socket_is_closed_with_4401(people: dict[str, Person], epoch: str) -> None:
    for socket in (Socket(), Socket("ulei_wrong"), Socket(cookie=f"{settings.SESSION_COOKIE_NAME}=nonsense")):
        assert await socket.connect()
        assert await socket.receive() == consumers.ANONYMOUS


async def test_a_session_opens_a_socket_of_its_own_panel_only(people: dict[str, Person], epoch: str) -> None:
    def cookie() -> str:
        client = Client()
        client.force_login(people["owner"].user, backend="django.contrib.auth.backends.ModelBackend")
        return f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}"

    session = await sync_to_async(cookie)()
    own = Socket(cookie=session, origin=f"http://{HOST}")
    assert await own.connect()
    assert (await own.receive())["hello"] == 1
    await own.close()
    for foreign in ("http://evil.example", "http://127.0.0.1:9999", "null", ""):
        assert not await Socket(cookie=session, origin=foreign).connect(), foreign
    assert not await Socket(cookie=session, host="evil.example", origin="http://evil.example").connect()


async def test_a_changed_grant_closes_the_socket_with_4403(people: dict[str, Person], epoch: str) -> None:
    async with opened(people["owner"].token) as socket, opened(people["member"].token) as other:
        group = f"grant-{people['owner'].actor.grant.pk}"
        await get_channel_layer().group_send(group, {"type": "grant.changed"})
        assert await socket.receive() == consumers.GRANT_CHANGED
        assert await other.is_silent()


async def test_a_person_is_looked_up_again_while_the_socket_is_open(
    people: dict[str, Person], epoch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "PING_S", 0.02)
    owner, member = people["owner"].actor, people["member"].actor
    async with opened(people["owner"].token) as narrowed, opened(people["member"].token) as removed:
        assert "ping" in await narrowed.receive()
        await type(owner.grant).objects.filter(pk=owner.grant.pk).aupdate(actions=[])
        await type(member.grant).objects.filter(pk=member.grant.pk).adelete()
        assert await _last(narrowed) == consumers.GRANT_CHANGED
        assert await _last(removed) == consumers.ANONYMOUS


async def _last(socket: Socket) -> Any:
    """What comes after the pings."""
    message: Any = {"ping": 0}
    while isinstance(message, dict) and "ping" in message:
        message = await socket.receive()
    return message


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("no JSON", consumers.POLICY),
        ("[]", consumers.POLICY),
        ("{}", consumers.POLICY),
        ('{"subscribe": "vms"}', consumers.POLICY),
        ('{"subscribe": [1]}', consumers.POLICY),
        ("[" * 10_000, consumers.POLICY),
        ('{"subscribe": ["' + "x" * consumers.MAX_MESSAGE + '"]}', consumers.TOO_LARGE),
    ],
)
async def test_a_message_that_makes_no_sense_ends_the_socket(
    people: dict[str, Person], epoch: str, message: str, code: int
) -> None:
    async with opened(people["owner"].token) as socket:
        await socket.send(message)
        assert await socket.receive() == code


async def test_bytes_end_the_socket(people: dict[str, Person], epoch: str) -> None:
    async with opened(people["owner"].token) as socket:
        await socket.send_bytes(b"\x00")
        assert await socket.receive() == consumers.UNSUPPORTED


async def test_subscriptions_are_limited(
    scene: Scene, people: dict[str, Person], epoch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "MAX_SUBSCRIPTIONS", 2)
    async with opened(people["administrator"].token) as socket:
        answers = await socket.subscribe("vms", "jobs", "nodes", "vms")
        assert answers == [{"subscribed": "vms"}, {"subscribed": "jobs"}, {"refused": "nodes"}, {"subscribed": "vms"}]


async def test_other_addresses_have_no_socket(people: dict[str, Person], epoch: str) -> None:
    assert not await Socket(people["owner"].token, "/ws/else/").connect()
