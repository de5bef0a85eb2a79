"""The lab's way into the user-mode Linux node: runs commands there, as ``nsenter`` does on the other nodes.

It stands on a cable of its own between the lab's namespace and that node, so a cut of the node's network does not
cut it, and guests do not see it. Who asks shows a token that lies in the node's state folder, for root's eyes. One
line of JSON each way; never a part of the product.
"""

import ctypes
import hmac
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from deploy.lab.spawn import start_time

DEVICE = "vec1"
ADDRESS = ("10.98.0.2", 1)
LAB_ADDRESS = "10.98.0.1/30"
CONNECT_TIMEOUT_S = 5.0
KEEPALIVE_EVERY_S = 5
CLONE_NEWNET = 0x40000000


def ask(namespace: str, token: Path, request: dict[str, Any], timeout_s: float) -> Any:
    """One question and its answer. ``OSError`` when nobody answers, or not in time.

    :param namespace: name of the network namespace where the cable ends.
    """
    with _connect(namespace) as connection, connection.makefile("rwb") as stream:
        connection.settimeout(timeout_s)
        stream.write(json.dumps({"token": token.read_text(), **request}).encode() + b"\n")
        stream.flush()
        answer = stream.readline()
    if not answer.endswith(b"\n"):
        raise ConnectionError("the node ended before it answered")
    return json.loads(answer)


def _connect(namespace: str) -> socket.socket:
    def inside() -> socket.socket:
        with open(f"/run/netns/{namespace}") as handle:
            if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"network namespace {namespace}")
        connection = socket.create_connection(ADDRESS, CONNECT_TIMEOUT_S)
        # A node that loses its power says no goodbye.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
            connection.setsockopt(socket.IPPROTO_TCP, option, KEEPALIVE_EVERY_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        return connection

    # A thread is in a network namespace by itself, and a socket stays in the one where it was made.
    with ThreadPoolExecutor(1) as passing:
        return passing.submit(inside).result()


# --- inside the node --------------------------------------------------------------------------------------


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    token = ""

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, DEVICE.encode())
        super().server_bind()


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        request = json.loads(self.rfile.readline())
        if hmac.compare_digest(request["token"], self.server.token):
            answer = _command(**request["run"]) if "run" in request else _process(**request["process"])
            self.wfile.write(json.dumps(answer).encode() + b"\n")


def _command(argv: list[str], env: dict[str, str], stdin: str | None, timeout_s: float) -> dict[str, Any]:
    try:
        done = subprocess.run(
            argv,
            env=env,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"status": 127, "stdout": "", "stderr": str(error)}
    return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def _process(pid_file: str, number: int | None) -> int | None:
    """The pid of a process that ``spawn`` started here, while it lives; with ``number`` it gets this signal."""
    try:
        pid, started = map(int, Path(pid_file).read_text().split())
    except (FileNotFoundError, ValueError):
        return None
    if start_time(pid) != started:
        return None
    if number is not None:
        os.kill(pid, signal.Signals(number))
    return pid


if __name__ == "__main__":
    with _Server(ADDRESS, _Handler) as server:
        server.token = Path(sys.argv[1]).read_text()
        server.serve_forever()
