"""What a storage driver is. Its facts are data: callers read them and never ask for a driver's name."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

from nodes.contract.messages import DiskState, VolumeFacts
from nodes.contract.specs import DiskFormat, DiskSpec, PoolFacts, PoolKind
from nodes.domain_xml import DiskSource
from nodes.shell import Cancellation, Shell

Users = Callable[[str], Iterable[str]]
"""A volume's path -> the domains of this node that use it, active or only defined."""


@dataclass(frozen=True)
class Volume:
    """Something in a pool that carries our mark, or has the name of a part."""

    name: str
    disk: str | None
    """The id in the owner mark; None: no mark."""


class Driver(ABC):
    KIND: ClassVar[PoolKind]

    def __init__(self, path: str, shell: Shell) -> None:
        self.path = path
        self.shell = shell

    @abstractmethod
    def check_identity(self, identity: str) -> None:
        """Raises a certain ``pool_identity`` unless this is the pool that the panel means."""

    @abstractmethod
    def facts(self) -> PoolFacts: ...

    @abstractmethod
    def create(self, disk: DiskSpec, cancellation: Cancellation) -> VolumeFacts:
        """Make the volume: owner mark first, final name last; safe to repeat after a crash at any line.

        :raises NodeError: ``exists_not_ours``, ``no_room``, ``backing_invalid``: all certain.
        """

    @abstractmethod
    def delete(self, disk_id: str, disk_format: DiskFormat, users: Users) -> None:
        """Remove the volume that has exactly this disk's mark; absent is done.

        :raises NodeError: ``exists_not_ours``, ``disk_in_use``: both certain.
        """

    @abstractmethod
    def look(self, disk_id: str, disk_format: DiskFormat, users: Users) -> DiskState: ...

    @abstractmethod
    def source(self, disk_id: str, disk_format: DiskFormat) -> DiskSource:
        """How a domain opens the volume."""

    @abstractmethod
    def volumes(self) -> list[Volume]:
        """Everything of ours in the pool."""
