"""A client of the panel's API on nothing but the standard library."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.lab.processes import Failed, wait

FINAL = frozenset({"succeeded", "failed", "cancelled", "stuck"})


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    headers: dict[str, str]
    seconds: float


class Away(Failed):
    """503: the panel says that a part of it does not answer for the moment."""


class Api:
    """``Api.from_credentials(path)``; every method takes a path below /api/v1/, like ``vms/``."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url.rstrip("/"), token

    @classmethod
    def from_credentials(cls, path: Path) -> "Api":
        given = json.loads(path.read_text())
        return cls(given["url"], given["token"])

    def request(self, method: str, path: str, body: Any = None, seconds: float = 30, **headers: str) -> Answer:
        """Any status is an answer, also 4xx and 5xx; no answer at all is an ``OSError``.

        :param headers: underscores stand for dashes: ``Idempotency_Key="1"``.
        """
        url = path if path.startswith("http") else f"{self.url}/api/v1/{path}"
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent |= {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, sent, method=method)
        began = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=seconds) as response:
                return self._answer(response.status, response.read(), response.headers, began)
        except urllib.error.HTTPError as error:
            with error:
                return self._answer(error.code, error.read(), error.headers, began)

    @staticmethod
    def _answer(status: int, raw: bytes, headers: Any, began: float) -> Answer:
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = raw.decode(errors="replace")
        return Answer(status, body, dict(headers.items()), time.monotonic() - began)

    def get(self, path: str) -> Any:
        answer = self.request("GET", path)
        if answer.status == 503:
            raise Away(f"GET {path}: {answer.body}")
        if answer.status != 200:
            raise Failed(f"GET {path}: {answer.status} {answer.body}")
        return answer.body

    def all(self, path: str) -> list[dict[str, Any]]:
        """Every row of a list, page after page."""
        rows, url = [], path
        while url:
            page = self.get(url)
            rows += page["results"]
            url = page["next"]
        return rows

    def post(self, path: str, body: Any = None, expect: int = 202, **headers: str) -> Any:
        answer = self.request("POST", path, {} if body is None else body, **headers)
        if answer.status != expect:
            raise Failed(f"POST {path}: {answer.status} instead of {expect}: {answer.body}")
        return answer.body

    def job(self, job_id: str) -> dict[str, Any]:
        return self.get(f"jobs/{job_id}/")

    def follow(self, job_id: str, seconds: float = 60, seen: Callable[[dict[str, Any]], None] | None = None) -> dict:
        """The job once it is in a final state."""

        def settled() -> dict[str, Any] | None:
            try:
                job = self.job(job_id)
            except (OSError, Away):  # the web server is being restarted, or its database; the job goes on
                return None
            if seen is not None:
                seen(job)
            return job if job["state"] in FINAL else None

        return wait(settled, seconds, f"job {job_id} to settle", f"{self.url}/jobs/{job_id}/")

    def do(self, path: str, body: Any = None, seconds: float = 60) -> dict[str, Any]:
        """Starts an operation and follows its job to success."""
        job = self.follow(self.post(path, body)["job"]["id"], seconds)
        if job["state"] != "succeeded":
            raise Failed(f"{job['operation']} {job['state']}: {job['error']}", f"{self.url}/jobs/{job['id']}/")
        return job

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as response:
                return response.status == 200
        except OSError:
            return False
