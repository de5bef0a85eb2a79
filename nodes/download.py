"""Files from the web: by HTTP or HTTPS alone, and only from addresses that the panel allows.

The address to which the connection goes is the one that was looked at, so a name that changes its address in between
gains nothing. What was cut is gone on with where the server says by a strong validator that the file is still the same
one, and begun anew where it does not. Source: RFC 9110, sections 8.8, 13.1.5 and 14.
"""

import email.utils
import http.client
import json
import os
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, urljoin

from nodes.contract import origin
from nodes.contract.errors import NodeError
from nodes.contract.faults import point
from nodes.contract.messages import FileDownload
from nodes.log import Log
from nodes.transfer import PIECE_BYTES, Patience, check_room, is_full, no_room_in
from nodes.verbs.run import Run

log = Log("ulei.download")

TIMEOUT_S = 15.0
"""For a connection, and for each piece."""
MOST_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
COME_AGAIN = (408, 425, 429)
"""Statuses of a moment, as all from 500 on."""
SAME = "user.ulei.same"
"""On a part: by what the server would know that the rest belongs to it."""
CLOCK_RESOLUTION_S = 60
"""A date is a strong validator only if the file was not changed twice within it."""
CERTIFICATE = {
    7: "certificate_unknown",
    9: "certificate_early",
    10: "certificate_expired",
    18: "certificate_unknown",
    19: "certificate_unknown",
    20: "certificate_unknown",
    21: "certificate_unknown",
    62: "certificate_other_host",
    64: "certificate_other_host",
}
"""What OpenSSL found wrong, by its number; all else is ``certificate_unfit``. Source: x509_vfy.h."""
_URL_SAFE = "!#$%&'()*+,-./:;=?@[]_~"


@dataclass(frozen=True)
class Same:
    validator: str
    size_bytes: int


def get(part: Path, message: FileDownload, run: Run) -> None:
    """Until the part is whole. Raises a certain ``url_unfit``, ``address_refused``, ``download_refused``, ``no_tls``,
    one of ``CERTIFICATE``, ``download_too_large``, ``no_room``; ``download_broken`` when nothing came for a minute."""
    with part.open("r+b") as file:
        patience = Patience(run)
        while True:
            before = file.seek(0, os.SEEK_END)
            try:
                _go_on(file, part, message, run)
                break
            except (OSError, http.client.HTTPException) as error:
                if is_full(error):
                    raise no_room_in(part.parent, PIECE_BYTES) from None
                log.warning("the server broke off", file=message.name, cause=error)
                if file.seek(0, os.SEEK_END) > before:
                    patience.renew()
                patience.wait(NodeError("download_broken", f"{error}", "Start it again.", retryable=True))


def come_whole(file: Path) -> None:
    """Nothing of it is awaited any more."""
    with suppress(OSError):
        os.removexattr(file, SAME)


def _go_on(file: BinaryIO, part: Path, message: FileDownload, run: Run) -> None:
    """One request. Raises OSError or HTTPException where another one may bring more."""
    offset, same = file.seek(0, os.SEEK_END), _same(part)
    if same and offset == same.size_bytes:
        return
    if not same or offset > same.size_bytes:
        offset, same = _begin_anew(file), None
    with _answer(message, offset, same, run) as response:
        if same and response.status == 206:
            if response.headers.get("Content-Range") != f"bytes {offset}-{same.size_bytes - 1}/{same.size_bytes}":
                _begin_anew(file)
                raise http.client.HTTPException("the server gave another part than that which was asked for")
            size_bytes: int | None = same.size_bytes
        elif response.status == 200:
            _begin_anew(file)
            size_bytes = _declared(response, message)
            _remember(part, response, size_bytes)
        elif response.status >= 500 or response.status in (*COME_AGAIN, 412, 416):
            if response.status in (412, 416):
                _begin_anew(file)
            raise http.client.HTTPException(f"status {response.status}")
        else:
            raise _refused(f"status {response.status}")
        if size_bytes is not None:
            check_room(part, size_bytes)
        _take(file, response, size_bytes, message, run)


def _take(
    file: BinaryIO, response: http.client.HTTPResponse, size_bytes: int | None, message: FileDownload, run: Run
) -> None:
    for piece in iter(lambda: response.read1(PIECE_BYTES), b""):
        run.cancellation.check()
        if file.tell() + len(piece) > message.most_bytes:
            raise _too_large(message)
        file.write(piece)
        file.flush()
        if size_bytes:
            run.progress(min(99, file.tell() * 100 // size_bytes))
        point("file.piece", message.id)
    run.cancellation.check()  # which may be why it ended
    if size_bytes is not None and file.tell() != size_bytes:
        raise http.client.HTTPException("the answer ended early")


def _begin_anew(file: BinaryIO) -> int:
    file.seek(0)
    return file.truncate(0)


def _declared(response: http.client.HTTPResponse, message: FileDownload) -> int | None:
    """The length of the whole; None: its end will be seen. Raises a certain ``download_refused``."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise _refused("it comes packed for the way")
    if response.length is None:
        # A connection that is simply closed may have been cut: only a checksum would show it.
        if not response.chunked and not message.checksum:
            raise _refused("the server does not say how long the file is; a checksum would do")
        return None
    if response.length > message.most_bytes:
        raise _too_large(message)
    return response.length


# --- to go on with what was cut -------------------------------------------------------------------------------


def _same(part: Path) -> Same | None:
    try:
        return Same(**json.loads(os.getxattr(part, SAME)))
    except (OSError, ValueError, TypeError):
        return None


def _remember(part: Path, response: http.client.HTTPResponse, size_bytes: int | None) -> None:
    validator = _validator(response)
    if validator and size_bytes and response.headers.get("Accept-Ranges") != "none":
        os.setxattr(part, SAME, json.dumps(asdict(Same(validator, size_bytes))).encode())
    else:
        come_whole(part)


def _validator(response: http.client.HTTPResponse) -> str:
    """A strong one, for If-Range; empty: there is none."""
    tag, changed = response.headers.get("ETag", ""), response.headers.get("Last-Modified", "")
    if re.fullmatch(r'"[!#-~]{1,200}"', tag):
        return tag
    try:
        now = email.utils.parsedate_to_datetime(response.headers.get("Date", ""))
        age_s = (now - email.utils.parsedate_to_datetime(changed)).total_seconds()
    except (TypeError, ValueError):
        return ""
    return changed if age_s >= CLOCK_RESOLUTION_S else ""


# --- the connection -------------------------------------------------------------------------------------------


@contextmanager
def _answer(message: FileDownload, offset: int, same: Same | None, run: Run) -> Iterator[http.client.HTTPResponse]:
    """What the URL comes to, at most five redirects behind it, each of which is looked at like the first."""
    headers = {"Accept-Encoding": "identity", "User-Agent": "ulei"}
    if same:
        headers |= {"Range": f"bytes={offset}-", "If-Range": same.validator}
    url = message.url
    for _ in range(MOST_REDIRECTS + 1):
        with _connection(url, message.networks, run) as (client, target):
            client.request("GET", target, headers=headers)
            response = client.getresponse()
            if response.status not in REDIRECTS:
                yield response
                return
            url = _next(url, response, message)
    raise _refused(f"more than {MOST_REDIRECTS} redirects")


def _next(url: str, response: http.client.HTTPResponse, message: FileDownload) -> str:
    found = response.headers.get("Location", "").encode("latin-1", "replace")
    following = urljoin(url, quote(found, safe=_URL_SAFE))
    if url.startswith("https:") and not following.startswith("https:") and not message.checksum:
        raise _refused("a redirect from https to http; a checksum would do")
    return following


@contextmanager
def _connection(url: str, networks: tuple[str, ...], run: Run) -> Iterator[tuple[http.client.HTTPConnection, str]]:
    parts = origin.parse(url)
    if parts is None or parts.hostname is None:
        raise NodeError("url_unfit", "it is not http:// or https:// with a host and without a user")
    host, secure = parts.hostname, parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    connection = _connected(host, port, networks)
    try:
        if secure:
            connection = ssl.create_default_context().wrap_socket(
                connection, server_hostname=host, do_handshake_on_connect=False
            )
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        client = kind(host, port)
        client.sock = connection
        with run.cancellation.cuts(connection):
            if isinstance(connection, ssl.SSLSocket):
                _trust(connection, host)
            yield client, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    finally:
        connection.close()


def _trust(connection: ssl.SSLSocket, host: str) -> None:
    """Shake hands. Raises OSError; a certain one of ``CERTIFICATE``, ``no_tls``: it would be so again."""
    try:
        connection.do_handshake()
    except ssl.SSLCertVerificationError as error:
        code, why = CERTIFICATE.get(error.verify_code, "certificate_unfit"), error.verify_message
        raise NodeError(code, f"the certificate of {host}: {why}", host=host, why=why) from None
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError):
        raise
    except ssl.SSLError as error:
        why = error.reason or str(error)
        raise NodeError("no_tls", f"{host} does not shake hands by TLS: {why}", host=host, why=why) from None


def _connected(host: str, port: int, networks: tuple[str, ...]) -> socket.socket:
    """To one of the host's addresses, each of which was looked at. Raises OSError, a certain ``address_refused``."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno == socket.EAI_NONAME:
            raise _refused(f"nobody knows the host {host}") from None
        raise
    except UnicodeError:
        raise _refused(f"{host} is no name of a host") from None
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    allowed = [address for address in addresses if origin.permits(address, networks)]
    if not allowed:
        listed = ", ".join(addresses)
        raise NodeError("address_refused", f"{host} is {listed}", host=host, addresses=listed)
    for address in allowed[:-1]:
        with suppress(OSError):
            return socket.create_connection((address, port), TIMEOUT_S)
    return socket.create_connection((allowed[-1], port), TIMEOUT_S)


def _refused(why: str) -> NodeError:
    return NodeError("download_refused", why, why=why)


def _too_large(message: FileDownload) -> NodeError:
    return NodeError("download_too_large", f"it is larger than {message.most_bytes} bytes", most=message.most_bytes)
