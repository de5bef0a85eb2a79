"""Small writes that are no jobs: each reads its body and calls one service."""

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, IPvAnyAddress
from rest_framework.request import Request
from rest_framework.response import Response

from cluster import affinity, balancing, groups, schedules, selectors, services
from cluster.models import Node, Repeated
from cluster.refusals import BadShape, Forbidden
from nodes.contract.specs import Name, Title

from . import bodies, queries, rows, serializers
from .schema import Described, body_of
from .views import ApiView, DetailView, ListView

Id = Annotated[str, Field(max_length=40)]


class VmEdit(bodies.Shape):
    title: Title | None = None
    protected: bool | None = None
    os: Id | None = None
    restart_priority: Annotated[int, Field(ge=-100, le=100)] | None = None
    group: Id | None = None
    """Null: it goes anywhere."""
    affinity_groups: Annotated[list[Id], Field(max_length=affinity.MOST_OF_A_VM)] = []


class ImageEdit(bodies.Shape):
    os: Id


class PoolEdit(bodies.Shape):
    name: Name | None = None
    exact: bool | None = None
    state: Literal["active", "out_of_service"] | None = None
    warning_percent: Annotated[int, Field(ge=1, le=100)] | None = None
    default_of: Annotated[list[Id], Field(max_length=1000)] | None = None


class NodeAdd(bodies.Shape):
    name: Name
    address: IPvAnyAddress


class NodeEdit(bodies.Shape):
    group: Id | None = None
    cpu_overcommit: services.CpuOvercommit = Decimal(8)
    """vCPUs for each thread of its processors."""
    memory_overcommit: services.MemoryOvercommit = Decimal(1)
    memory_reserve_bytes: services.MemoryReserve | None = None
    """What the host keeps for itself; null: a fiftieth of its memory, and 512 MiB at least."""


class NodeGroupAdd(bodies.Shape):
    name: Name
    title: Title = ""


class NodeGroupEdit(bodies.Shape):
    name: Name | None = None
    title: Title | None = None


class BalancingEdit(bodies.Shape):
    every_minutes: balancing.EveryMinutes | None = None
    threshold_points: balancing.Threshold = 200
    hold_minutes: balancing.Hold = 10
    cooldown_minutes: balancing.Cooldown = 60
    most_moves: balancing.MostMoves = 4
    copy_disks: bool = False


class AffinityGroupAdd(bodies.Shape):
    name: Name
    policy: Literal["apart", "together"]
    hard: bool = False
    tenant: Id | None = None


class AffinityGroupEdit(bodies.Shape):
    name: Name | None = None
    hard: bool | None = None


class ScheduleAdd(bodies.Shape):
    vm: Id
    action: Literal["snapshot", "backup"]
    every_hours: Annotated[int, Field(ge=1, le=schedules.MOST_HOURS)]
    keep: Annotated[int, Field(ge=1, le=schedules.MOST_KEPT)]
    pool: Id | None = None
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


class NodeView(DetailView, WriteView):
    """``GET PATCH /api/v1/nodes/<id>/``"""

    def patch(self, request: Request, pk: str) -> Response:
        node = self.row(pk)
        said = self.said(request, "node.edit", NodeEdit)
        services.node_edit(self.actor, node, **said.model_dump(exclude_unset=True))
        return Response(rows.nodes(self.actor, [self.row(pk)])[0])

    def describe(self, method: str) -> Described:
        if method != "PATCH":
            return super().describe(method)
        body = body_of(NodeEdit, "node.edit")
        return Described("node_edit", "Change what the panel decides of a node", serializers.NodeSerializer, body=body)


class NodeGroupsView(ListView, WriteView):
    """``GET POST /api/v1/node-groups/``"""

    def post(self, request: Request) -> Response:
        said = self.said(request, "node_group.edit", NodeGroupAdd)
        group = groups.node_group_add(self.actor, said.name, said.title)
        body = rows.node_groups(self.actor, [group])[0]
        return Response(body, 201, headers={"Location": f"/api/v1/node-groups/{group.pk}/"})

    def describe(self, method: str) -> Described:
        if method != "POST":
            return super().describe(method)
        body, answer = body_of(NodeGroupAdd, "node_group.add"), serializers.NodeGroupSerializer
        return Described("node_group_add", "Add a group of nodes", answer, status=201, body=body)


class NodeGroupView(DetailView, WriteView):
    """``GET PATCH DELETE /api/v1/node-groups/<id>/``"""

    def patch(self, request: Request, pk: str) -> Response:
        group = self.row(pk)
        said = self.said(request, "node_group.edit", NodeGroupEdit)
        groups.node_group_edit(self.actor, group, **said.model_dump(exclude_unset=True))
        return Response(rows.node_groups(self.actor, [self.row(pk)])[0])

    def delete(self, request: Request, pk: str) -> Response:
        groups.node_group_remove(self.actor, self.row(pk))
        return Response(status=204)

    def describe(self, method: str) -> Described:
        if method == "PATCH":
            body = body_of(NodeGroupEdit, "node_group.edit")
            return Described("node_group_edit", "Rename a group of nodes", serializers.NodeGroupSerializer, body=body)
        if method == "DELETE":
            return Described("node_group_remove", "Remove one that nothing is in", {}, status=204)
        return super().describe(method)


class BalancingView(WriteView):
    """``GET PATCH /api/v1/balancing/``"""

    def get(self, request: Request) -> Response:
        queries.only(request.query_params)
        if not self.actor.may("see.nodes"):
            raise Forbidden(self.actor.refusal("see.nodes"))
        return Response(rows.balancing(balancing.settings()))

    def patch(self, request: Request) -> Response:
        said = self.said(request, "balance.apply", BalancingEdit)
        return Response(rows.balancing(balancing.edit(self.actor, **said.model_dump(exclude_unset=True))))

    def describe(self, method: str) -> Described:
        if method == "PATCH":
            body = body_of(BalancingEdit, "balance.apply")
            return Described(
                "balancing_edit", "Change balancing by the clock", serializers.BalancingSerializer, body=body
            )
        return Described("balancing", "How the panel balances by itself", serializers.BalancingSerializer)


class AffinityGroupsView(ListView, WriteView):
    """``GET POST /api/v1/affinity-groups/``"""

    def post(self, request: Request) -> Response:
        said = self.said(request, "affinity_group.edit", AffinityGroupAdd)
        group = groups.affinity_group_add(self.actor, **said.model_dump())
        body = rows.affinity_groups(self.actor, [group])[0]
        return Response(body, 201, headers={"Location": f"/api/v1/affinity-groups/{group.pk}/"})

    def describe(self, method: str) -> Described:
        if method != "POST":
            return super().describe(method)
        body, answer = body_of(AffinityGroupAdd, "affinity_group.add"), serializers.AffinityGroupSerializer
        return Described("affinity_group_add", "Add a group of VMs", answer, status=201, body=body)


class AffinityGroupView(DetailView, WriteView):
    """``GET PATCH DELETE /api/v1/affinity-groups/<id>/``"""

    def patch(self, request: Request, pk: str) -> Response:
        group = self.row(pk)
        said = self.said(request, "affinity_group.edit", AffinityGroupEdit)
        groups.affinity_group_edit(self.actor, group, **said.model_dump(exclude_unset=True))
        return Response(rows.affinity_groups(self.actor, [self.row(pk)])[0])

    def delete(self, request: Request, pk: str) -> Response:
        groups.affinity_group_remove(self.actor, self.row(pk))
        return Response(status=204)

    def describe(self, method: str) -> Described:
        if method == "PATCH":
            body, answer = body_of(AffinityGroupEdit, "affinity_group.edit"), serializers.AffinityGroupSerializer
            return Described("affinity_group_edit", "Change an affinity group", answer, body=body)
        if method == "DELETE":
            return Described("affinity_group_remove", "Remove it; its VMs stay where they are", {}, status=204)
        return super().describe(method)


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
