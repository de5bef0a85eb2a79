"""One socket over a real server, quiet for longer than redis-py lets a connection be idle by itself."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import websockets
from asgiref.sync import sync_to_async
from django.db import transaction

from cluster import events
from tests.panel.engine.scenarios import Scene
from tests.people import Person
from web.asgi import application

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("no_connection_is_left")]

LONGER_THAN_REDIS_PY_WAITS_S = 6.5
"""redis-py 8 ends a socket that was silent for 5 s, unless it is told not to."""


@pytest.fixture
async def address(redis_socket: Path) -> AsyncIterator[str]:
    server = uvicorn.Server(uvicorn.Config(application, port=0, lifespan="off", log_level="warning"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"ws://127.0.0.1:{port}/ws/"
    server.should_exit = True
    await task


async def test_a_quiet_socket_still_hears(scene: Scene, people: dict[str, Person], address: str) -> None:
    def commit() -> None:
        with transaction.atomic():
            events.vm_changed(scene.running)

    bearer = {"Authorization": f"Bearer {people['owner'].token}"}
    async with websockets.connect(address, additional_headers=bearer) as socket:
        await ask(socket, {"subscribe": ["vms"]})
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.recv(), LONGER_THAN_REDIS_PY_WAITS_S)
        await sync_to_async(commit)()
        frame = json.loads(await asyncio.wait_for(socket.recv(), 5))
        assert (frame["topic"], frame["id"]) == ("vms", scene.running.pk)


async def ask(socket: Any, message: Any) -> None:
    assert "hello" in json.loads(await socket.recv())
    await socket.send(json.dumps(message))
    assert json.loads(await socket.recv()) == {"subscribed": "vms"}
