"""The panel's listener for files, as a node uses it: it gets a file there, and gives one. Source: web/node_files.py."""

import http.client
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from nodes.contract.errors import NodeError
from nodes.contract.faults import point
from nodes.contract.messages import FileFetch, FileSend
from nodes.enrol import trusted
from nodes.log import Log
from nodes.transfer import PIECE_BYTES, Patience, is_full, no_room_in
from nodes.verbs.run import Run

log = Log("ulei.library")

SENT_AT_ONCE_BYTES = 8 << 20
ANSWER_TIMEOUT_S = 600.0
"""Behind the last chunk the panel reads the whole file, to compare its checksum."""


def fill(part: Path, ca_file: Path, message: FileFetch, run: Run) -> None:
    """Until the part is whole; a connection that breaks is made anew, and goes on where the part ends."""
    with part.open("r+b") as file:
        present_bytes = file.seek(0, os.SEEK_END)
        if present_bytes > message.size_bytes:
            file.truncate(0)
            present_bytes = 0
        patience = Patience(run)
        while present_bytes < message.size_bytes:
            try:
                with _body(ca_file, message, present_bytes) as read:
                    file.seek(present_bytes)
                    for piece in iter(lambda: read(PIECE_BYTES), b""):
                        run.cancellation.check()
                        file.write(piece[: message.size_bytes - present_bytes])
                        file.flush()
                        present_bytes = file.tell()
                        patience.renew()
                        run.progress(min(99, present_bytes * 100 // message.size_bytes))
                        point("file.piece", message.id)
                        if present_bytes == message.size_bytes:
                            return
                raise http.client.HTTPException("the answer ended early")
            except (OSError, http.client.HTTPException) as error:
                if is_full(error):
                    raise no_room_in(part.parent, message.size_bytes - present_bytes) from None
                log.warning("the panel broke off", file=message.name, at=present_bytes, cause=error)
                patience.wait(_unreachable(error))


def send(final: Path, ca_file: Path, message: FileSend, run: Run) -> None:
    """Chunk by chunk, from where the panel's part ends, until it has compared the checksum and kept the file.

    Raises what the panel refuses it for, among that ``no_room_on_panel`` and ``upload_too_large``.
    """
    patience, offset, chunk = Patience(run), 0, b""  # the first question only asks how much is there
    with final.open("rb") as file:
        while True:
            run.cancellation.check()
            try:
                status, said = _put(ca_file, message, offset, chunk)
                if status == 201:
                    return
                facts = said.get("facts") or {}
                if status == 200 or said.get("code") == "upload_wrong_offset":
                    offset = int(said["received_bytes"] if status == 200 else facts["expected"])
                elif (status >= 500 and status != 507) or said.get("code") == "upload_busy":
                    raise http.client.HTTPException(f"status {status}")
                else:
                    raise NodeError(said.get("code") or "file_not_taken", f"the panel answered {status}", **facts)
            except (OSError, http.client.HTTPException, KeyError, ValueError) as error:
                log.warning("the panel broke off", file=message.name, at=offset, cause=error)
                patience.wait(_unreachable(error))
                continue
            patience.renew()
            run.progress(min(99, offset * 100 // message.size_bytes))
            point("file.chunk-sent", message.id)
            chunk = os.pread(file.fileno(), SENT_AT_ONCE_BYTES, offset)


def _put(ca_file: Path, message: FileSend, offset: int, chunk: bytes) -> tuple[int, dict[str, Any]]:
    """(status, what the panel says). Raises OSError, HTTPException, ValueError."""
    headers = {
        "Authorization": f"Bearer {message.token}",
        "Upload-Offset": str(offset),
        "Upload-Length": str(message.size_bytes),
        "Upload-Checksum": message.checksum,
    }
    with _connection(ca_file, message.url) as (client, path):
        assert client.sock
        client.sock.settimeout(ANSWER_TIMEOUT_S)
        client.request("PUT", path, chunk, headers)
        response = client.getresponse()
        body = response.read()
        return response.status, dict(json.loads(body)) if body else {}


@contextmanager
def _body(ca_file: Path, message: FileFetch, offset: int) -> Iterator[Callable[[int], bytes]]:
    """The bytes from ``offset`` on. Raises OSError, HTTPException, or a certain ``file_refused``."""
    with _connection(ca_file, message.url) as (client, path):
        headers = {"Authorization": f"Bearer {message.token}", "Range": f"bytes={offset}-"}
        client.request("GET", path, headers=headers)
        response = client.getresponse()
        if response.status >= 500:
            raise http.client.HTTPException(f"status {response.status}")
        if response.status != 206 or response.headers.get("Content-Range") != (
            f"bytes {offset}-{message.size_bytes - 1}/{message.size_bytes}"
        ):
            raise NodeError("file_refused", f"the panel answered with status {response.status}", "Start it again.")
        yield response.read


@contextmanager
def _connection(ca_file: Path, url: str) -> Iterator[tuple[http.client.HTTPConnection, str]]:
    """(a connection to whoever has the CA's certificate, the path)"""
    address = urlsplit(url)
    host, port = address.hostname or "", address.port or 443
    with trusted(host, port, _fingerprint(ca_file)) as connection:
        client = http.client.HTTPConnection(host, port)
        client.sock = connection
        yield client, address.path


def _fingerprint(ca_file: Path) -> str:
    """The listener shows the certificate of the CA itself, as at the enrolment."""
    return x509.load_pem_x509_certificate(ca_file.read_bytes()).fingerprint(hashes.SHA256()).hex()


def _unreachable(error: Exception) -> NodeError:
    return NodeError(
        "panel_unreachable",
        f"the panel's file listener: {error}",
        "Is that port of the panel open from this node?",
        retryable=True,
    )
