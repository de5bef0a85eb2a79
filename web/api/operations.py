"""The one endpoint that starts any operation; there is nothing here about any one of them."""

import json
from typing import Any

from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from cluster import operations
from cluster.job_views import job_view
from cluster.permissions import Actor
from cluster.refusals import BadShape
from cluster.saga.steps import Operation, Plan

from . import bodies, idempotency, queries, serializers
from .idempotency import Answer
from .schema import Described, body_of, parameter
from .views import ApiView, ListView

JOB_ADDRESS = "/api/v1/jobs/{}/"

_DRY_RUN = parameter("dry_run", "Only say what would be done or refused.", type="boolean", default=False)
_KEY = parameter(
    idempotency.HEADER, "The same key within 24 hours gets the same answer, and nothing is done twice.", "header"
)
_WAIT = {
    "type": "boolean",
    "default": True,
    "description": "False: refuse with 409 where a lock is not free, instead of waiting in line.",
}


MAKES = {
    "vm.create": serializers.StartedVmSerializer,
    "disk.create": serializers.StartedDiskSerializer,
    "image.download": serializers.StartedImageSerializer,
    "iso.download": serializers.StartedIsoSerializer,
}


class OperationView(ApiView):
    """``POST /api/v1/<noun>/<id>/<operation>/``, or without an id where it makes something"""

    operation: type[Operation[Any]] = Operation

    def post(self, request: Request, pk: str | None = None) -> Response:
        return start(self.actor, request, self.operation, pk)

    def describe(self, method: str) -> Described:
        return describe(self.operation)


class CreatingListView(ListView):
    """A list with ``POST /api/v1/<noun>/``: the operation that makes one more."""

    operation: type[Operation[Any]] = Operation

    def post(self, request: Request) -> Response:
        return start(self.actor, request, self.operation, None)

    def describe(self, method: str) -> Described:
        return describe(self.operation) if method == "POST" else super().describe(method)


def start(actor: Actor, request: Request, operation: type[Operation[Any]], pk: str | None) -> Response:
    """202 with the job, or what a dry run says."""
    faults: dict[str, list[str]] = {}
    params = _collect(faults, lambda: bodies.read(request))
    dry = _collect(faults, lambda: queries.flag(request.query_params, "dry_run"))
    _collect(faults, lambda: queries.only(request.query_params, "dry_run"))
    key = request.headers.get(idempotency.HEADER)
    _collect(faults, lambda: idempotency.check_key(key))
    body = params
    wait = True
    if isinstance(params, dict) and "wait" in params:
        wait = params["wait"]
        params = {name: value for name, value in params.items() if name != "wait"}
        if not isinstance(wait, bool):
            faults["wait"] = ["true or false"]
    if faults:
        _refuse(actor, operation, params, pk, faults)
    if dry:
        return Response(_plan(operations.dry_run(actor, operation.code, params, pk)))

    def work() -> Answer:
        started = operations.start(actor, operation.code, params, pk, wait=wait)
        answer = {"job": job_view(actor, started.job)}
        if operation.creates:
            answer[operation.noun.removesuffix("s")] = {"id": started.subject.pk}
        return Answer(202, json.loads(JSONRenderer().render(answer)))

    answer = idempotency.once(actor, f"POST {request.path}", key, body, work) if key else work()
    return Response(answer.body, answer.status, headers={"Location": JOB_ADDRESS.format(answer.body["job"]["id"])})


def _collect(faults: dict[str, list[str]], read: Any) -> Any:
    """The value, or its faults put with the others."""
    try:
        return read()
    except BadShape as bad:
        faults.update(bad.errors)
        return None


def _refuse(
    actor: Actor, operation: type[Operation[Any]], params: Any, pk: str | None, faults: dict[str, list[str]]
) -> None:
    """A malformed request is told so only to those who might have made it well: 404 and 403 come first."""
    try:
        operations.dry_run(actor, operation.code, params if isinstance(params, dict) else {}, pk)
    except BadShape as bad:
        # A body that could not be read at all has no parameters to complain of.
        raise BadShape((bad.errors if isinstance(params, dict) else {}) | faults) from None
    raise BadShape(faults)


def _plan(plan: Plan) -> dict[str, Any]:
    said = {"refusals": [r.said() for r in plan.refusals], "quote": plan.quote, "placement": plan.placement}
    more = {"targets": plan.targets, "moves": plan.moves, "stays": plan.stays}
    return said | {name: value for name, value in more.items() if value is not None}


def describe(operation: type[Operation[Any]]) -> Described:
    answer = MAKES.get(operation.code, serializers.StartedSerializer)
    return Described(
        operation.code.replace(".", "_"),
        str(operation.label),
        answer,
        status=202,
        description=str(operation.hint),
        query=(_DRY_RUN,),
        headers=(_KEY,),
        body=body_of(operation.Params, operation.code, wait=_WAIT),
        answers={200: serializers.DryRunSerializer},
    )
