"""The audit's comparison: silent about a clean cluster, one line about each thing that is out of place."""

from copy import deepcopy
from typing import Any

import pytest

from deploy.lab.audit import BrokerView, NodeView, compare

UUID = "6b0d4c6e-0000-4000-8000-000000000001"
VM = {
    "id": "vm1",
    "uuid": UUID,
    "name": "first",
    "node": "node1",
    "state": "running",
    "memory_bytes": 2**27,
    "vcpus": 1,
    "disks": [{"id": "disk1", "pool": "pool1", "format": "qcow2"}],
    "nics": [{"id": "nic1", "mac": "52:54:00:00:00:01", "address": "10.99.0.100"}],
}
PANEL: dict[str, Any] = {
    "nodes": [
        {"id": "node1", "name": "n1", "joined": True, "memory_allocated_bytes": 2**27, "cpus_allocated": 1},
        {"id": "node2", "name": "n2", "joined": True, "memory_allocated_bytes": 0, "cpus_allocated": 0},
    ],
    "vms": [VM],
    "unattached_disks": [],
    "jobs_open": [],
    "outbox": [],
    "locks": [],
    "numbers": {"node1": {"vm1": 4, "disk1": 1, "nic1": 2}, "node2": {}},
    "raised": {},
    "redis_users": ["nnode1", "nnode2"],
}
USERS = {"default", "web", "conductor", "channels", "nnode1", "nnode2"}


def node_one() -> NodeView:
    numbers = PANEL["numbers"]["node1"]
    return NodeView(
        domains=[
            {"uuid": UUID, "name": "first.vm1", "vm": "vm1", "state": "running", "persistent": True},
            {"uuid": "foreign", "name": "theirs", "vm": None, "state": "running", "persistent": False},
        ],
        volumes=[
            {"name": "disk1.qcow2", "owner": "disk1", "part": False},
            {"name": "micro.qcow2", "owner": None, "part": False},
        ],
        leases=[{"nic": "nic1", "mac": "52:54:00:00:00:01", "address": "10.99.0.100"}],
        chains=["nic1"],
        ledger=[{"object": name, "dispatch": number, "answered": True} for name, number in numbers.items()],
        wanted={UUID: True},
    )


def differences(**changes: Any) -> list[str]:
    """Compares after the changes: ``panel``, ``one``, ``two`` or ``broker``, each a function of its subject."""
    panel, one, two = deepcopy(PANEL), node_one(), NodeView()
    broker = BrokerView(users=set(USERS), waiting={"n.node1.commands": 0})
    subjects = {"panel": panel, "one": one, "two": two, "broker": broker}
    for name, change in changes.items():
        change(subjects[name])
    return compare(panel, {"node1": one, "node2": two}, broker)


def test_a_clean_cluster_has_no_differences_and_foreign_things_are_nobodys_business():
    assert differences() == []


@pytest.mark.parametrize(
    ("where", "change", "words"),
    [
        ("one", lambda node: node.domains.pop(0), "has no domain"),
        ("one", lambda node: node.domains[0].update(state="shutoff"), "its domain is shutoff"),
        ("one", lambda node: node.domains[0].update(persistent=False), "not defined"),
        ("one", lambda node: node.wanted.update({UUID: False}), "boot would make it otherwise"),
        ("one", lambda node: node.wanted.update(other=True), "'wanted' names other"),
        ("two", lambda node: node.domains.append(node_one().domains[0] | {"state": "shutoff"}), "left over"),
        ("one", lambda node: node.volumes.pop(0), "no volume with its mark"),
        ("one", lambda node: node.volumes.append(node.volumes[0]), "2 volumes"),
        ("one", lambda node: node.volumes.append({"name": "x", "owner": "x", "part": False}), "left over"),
        ("two", lambda node: node.volumes.append({"name": "x", "owner": "disk1", "part": False}), "left over"),
        (
            "two",
            lambda node: node.volumes.append({"name": "x", "owner": "x", "part": False, "shared": True}),
            "left over",
        ),
        ("one", lambda node: node.volumes.append({"name": "x", "owner": "disk1", "part": True}), "half made"),
        ("one", lambda node: node.volumes.append({"name": "x", "owner": None, "part": True}), "half made"),
        ("one", lambda node: node.leases.clear(), "has no lease"),
        ("one", lambda node: node.leases[0].update(address="10.99.0.101"), "instead of 10.99.0.100"),
        ("two", lambda node: node.leases.extend(node_one().leases), "is left over"),
        ("one", lambda node: node.chains.clear(), "no filter chain"),
        ("two", lambda node: node.chains.append("nic9"), "nic9 is left over"),
        ("one", lambda node: node.ledger.pop(0), "no row of vm1"),
        ("one", lambda node: node.ledger[0].update(dispatch=3), "at 3, the panel at 4"),
        ("one", lambda node: node.ledger[0].update(answered=False), "never answered"),
        ("two", lambda node: node.ledger.append({"object": "x", "dispatch": 1, "answered": True}), "does not know"),
        ("one", lambda node: node.children.append({"pid": 7}), "still lives"),
        ("one", lambda node: setattr(node, "certificate", "expired"), "certificate: expired"),
        ("broker", lambda broker: broker.users.discard("nnode1"), "nnode1 is missing"),
        ("broker", lambda broker: broker.users.add("nold"), "nold is left over"),
        ("broker", lambda broker: broker.waiting.update({"n.node1.commands": 2}), "2 messages wait"),
        ("panel", lambda panel: panel["locks"].append({"name": "vm:vm1", "job": "j"}), "lock vm:vm1"),
        ("panel", lambda panel: panel["vms"].clear(), "no row places it here"),
        ("panel", lambda panel: panel["outbox"].append("step1"), "never answered"),
        ("panel", lambda panel: panel["nodes"][1].update(memory_allocated_bytes=1), "n2: 1 bytes reserved"),
        ("panel", lambda panel: panel["nodes"][0].update(cpus_allocated=3), "n1: 3 vCPUs reserved, its VMs have 1"),
    ],
)
def test_each_thing_out_of_place_is_said(where, change, words):
    found = differences(**{where: change})
    assert any(words in text for text in found), found


def test_a_guest_that_runs_twice_is_said_first():
    def also_there(node: NodeView) -> None:
        node.domains.append(node_one().domains[0])

    assert "is active on n1, n2" in differences(two=also_there)[0]


def test_a_vm_whose_job_is_open_is_left_alone_but_the_job_is_said():
    def deleting(panel: dict[str, Any]) -> None:
        panel["jobs_open"].append({"id": "j1", "operation": "vm.delete", "state": "running", "subject": "vm:vm1"})

    found = differences(panel=deleting, one=lambda node: node.volumes.pop(0))
    assert found == ["job j1 vm.delete is running"]


def test_a_disk_that_outlived_its_vm_by_choice_is_known():
    def kept(panel: dict[str, Any]) -> None:
        panel["unattached_disks"].append({"id": "disk2"})

    volume = {"name": "disk2.qcow2", "owner": "disk2", "part": False}
    assert differences(panel=kept, two=lambda node: node.volumes.append(volume)) == []
    assert differences(two=lambda node: node.volumes.append(volume)) != []


def test_a_number_that_a_resolve_raised_may_be_unknown_to_the_node():
    def resolved(panel: dict[str, Any]) -> None:
        panel["numbers"]["node1"]["disk1"] = 2
        panel["raised"] = {"node1": {"disk1": 2}}

    assert differences(panel=resolved) == []
    assert differences(panel=resolved, one=lambda node: node.ledger[1].update(dispatch=3)) != []


def test_a_silent_node_is_said_and_not_compared():
    found = compare(PANEL, {"node1": None, "node2": NodeView()}, BrokerView(users=set(USERS)))
    assert found == ["node n1 did not answer: not compared"]


def test_a_volume_in_a_shared_pool_is_seen_by_every_node():
    volume = {"name": "disk1", "owner": "disk1", "part": False, "shared": True}
    assert differences(two=lambda node: node.volumes.append(volume)) == []
