"""Pools: from when on the node tells of them, and the keys that open them."""

from nodes.contract.messages import (
    AttachedPool,
    FoundVolume,
    Nothing,
    PoolAttach,
    PoolDetach,
    PoolFind,
    PoolUnfence,
)
from nodes.node import Node
from nodes.storage import driver_at
from nodes.verbs import handles
from nodes.verbs.run import Run


@handles(PoolAttach)
def attach(node: Node, message: PoolAttach, run: Run) -> AttachedPool:
    pool = message.pool
    driver = driver_at(pool, node.shell, node.paths.keys_dir)
    secret = driver.keep_key(message.key) if message.key else None
    if pool.identity:
        driver.check_identity()
    else:
        pool = pool.model_copy(update={"identity": driver.claim()})
    facts = node.driver(pool).facts()
    if secret is not None:
        node.hypervisor.keep_secret(secret.uuid, secret.name, message.key)
    node.pools.attach(pool)
    return AttachedPool(facts=facts)


@handles(PoolFind)
def find(node: Node, message: PoolFind, run: Run) -> FoundVolume:
    stranger = node.driver(message.pool).examine(message.name, node.users_beside(message.user))
    return FoundVolume(format=stranger.format, size_bytes=stranger.size_bytes)


@handles(PoolDetach)
def detach(node: Node, message: PoolDetach, run: Run) -> Nothing:
    # Its key stays: another pool of the same cluster may use it, and so do guests that are defined.
    node.pools.detach(message.id)
    return Nothing()


@handles(PoolUnfence)
def unfence(node: Node, message: PoolUnfence, run: Run) -> Nothing:
    node.driver(message.pool).unfence(message.node, message.addresses)
    return Nothing()
