"""Reads: lists, single rows, what can be done with them, roles, the OS catalogue and the session."""

from collections.abc import Iterable
from typing import Any

from django.http import Http404
from django.utils.translation import get_language
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from cluster import rolling, selectors
from cluster.models import Grant, Role
from cluster.os_catalogue import CATALOGUE
from cluster.permissions import TABLE, Actor
from cluster.refusals import Forbidden

from . import paging, queries, rows, serializers
from .nouns import NOUNS, Noun
from .schema import ApiSchema, Described, parameter


class AlwaysJson(BaseContentNegotiation):
    """A browser that asks for HTML gets JSON: there is nothing else."""

    def select_parser(self, request: Request, parsers: Iterable[Any]) -> Any:
        return next(iter(parsers))

    def select_renderer(
        self, request: Request, renderers: Iterable[Any], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        renderer = next(iter(renderers))
        return renderer, renderer.media_type


class ApiView(APIView):
    """Base of every view here."""

    schema = ApiSchema()
    content_negotiation_class = AlwaysJson
    metadata_class = None

    @property
    def actor(self) -> Actor:
        actor: Actor = self.request.auth  # type: ignore[assignment]
        return actor


class Unknown(ApiView):
    """Any address that there is not: 401 first, then 404."""

    schema = None  # type: ignore[assignment]

    def get(self, request: Request, **_: Any) -> Response:
        raise Http404

    post = put = patch = delete = get


class ListView(ApiView):
    """``GET /api/v1/<noun>/``"""

    noun: Noun = NOUNS["vms"]

    def get(self, request: Request) -> Response:
        noun, actor = self.noun, self.actor
        if noun.see and not actor.may(noun.see):
            raise Forbidden(actor.refusal(noun.see))
        found = noun.rows(actor)
        query = queries.parse(request.query_params, noun, actor, found.model)
        page = paging.page(query.restrict(found), query.order, query.size, query.cursor)
        address = request.build_absolute_uri(request.path)
        kept = {name: str(value) for name, value in request.query_params.items() if name != "cursor"}
        return Response(
            {
                "results": noun.show(actor, page.rows),
                "next": paging.link(address, kept, page.next),
                "previous": paging.link(address, kept, page.previous),
            }
        )

    def describe(self, method: str) -> Described:
        noun = self.noun
        fields = [name.lstrip("-") for name in noun.ordering]
        query = [
            parameter("cursor", "From “next” or “previous”."),
            parameter("page_size", type="integer", minimum=1, maximum=paging.MAX_SIZE, default=paging.DEFAULT_SIZE),
            parameter("ordering", enum=[sign + f for f in fields for sign in ("", "-")], default=noun.ordering[0]),
        ]
        if noun.search:
            query.append(parameter("search", "In " + ", ".join(noun.search), type="string", maxLength=100))
        for name, one in noun.filters.items():
            values = f" ({', '.join(one.choices)})" if one.choices else ""
            query.append(parameter(name, f"Several values by commas{values}."))
        name = noun.name.replace("-", "_")
        return Described(f"list_{name}", f"List {noun.name}", noun.serializer, many=True, query=tuple(query))


class DetailView(ApiView):
    """``GET /api/v1/<noun>/<id>/``"""

    noun: Noun = NOUNS["vms"]

    def get(self, request: Request, pk: str) -> Response:
        row = self.row(pk)
        queries.only(request.query_params)
        return Response(self.noun.show(self.actor, [row])[0])

    def row(self, pk: str) -> Any:
        return selectors.get(self.noun.rows(self.actor), pk)

    def describe(self, method: str) -> Described:
        name = self.noun.name
        return Described(f"get_{name.replace('-', '_')}", f"One of {name}", self.noun.serializer)


class ActionsView(ApiView):
    """``GET /api/v1/<noun>/<id>/actions/``: every operation, and why not where it is not possible now."""

    noun = "vms"

    def get(self, request: Request, pk: str) -> Response:
        target = selectors.target(self.actor, self.noun, pk)
        queries.only(request.query_params)
        return Response(selectors.allowed_actions(self.actor, target, self.noun))

    def describe(self, method: str) -> Described:
        answer = {"type": "array", "items": {"$ref": "#/components/schemas/Action"}}
        return Described(f"actions_{self.noun}", f"What can be done with one of {self.noun}", answer)


class RolesView(ApiView):
    """``GET /api/v1/roles/``: the table of rights."""

    def get(self, request: Request) -> Response:
        queries.only(request.query_params)
        found = [
            {
                "code": role.value,
                "label": str(role.label),
                "actions": sorted(action for action, allowed in TABLE.items() if role in allowed),
            }
            for role in Role
        ]
        return Response({"results": found, "next": None, "previous": None})

    def describe(self, method: str) -> Described:
        return Described("list_roles", "List roles", serializers.RoleSerializer, many=True)


class OsView(ApiView):
    """``GET /api/v1/os/``: the OS catalogue."""

    def get(self, request: Request) -> Response:
        queries.only(request.query_params)
        language = get_language() or "ru"
        found = [
            {
                "code": os.code,
                "name": os.name(language),
                "type": os.type,
                "version": os.version,
                "minimum": vars(os.minimum),
                "recommended": vars(os.recommended),
                "bus": os.bus,
                "nic_model": os.nic_model,
            }
            for os in CATALOGUE.values()
        ]
        return Response({"results": found, "next": None, "previous": None})

    def describe(self, method: str) -> Described:
        return Described("list_os", "The OS catalogue", serializers.OsSerializer, many=True)


class RebootOrderView(ApiView):
    """``GET /api/v1/nodes/reboot_order/``"""

    def get(self, request: Request) -> Response:
        queries.only(request.query_params)
        found = [turn.said() for turn in rolling.order(self.actor)]
        return Response({"results": found, "next": None, "previous": None})

    def describe(self, method: str) -> Described:
        words = "In which order the nodes can be rebooted, each emptied before"
        return Described("list_reboot_order", words, serializers.TurnSerializer, many=True)


class SessionView(ApiView):
    """``GET /api/v1/session/``: who am I, and what may I do."""

    def get(self, request: Request) -> Response:
        queries.only(request.query_params)
        actor = self.actor
        own = Grant.objects.filter(user=actor.user).order_by("created", "pk")
        return Response(
            {
                "user": rows.users(actor, [actor.user])[0],
                "grant": rows.grants(actor, [actor.grant])[0],
                "grants": rows.grants(actor, list(own)),
                "actions": sorted(action for action in TABLE if actor.may(action)),
            }
        )

    def describe(self, method: str) -> Described:
        return Described("session", "Who am I", serializers.SessionSerializer)
