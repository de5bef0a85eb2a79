"""Every address of the panel, walked from the URL conf, each with a request that it takes; and the rows for that."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.urls import URLPattern, URLResolver, get_resolver

from cluster.job_words import JOB_CHECKS
from cluster.models import Job, Repeated
from cluster.saga.steps import Operation
from tests.panel.engine.scenarios import SCENARIOS, Scene
from tests.people import PASSWORD
from web.api.urls import LISTS

API = "api/v1/"
NODE = {"name": "n9", "address": "10.99.0.19"}
RESOLVE = {"outcome": "undone", "note": "by a test"}
BODIES: dict[str, Any] = {
    "POST nodes/": NODE,
    "PATCH nodes/{id}/": {"group": None},
    "POST node-groups/": {"name": "new"},
    "PATCH node-groups/{id}/": {"title": "Новая"},
    "POST affinity-groups/": {"name": "new", "policy": "apart"},
    "PATCH affinity-groups/{id}/": {"hard": True},
    "POST networks/": {"name": "new", "bridge": "br1", "ranges": []},
    "POST images/": {"name": "debian.qcow2", "size_bytes": 1},
    "POST isos/": {"name": "debian.iso", "size_bytes": 1},
    "PUT uploads/{id}/": b"",
    "PATCH vms/{id}/": {"title": "Новая"},
    "PATCH images/{id}/": {"os": ""},
    "POST schedules/": {"vm": "{vms}", "action": "snapshot", "every_hours": 24, "keep": 7},
    "PATCH pools/{id}/": {"warning_percent": 90},
    "PATCH balancing/": {"every_minutes": 60},
    "POST jobs/{id}/priority/": {"priority": 1},
    "POST jobs/{id}/resolve/": RESOLVE,
}
VM = {
    "name": "shop",
    "source": "image",
    "image": "{images}",
    "os": "other-linux",
    "vcpus": "1",
    "memory": "128 MB",
    "disk-0-size": "1 GB",
    "disk-0-pool": "{pools}",
    "disk-0-bus": "virtio",
    "disk-1-size": "2 GB",
    "disk-1-pool": "{pools}",
    "nic-0-network": "{networks}",
    "nic-1-network": "{networks}",
}
POOL = {"node": "{nodes}", "place": "lvm:vg0", "name": "fast", "stripes": "2"}
FORMS: dict[str, dict[str, Any]] = {
    "sign-in/": {"username": "{username}", "password": PASSWORD},
    "sign-out/": {},
    "role/": {"grant": "{grants}"},
    "language/": {"language": "en"},
    "vms/new/": VM,
    "vms/new/check/": VM,
    "nodes/{id}/do/declare_dead/": {"confirm": "n2"},
    "vms/{id}/edit/": {"title": "Новая"},
    "vms/{id}/forecast/": {},
    "nodes/new/": NODE,
    "nodes/balance/apply/": {},
    "nodes/balance/clock/": {
        "every_minutes": "60",
        "threshold_percent": "20",
        "hold_minutes": "10",
        "cooldown_minutes": "60",
        "most_moves": "4",
    },
    "nodes/{id}/token/": {},
    "nodes/{id}/edit/": {"group": "", "cpu_overcommit": "4", "memory_overcommit": "1,5", "memory_reserve_bytes": ""},
    "affinity-groups/new/": {"name": "new", "policy": "together"},
    "affinity-groups/{id}/edit/": {"name": "renamed"},
    "affinity-groups/{id}/remove/": {},
    "node-groups/new/": {"name": "new"},
    "node-groups/{id}/edit/": {"name": "renamed", "title": "Новая"},
    "node-groups/{id}/remove/": {},
    "vms/{id}/groups/": {},
    "disks/new/": {"size_bytes": "1 GB", "pool": "{pools}"},
    "disks/{id}/do/resize/": {"size_bytes": "2 GB"},
    "disks/{id}/do/move/": {"pool": "{pools}", "format": "raw"},
    "disks/{id}/do/attach/": {"vm": "{vms}", "bus": "virtio"},
    "disks/{id}/do/change/": {"title": "Данные"},
    "images/download/": {"url": "https://example.org/new.qcow2"},
    "isos/download/": {"url": "https://example.org/new.iso"},
    "disks/{id}/do/image/": {"name": "new", "generalise": "1"},
    "vms/{id}/do/iso/": {"iso": ""},
    "vms/{id}/do/clone/": {"name": "twin"},
    "vms/{id}/do/backup/": {"title": "nightly"},
    "vms/{id}/schedule/snapshot/": {"every_hours": "24", "keep": "7"},
    "vms/{id}/schedule/backup/": {"every_hours": "24", "keep": "7"},
    "backups/{id}/do/restore/": {"name": "again"},
    "schedules/{id}/remove/": {},
    "pools/{id}/edit/": {"name": "renamed", "warning_percent": "90", "exact": "1", "state": "active"},
    "pools/{id}/do/import/": {"name": "theirs.qcow2", "title": "Архив"},
    "pools/new/": POOL,
    "pools/new/check/": POOL,
    "vms/{id}/do/snapshot/": {"name": "before"},
    "snapshots/{id}/do/revert/": {"stop": "1"},
    "jobs/{id}/cancel/": {},
    "jobs/{id}/proceed/": {},
    "jobs/{id}/retry/": {},
    "jobs/{id}/resolve/": RESOLVE,
    "jobs/{id}/priority/": {"priority": "1"},
}
"""What is typed into a page that takes a POST; ``{pools}`` is the id of a pool."""


@dataclass(frozen=True)
class Request:
    """``path`` with ``{id}`` in it; ``way``: as a fragment, or as a dry run."""

    method: str
    path: str
    way: str = ""

    def __str__(self) -> str:
        return f"{self.method} /{self.path} {self.way}".strip()


def every_request() -> list[Request]:
    """Each address that the URL conf has, with each of its methods and in each way."""
    known = [(route, view) for route, view in routes() if route != API]  # there, all that is unknown is answered
    return [request for route, view in known for path in written_out(route) for request in _requests(path, view)]


def routes(patterns: Any = None, prefix: str = "") -> Iterator[tuple[str, Callable[..., Any]]]:
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from routes(pattern.url_patterns, route)
        elif isinstance(pattern, URLPattern):
            yield route, pattern.callback


def written_out(route: str) -> list[str]:
    """A route with names in it is as many addresses as there are names; only ids are left open."""
    if "(?P<noun>" in route:
        return [f"{o.noun}/{{id}}/do/{o.name()}/" for o in Operation.registry.values() if not o.creates]
    path = re.sub(r"<\w+:pk>", "{id}", route)
    paths = [path.replace("<str:word>", word) for word in JOB_CHECKS] if "<str:word>" in path else [path]
    if "<str:action>" in path:
        paths = [path.replace("<str:action>", action) for action in Repeated.values]
    assert not re.search(r"[<(]", "".join(paths)), f"what stands in the brackets of {route}?"
    return paths


def _requests(path: str, view: Any) -> Iterator[Request]:
    if hasattr(view, "cls"):
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            if hasattr(view.cls, method.lower()):
                yield Request(method, path)
        if operation_of(Request("POST", path)):
            yield Request("POST", path, "dry run")
        return
    takes_a_form = path in FORMS or "/do/" in path
    for method in ("GET", "POST") if takes_a_form else ("GET",):
        yield Request(method, path)
        if view.__module__.startswith("web.pages"):
            yield Request(method, path, "fragment")


def operation_of(request: Request) -> type[Operation[Any]] | None:
    """The operation that the request starts, or asks about."""
    noun, *rest = request.path.removeprefix(API).split("/")
    for operation in Operation.registry.values():
        asked = [["{id}", operation.name(), ""], ["{id}", "do", operation.name(), ""]]
        if operation.creates:
            asked = [[operation.name(), ""]] if operation.noun in LISTS else [[""]]
        if operation.noun == noun and rest in asked:
            return operation
    return None


def made_ready(request: Request, ids: dict[str, str], scene: Scene) -> tuple[str, Any]:
    """The address and what is sent there, in a world in which it is taken."""
    short = request.path.removeprefix(API)
    noun = short.split("/")[0]
    pk, body = ids.get(noun, ""), BODIES.get(f"{request.method} {short}")
    operation = operation_of(request)
    if isinstance(body, dict):
        body = {name: value.format(**ids) if isinstance(value, str) else value for name, value in body.items()}
    if operation and body is None and (request.method == "POST" or "/do/" in short):
        target, body = SCENARIOS[operation.code](scene)
        pk = target or pk
    if noun == "jobs" and request.method == "POST":
        make_job_listen(pk, short.split("/")[2])
    if not request.path.startswith(API):
        typed = FORMS[short] if short in FORMS else dict(_as_typed(body or {}))
        body = {name: str(value).format(**ids) for name, value in typed.items()}
    return request.path.replace("{id}", pk), body


def _as_typed(params: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in params.items():
        if isinstance(value, str):
            yield name, value
        elif isinstance(value, dict):
            yield from ((f"{name}-{key}", line) for key, line in value.items())


def make_job_listen(pk: str, word: str) -> None:
    """A job takes each word only in a state of its own."""
    job = Job.objects.get(pk=pk)
    if word in ("retry", "resolve"):
        Job.objects.filter(pk=pk).update(state="stuck")
    if word == "priority":
        Job.objects.filter(pk=pk).update(state="waiting")
    if word == "proceed":
        Job.objects.filter(pk=pk).update(state="running")
        job.steps.filter(position=0).update(state="running", waits_for_click=True)


@contextmanager
def rolled_back() -> Iterator[None]:
    """Whatever happens inside leaves no trace for the next request."""
    point = transaction.savepoint()
    try:
        yield
    finally:
        transaction.savepoint_rollback(point)
