"""NICs of this node: what is plugged is kept as one small file each, so that a boot can rebuild everything."""

import threading
from pathlib import Path

from nodes.contract.errors import NodeError
from nodes.contract.specs import LeaseFacts, NicSpec
from nodes.files import fsync_folder, write_atomically
from nodes.network import bridges
from nodes.network.arrivals import Arrivals
from nodes.network.filters import Filters
from nodes.network.leases import Leases
from nodes.shell import Shell


class Network:
    def __init__(self, state_dir: Path, run_dir: Path, uplinks: tuple[str, ...], shell: Shell) -> None:
        self._folder = state_dir / "nics"
        self._uplinks = uplinks
        self._lock = threading.Lock()
        self._known: dict[str, NicSpec] | None = None
        """What the files say; nobody else writes them."""
        self.filters = Filters(shell)
        self.arrivals = Arrivals(state_dir, self.filters)
        self.leases = Leases(state_dir / "dhcp", run_dir, shell)

    def plugged(self) -> list[NicSpec]:
        if self._known is None:
            files = self._folder.glob("[!.]*.json") if self._folder.exists() else ()
            nics = [NicSpec.model_validate_json(file.read_bytes()) for file in files]
            self._known = {nic.id: nic for nic in nics}
        return [self._known[nic_id] for nic_id in sorted(self._known)]

    def given(self) -> tuple[LeaseFacts, ...]:
        """Every address that a NIC of this node has by lease."""
        nics = [(nic, nic.address) for nic in self.plugged()]
        return tuple(LeaseFacts(nic=nic.id, bridge=nic.bridge, address=address) for nic, address in nics if address)

    def restore(self) -> None:
        """After a boot of the node, or of the agent: chains and DHCP servers as they were."""
        with self._lock:
            nics = self.plugged()
            self.filters.load(nics, self._uplink_ports())
            self.leases.ensure(nics)

    def plug(self, nic: NicSpec) -> None:
        """Chain first, then the lease: there is no moment at which an unfiltered guest is served."""
        if nic.bridge not in bridges.names():
            raise NodeError("bridge_absent", f"this node has no bridge {nic.bridge}", "Make it, or choose another.")
        with self._lock:
            taken = [other for other in self.plugged() if other.id != nic.id and _clash(nic, other)]
            if taken:
                raise NodeError(
                    "address_taken",
                    f"NIC {taken[0].id} of this node has the same MAC or address",
                    address=nic.address or nic.mac,
                )
            write_atomically(self._folder / f"{nic.id}.json", nic.model_dump_json())
            self._known = {**(self._known or {}), nic.id: nic}
            self.filters.add(nic, self._uplink_ports())
            self.leases.ensure(self.plugged())

    def unplug(self, nic_id: str) -> None:
        with self._lock:
            file = self._folder / f"{nic_id}.json"
            # The file goes last: until then a repetition, or a restart, finds what is left to do.
            rest = [nic for nic in self.plugged() if nic.id != nic_id]
            self.leases.ensure(rest)
            self.filters.remove("ul" + nic_id)
            if file.exists():
                file.unlink()
                fsync_folder(self._folder)
            self._known = {nic.id: nic for nic in rest}

    def _uplink_ports(self) -> list[str]:
        return list(self._uplinks) or sorted({port for name in bridges.names() for port in bridges.uplinks(name)})


def _clash(nic: NicSpec, other: NicSpec) -> bool:
    same_address = nic.address is not None and nic.address == other.address
    return nic.bridge == other.bridge and (nic.mac == other.mac or same_address)
