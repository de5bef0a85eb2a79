"""``GET PUT /api/v1/files/<id>/`` on the listener of the enrolment: an image or an ISO on its way to or from a node.

A node has no session and no user here. It shows the token that came with its message, which opens one file for one way
while the job is open; the way back is the certificate that it knows since it joined.
"""

import asyncio
import json
import logging
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections

from cluster import library
from cluster.refusals import Refused

log = logging.getLogger(__name__)

PATH = "/api/v1/files/"
PIECE_BYTES = 1 << 20
MAX_CHUNK_BYTES = 16 << 20
CHUNK_TIMEOUT_S = 120.0

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def answer(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """One request of a node; who has no right to a file does not learn whether it is there."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    pk = scope["path"].removeprefix(PATH).removesuffix("/")
    token = headers.get("authorization", "").removeprefix("Bearer ")
    way: library.Way | None = {"GET": "get", "PUT": "put"}.get(scope["method"])  # type: ignore[assignment]
    if way is None or not await sync_to_async(_is_opened, thread_sensitive=False)(token, pk, way):
        return await _end(send, 404)
    if way == "put":
        return await _take(pk, headers, receive, send)
    path = library.file_of(pk)
    if not path.is_file():
        return await _end(send, 404)
    asked = re.fullmatch(r"bytes=([0-9]{1,18})-", headers.get("range", "bytes=0-"))
    size_bytes = path.stat().st_size
    offset = int(asked[1]) if asked else size_bytes
    if offset >= size_bytes:
        return await _end(send, 416)
    fields = {
        "content-type": "application/octet-stream",
        "content-length": str(size_bytes - offset),
        "content-range": f"bytes {offset}-{size_bytes - 1}/{size_bytes}",
    }
    encoded = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": 206, "headers": encoded})
    await _send_from(path, offset, receive, send)


def _is_opened(token: str, pk: str, way: library.Way) -> bool:
    try:
        return library.is_opened_by(token, pk, way)
    finally:
        # This thread comes seldom: it keeps no connection until the next node asks.
        connections.close_all()


async def _send_from(path: Path, offset: int, receive: Receive, send: Send) -> None:
    """Piece by piece, until the node has it or has gone: nobody says so but ``receive``."""
    gone = asyncio.ensure_future(_await_end(receive))
    file = await asyncio.to_thread(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while piece := await asyncio.to_thread(os.pread, file, PIECE_BYTES, offset):
            if gone.done():
                return
            offset += len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        gone.cancel()
        os.close(file)


async def _await_end(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _take(pk: str, headers: dict[str, str], receive: Receive, send: Send) -> None:
    """A chunk from a node: 200 with how much there is, 201 when that was the last one and the file is kept."""
    numbers = [headers.get(name, "") for name in ("upload-offset", "upload-length")]
    promised = headers.get("upload-checksum", "")
    if not all(re.fullmatch("[0-9]{1,18}", one) for one in numbers) or not promised:
        return await _end(send, 400)
    try:
        async with asyncio.timeout(CHUNK_TIMEOUT_S):
            chunk = await _read(receive)
    except TimeoutError:
        return await _end(send, 408)
    if chunk is None:
        return await _end(send, 413)
    try:
        offset, size_bytes = map(int, numbers)
        kept, received_bytes = await asyncio.to_thread(library.take, pk, offset, chunk, size_bytes, promised)
    except Refused as refused:
        reason = refused.refusals[0]
        log.warning("the file %s from a node was refused: %s", pk, reason.code)
        return await _end(send, refused.status, {"code": reason.code, "facts": dict(reason.facts)})
    except OSError:
        log.exception("a chunk of %s could not be taken", pk)
        return await _end(send, 500)
    await _end(send, 201 if kept else 200, {"received_bytes": received_bytes})


async def _read(receive: Receive) -> bytes | None:
    """The body; None: it is too large, or the node has gone."""
    raw = bytearray()
    while True:
        message = await receive()
        raw += message.get("body", b"")
        if message["type"] == "http.disconnect" or len(raw) > MAX_CHUNK_BYTES:
            return None
        if not message.get("more_body"):
            return bytes(raw)


async def _end(send: Send, status: int, said: dict[str, Any] | None = None) -> None:
    raw = json.dumps(said).encode() if said else b""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": raw})
