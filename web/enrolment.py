"""``POST /api/v1/enrol/`` on the listener with the cluster's own certificate; beside it only :mod:`web.node_files`.

A machine that wants to join is not signed in anywhere and knows the panel by fingerprint only, so none of the panel's
other addresses, sessions or middleware stand behind this port.
"""

import asyncio
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import sync_to_async
from django.db import DatabaseError, connections
from pydantic import ValidationError

from cluster import audit, services
from cluster.refusals import Refusal, Refused
from nodes.contract.messages import EnrolRequest

from . import node_files

log = logging.getLogger(__name__)

PATH = "/api/v1/enrol/"
MAX_BODY_BYTES = 64 << 10
BODY_TIMEOUT_S = 10.0
ATTEMPTS_PER_MINUTE = 10
"""Vain ones from one address, behind which there may be a whole rack. A token cannot be guessed; this keeps a broken
machine from filling the journal."""
_ADDRESSES_REMEMBERED = 1000

Answer = tuple[int, dict[str, Any], dict[str, str]]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Limit:
    """At most so many vain attempts from an address within any minute, in the memory of this one process."""

    def __init__(self, attempts: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._attempts = attempts
        self._clock = clock
        self._seen: OrderedDict[str, list[float]] = OrderedDict()

    def wait_s(self, address: str) -> int:
        """Count an attempt as vain until :meth:`succeeded`; 0, or how long to wait when there were too many."""
        now = self._clock()
        recent = [at for at in self._seen.pop(address, []) if at > now - 60]
        too_many = len(recent) >= self._attempts
        self._seen[address] = recent if too_many else [*recent, now]
        while len(self._seen) > _ADDRESSES_REMEMBERED:
            self._seen.popitem(last=False)
        return int(recent[0] + 60 - now) + 1 if too_many else 0

    def succeeded(self, address: str) -> None:
        """The last attempt was not in vain."""
        if address in self._seen:
            del self._seen[address][-1:]


class Enrolment:
    """The ASGI application."""

    def __init__(self) -> None:
        self._limit = Limit(ATTEMPTS_PER_MINUTE)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close"})
        elif scope["type"] == "http" and scope["path"].startswith(node_files.PATH):
            await node_files.answer(scope, receive, send)
        elif scope["type"] == "http":
            status, body, headers = await self._answer(scope, receive)
            await _send(send, status, body, headers)

    async def _answer(self, scope: dict[str, Any], receive: Receive) -> Answer:
        if scope["path"] != PATH:
            return _problem(404, "not_found", "there is nothing here", f"POST {PATH}")
        if scope["method"] != "POST":
            return _problem(405, "method_not_allowed", "only POST", f"POST {PATH}", Allow="POST")
        address = (scope.get("client") or ("unknown", 0))[0]
        wait = self._limit.wait_s(address)
        if wait:
            log.warning("enrolment: too many attempts from %s", address)
            hint = f"wait {wait} s"
            return _problem(429, "too_many_requests", "too many attempts", hint, **{"Retry-After": str(wait)})
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                raw = await _read(receive)
        except TimeoutError:
            return _problem(408, "timeout", "the body did not arrive in time", "try again")
        if raw is None:
            return _problem(413, "body_too_large", "the body is too large", f"at most {MAX_BODY_BYTES} bytes")
        answer = await sync_to_async(_enrol, thread_sensitive=False)(raw, address)
        if answer[0] == 200:
            self._limit.succeeded(address)
        return answer


enrolment = Enrolment()


def _enrol(raw: bytes, address: str) -> Answer:
    try:
        return _ask(raw, address)
    except DatabaseError:
        log.exception("enrolment from %s", address)
        return _problem(503, "database_unavailable", "the panel's database does not answer", "try again in a moment")
    except Exception:
        log.exception("enrolment from %s", address)
        return _problem(500, "internal", "an error inside the panel", "its cause is in the panel's log")
    finally:
        # This thread comes seldom: it keeps no connection until the next machine joins.
        connections.close_all()


def _ask(raw: bytes, address: str) -> Answer:
    try:
        request = EnrolRequest.model_validate_json(raw)
        if "\0" in "".join(request.model_dump(mode="json").values()):
            raise ValueError("NUL in a field")
    except ValidationError as error:
        where = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        return _problem(400, "bad_request", where, "is the agent as old as the panel?")
    except ValueError as error:
        return _problem(400, "bad_request", str(error), "")
    try:
        answer = services.enrol(request)
    except Refused as refused:
        codes = [reason.code for reason in refused.refusals]
        log.warning("enrolment of %s from %s refused: %s", request.hostname, address, ", ".join(codes))
        audit.write(None, "node.enrol", "refused", address=address, hostname=request.hostname, codes=codes)
        return _refused(refused.status, refused.refusals[0])
    log.info("node %s (%s) enrolled from %s", answer.name, answer.node, address)
    return 200, answer.model_dump(mode="json"), {}


def _refused(status: int, reason: Refusal) -> Answer:
    words = reason.said()
    return _problem(status, words["code"], words["cause"], words["hint"])


def _problem(status: int, code: str, cause: str, hint: str, **headers: str) -> Answer:
    return status, {"code": code, "cause": cause, "hint": hint}, headers


async def _read(receive: Receive) -> bytes | None:
    """The body; None when it is too large."""
    raw = b""
    while True:
        message = await receive()
        raw += message.get("body", b"")
        if len(raw) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body"):
            return raw


async def _send(send: Send, status: int, body: dict[str, Any], headers: dict[str, str]) -> None:
    raw = json.dumps(body, ensure_ascii=False).encode()
    fields = {"Content-Type": "application/json", "Content-Length": str(len(raw)), **headers}
    encoded = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": raw})
