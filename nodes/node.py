"""What a verb works with on this node."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nodes import usage
from nodes.config import Paths
from nodes.contract.errors import NodeError
from nodes.contract.specs import PoolPlace
from nodes.hypervisor import Domain, Hypervisor
from nodes.network import Network
from nodes.pools import Pools
from nodes.probe import VirtType
from nodes.shell import Shell
from nodes.storage import driver_of
from nodes.storage.base import Driver, Users


@dataclass
class Node:
    paths: Paths
    hypervisor: Hypervisor
    network: Network
    shell: Shell
    virt: VirtType
    inspect: Callable[..., None]
    """Run the preflight again and send a full inventory (:meth:`nodes.reporter.Reporter.inventory`)."""
    set_self_fencing: Callable[[int | None], None]
    """After how many seconds without the panel (:meth:`nodes.ledger.Ledger.set_self_fencing`)."""

    def driver(self, pool: PoolPlace) -> Driver:
        """The driver of exactly this pool. Raises a certain ``pool_kind`` or ``pool_identity``."""
        return driver_of(pool, self.shell, self.paths.keys_dir)

    @property
    def pools(self) -> Pools:
        return Pools(self.paths, self.shell)

    def users(self, volume_path: str) -> list[str]:
        """Domains of this node, ours or not, whose definition or live chain of files names the volume."""
        return sorted({name for name, xml in self.hypervisor.definitions() if usage.names(xml, volume_path)})

    def users_beside(self, uuid: str | None) -> Users:
        """The same without one domain, which is to keep its volumes. Raises a certain ``domain_active`` if it runs."""
        domain = self.hypervisor.find(uuid=uuid) if uuid else None
        if domain is None:
            return self.users
        check_off(domain)
        return lambda path: [name for name in self.users(path) if name != domain.name]

    def own_domain(self, vm: str, uuid: str) -> Domain | None:
        """Our domain with this uuid; None: it is absent. Raises a certain ``exists_not_ours``."""
        domain = self.hypervisor.find(uuid=uuid)
        if domain is not None and domain.vm != vm:
            raise NodeError("exists_not_ours", f"the domain {domain.name} has the uuid {uuid}: it was left untouched")
        return domain

    def folder(self, kind: str) -> Path:
        """Where images (``image``) or ISOs (``iso``) lie."""
        return self.paths.images_dir if kind == "image" else self.paths.isos_dir

    def iso(self, name: str) -> Path:
        """The path of an ISO. Raises a certain ``iso_outside_folder`` or ``iso_absent``."""
        folder = self.paths.isos_dir
        path = folder / name
        if name in ("", ".", "..") or "/" in name or (path.is_symlink() and path.resolve().parent != folder.resolve()):
            raise NodeError("iso_outside_folder", f"{name!r} does not name a file in {folder}")
        if not path.is_file():
            raise NodeError("iso_absent", f"{path} is missing", "Put the ISO into that folder of the node.")
        return path


def check_off(domain: Domain) -> None:
    """Raises a certain ``domain_active``."""
    if domain.active:
        raise NodeError("domain_active", f"the domain {domain.name} is active", "Stop it first.")
