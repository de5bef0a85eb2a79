"""Every endpoint x every person, and what an endpoint costs in queries; new operations join by being registered."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from rest_framework.serializers import Serializer

from cluster.models import AuditEvent, Image, Iso, IsoCopy, Network, Node, Pool
from cluster.operations import start
from cluster.saga.steps import Operation
from tests.panel.client import Api, vm_like
from tests.panel.engine.scenarios import SCENARIOS, Scene
from tests.people import PEOPLE, Person
from web.api import serializers
from web.api.nouns import NOUNS
from web.api.schema import _schema

Golden = Callable[[str, Any], None]

BODIES: dict[str, Any] = {
    "POST nodes/": {"name": "n9", "address": "10.99.0.19"},
    "POST networks/": {"name": "new", "bridge": "br1", "ranges": []},
    "PATCH vms/{id}/": {"title": "Новая"},
    "PATCH images/{id}/": {"os": ""},
    "POST jobs/{id}/priority/": {"priority": 1},
    "POST jobs/{id}/resolve/": {"outcome": "undone", "note": "by a test"},
}


def endpoints() -> list[tuple[str, str]]:
    """From the schema: what is not in it does not exist for clients."""
    found = []
    for path, methods in _schema("en")["paths"].items():
        found += [(method.upper(), path.removeprefix("/api/v1/")) for method in methods]
    return sorted(found, key=lambda one: (one[1], one[0]))


@contextmanager
def rolled_back() -> Iterator[None]:
    """Whatever happens inside leaves no trace for the next person."""
    point = transaction.savepoint()
    try:
        yield
    finally:
        transaction.savepoint_rollback(point)


@pytest.fixture
def ids(scene: Scene, people: dict[str, Person]) -> dict[str, str]:
    """For each noun one row that has to do with the owner, where it can."""
    owner, vm = people["owner"].actor, scene.running
    job = start(owner, "vm.start", {}, scene.stopped.pk).job
    iso = Iso.objects.create(name="rescue.iso", size_bytes=1)
    IsoCopy.objects.create(iso=iso, node=scene.node)
    nic = vm.nics.select_related("lease").get()
    return {
        "vms": vm.pk,
        "nodes": scene.node.pk,
        "pools": scene.pool.pk,
        "networks": scene.network.pk,
        "addresses": nic.lease.pk,
        "images": scene.image.pk,
        "isos": iso.pk,
        "disks": vm.disks.all()[0].pk,
        "nics": nic.pk,
        "jobs": job.pk,
        "tenants": vm.tenant_id,
        "users": owner.user.pk,
        "grants": owner.grant.pk,
        "audit": str(AuditEvent.objects.get(job=job).pk),
    }


def request_of(method: str, path: str, ids: dict[str, str], scene: Scene) -> tuple[str, Any]:
    noun, *rest = path.split("/")
    pk, body = ids.get(noun, ""), BODIES.get(f"{method} {path}")
    operation = operation_behind(noun, rest) if method == "POST" else None
    if operation and body is None:
        target, body = SCENARIOS[operation.code](scene)
        pk = target or pk
    return path.replace("{id}", pk), body


def operation_behind(noun: str, rest: list[str]) -> Any:
    for operation in Operation.registry.values():
        asked = [""] if operation.creates else ["{id}", operation.name(), ""]
        if operation.noun == noun and rest == asked:
            return operation
    return None


def test_every_endpoint_answers_every_person_as_the_golden_matrix_says(
    ids: dict[str, str], scene: Scene, api: Callable[[str], Api], golden: Golden, authority: None
) -> None:
    matrix: dict[str, dict[str, int]] = {}
    for method, path in endpoints():
        row = matrix.setdefault(f"{method} {path}", {})
        for name in PEOPLE:
            with rolled_back():
                address, body = request_of(method, path, ids, scene)
                response = api(name).ask(method, address, body)
                assert response["Content-Type"].split(";")[0] in ("application/json", "application/problem+json")
                row[name] = response.status_code
    golden("endpoints.json", matrix)


def test_an_answer_has_exactly_the_fields_of_its_schema(
    ids: dict[str, str], api: Callable[[str], Api], people: dict[str, Person]
) -> None:
    for name, noun in NOUNS.items():
        row = api("administrator").get(f"{name}/{ids[name]}/").json()
        assert_same_fields(name, row, noun.serializer())
    assert_same_fields("session", api("owner").get("session/").json(), serializers.SessionSerializer())
    for row in api("owner").get("roles/").json()["results"]:
        assert_same_fields("role", row, serializers.RoleSerializer())
    for row in api("owner").get("os/").json()["results"]:
        assert_same_fields("os", row, serializers.OsSerializer())


def assert_same_fields(path: str, value: Any, field: Any) -> None:
    if hasattr(field, "child") and isinstance(value, list):
        for position, one in enumerate(value):
            assert_same_fields(f"{path}.{position}", one, field.child)
    elif isinstance(field, Serializer) and value is not None:
        required = {name for name, inner in field.fields.items() if inner.required}
        assert required <= set(value) <= set(field.fields), path
        for name in value:
            assert_same_fields(f"{path}.{name}", value[name], field.fields[name])


def test_a_list_costs_the_same_queries_however_many_rows_it_shows(
    ids: dict[str, str], scene: Scene, people: dict[str, Person], api: Callable[[str], Api], golden: Golden
) -> None:
    more_rows(scene, people, range(1))
    few = queries_of_every_list(api)
    more_rows(scene, people, range(1, 6))
    many = queries_of_every_list(api)
    assert few == many
    golden("query_counts.json", many)


def queries_of_every_list(api: Callable[[str], Api]) -> dict[str, int]:
    counts = {}
    for name in NOUNS:
        for person in ("administrator", "owner"):
            with CaptureQueriesContext(connection) as queries:
                assert api(person).get(f"{name}/").status_code in (200, 403)
            counts[f"{name} {person}"] = len(queries)
    return counts


def more_rows(scene: Scene, people: dict[str, Person], numbers: range) -> None:
    """Of each kind one more; the jobs all wait in line."""
    for number in numbers:
        vm = vm_like(scene.running, name=f"more{number}")
        disk, nic = scene.running.disks.all()[0], scene.running.nics.get()
        disk.pk, disk.vm = f"disk{number}", vm
        disk.save(force_insert=True)
        nic.pk, nic.vm, nic.mac = f"nic{number}", vm, f"52:54:00:00:01:0{number}"
        nic.save(force_insert=True)
        start(people["owner"].actor, "vm.start", {}, vm.pk)
        node = Node.objects.create(name=f"more{number}", address=f"10.99.1.{number}", facts={"bridges": ["br0"]})
        Pool.objects.create(name=f"more{number}", kind="directory", identity=f"more{number}", path="/").nodes.add(node)
        Network.objects.create(name=f"more{number}", bridge="br0")
        Image.objects.create(name=f"more{number}", format="raw", size_bytes=1, virtual_size_bytes=1)


def test_answers_show_tenants_neither_nodes_nor_pools(
    ids: dict[str, str], scene: Scene, api: Callable[[str], Api]
) -> None:
    for name in ("vms", "disks", "networks", "images", "jobs", "addresses", "nics"):
        seen = json.dumps(api("owner").get(f"{name}/").json())
        assert scene.node.pk not in seen, name
        assert scene.pool.pk not in seen, name
        assert api("administrator").get(f"{name}/").json()["results"], name
