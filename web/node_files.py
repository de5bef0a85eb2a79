"""``GET /api/v1/files/<id>/`` on the listener of the enrolment: an image or an ISO on its way to a node.

A node has no session and no user here. It shows the token that came with its message, which opens one file while the
job is open; the way back is the certificate that it knows since it joined.
"""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections

from cluster import library

PATH = "/api/v1/files/"
PIECE_BYTES = 1 << 20

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def answer(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """One request of a node; who has no right to a file does not learn whether it is there."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    pk = scope["path"].removeprefix(PATH).removesuffix("/")
    token = headers.get("authorization", "").removeprefix("Bearer ")
    path = await sync_to_async(_opened, thread_sensitive=False)(token, pk)
    asked = re.fullmatch(r"bytes=([0-9]{1,18})-", headers.get("range", "bytes=0-"))
    if scope["method"] != "GET" or path is None:
        return await _end(send, 404)
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


def _opened(token: str, pk: str) -> Path | None:
    try:
        return library.opened_by(token, pk)
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


async def _end(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})
