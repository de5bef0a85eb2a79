"""The pools that this node tells of: its folder of images, and those that the panel attached."""

import threading

from pydantic import TypeAdapter

from nodes.config import Paths
from nodes.contract.errors import NodeError
from nodes.contract.sizes import MAX_BYTES
from nodes.contract.specs import PoolFacts, PoolPlace, PoolSpec, Stranger
from nodes.files import write_atomically
from nodes.log import Log
from nodes.names import ID
from nodes.shell import Shell
from nodes.storage import driver_at, driver_of

log = Log("ulei.pools")

_SPECS = TypeAdapter(list[PoolSpec])
_WRITING = threading.Lock()
MOST_STRANGERS = 100
"""Of one pool: a list for people to choose from."""


class Pools:
    def __init__(self, paths: Paths, shell: Shell) -> None:
        self._paths = paths
        self._shell = shell
        self._last: dict[str, PoolFacts] = {}

    def attached(self) -> list[PoolSpec]:
        try:
            return _SPECS.validate_json(self._paths.pools_file.read_bytes())
        except FileNotFoundError:
            return []

    def attach(self, pool: PoolSpec) -> None:
        with _WRITING:
            self._write([*(known for known in self.attached() if known.id != pool.id), pool])

    def detach(self, pool_id: str) -> None:
        with _WRITING:
            self._write([known for known in self.attached() if known.id != pool_id])

    def _write(self, pools: list[PoolSpec]) -> None:
        write_atomically(self._paths.pools_file, _SPECS.dump_json(pools, indent=1))

    def facts(self) -> tuple[PoolFacts, ...]:
        """Of every pool. One that cannot be read now is told as it was, with the reason."""
        found = []
        try:
            images = PoolPlace(kind="directory", path=str(self._paths.images_dir))
            found.append(driver_at(images, self._shell, self._paths.keys_dir).facts())
        except (NodeError, OSError):
            pass  # the preflight says why
        found += [facts for pool in self.attached() if (facts := self._facts_of(pool)) is not None]
        return tuple(found)

    def volumes(self) -> tuple[dict[str, dict[str, int]], dict[str, tuple[Stranger, ...]]]:
        """Identity of each pool that can be read now -> disk -> bytes of its volume, and -> what is nobody's there."""
        images = PoolPlace(kind="directory", path=str(self._paths.images_dir))
        found: dict[str, dict[str, int]] = {}
        strangers: dict[str, tuple[Stranger, ...]] = {}
        for pool in (images, *self.attached()):
            try:
                driver = (driver_of if pool.identity else driver_at)(pool, self._shell, self._paths.keys_dir)
                # Somebody may have marked what is no disk, or written a header that claims more than a column holds.
                seen = ((disk, size_bytes) for disk, size_bytes in driver.sizes().items() if ID.fullmatch(disk))
                sizes = {disk: min(size_bytes, MAX_BYTES) for disk, size_bytes in seen}
                others = tuple(driver.strangers()[:MOST_STRANGERS])
            except (NodeError, OSError) as error:
                log.warning("the volumes of a pool cannot be read", path=pool.path, cause=error)
                continue
            identity = pool.identity or driver.identity()
            found[identity], strangers[identity] = sizes, others
        return found, strangers

    def _facts_of(self, pool: PoolSpec) -> PoolFacts | None:
        """None: it could not be read since the agent started."""
        try:
            facts = driver_of(pool, self._shell, self._paths.keys_dir).facts()
        except (NodeError, OSError) as error:
            log.warning("a pool cannot be read", pool=pool.id, path=pool.path, cause=error)
            code = error.info.code if isinstance(error, NodeError) else "pool_unreachable"
            last = self._last.get(pool.id)
            return last.model_copy(update={"problem": code}) if last else None
        self._last[pool.id] = facts
        return facts
