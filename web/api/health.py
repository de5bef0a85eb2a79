"""For machines that watch the panel: is it alive, can it work, and a few numbers."""

import ipaddress
import logging
from collections.abc import Callable

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Count, Model
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from cluster.keys import ALIVE_KEY
from cluster.models import Job, JobState, Node, NodeState, Vm, VmState

log = logging.getLogger(__name__)

"""Kept by the conductor; it expires when the conductor is silent."""
_TIMEOUT_S = 2.0


@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """The process lives. Nothing else is asked: a restart would not help against a dead database."""
    return JsonResponse({"alive": True})


@require_safe
def readyz(request: HttpRequest) -> HttpResponse:
    """200 when people can work, 503 with what is missing."""
    faults = {name: fault for name, check in _CHECKS.items() if (fault := _fault(check))}
    _note(", ".join(f"{name} {fault}" for name, fault in faults.items()))
    body = {"ready": not faults, "checks": {name: faults.get(name, "ok") for name in _CHECKS}}
    response = JsonResponse(body, status=503 if faults else 200)
    # An answer, not a failure of the panel; Django would log each 503 as an ERROR, several at every start.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


_noted = ""


def _note(faults: str) -> None:
    """One line when what is missing changes, however often somebody asks."""
    global _noted
    if faults != _noted:
        log.info("%s", f"not ready: {faults}" if faults else "ready")
        _noted = faults


def _fault(check: Callable[[], str]) -> str:
    try:
        return check()
    except (DatabaseError, redis.RedisError):
        return "does not answer"


def _database() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return ""


def _migrations() -> str:
    executor = MigrationExecutor(connection)
    return "not applied" if executor.migration_plan(executor.loader.graph.leaf_nodes()) else ""


def _redis() -> str:
    with _client() as client:
        client.ping()
    return ""


def _conductor() -> str:
    with _client() as client:
        return "" if client.exists(ALIVE_KEY) else "silent"


def _client() -> "redis.Redis":
    return redis.Redis.from_url(settings.REDIS_WEB_URL, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)


_CHECKS = {"database": _database, "migrations": _migrations, "redis": _redis, "conductor": _conductor}


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Prometheus' text format. For this machine, and for people who may see nodes: the numbers are the cluster's."""
    actor = request.actor  # type: ignore[attr-defined]
    if not (actor and actor.may("see.nodes")) and not _is_local(request):
        return HttpResponse(status=404)
    lines = [
        *_gauge("ulei_jobs", "Jobs by state.", Job, JobState.values),
        *_gauge("ulei_nodes", "Nodes by state.", Node, NodeState.values),
        *_gauge("ulei_vms", "VMs by state.", Vm, VmState.values),
    ]
    return HttpResponse("\n".join(lines) + "\n", content_type="text/plain; version=0.0.4; charset=utf-8")


def _is_local(request: HttpRequest) -> bool:
    try:
        return ipaddress.ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        return False


def _gauge(name: str, text: str, model: type[Model], states: list[str]) -> list[str]:
    rows = model._default_manager.order_by().values_list("state").annotate(Count("pk"))
    counts = dict.fromkeys(states, 0) | dict(rows)
    values = [f'{name}{{state="{state}"}} {count}' for state, count in counts.items()]
    return [f"# HELP {name} {text}", f"# TYPE {name} gauge", *values]
