"""A node that is declared dead although it lives: only its link to the panel is cut, and its guest goes on writing."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.lab import ceph
from deploy.lab.faults import Faults, GuestWatch
from deploy.lab.processes import wait
from tests.lab.conftest import FULL, MIB, STATE, Lab, content, start_lab

COUNTER_AT = 73728 * 512
"""Where the micro guest counts its boots."""
MARK_AT = 48 * MIB


@pytest.fixture(scope="module")
def running_ceph_lab() -> Iterator[Lab]:
    """Two nodes that see one Ceph."""
    demo = start_lab(STATE / "lost")
    try:
        demo.storage.ceph.start()
        lab = Lab(demo)
        nodes = [lab.node_id(name) for name in lab.nodes]
        key = {"monitors": [f"{ceph.MONITOR}:6789"], "user": ceph.USER, "key": demo.storage.ceph.key}
        lab.api.do("pools/", {"name": "ceph", "kind": "rbd", "nodes": nodes, "path": ceph.POOL, **key})
        yield lab
    finally:
        demo.stop()


@pytest.fixture
def ceph_lab(running_ceph_lab: Lab) -> Iterator[Lab]:
    """Every test ends with an audit, and with nothing left."""
    lab = running_ceph_lab
    yield lab
    lab.wait_settled()
    assert lab.audit() == []
    lab.delete_all()
    assert lab.audit() == []


def on(lab: Lab, node: str, pool_name: str = "ceph") -> dict[str, Any]:
    """A guest that has booted once from the ISO, and has counted that on its disk."""
    iso = wait(lambda: next(iter(lab.api.all("isos/")), None), 30, "the ISO to be seen")
    pool = next(row["id"] for row in lab.api.all("pools/") if row["name"] == pool_name)
    disks = [{"pool": pool, "size_bytes": 64 * MIB}]
    vm = lab.create(node=lab.node_id(node), image=None, iso=iso["id"], disks=disks)
    lab.wait_console(vm["id"], "DISK boots=1", 120)
    return vm


def with_boots(count: int) -> str:
    """What the guest says its disk holds: nothing but the number of its boots."""
    blank = bytearray(40 * MIB)
    blank[COUNTER_AT : COUNTER_AT + 2] = f"{count}\n".encode()
    return hashlib.md5(blank).hexdigest()


def written(lab: Lab, node: str, vm: dict[str, Any]) -> str:
    """What came of a write to the guest's disk that QEMU makes through the guest's own device; its log says so."""
    name = f"{vm['name']}.{vm['id']}"
    log = lab.nodes[node].folder / f"var/log/libvirt/qemu/{name}.log"
    before = log.stat().st_size

    def ask(*words: str) -> str:
        return lab.nodes[node].run("virsh", "-q", "qemu-monitor-command", name, *words).stdout

    blocks = json.loads(ask("--cmd", '{"execute": "query-block"}'))["return"]
    device = next(block["qdev"] for block in blocks if not block["inserted"]["ro"])
    ask("--hmp", f'qemu-io -d {device} "write -P 0x5a {MARK_AT} 512"')
    return wait(lambda: log.read_text()[before:], 30, "QEMU to say what came of it")


def entries(lab: Lab) -> list[str]:
    """Whole addresses that Ceph shuts out."""
    listed = json.loads(
        lab.demo.storage.ceph._ceph("osd", "blocklist", "ls", "--format", "json").partition("]")[0] + "]"
    )
    return [each["addr"] for each in listed if each["addr"].endswith(":0/0")]


def declare_dead(lab: Lab, vm: dict[str, Any]) -> None:
    """Afterwards the guest runs on n1, with what it had on its disk."""
    lab.api.do(f"nodes/{lab.node_id('n2')}/declare_dead/", {"confirm": "n2"})
    row = lab.api.get(f"vms/{vm['id']}/")
    assert (row["state"], lab.node_name(vm["id"])) == ("running", "n1")
    assert entries(lab) == ["10.99.0.12:0/0"]
    lab.wait_console(vm["id"], "DISK boots=2", 120)


def wait_taken_back(lab: Lab, vm: dict[str, Any]) -> None:
    """By itself; the guest elsewhere has noticed nothing."""
    node = lab.node_id("n2")
    wait(lambda: lab.api.get(f"nodes/{node}/")["declared_dead"] is None, 90, "n2 to be taken back")
    lab.wait_node("n2", "maintenance")
    assert not lab.nodes["n2"].guests()
    assert entries(lab) == []
    assert lab.audit() == []
    assert content(lab, vm) == with_boots(2)
    lab.api.do(f"nodes/{node}/maintenance/", {"on": False})


def test_a_node_that_lives_on_cannot_write_any_more_and_its_guest_is_ended_when_it_is_back(ceph_lab: Lab):
    lab, faults = ceph_lab, Faults(ceph_lab.demo)
    vm, dead = on(ceph_lab, "n2"), ceph_lab.node_id("n2")
    refused = lab.api.request("POST", f"nodes/{dead}/declare_dead/", {"confirm": "n2"})
    assert (refused.status, refused.body["code"]) == (409, "node_answers")

    faults.cut_from_panel("n2")
    lab.wait_node("n2", "offline")
    assert lab.api.get(f"vms/{vm['id']}/")["state"] == "unknown"
    assert "wrote 512/512" in written(lab, "n2", vm)
    plan = lab.api.request("POST", f"nodes/{dead}/declare_dead/?dry_run=true", {"confirm": "n2"})
    said = [(row["name"], row["then"], row["node_name"]) for row in plan.body["moves"]]
    assert said == [(vm["name"], "restart", "n1")]

    declare_dead(lab, vm)
    assert lab.nodes["n2"].guests(), "it was not ended: nobody could tell its node"
    assert "failed" in written(lab, "n2", vm)
    assert lab.audit(0) == ["node n2 did not answer: not compared"], "it cannot even list the volumes any more"
    assert content(lab, vm) == with_boots(2)

    faults.heal("n2")
    wait_taken_back(lab, vm)
    assert "wrote 512/512" in written(lab, "n1", vm)
    lab.api.do(f"nodes/{dead}/put_back/")
    assert lab.node_name(vm["id"]) == "n2"
    assert content(lab, vm) == with_boots(2)


@pytest.mark.skipif(not FULL, reason="further ways to lose a node take minutes: deploy/test --full")
@pytest.mark.parametrize("way", ["its power goes", "its agent is started anew"])
def test_however_a_node_is_lost_its_guest_runs_once_and_keeps_what_it_had(ceph_lab: Lab, way: str):
    lab, faults = ceph_lab, Faults(ceph_lab.demo)
    vm = on(ceph_lab, "n2")
    if way == "its power goes":
        faults.kill("n2")
    else:
        faults.cut_from_panel("n2")
        faults.kill("n2.agent")
    lab.wait_node("n2", "offline")
    declare_dead(lab, vm)
    if way == "its power goes":
        faults.start("n2")
    else:
        faults.start("n2.agent")
        assert "failed" in written(lab, "n2", vm)
        faults.heal("n2")
    wait_taken_back(lab, vm)


@pytest.mark.skipif(not FULL, reason="further ways to lose a node take minutes: deploy/test --full")
def test_a_node_that_fences_itself_ends_its_guest_and_starts_it_only_when_told(ceph_lab: Lab):
    lab, faults = ceph_lab, Faults(ceph_lab.demo)
    vm, node = on(ceph_lab, "n2"), ceph_lab.node_id("n2")
    local = lab.create(node=node)
    faults.restart("conductor", ULEI_SELF_FENCING_AFTER_S="5")
    lab.api.do(f"nodes/{node}/self_fencing/", {"on": True})
    assert lab.api.get(f"nodes/{node}/")["self_fencing"] is True
    faults.cut_from_panel("n2")
    wait(lambda: len(lab.nodes["n2"].guests()) == 1, 60, "n2 to end the guest that could be started elsewhere")
    lab.wait_node("n2", "offline")
    faults.heal("n2")
    lab.wait_node("n2")
    lab.wait_state(vm["id"], "stopped", 60)
    lab.wait_state(local["id"], "running")

    def said() -> list[str]:
        return [check["text"] for check in lab.api.get(f"nodes/{node}/")["checks"] if check["code"] == "self_fenced"]

    wait(said, 60, "n2 to tell of it")
    assert vm["name"] in said()[0]
    lab.api.do(f"vms/{vm['id']}/start/")
    lab.api.do(f"nodes/{node}/inspect/")
    wait(lambda: not said(), 30, "n2 to tell of it no more")
    lab.api.do(f"nodes/{node}/self_fencing/", {"on": False})


@pytest.mark.skipif(not FULL, reason="further ways to lose a node take minutes: deploy/test --full")
def test_a_guest_in_a_shared_folder_is_not_started_by_a_node_that_boots_before_the_panel_answers(ceph_lab: Lab):
    lab, faults = ceph_lab, Faults(ceph_lab.demo)
    folder, dead = lab.demo.state.folder / "shared", lab.node_id("n2")
    folder.mkdir()
    nodes = [lab.node_id(name) for name in lab.nodes]
    lab.api.do("pools/", {"name": "shared", "kind": "directory", "nodes": nodes, "path": str(folder)})
    vm = on(lab, "n2", "shared")
    with GuestWatch(lab.nodes) as watch:
        faults.kill("n2")
        lab.wait_node("n2", "offline")
        plan = lab.api.request("POST", f"nodes/{dead}/declare_dead/?dry_run=true", {"confirm": "n2"}).body["moves"]
        assert [(row["then"], row["reasons"][0]["code"]) for row in plan] == [("leave", "no_fence")]
        lab.api.do(f"nodes/{dead}/declare_dead/", {"confirm": "n2", "powered_off": True})
        assert lab.node_name(vm["id"]) == "n1"
        lab.wait_console(vm["id"], "DISK boots=2", 120)
        faults.cut_from_panel("n2")
        faults.start("n2")
        log = lab.nodes["n2"].agent.log
        wait(lambda: "redis cannot be asked for a welcome" in log.read_text().rpartition("agent starts")[2], 60, "n2")
        assert not lab.nodes["n2"].guests()
        faults.heal("n2")
        wait_taken_back(lab, vm)
    assert watch.violations == []
