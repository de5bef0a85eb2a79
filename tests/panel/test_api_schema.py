"""The schema is OpenAPI 3.1, says each operation's parameters, and is shown without an inline script."""

import re
from typing import Any

import pytest
from django.test import Client
from jsonschema import Draft202012Validator

from cluster.saga.steps import Operation
from web.api.urls import LISTS

pytestmark = pytest.mark.django_db


@pytest.fixture
def schema(client: Client) -> dict[str, Any]:
    answer = client.get("/api/v1/schema/")
    assert answer.status_code == 200
    made: dict[str, Any] = answer.json()
    return made


def test_every_part_is_valid_and_every_reference_leads_somewhere(schema: dict[str, Any]) -> None:
    assert schema["openapi"].startswith("3.1")
    for component in schema["components"]["schemas"].values():
        Draft202012Validator.check_schema(component)
    for part in _walk(schema):
        if "$ref" in part:
            assert part["$ref"].rsplit("/", 1)[1] in schema["components"]["schemas"]
        if "schema" in part and isinstance(part["schema"], dict):
            Draft202012Validator.check_schema(part["schema"])


def test_names_of_operations_are_unique_and_everything_answers_something(schema: dict[str, Any]) -> None:
    ids = []
    for path, methods in schema["paths"].items():
        for method, described in methods.items():
            ids.append(described["operationId"])
            assert any(status.startswith("2") for status in described["responses"]), (path, method)
            assert described["responses"]["default"]["content"].keys() == {"application/problem+json"}
            inside = set(re.findall(r"{(\w+)}", path))
            assert inside == {p["name"] for p in described.get("parameters", []) if p["in"] == "path"}
    assert len(ids) == len(set(ids))


def test_the_schema_tells_the_parameters_of_every_operation(schema: dict[str, Any]) -> None:
    for operation in Operation.registry.values():
        of_one = f"/api/v1/{operation.noun}/{{id}}/{operation.name()}/"
        beside = f"/api/v1/{operation.noun}/{operation.name()}/"
        of_all = beside if operation.noun in LISTS else f"/api/v1/{operation.noun}/"
        path = of_all if operation.creates else of_one
        described = schema["paths"][path]["post"]
        body = described["requestBody"]["content"]["application/json"]["schema"]
        assert set(body["properties"]) == {*operation.Params.model_fields, "wait"}
        assert described["responses"].keys() == {"200", "202", "default"}
    create = schema["paths"]["/api/v1/vms/"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(create["required"]) == {"name", "vcpus", "memory_bytes"}
    assert "size_bytes" in create["properties"]["disks"]["items"]["properties"]


def test_the_page_for_people_needs_no_inline_script_and_no_other_host(client: Client) -> None:
    page = client.get("/api/v1/docs/")
    text = page.content.decode()
    assert page.status_code == 200
    assert "script-src" in page["Content-Security-Policy"] or "default-src 'self'" in page["Content-Security-Policy"]
    assert "<style" not in text
    assert not re.search(r"<script(?![^>]*\bsrc=)", text)
    sources = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert all(one.startswith("/") for one in sources)
    script = client.get(sources[-1].replace("&amp;", "&"))
    assert script["Content-Type"].startswith("application/javascript")
    assert b"SwaggerUIBundle" in script.content


def _walk(node: Any) -> Any:
    if isinstance(node, dict):
        yield node
        for one in node.values():
            yield from _walk(one)
    elif isinstance(node, list):
        for one in node:
            yield from _walk(one)
