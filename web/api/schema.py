"""OpenAPI 3.1, from the nouns, the registry of operations and their pydantic parameters; and the page for people."""

import functools
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.utils.translation import get_language
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.settings import patched_settings
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerSplitView
from pydantic import BaseModel
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer

from . import serializers
from .errors import PROBLEM

JSON = "application/json"
Json = dict[str, Any]


@dataclass(frozen=True)
class Described:
    """What the schema says of one method of one view."""

    id: str
    summary: str
    answer: type[Serializer[Any]] | Json
    status: int = 200
    description: str = ""
    many: bool = False
    """The answer is a page of a list."""
    query: tuple[Json, ...] = ()
    headers: tuple[Json, ...] = ()
    body: Json | None = None
    body_type: str = JSON
    answers: dict[int, type[Serializer[Any]]] = field(default_factory=dict)
    """Further answers."""


def parameter(name: str, description: str = "", place: str = "query", **schema: Any) -> Json:
    return {"in": place, "name": name, "description": description, "schema": schema or {"type": "string"}}


def body_of(shape: type[BaseModel], title: str, **more: Json) -> Json:
    """The JSON Schema of a pydantic model with its inner models written out, and further properties beside them."""
    schema = shape.model_json_schema()
    schema = _inline({k: v for k, v in schema.items() if k != "$defs"}, schema.get("$defs", {}))
    schema["title"] = title
    schema.pop("description", None)
    schema["properties"] = {**schema.get("properties", {}), **more}
    return schema


def _inline(node: Any, definitions: Json) -> Any:
    if isinstance(node, list):
        return [_inline(one, definitions) for one in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = definitions[node["$ref"].rsplit("/", 1)[1]]
        return _inline({**target, **{k: v for k, v in node.items() if k != "$ref"}}, definitions)
    return {name: _inline(one, definitions) for name, one in node.items()}


class ActorAuthenticationScheme(OpenApiAuthenticationExtension):
    """Both ways in."""

    target_class = "web.api.authentication.ActorAuthentication"
    name = ["token", "session"]

    def get_security_definition(self, auto_schema: AutoSchema) -> list[Json]:
        return [
            {"type": "http", "scheme": "bearer"},
            {"type": "apiKey", "in": "cookie", "name": settings.SESSION_COOKIE_NAME},
        ]


class ApiSchema(AutoSchema):
    """Asks the view itself: ``describe(method)`` answers with a :class:`Described`."""

    @property
    def _described(self) -> Described:
        described: Described = self.view.describe(self.method)  # type: ignore[attr-defined]
        return described

    def is_excluded(self) -> bool:
        return not hasattr(self.view, "describe")

    def get_operation_id(self) -> str:
        return self._described.id

    def get_summary(self) -> str:
        return self._described.summary

    def get_description(self) -> str:  # type: ignore[override]
        return self._described.description

    def get_tags(self) -> list[str]:
        return [self.path.removeprefix("/api/v1/").split("/")[0]]

    def _get_parameters(self) -> list[Json]:
        found = [parameter("id", place="path", type="string") | {"required": True}] if "{id}" in self.path else []
        return [*found, *self._described.query, *self._described.headers]

    def _get_request_body(self, direction: str = "request") -> Json | None:
        body = self._described.body
        if body is None:
            return None
        content = {self._described.body_type: {"schema": body}}
        return {"content": content, "required": bool(body.get("required"))}

    def get_response_serializers(self) -> Any:
        described = self._described
        answer: Any = described.answer
        if described.many:
            answer = self._page_of(described.answer)
        answers = {(status, JSON): one for status, one in described.answers.items()}
        return {
            (described.status, JSON): answer,
            **answers,
            ("default", PROBLEM): serializers.ProblemSerializer,
        }

    def _page_of(self, serializer: Any) -> Json:
        component = self.resolve_serializer(serializer, "response")
        link = {"type": ["string", "null"], "format": "uri"}
        return {
            "type": "object",
            "properties": {
                "results": {"type": "array", "items": component.ref},
                "next": link,
                "previous": link,
            },
            "required": ["results", "next", "previous"],
        }

    def _get_response_headers_for_code(self, status_code: str, direction: str = "response") -> Json:
        if status_code != "202":
            return {}
        return {"Location": {"description": "The job.", "schema": {"type": "string", "format": "uri-reference"}}}


@functools.cache
def _schema(language: str | None) -> Json:
    """It changes only with the code. Choices stay where they are used: a component for each would need a name."""
    with patched_settings({"POSTPROCESSING_HOOKS": []}):
        schema: Json = SchemaGenerator(urlconf="web.urls").get_schema(request=None, public=True)
    return schema


class SchemaView(SpectacularJSONAPIView):
    """``GET /api/v1/schema/``; open to everybody, as it holds nothing of this installation."""

    authentication_classes = []
    permission_classes = []

    def _get_schema_response(self, request: Request) -> Response:
        return Response(_schema(get_language()))


class DocsView(SpectacularSwaggerSplitView):
    """Swagger UI from our own static files, with its script apart: the content security policy allows no inline one."""

    authentication_classes = []
    permission_classes = []
    url_name = "schema"
    template_name = "api/docs.html"
