"""The API as a person uses it, and rows that several tests need."""

import json
from typing import Any

from django.http import HttpResponse
from django.test import Client

from cluster.models import Vm

API = "/api/v1/"


class Api:
    """The API as one person uses it: paths below ``/api/v1/``, bodies as plain values."""

    def __init__(self, token: str | None = None) -> None:
        self.client = Client(headers={"Authorization": f"Bearer {token}"} if token else None)

    def get(self, path: str, **headers: str) -> Any:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        return self.ask("POST", path, body, **headers)

    def patch(self, path: str, body: Any = None, **headers: str) -> Any:
        return self.ask("PATCH", path, body, **headers)

    def delete(self, path: str, **headers: str) -> Any:
        return self.ask("DELETE", path, **headers)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> HttpResponse:
        """``headers``: underscores stand for dashes. A body of bytes is sent as it is."""
        raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        address = path if path.startswith("/") or "://" in path else API + path
        return self.client.generic(
            method, address, raw, content_type=sent.pop("Content-Type", "application/json"), headers=sent
        )


def vm_like(vm: Vm, **changes: Any) -> Vm:
    """One more VM beside ``vm``, without disks and NICs."""
    fields = {"tenant": vm.tenant, "owner": vm.owner, "node": vm.node, "vcpus": 1, "memory_bytes": vm.memory_bytes}
    return Vm.objects.create(**{**fields, "state": "stopped", **changes})
