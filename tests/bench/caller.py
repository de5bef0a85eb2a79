"""A person's browser as far as time goes: one open connection for requests, one websocket for what comes of them."""

import http.client
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import websockets.exceptions
from websockets.sync.client import connect

from deploy.lab.client import Api
from deploy.lab.processes import Failed

Frame = dict[str, Any]


@dataclass(frozen=True)
class Told:
    """An answer with the moments around it (monotonic seconds)."""

    began: float
    ended: float
    status: int
    body: Any

    @property
    def ms(self) -> float:
        return (self.ended - self.began) * 1000


class Caller:
    """Requests on a connection that is open before the clock starts."""

    def __init__(self, api: Api) -> None:
        self._host = urlsplit(api.url).netloc
        self._headers = {"Authorization": f"Bearer {api.token}", "Content-Type": "application/json"}

    def post(self, path: str, body: Any = None, expect: int = 202) -> Told:
        """``path`` is one below ``/api/v1/``."""
        raw = json.dumps({} if body is None else body).encode()
        told = self.request("POST", f"/api/v1/{path}", raw)
        if told.status != expect:
            raise Failed(f"POST {path}: {told.status} instead of {expect}: {told.body}")
        return Told(told.began, told.ended, told.status, json.loads(told.body))

    def request(self, method: str, path: str, raw: bytes = b"") -> Told:
        connection = http.client.HTTPConnection(self._host, timeout=60)
        connection.connect()
        try:
            began = time.monotonic()
            connection.request(method, path, raw, self._headers)
            answer = connection.getresponse()
            body = answer.read()
            return Told(began, time.monotonic(), answer.status, body)
        finally:
            connection.close()


class Listener:
    """Hears the panel's frames, and keeps each with the moment at which it came."""

    def __init__(self, api: Api, topics: list[str]) -> None:
        self._frames: list[tuple[float, Frame]] = []
        self._came = threading.Condition()
        headers = {"Authorization": f"Bearer {api.token}"}
        self._socket = connect(api.url.replace("http", "ws", 1) + "/ws/", additional_headers=headers, compression=None)
        self._thread = threading.Thread(target=self._hear, name="listener", daemon=True)
        self._thread.start()
        self._socket.send(json.dumps({"subscribe": topics}))
        for topic in topics:
            self.wait(lambda frame, topic=topic: frame.get("subscribed") == topic)

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()
        self._thread.join()

    def _hear(self) -> None:
        try:
            while True:
                raw = self._socket.recv()
                came = time.monotonic()
                with self._came:
                    self._frames.append((came, json.loads(raw)))
                    self._came.notify_all()
        except websockets.exceptions.ConnectionClosed:
            return

    def wait(self, matches: Callable[[Frame], bool], since: float = 0.0, seconds: float = 60.0) -> float:
        """The moment of the first matching frame that came after ``since``."""
        return self.frame(matches, since, seconds)[0]

    def frame(self, matches: Callable[[Frame], bool], since: float = 0.0, seconds: float = 60.0) -> tuple[float, Frame]:
        deadline = time.monotonic() + seconds
        looked_at = 0
        with self._came:
            while True:
                for came, frame in self._frames[looked_at:]:
                    if came >= since and matches(frame):
                        return came, frame
                looked_at = len(self._frames)
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise Failed(f"waited {seconds:g} s in vain for a frame")
                self._came.wait(left_s)

    def vm(self, vm_id: str, state: str, since: float) -> float:
        """When this VM was said to be ``state``, or ``deleted``."""
        return self.wait(
            lambda frame: (
                frame.get("topic") == "vms"
                and frame.get("id") == vm_id
                and state in (frame.get("state"), frame.get("type"))
            ),
            since,
        )

    def job_ends(self, job_id: str, since: float = 0.0, seconds: float = 60.0) -> tuple[float, str]:
        """When it ended, and how."""
        final = ("succeeded", "failed", "cancelled", "stuck")
        came, frame = self.frame(
            lambda frame: frame.get("topic") == "jobs" and frame.get("id") == job_id and frame.get("state") in final,
            since,
            seconds,
        )
        return came, str(frame["state"])
