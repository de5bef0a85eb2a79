"""Storage drivers, found by the kind of the pool."""

from nodes.contract.errors import NodeError
from nodes.contract.specs import PoolKind, PoolSpec
from nodes.shell import Shell
from nodes.storage.base import Driver
from nodes.storage.directory import DirectoryDriver

DRIVERS: dict[PoolKind, type[Driver]] = {driver.KIND: driver for driver in (DirectoryDriver,)}


def driver_of(pool: PoolSpec, shell: Shell) -> Driver:
    """The driver of a pool, which has checked that it is this pool. Raises ``pool_kind``, ``pool_identity``."""
    try:
        driver = DRIVERS[pool.kind](pool.path, shell)
    except KeyError:
        raise NodeError("pool_kind", f"this node's agent knows no {pool.kind} pools", "Update the agent.") from None
    driver.check_identity(pool.identity)
    return driver
