"""What a person or the audit may ask of a node while its agent runs: read-only, beside the agent."""

from typing import Any

from nodes import preflight
from nodes.config import Config, Paths
from nodes.contract.specs import Check, PoolPlace
from nodes.facts import Facts
from nodes.hypervisor import Hypervisor
from nodes.ledger import Ledger, Row
from nodes.network import Network, bridges
from nodes.pools import Pools
from nodes.shell import Shell, start_time
from nodes.storage import driver_at, driver_of
from nodes.storage.base import Volume


def checks(config: Config) -> tuple[Check, ...]:
    from nodes.agent import known_virt_type  # brings Celery, which the other commands do not need

    hypervisor = Hypervisor(config.libvirt_uri)
    hypervisor.open_for_queries()
    shell = Shell()
    facts = Facts(hypervisor, known_virt_type(config, hypervisor, shell), config.state_dir, shell)
    return preflight.run(config, facts.read())


def ledger_rows(paths: Paths, name: str | None) -> list[dict[str, Any]]:
    ledger = Ledger(paths.ledger_file, read_only=True)
    return [_row(row) for row in ledger.rows() if name in (None, row.object)]


def _row(row: Row) -> dict[str, Any]:
    return {
        "object": row.object,
        "dispatch": row.number,
        "verb": row.verb,
        "answered": row.answer is not None,
        "outcome": row.answer.outcome if row.answer else None,
        "error": row.answer.error.code if row.answer and row.answer.error else None,
        "cancelled": row.cancelled,
        "incarnation": row.incarnation,
        "job": row.envelope["job"] if row.envelope else None,
        "step": row.envelope["step"] if row.envelope else None,
        "phase": row.envelope["phase"] if row.envelope else None,
    }


def audit(config: Config) -> dict[str, Any]:
    """Everything of ours on this node, and every domain."""
    shell = Shell()
    hypervisor = Hypervisor(config.libvirt_uri)
    hypervisor.open_for_queries()
    network = Network(config.state_dir, config.run_dir, config.uplinks, shell)
    plugged = {nic.id: nic for nic in network.plugged()}
    ledger = Ledger(config.ledger_file, read_only=True)
    return {
        "domains": [
            {"uuid": d.uuid, "name": d.name, "vm": d.vm, "state": d.state, "persistent": d.defined}
            for d in hypervisor.all_domains()
        ],
        "volumes": [
            {"name": volume.name, "owner": volume.disk, "part": volume.name.endswith(".part"), "shared": shared}
            for shared, volume in _volumes(config, shell)
        ],
        "leases": [{"nic": nic, "mac": mac, "address": address} for nic, mac, address in network.leases.held()],
        "plugged": sorted(plugged),
        "chains": [tap.removeprefix("ul") for tap in network.filters.taps()],
        "taps": [tap.removeprefix("ul") for tap in bridges.taps()],
        "ledger": ledger_rows(config, None),
        "wanted": {wanted.uuid: wanted.running for wanted in ledger.wanted()},
        "children": [
            {"pid": child.pid, "command": child.command}
            for child in ledger.children()
            if start_time(child.pid) == child.started
        ],
    }


def _volumes(config: Config, shell: Shell) -> list[tuple[bool, Volume]]:
    """Of every pool, the node's own folder and those that the panel attached; and whether other nodes see them too."""
    images = driver_at(PoolPlace(kind="directory", path=str(config.images_dir)), shell, config.keys_dir)
    attached = [driver_of(pool, shell, config.keys_dir) for pool in Pools(config, shell).attached()]
    return [(driver.facts().shared, volume) for driver in (images, *attached) for volume in driver.volumes()]
