"""An upload over a real server whose client goes away in the middle of a chunk."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from tests.people import Person
from web.asgi import application

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("no_connection_is_left")]

SIZE_BYTES = 3 << 20
CHUNK = bytes(1 << 20)


@pytest.fixture
async def port(redis_socket: Path) -> AsyncIterator[int]:
    server = uvicorn.Server(uvicorn.Config(application, port=0, lifespan="off", log_level="warning"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await task


async def test_a_chunk_that_was_cut_leaves_nothing_and_the_next_attempt_is_taken(
    port: int, library: Path, people: dict[str, Person]
) -> None:
    token = people["administrator"].token
    about = json.dumps({"name": "some.raw", "size_bytes": SIZE_BYTES}).encode()
    status, upload = await ask(port, token, "POST", "images/", about, "application/json")
    assert status == 201
    path = f"uploads/{upload['id']}/"
    assert (await ask(port, token, "PUT", path, CHUNK))[1]["received_bytes"] == len(CHUNK)

    _reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head(token, "PUT", f"{path}?offset={len(CHUNK)}", len(CHUNK)) + CHUNK[: len(CHUNK) // 2])
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await ask(port, token, "GET", path))[1]["received_bytes"] == len(CHUNK)

    status, row = await ask(port, token, "PUT", f"{path}?offset={len(CHUNK)}", CHUNK)
    assert (status, row["received_bytes"]) == (200, 2 * len(CHUNK))
    assert (await ask(port, token, "PUT", f"{path}?offset={2 * len(CHUNK)}", CHUNK))[0] == 201
    assert (library / upload["id"]).stat().st_size == SIZE_BYTES


def head(token: str, method: str, path: str, length: int, kind: str = "application/octet-stream") -> bytes:
    lines = [
        f"{method} /api/v1/{path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {token}",
        f"Content-Type: {kind}",
        f"Content-Length: {length}",
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


async def ask(
    port: int, token: str, method: str, path: str, body: bytes = b"", kind: str = "application/octet-stream"
) -> tuple[int, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head(token, method, path, len(body), kind) + body)
    await writer.drain()
    answer = await reader.read()
    writer.close()
    above, _, below = answer.partition(b"\r\n\r\n")
    return int(above.split()[1]), json.loads(below)
