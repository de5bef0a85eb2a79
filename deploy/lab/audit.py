"""What the panel believes against what the nodes have: every difference in words.

``compare`` and its parts are pure: they take the panel's rows, each node's own list and Redis' view as data.
``collect`` fetches the three. Foreign domains and files (without our mark) are nobody's difference; a thing with our
mark that no row explains, or a row without its thing, always is.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]

# The VM's state as the panel says it -> domain states that agree with it. Others (creating, migrating, ...) last
# only as long as a job is open and are then not looked at.
AGREES = {
    "running": {"running"},
    "stopped": {"shutoff"},
    "paused": {"paused"},
}
PANEL_USERS = {"default", "conductor", "web", "channels"}


@dataclass
class NodeView:
    """What one node says about itself (``ulei-node audit --json``)."""

    domains: list[Row] = field(default_factory=list)
    """``uuid name vm state persistent``; ``vm`` is None for a foreign one."""
    volumes: list[Row] = field(default_factory=list)
    """``name owner part``; ``owner`` is the disk's id in the owner mark, None for a foreign file."""
    leases: list[Row] = field(default_factory=list)
    """``nic mac address``"""
    chains: list[str] = field(default_factory=list)
    """Ids of NICs."""
    ledger: list[Row] = field(default_factory=list)
    """``object dispatch answered``"""
    wanted: dict[str, bool] = field(default_factory=dict)
    """uuid -> whether the node starts it at its boot"""
    children: list[Row] = field(default_factory=list)
    certificate: str = ""
    """Empty when it is good, else what is wrong with it."""


@dataclass
class BrokerView:
    users: set[str] = field(default_factory=set)
    waiting: dict[str, int] = field(default_factory=dict)
    """Key -> messages in it: queues and taken-but-not-acknowledged ones."""


def compare(panel: Row, nodes: dict[str, NodeView | None], broker: BrokerView) -> list[str]:
    """All differences. ``nodes`` maps a node's id to its view; None where it did not answer."""
    names = {node["id"]: node["name"] for node in panel["nodes"]}
    found = open_work(panel) + reserved(panel)
    found += [f"node {names[node]} did not answer: not compared" for node, view in nodes.items() if view is None]
    present = {node: view for node, view in nodes.items() if view is not None}
    busy = busy_vms(panel)
    found += running_twice(present, names)
    for node, view in present.items():
        vms = [vm for vm in panel["vms"] if vm["node"] == node and vm["id"] not in busy]
        others = [vm for vm in panel["vms"] if vm["node"] == node and vm["id"] in busy]
        where = names.get(node, node)
        found += [f"{where}: {text}" for text in domains(vms, others, view)]
        loose = {disk["id"] for disk in panel["unattached_disks"]} | _in_shared_pools(panel)
        found += [f"{where}: {text}" for text in volumes(vms, others, view, loose, _ids(panel["vms"], "disks"))]
        found += [f"{where}: {text}" for text in network(vms, others, view)]
        numbers, raised = panel["numbers"].get(node, {}), panel["raised"].get(node, {})
        found += [f"{where}: {text}" for text in ledger(numbers, raised, view)]
        found += [f"{where}: certificate: {view.certificate}"] * bool(view.certificate)
    return found + redis(panel, broker)


def open_work(panel: Row) -> list[str]:
    """Once everything has settled nothing is open and nothing is locked."""
    found = [f"job {job['id']} {job['operation']} is {job['state']}" for job in panel["jobs_open"]]
    found += [f"lock {lock['name']} is held by job {lock['job']}" for lock in panel["locks"]]
    return found + [f"step {step} was sent and never answered" for step in panel["outbox"]]


RESERVED = (("memory_allocated_bytes", "memory_bytes", "bytes"), ("cpus_allocated", "vcpus", "vCPUs"))
"""(of a node, of a VM, in what)"""


def reserved(panel: Row) -> list[str]:
    """What is reserved on a node is what its VMs have."""
    found = []
    for node in panel["nodes"]:
        its = [vm for vm in panel["vms"] if vm["node"] == node["id"]]
        for taken, name, unit in RESERVED:
            whole = sum(vm[name] for vm in its)
            if node[taken] != whole:
                found.append(f"{node['name']}: {node[taken]} {unit} reserved, its VMs have {whole}")
    return found


def busy_vms(panel: Row) -> set[str]:
    subjects = (job["subject"].partition(":") for job in panel["jobs_open"])
    return {name for kind, _, name in subjects if kind == "vm"}


def running_twice(nodes: dict[str, NodeView], names: dict[str, str]) -> list[str]:
    places: dict[str, list[str]] = {}
    for node, view in nodes.items():
        for domain in view.domains:
            if domain["state"] != "shutoff" and domain["vm"]:
                places.setdefault(domain["uuid"], []).append(names.get(node, node))
    return [f"domain {uuid} is active on {', '.join(sorted(on))}" for uuid, on in places.items() if len(on) > 1]


def domains(vms: list[Row], busy: list[Row], view: NodeView) -> list[str]:
    found = []
    by_uuid = {domain["uuid"]: domain for domain in view.domains}
    for vm in vms:
        label = f"vm {vm['name']} ({vm['id']})"
        domain = by_uuid.get(vm["uuid"])
        if domain is None:
            found.append(f"{label} is {vm['state']} for the panel but has no domain")
            continue
        if domain["state"] not in AGREES.get(vm["state"], set()):
            found.append(f"{label} is {vm['state']} for the panel but its domain is {domain['state']}")
        if not domain.get("persistent", True):
            found.append(f"{label} has a domain that is not defined: it would be gone after a boot")
        if vm["state"] in ("running", "stopped") and view.wanted.get(vm["uuid"]) not in (
            vm["state"] == "running",
            None,
        ):
            found.append(f"{label} is {vm['state']} but the node's boot would make it otherwise")
    known = {vm["uuid"] for vm in [*vms, *busy]}
    for domain in view.domains:
        if domain["vm"] and domain["uuid"] not in known:
            found.append(f"domain {domain['name']} ({domain['state']}) is left over: no row places it here")
    known_uuids = known | {domain["uuid"] for domain in view.domains}
    found += [f"'wanted' names {uuid}, which is nowhere" for uuid in view.wanted if uuid not in known_uuids]
    return found


def volumes(vms: list[Row], busy: list[Row], view: NodeView, kept: set[str], every: set[str]) -> list[str]:
    """
    :param kept: disks that outlived their VM by a person's choice.
    :param every: disks of all nodes' VMs: in a shared pool a node sees them too.
    """
    found = []
    marked = Counter(volume["owner"] for volume in view.volumes if volume["owner"] and not volume.get("part"))
    for vm in vms:
        for disk in vm["disks"]:
            if marked[disk["id"]] == 0:
                found.append(f"disk {disk['id']} of vm {vm['name']} has no volume with its mark")
            elif marked[disk["id"]] > 1:
                found.append(f"disk {disk['id']} of vm {vm['name']} has {marked[disk['id']]} volumes with its mark")
    known = _ids([*vms, *busy], "disks") | kept
    working = _ids(busy, "disks")
    for volume in view.volumes:
        owner = volume["owner"]
        if volume.get("part") and owner not in working:
            found.append(f"volume {volume['name']} is half made and nobody works on it")
        elif owner and owner not in (known | every if volume.get("shared") else known):
            found.append(f"volume {volume['name']} is left over: no row has disk {owner}")
    return found


def network(vms: list[Row], busy: list[Row], view: NodeView) -> list[str]:
    found = []
    leases = {lease["mac"].lower(): lease["address"] for lease in view.leases}
    for vm in vms:
        for nic in vm["nics"]:
            label = f"nic {nic['id']} of vm {vm['name']}"
            given = leases.get(nic["mac"].lower())
            if nic["address"] and given is None:
                found.append(f"{label} has no lease for {nic['address']}")
            elif given != nic["address"] and (nic["address"] or given):
                found.append(f"{label} is given {given} instead of {nic['address']}")
            if nic["id"] not in view.chains:
                found.append(f"{label} has no filter chain")
    macs = {nic["mac"].lower() for vm in [*vms, *busy] for nic in vm["nics"]}
    found += [f"lease of {a} for {mac} is left over" for mac, a in leases.items() if mac not in macs]
    known = _ids([*vms, *busy], "nics")
    found += [f"filter chain of nic {nic} is left over" for nic in view.chains if nic not in known]
    twice = [address for address, count in Counter(leases.values()).items() if count > 1]
    return found + [f"address {address} is given to two NICs" for address in twice]


def ledger(numbers: dict[str, int], raised: dict[str, int], view: NodeView) -> list[str]:
    """The node must have answered exactly the last number that the panel gave for each object.

    :param raised: numbers that a resolve made higher without a message; the node hears of them at its next hello.
    """
    found = []
    rows = {row["object"]: row for row in view.ledger}
    for name, number in numbers.items():
        row = rows.get(name)
        if raised.get(name) == number:
            if row is not None and row["dispatch"] > number:
                found.append(f"ledger has {name} at {row['dispatch']}, the panel raised it to {number}")
        elif row is None:
            found.append(f"ledger has no row of {name}, whose number is {number}")
        elif row["dispatch"] != number:
            found.append(f"ledger has {name} at {row['dispatch']}, the panel at {number}")
        elif not row["answered"]:
            found.append(f"{name} at {number} was begun and never answered")
    found += [f"ledger has {name}, which the panel does not know" for name in rows if name not in numbers]
    return found + [f"child process {child} still lives" for child in view.children]


def redis(panel: Row, broker: BrokerView) -> list[str]:
    wanted = set(panel["redis_users"]) | PANEL_USERS
    found = [f"Redis user {user} is missing" for user in sorted(wanted - broker.users)]
    found += [f"Redis user {user} is left over" for user in sorted(broker.users - wanted)]
    return found + [f"{count} messages wait in {key}" for key, count in sorted(broker.waiting.items()) if count]


def _in_shared_pools(panel: Row) -> set[str]:
    """Disks that a node may see although their VM is elsewhere: it does not know that a folder is shared."""
    shared = set(panel.get("shared_pools", []))
    return {disk["id"] for vm in panel["vms"] for disk in vm["disks"] if disk["pool"] in shared}


def _ids(vms: Iterable[Row], kind: str) -> set[str]:
    return {row["id"] for vm in vms for row in vm[kind]}
