"""Take a pool out of the panel. What is in it stays as it is; a pool with disks is refused."""

from collections.abc import Sequence
from typing import Any

from django.utils.translation import gettext_lazy as _

from cluster import crypto, pools
from cluster.domain_specs import pool_spec
from cluster.models import Pool, PoolState
from cluster.refusals import Refusal, Refused
from cluster.saga.steps import Call, Context, LockName, NoParams, NoUndo, Operation, Step
from nodes.contract.messages import PoolAttach, PoolDetach


def _obstacles(pool: Pool) -> list[Refusal]:
    reasons = []
    if not pool.attached:
        reasons.append(Refusal("pool_of_node", {"name": pool.name}))
    if count := pool.disks.count():
        reasons.append(Refusal("pool_has_disks", {"name": pool.name, "count": count}, status=409))
    return reasons


class PoolRemove(Operation[NoParams]):
    code = "pool.remove"
    noun = "pools"
    label = _("Remove the pool")
    hint = _("the panel forgets it; nothing in it is deleted")
    icon = "trash"
    danger = True
    Params = NoParams

    @classmethod
    def obstacles(cls, target: Pool) -> list[Refusal]:
        return _obstacles(target)

    @classmethod
    def locks(cls, context: Context[NoParams]) -> Sequence[LockName]:
        return [LockName("pool:" + context.subject_id)]

    @classmethod
    def recheck(cls, context: Context[NoParams]) -> list[Refusal]:
        return _obstacles(Pool.objects.get(pk=context.subject_id))

    # The table of steps stands below the functions that it names.


def close(context: Context[Any], key: str) -> None:
    """From now on no disk is put into it."""
    pool = Pool.objects.get(pk=context.subject_id)
    obstacles = _obstacles(pool)
    if obstacles:
        raise Refused(*obstacles)
    if pool.state != PoolState.REMOVING:
        context.data["state"] = pool.state
    pools.touch(context.subject_id, state=PoolState.REMOVING)


def open_again(context: Context[Any], key: str) -> None:
    pools.touch(context.subject_id, state=context.data.get("state", PoolState.ACTIVE))


def nodes_of(context: Context[Any]) -> list[str]:
    return list(Pool.objects.get(pk=context.subject_id).places.values_list("node", flat=True))


def detach(context: Context[Any], node: str) -> Call:
    return Call(node, PoolDetach(id=context.subject_id))


def attach_again(context: Context[Any], node: str) -> Call | None:
    pool = Pool.objects.filter(pk=context.subject_id).first()
    if pool is None:
        return None
    return Call(node, PoolAttach(pool=pool_spec(pool), **({"key": crypto.unseal(pool.key)} if pool.key else {})))


def forget(context: Context[Any], key: str) -> None:
    pools.forget(context.subject_id)


PoolRemove.steps = (
    Step("close", _("Take it out of service"), do=close, undo=open_again),
    Step("detach", _("Let the node forget it"), do=detach, undo=attach_again, each=nodes_of),
    Step("forget", _("Forget the pool"), do=forget, undo=NoUndo(_("nothing can fail after it"))),
)
