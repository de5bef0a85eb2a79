"""How fast this node can send to another: real bytes, over the cluster's own TLS, for a moment.

The receiving side counts, so that what still lies in a sender's buffers is not taken for sent.
"""

import json
import select
import socket
import ssl
import threading
import time
from dataclasses import dataclass

from nodes.config import Paths
from nodes.contract.errors import NodeError
from nodes.log import Log

log = Log("ulei.path")

PORTS = range(49215, 49151, -1)
"""Open to the other node while a guest is about to come from there; libvirt takes them from the other end.
Source: qemu.conf, ``migration_port_min`` and ``migration_port_max``."""
LISTENS_S = 20.0
COUNTS_S = 0.5
CHUNK = bytes(1 << 16)
PATIENCE_S = 5.0


@dataclass(frozen=True)
class Path:
    bandwidth_bytes: int
    """A second."""
    round_trip_us: int


def listen(paths: Paths) -> int:
    """Take what other nodes of the cluster send, for a few seconds. Returns the port. Raises ``path_closed``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(paths.certificate_file, paths.key_file)
    context.load_verify_locations(paths.ca_file)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0  # the first thing that the other side can read is the count
    server = _bound()
    server.settimeout(LISTENS_S)
    threading.Thread(target=_serve, args=(server, context), name="path", daemon=True).start()
    return int(server.getsockname()[1])


def _bound() -> socket.socket:
    both = socket.has_dualstack_ipv6()  # false where the kernel has no IPv6
    for port in PORTS:
        try:
            return socket.create_server(
                ("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both
            )
        except OSError:
            continue
    raise NodeError("path_closed", "none of the ports 49152 to 49215 is free on this node", retryable=True)


def _serve(server: socket.socket, context: ssl.SSLContext) -> None:
    until = time.monotonic() + LISTENS_S
    with server:
        while time.monotonic() < until:
            try:
                plain, _address = server.accept()
                plain.settimeout(PATIENCE_S)
                with context.wrap_socket(plain, server_side=True) as connection:
                    _count(connection)
            except OSError as error:
                log.info("nobody to count for", cause=str(error))


def _count(connection: ssl.SSLSocket) -> None:
    connection.sendall(connection.recv(1))  # the sender times this
    buffer = bytearray(1 << 18)
    began, count = time.monotonic(), 0
    while time.monotonic() - began < COUNTS_S:
        received = connection.recv_into(buffer)
        if not received:
            return
        count += received
    answer = {"bytes": count, "seconds": time.monotonic() - began}
    connection.sendall(json.dumps(answer).encode())
    while connection.recv_into(buffer):
        pass  # closed with something unread, the answer would be lost on its way


def measure(paths: Paths, node: str, address: str, port: int) -> Path:
    """Send to a node that listens. Raises ``path_closed``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(paths.certificate_file, paths.key_file)
    context.load_verify_locations(paths.ca_file)
    try:
        with (
            socket.create_connection((address, port), timeout=PATIENCE_S) as plain,
            context.wrap_socket(plain, server_hostname=node) as connection,
        ):
            began = time.monotonic()
            connection.sendall(b"?")
            connection.recv(1)
            round_trip_s = time.monotonic() - began
            while not select.select([connection], [], [], 0)[0]:
                connection.sendall(CHUNK)
            answer = json.loads(connection.recv(1000))
    except (OSError, ValueError) as error:
        raise NodeError(
            "path_closed",
            f"the node {node} ({address}, port {port}) took nothing from here: {error}",
            "Look at the network between the two nodes, and at what filters it.",
            node=node,
        ) from None
    return Path(int(answer["bytes"] / answer["seconds"]), round(round_trip_s * 1e6))
