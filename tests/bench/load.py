"""``python -m tests.bench.load PORT COUNT``: so many sockets that subscribe to ``vms``, in a process of their own.

Says ``ready`` on standard output when all are subscribed. When its standard input ends it prints, as JSON, for each
socket the frames about VMs that it got: ``[[moment, id, version, state], ...]`` (monotonic seconds). The token is in
the environment, ``ULEI_BENCH_TOKEN``.

It speaks the protocol itself, and reads the frames only afterwards: a client that takes its time would be measured too.
"""

import asyncio
import base64
import json
import os
import struct
import sys
import time
from collections.abc import Iterator

TEXT, PING, PONG = 0x1, 0x9, 0xA
OPEN_AT_ONCE = 25


class Socket(asyncio.Protocol):
    def __init__(self, port: int, token: str) -> None:
        self._port, self._token = port, token
        self.subscribed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost = False
        self.got: list[tuple[float, bytes]] = []
        self._rest = b""
        self._open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        lines = [
            "GET /ws/ HTTP/1.1",
            f"Host: 127.0.0.1:{self._port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            "Sec-WebSocket-Version: 13",
            f"Authorization: Bearer {self._token}",
        ]
        transport.write("\r\n".join([*lines, "", ""]).encode())

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        self._rest += data
        if not self._open:
            head, found, self._rest = self._rest.partition(b"\r\n\r\n")
            if not found:
                self._rest = head
                return
            self._open = True
            self._send(TEXT, b'{"subscribe":["vms"]}')
        for kind, payload in self._frames():
            if kind == PING:
                self._send(PONG, payload)
            elif kind == TEXT:
                self.got.append((now, payload))
                if payload == b'{"subscribed":"vms"}' and not self.subscribed.done():
                    self.subscribed.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if not self.subscribed.done():
            self.subscribed.set_exception(error or ConnectionError("the panel closed the socket"))

    def _frames(self) -> Iterator[tuple[int, bytes]]:
        """Whole frames of what has come; a server's are not masked."""
        while len(self._rest) >= 2:
            length, start = self._rest[1] & 0x7F, 2
            if length == 126:
                if len(self._rest) < 4:
                    return
                length, start = struct.unpack_from(">H", self._rest, 2)[0], 4
            if len(self._rest) < start + length:
                return
            yield self._rest[0] & 0xF, self._rest[start : start + length]
            self._rest = self._rest[start + length :]

    def _send(self, kind: int, payload: bytes) -> None:
        # A mask of zeros is a mask.
        self._transport.write(bytes([0x80 | kind, 0x80 | len(payload)]) + bytes(4) + payload)


def frames_of(socket: Socket) -> list[tuple[float, str, int, str]]:
    """What it got of VMs."""
    found = []
    for at, payload in socket.got:
        frame = json.loads(payload)
        if frame.get("topic") == "vms":
            found.append((at, frame["id"], frame["version"], frame.get("state", "")))
    return found


async def run(port: int, count: int, token: str) -> list[Socket]:
    loop = asyncio.get_running_loop()
    sockets: list[Socket] = []
    while len(sockets) < count:
        some = []
        for _ in range(min(OPEN_AT_ONCE, count - len(sockets))):
            _, socket = await loop.create_connection(lambda: Socket(port, token), "127.0.0.1", port)
            some.append(socket)
        await asyncio.wait_for(asyncio.gather(*(socket.subscribed for socket in some)), 60)
        sockets += some
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    return sockets


def main() -> None:
    sockets = asyncio.run(run(int(sys.argv[1]), int(sys.argv[2]), os.environ["ULEI_BENCH_TOKEN"]))
    print(json.dumps([frames_of(socket) for socket in sockets]), flush=True)


if __name__ == "__main__":
    main()
