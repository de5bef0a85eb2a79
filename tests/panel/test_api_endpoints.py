"""Every endpoint x every person; new operations join by being registered."""

import json
from collections.abc import Callable
from typing import Any

from rest_framework.serializers import Serializer

from tests.panel.asking import API, Request, made_ready, rolled_back
from tests.panel.client import Api
from tests.panel.engine.scenarios import Scene
from tests.people import PEOPLE, Person
from web.api import serializers
from web.api.nouns import NOUNS
from web.api.schema import _schema

Golden = Callable[[str, Any], None]


def endpoints() -> list[tuple[str, str]]:
    """From the schema: what is not in it does not exist for clients."""
    found = []
    for path, methods in _schema("en")["paths"].items():
        found += [(method.upper(), path.removeprefix("/api/v1/")) for method in methods]
    return sorted(found, key=lambda one: (one[1], one[0]))


def test_every_endpoint_answers_every_person_as_the_golden_matrix_says(
    ids: dict[str, str], scene: Scene, api: Callable[[str], Api], golden: Golden, authority: None
) -> None:
    matrix: dict[str, dict[str, int]] = {}
    for method, path in endpoints():
        row = matrix.setdefault(f"{method} {path}", {})
        for name in PEOPLE:
            with rolled_back():
                address, body = made_ready(Request(method, API + path), ids, scene)
                response = api(name).ask(method, "/" + address, body)
                if response.status_code != 204:
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


def test_answers_show_tenants_neither_nodes_nor_pools(
    ids: dict[str, str], scene: Scene, api: Callable[[str], Api]
) -> None:
    for name in ("vms", "disks", "networks", "images", "jobs", "addresses", "nics"):
        seen = json.dumps(api("owner").get(f"{name}/").json())
        assert scene.node.pk not in seen, name
        assert scene.pool.pk not in seen, name
        assert api("administrator").get(f"{name}/").json()["results"], name
