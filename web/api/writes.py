"""Small writes that are no jobs: each reads its body and calls one service."""

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, IPvAnyAddress
from rest_framework.request import Request
from rest_framework.response import Response

from cluster import schedules, selectors, services
from cluster.models import Node, Repeated
from cluster.refusals import BadShape
from nodes.contract.specs import Name, Title

from . import bodies, queries, rows, serializers
from .schema import Described, body_of
from .views import ApiView, DetailView, ListView


class VmEdit(bodies.Shape):
    title: Title | None = None
    protected: bool | None = None
    os: Annotated[str, Field(max_length=40)] | None = None
    restart_priority: Annotated[int, Field(ge=-100, le=100)] | None = None


class ImageEdit(bodies.Shape):
    os: Annotated[str, Field(max_length=40)]


class PoolEdit(bodies.Shape):
    name: Name | None = None
    exact: bool | None = None
    state: Literal["active", "out_of_service"] | None = None
    warning_percent: Annotated[int, Field(ge=1, le=100)] | None = None
    default_of: Annotated[list[Annotated[str, Field(max_length=40)]], Field(max_length=1000)] | None = None


class NodeAdd(bodies.Shape):
    name: Name
    address: IPvAnyAddress


class ScheduleAdd(bodies.Shape):
    vm: Annotated[str, Field(max_length=40)]
    action: Literal["snapshot", "backup"]
    every_hours: Annotated[int, Field(ge=1, le=schedules.MOST_HOURS)]
    keep: Annotated[int, Field(ge=1, le=schedules.MOST_KEPT)]
    pool: Annotated[str, Field(max_length=40)] | None = None
    first_run: AwareDatetime | None = None


class Range(bodies.Shape):
    first: IPvAnyAddress
    last: IPvAnyAddress
    prefix_length: Annotated[int, Field(ge=1, le=32)]
    gateway: IPvAnyAddress | None = None
    nameservers: Annotated[list[IPvAnyAddress], Field(max_length=8)] = []


class NetworkAdd(bodies.Shape):
    name: Annotated[str, Field(min_length=1, max_length=63)]
    bridge: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,15}$")]
    ranges: Annotated[list[Range], Field(max_length=64)] = []


class WriteView(ApiView):
    """What the views below share: the right comes before the shape."""

    def said(self, request: Request, action: str, shape: type[bodies.S]) -> bodies.S:
        try:
            queries.only(request.query_params)
            return bodies.parse(shape, bodies.read(request))
        except BadShape:
            self.actor.require(action)
            raise


class VmView(DetailView, WriteView):
    """``GET PATCH /api/v1/vms/<id>/``"""

    def patch(self, request: Request, pk: str) -> Response:
        vm = self.row(pk)
        said = self.said(request, "vm.edit", VmEdit)
        services.vm_edit(self.actor, vm, **said.model_dump(exclude_unset=True))
        return Response(rows.vms(self.actor, [self.row(pk)])[0])

    def describe(self, method: str) -> Described:
        if method != "PATCH":
            return super().describe(method)
        return Described(
            "vm_edit", "Change a VM's own words", serializers.VmSerializer, body=body_of(VmEdit, "vm.edit")
        )


class ImageView(DetailView, WriteView):
    """``GET PATCH /api/v1/images/<id>/``"""

    def patch(self, request: Request, pk: str) -> Response:
        image = self.row(pk)
        said = self.said(request, "image.edit", ImageEdit)
        services.image_edit(self.actor, image, os=said.os)
        return Response(rows.images(self.actor, [self.row(pk)])[0])

    def describe(self, method: str) -> Described:
        if method != "PATCH":
            return super().describe(method)
        body = body_of(ImageEdit, "image.edit")
        return Described("image_edit", "Say which OS an image holds", serializers.ImageSerializer, body=body)


class PoolView(DetailView, WriteView):
    """``GET PATCH /api/v1/pools/<id>/``"""

    def patch(self, request: Request, pk: str) -> Response:
        pool = self.row(pk)
        said = self.said(request, "pool.edit", PoolEdit)
        services.pool_edit(self.actor, pool, **said.model_dump(exclude_unset=True))
        return Response(rows.pools(self.actor, [self.row(pk)])[0])

    def describe(self, method: str) -> Described:
        if method != "PATCH":
            return super().describe(method)
        body = body_of(PoolEdit, "pool.edit")
        return Described("pool_edit", "Change a pool's settings", serializers.PoolSerializer, body=body)


class NodesView(ListView, WriteView):
    """``GET POST /api/v1/nodes/``"""

    def post(self, request: Request) -> Response:
        said = self.said(request, "node.add", NodeAdd)
        node, join = services.node_add(self.actor, said.name, str(said.address))
        return self.added(node, join, 201)

    def added(self, node: Node, join: dict[str, Any], status: int) -> Response:
        body = rows.nodes(self.actor, [node])[0] | {"join": join}
        return Response(body, status, headers={"Location": f"/api/v1/nodes/{node.pk}/"})

    def describe(self, method: str) -> Described:
        if method != "POST":
            return super().describe(method)
        return Described(
            "node_add",
            "Let a machine join: the answer holds the one command to run there",
            serializers.AddedNodeSerializer,
            status=201,
            body=body_of(NodeAdd, "node.add"),
        )


class NodeTokenView(WriteView):
    """``POST /api/v1/nodes/<id>/token/``: a fresh command for a machine that joins again."""

    def post(self, request: Request, pk: str) -> Response:
        node = selectors.get(selectors.nodes(self.actor), pk)
        self.said(request, "node.add", bodies.Shape)
        return Response(services.node_token(self.actor, node), 201)

    def describe(self, method: str) -> Described:
        return Described("node_token", "A fresh command to join", serializers.JoinSerializer, status=201)


class SchedulesView(ListView, WriteView):
    """``GET POST /api/v1/schedules/``"""

    def post(self, request: Request) -> Response:
        said = self.said(request, "see.vms", ScheduleAdd)
        vm = selectors.get(selectors.vms(self.actor), said.vm)
        pool = selectors.get(selectors.pools(self.actor), said.pool) if said.pool else None
        schedule = schedules.add(
            self.actor, vm, Repeated(said.action), said.every_hours, said.keep, pool, said.first_run
        )
        body = rows.schedules(self.actor, [schedule])[0]
        return Response(body, 201, headers={"Location": f"/api/v1/schedules/{schedule.pk}/"})

    def describe(self, method: str) -> Described:
        if method != "POST":
            return super().describe(method)
        return Described(
            "schedule_add",
            "Take snapshots or backups of a VM again and again",
            serializers.ScheduleSerializer,
            status=201,
            body=body_of(ScheduleAdd, "schedule.add"),
        )


class ScheduleView(DetailView, WriteView):
    """``GET DELETE /api/v1/schedules/<id>/``"""

    def delete(self, request: Request, pk: str) -> Response:
        schedules.remove(self.actor, self.row(pk))
        return Response(status=204)

    def describe(self, method: str) -> Described:
        if method != "DELETE":
            return super().describe(method)
        return Described("schedule_remove", "End it; what it has made stays", {}, status=204)


class NetworksView(ListView, WriteView):
    """``GET POST /api/v1/networks/``"""

    def post(self, request: Request) -> Response:
        said = self.said(request, "network.add", NetworkAdd)
        asked = said.model_dump(mode="json")
        network = services.network_add(self.actor, said.name, said.bridge, asked["ranges"])
        body = rows.networks(self.actor, [network])[0]
        return Response(body, 201, headers={"Location": f"/api/v1/networks/{network.pk}/"})

    def describe(self, method: str) -> Described:
        if method != "POST":
            return super().describe(method)
        return Described(
            "network_add",
            "Add a network with its address ranges",
            serializers.NetworkSerializer,
            status=201,
            body=body_of(NetworkAdd, "network.add"),
        )
