"""Make a pool of what nodes have: a folder, a volume group, a thin pool, a Ceph pool. Nothing there is changed."""

from collections.abc import Sequence
from typing import Annotated, Any

from django.utils.translation import gettext_lazy as _
from pydantic import Field, SecretStr, StringConstraints

from cluster import crypto, events, pools
from cluster.domain_specs import pool_spec
from cluster.models import Node, NodeState, Pool, PoolOnNode, PoolState
from cluster.permissions import Actor
from cluster.refusals import Refusal, Refused
from cluster.saga.steps import Call, Context, Id, LockName, NoUndo, Operation, Params, Plan, Step, done
from nodes.contract.messages import AttachedPool, PoolAttach, PoolDetach
from nodes.contract.specs import Name, PoolKind

from .node_inspect import node_must_answer

Path = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f]+$")]
Word = Annotated[str, StringConstraints(max_length=100, pattern=r"^[A-Za-z0-9:.\[\]_-]*$")]


class PoolParams(Params):
    name: Name
    kind: PoolKind
    nodes: Annotated[list[Id], Field(min_length=1, max_length=1000)]
    path: Path
    stripes: Annotated[int, Field(ge=1, le=128)] = 1
    monitors: Annotated[list[Word], Field(max_length=16)] = []
    user: Word = ""
    key: SecretStr | None = None


class PoolAdd(Operation[PoolParams]):
    code = "pool.add"
    noun = "pools"
    creates = True
    label = _("Add a pool")
    icon = "plus"
    secret = ("key",)
    Params = PoolParams

    @classmethod
    def plan(cls, actor: Actor, target: None, params: PoolParams) -> Plan:
        known = Node.objects.in_bulk(params.nodes)
        refusals = [Refusal("node_unknown", field="nodes") for pk in params.nodes if pk not in known]
        refusals += [reason for node in known.values() for reason in node_must_answer(node)]
        if Pool.objects.filter(name=params.name).exists():
            refusals.append(Refusal("pool_name_taken", {"name": params.name}, field="name", status=409))
        refusals += _misplaced(params) + _already(params, list(known.values()))
        return Plan(refusals=refusals, data={"nodes": sorted(known), "found": {}})

    @classmethod
    def begin(cls, actor: Actor, target: None, params: PoolParams, plan: Plan) -> Pool:
        pool = Pool(
            name=params.name,
            kind=params.kind,
            path=params.path,
            stripes=params.stripes,
            monitors=params.monitors,
            user=params.user,
            key=crypto.seal(params.key.get_secret_value()) if params.key else "",
            attached=True,
            state=PoolState.ADDING,
        )
        pool.identity = "adding:" + pool.pk
        pool.save(force_insert=True)
        events.pool_changed(pool)
        return pool

    @classmethod
    def locks(cls, context: Context[PoolParams]) -> Sequence[LockName]:
        nodes = [LockName("node:" + pk, exclusive=False) for pk in context.data["nodes"]]
        return [LockName("pool:" + context.subject_id), *nodes]

    @classmethod
    def recheck(cls, context: Context[PoolParams]) -> list[Refusal]:
        return []

    # The table of steps stands below the functions that it names.


def _misplaced(params: PoolParams) -> list[Refusal]:
    """What no node needs to be asked for."""
    if params.kind == "directory" and not params.path.startswith("/"):
        return [Refusal("path_not_absolute", {"path": params.path}, field="path")]
    if params.kind == "lvmthin" and params.path.count("/") != 1:
        return [Refusal("not_a_thin_pool", {"path": params.path}, field="path")]
    if params.kind == "rbd" and not (params.monitors and params.user and params.key):
        return [Refusal("ceph_needs_access", {"path": params.path}, field="monitors")]
    return []


def _already(params: PoolParams, nodes: list[Node]) -> list[Refusal]:
    """What the nodes' last reports say of the place. The nodes themselves are asked by the job."""
    offers = [offer for offers in pools.offers_of(nodes).values() for offer in offers]
    here = [offer for offer in offers if (offer["kind"], offer["path"]) == (params.kind, params.path)]
    known = {offer["pool"].name for offer in here if offer["pool"]}
    refusals = [Refusal("pool_known", {"name": name, "path": params.path}, field="path") for name in sorted(known)]
    most = min((offer["most_stripes"] for offer in here if offer.get("most_stripes")), default=params.stripes)
    if params.kind == "lvm" and params.stripes > most:
        facts = {"path": params.path, "stripes": params.stripes, "most": most}
        refusals.append(Refusal("too_many_stripes", facts, field="stripes"))
    return refusals


def forget(context: Context[PoolParams], key: str) -> None:
    pools.forget(context.subject_id)


def nodes_of(context: Context[Any]) -> list[str]:
    return list(context.data["nodes"])


def attach(context: Context[PoolParams], node: str) -> Call:
    pool = Pool.objects.get(pk=context.subject_id)
    spec = pool_spec(pool).model_copy(update={"identity": ""})
    key = context.params.key
    return Call(node, PoolAttach(pool=spec, **({"key": key.get_secret_value()} if key else {})))


def attached(context: Context[PoolParams], node: str, result: AttachedPool) -> None:
    context.data["found"][node] = pools.facts_kept(result.facts)


def detach(context: Context[Any], node: str) -> Call:
    return Call(node, PoolDetach(id=context.subject_id))


def check(context: Context[PoolParams], key: str) -> None:
    """One identity is one pool, and one pool has one (law 4)."""
    identities = {facts["identity"] for facts in context.data["found"].values()}
    if len(identities) > 1:
        raise Refused(Refusal("pools_differ", {"path": context.params.path}))
    known = Pool.objects.filter(identity__in=identities).first()
    if known:
        raise Refused(Refusal("pool_known", {"name": known.name, "path": context.params.path}))


def finish(context: Context[PoolParams], key: str) -> None:
    found = list(context.data["found"].values())
    if found:  # else this job was resolved as done: the next inventory says the rest
        facts = found[0]
        pools.touch(
            context.subject_id,
            identity=facts["identity"],
            capacity_bytes=facts["capacity_bytes"],
            free_bytes=facts["free_bytes"],
            granules=facts["granules"],
            shared=facts["shared"] or len(found) > 1,
            facts=facts,
            state=PoolState.ACTIVE,
        )
    online = Node.objects.filter(pk__in=context.data["found"]).exclude(state=NodeState.OFFLINE)
    for node in online:
        PoolOnNode.objects.get_or_create(pool_id=context.subject_id, node=node)


PoolAdd.steps = (
    Step("reserve", _("Take the name"), do=done, undo=forget),
    Step("attach", _("Look at it and keep it in mind"), do=attach, undo=detach, each=nodes_of, after=attached),
    Step("check", _("Compare what the nodes show"), do=check, undo=NoUndo(_("it only looks"))),
    Step("finish", _("Put it into service"), do=finish, undo=NoUndo(_("the pool's row goes with its name"))),
)
