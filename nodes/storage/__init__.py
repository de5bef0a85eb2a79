"""Storage drivers, found by the kind of the pool."""

from pathlib import Path

from nodes.contract.errors import NodeError
from nodes.contract.specs import PoolKind, PoolOffer, PoolPlace
from nodes.log import Log
from nodes.shell import Shell
from nodes.storage.base import Driver
from nodes.storage.directory import DirectoryDriver
from nodes.storage.lvm import LvmDriver
from nodes.storage.lvmthin import LvmThinDriver
from nodes.storage.rbd import RbdDriver

log = Log("ulei.storage")

DRIVERS: dict[PoolKind, type[Driver]] = {
    driver.KIND: driver for driver in (DirectoryDriver, LvmDriver, LvmThinDriver, RbdDriver)
}


def driver_at(pool: PoolPlace, shell: Shell, keys: Path) -> Driver:
    """The driver of whatever is found there. Raises ``pool_kind``."""
    try:
        return DRIVERS[pool.kind](pool, shell, keys)
    except KeyError:
        raise NodeError("pool_kind", f"this node's agent knows no {pool.kind} pools", "Update the agent.") from None


def driver_of(pool: PoolPlace, shell: Shell, keys: Path) -> Driver:
    """The driver of a pool, which has checked that it is this pool. Raises ``pool_kind``, ``pool_identity``."""
    driver = driver_at(pool, shell, keys)
    driver.check_identity()
    return driver


def offers(shell: Shell) -> tuple[PoolOffer, ...]:
    """What this node has of which pools could be made."""
    found: list[PoolOffer] = []
    for driver in DRIVERS.values():
        try:
            found += driver.offers(shell)
        except NodeError as error:
            if error.info.code == "no_program":
                continue  # without LVM there is nothing to offer
            log.warning("what the node offers could not be read", kind=driver.KIND, cause=error.info.cause)
    return tuple(found)
