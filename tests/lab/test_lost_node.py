"""A node that is declared dead although it lives: only its link to the panel is cut, and its guest goes on writing."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.lab import ceph
from deploy.lab.faults import Faults
from deploy.lab.processes import wait
from tests.lab.conftest import MIB, STATE, Lab, console, content, start_lab

COUNTER_AT = 73728 * 512
"""Where the micro guest counts its boots."""
MARK_AT = 48 * MIB


@pytest.fixture
def ceph_lab() -> Iterator[Lab]:
    """Two nodes that see one Ceph; it ends with an audit, and with nothing left."""
    demo = start_lab(STATE / "lost")
    try:
        demo.storage.ceph.start()
        lab = Lab(demo)
        nodes = [lab.node_id(name) for name in lab.nodes]
        key = {"monitors": [f"{ceph.MONITOR}:6789"], "user": ceph.USER, "key": demo.storage.ceph.key}
        lab.api.do("pools/", {"name": "ceph", "kind": "rbd", "nodes": nodes, "path": ceph.POOL, **key})
        yield lab
        lab.wait_settled()
        assert lab.audit() == []
        lab.delete_all()
        assert lab.audit() == []
    finally:
        demo.stop()


def on_ceph(lab: Lab, node: str) -> dict[str, Any]:
    """A guest that has booted once from the ISO, and has counted that on its disk."""
    iso = wait(lambda: next(iter(lab.api.all("isos/")), None), 30, "the ISO to be seen")
    pool = next(row["id"] for row in lab.api.all("pools/") if row["name"] == "ceph")
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


def test_a_node_that_lives_on_cannot_write_any_more_and_its_guest_is_ended_when_it_is_back(ceph_lab: Lab):
    lab, faults = ceph_lab, Faults(ceph_lab.demo)
    vm, dead = on_ceph(ceph_lab, "n2"), ceph_lab.node_id("n2")
    assert "wrote 512/512" in written(lab, "n2", vm)
    refused = lab.api.request("POST", f"nodes/{dead}/declare_dead/", {"confirm": "n2"})
    assert (refused.status, refused.body["code"]) == (409, "node_answers")

    faults.cut_from_panel("n2")
    lab.wait_node("n2", "offline")
    lab.wait_state(vm["id"], "unknown")
    assert "wrote 512/512" in written(lab, "n2", vm)
    plan = lab.api.request("POST", f"nodes/{dead}/declare_dead/?dry_run=true", {"confirm": "n2"})
    assert [(row["name"], row["then"], row["node_name"]) for row in plan.body["moves"]] == [
        (vm["name"], "restart", "n1")
    ]

    lab.api.do(f"nodes/{dead}/declare_dead/", {"confirm": "n2"})
    row = lab.api.get(f"vms/{vm['id']}/")
    assert (row["state"], lab.node_name(vm["id"])) == ("running", "n1")
    assert entries(lab) == ["10.99.0.12:0/0"]
    assert lab.nodes["n2"].guests(), "it was not ended: nobody could tell its node"
    assert "failed" in written(lab, "n2", vm)
    lab.wait_console(vm["id"], "DISK boots=2", 120)
    assert lab.audit(0) == ["node n2 did not answer: not compared"], "it cannot even list the volumes any more"
    assert content(lab, vm) == with_boots(2)

    faults.heal("n2")
    lab.wait_node("n2", "maintenance")
    wait(lambda: lab.api.get(f"nodes/{dead}/")["declared_dead"] is None, 60, "n2 to be taken back")
    assert not lab.nodes["n2"].guests()
    assert entries(lab) == []
    assert lab.audit() == []
    assert content(lab, vm) == with_boots(2)
    assert "wrote 512/512" in written(lab, "n1", vm)

    lab.api.do(f"nodes/{dead}/put_back/")
    assert lab.node_name(vm["id"]) == "n2"
    assert console(lab.nodes["n2"], vm["id"]) is not None
    assert content(lab, vm) == with_boots(2)
