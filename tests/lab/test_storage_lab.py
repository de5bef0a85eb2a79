"""Real Ceph and a node with real LVM: the parts that storage is tried on."""

import signal
from typing import Any

import pytest

from deploy.lab import ceph
from deploy.lab.faults import Faults
from deploy.lab.processes import wait
from deploy.lab.state import UML_NODE
from tests.lab.conftest import FULL, MIB, SLOW_SETTLE_S, Lab, content, goes_back_to_its_snapshot

pytestmark = pytest.mark.skipif(not FULL, reason="Ceph and user-mode Linux take minutes: deploy/test --full")


def test_a_guest_boots_on_the_lvm_node_and_ceph_serves_its_user_on_every_node(storage_lab: Lab):
    node = storage_lab.nodes[UML_NODE]
    assert "vg0|4.00m" in node.run("vgs", "--noheadings", "--separator=|", "-o", "vg_name,vg_extent_size").stdout
    assert node.run("lvs", "--noheadings", "-o", "lv_attr", "vg0/thin").stdout.strip().startswith("twi-a")

    vm = storage_lab.create(node=storage_lab.node_id(UML_NODE))["id"]
    storage_lab.wait_console(vm, "GUEST-UP", 60)
    assert len(node.guests()) == 1

    config = storage_lab.demo.storage.ceph.client_config
    for name in ("n1", UML_NODE):

        def rbd(*command: str, on: str = name) -> str:
            return storage_lab.nodes[on].run("rbd", "-c", str(config), "--id", ceph.USER, *command).stdout

        rbd("create", "--size", "8", f"{ceph.POOL}/{name}")
        assert "size 8 MiB" in rbd("info", f"{ceph.POOL}/{name}")
        rbd("rm", "--no-progress", f"{ceph.POOL}/{name}")
        assert rbd("ls", ceph.POOL) == ""

    Faults(storage_lab.demo).restart(UML_NODE)  # its power goes, and comes back
    # Until the panel has noticed, it shows what was; its guest takes a quarter of a minute to start there.
    storage_lab.wait_console(vm, "DISK boots=2 ", 120)
    storage_lab.wait_node(UML_NODE, seconds=120)
    storage_lab.wait_state(vm, "running", 120)
    assert "thin" in node.run("lvs", "--noheadings", "-o", "lv_name", "vg0").stdout


def test_disks_are_made_grow_and_go_back_to_a_snapshot_on_every_kind_of_pool(storage_lab: Lab):
    api = storage_lab.api
    iso = wait(lambda: next(iter(api.all("isos/")), None), 30, "the ISO to be seen")
    pools = {row["name"]: row for row in api.all("pools/")}
    assert {row["kind"] for row in pools.values()} == {"directory", "lvm", "lvmthin", "rbd"}
    for pool, node in (("lvm", UML_NODE), ("thin", UML_NODE), ("ceph", "n1")):
        disks = [{"pool": pools[pool]["id"], "size_bytes": 64 * MIB + 1}]
        body = {"iso": iso["id"], "image": None, "disks": disks, "node": storage_lab.node_id(node)}
        vm = storage_lab.create(f"on-{pool}", **body)["id"]
        disk = api.all(f"disks/?vm={vm}")[0]
        assert disk["size_bytes"] == 68 * MIB
        api.do(f"disks/{disk['id']}/resize/", {"size_bytes": 100 * MIB - 1})
        assert api.get(f"disks/{disk['id']}/")["size_bytes"] == 100 * MIB
        storage_lab.wait_console(vm, "DISKS vda.", 90)
        more = api.do("disks/", {"vm": vm, "pool": pools[pool]["id"], "size_bytes": 8 * MIB})["subject"][5:]
        storage_lab.wait_console(vm, "DISKS vda vdb.", 60)
        api.do(f"disks/{more}/detach/")
        assert api.get(f"disks/{more}/")["vm"] is None
        api.do(f"disks/{more}/delete/")
        goes_back_to_its_snapshot(storage_lab, vm)


def test_a_volume_that_was_made_larger_by_hand_is_taken_over_on_every_kind_of_pool(storage_lab: Lab):
    api, config = storage_lab.api, storage_lab.demo.storage.ceph.client_config
    pools = {row["name"]: row["id"] for row in api.all("pools/")}
    rbd = ("rbd", "-c", str(config), "--id", ceph.USER, "resize", "--no-progress", "--size", "128M")
    for pool, node, grow in (
        ("lvm", UML_NODE, lambda disk: ("lvextend", "--quiet", "--size", "128m", f"vg0/{disk}")),
        ("thin", UML_NODE, lambda disk: ("lvextend", "--quiet", "--size", "128m", f"vg0/{disk}")),
        ("ceph", "n1", lambda disk: (*rbd, f"{ceph.POOL}/{disk}")),
    ):
        disk = api.do("disks/", {"pool": pools[pool], "size_bytes": 64 * MIB})["subject"].removeprefix("disk:")
        storage_lab.nodes[node].run(*grow(disk))
        for row in api.all("nodes/"):
            api.do(f"nodes/{row['id']}/inspect/")
        drift = [{"field": "size_bytes", "panel": 64 * MIB, "seen": 128 * MIB}]
        assert api.get(f"disks/{disk}/")["drift"] == drift, pool
        api.do(f"disks/{disk}/adopt/")
        row = api.get(f"disks/{disk}/")
        assert (row["size_bytes"], row["drift"]) == (128 * MIB, [])
        api.do(f"disks/{disk}/delete/")


def test_while_the_monitor_is_away_an_operation_fails_in_words_and_others_go_on(storage_lab: Lab):
    api, monitor = storage_lab.api, storage_lab.demo.storage.ceph.process("mon")
    pools = {row["name"]: row["id"] for row in api.all("pools/")}
    monitor.signal(signal.SIGSTOP)
    try:
        asked = api.post("disks/", {"pool": pools["ceph"], "size_bytes": 8 * MIB})["job"]["id"]
        beside = api.do("disks/", {"pool": pools["n1-images"], "size_bytes": 8 * MIB})["subject"].removeprefix("disk:")
        assert api.get(f"jobs/{asked}/")["state"] == "running"
        api.do(f"disks/{beside}/delete/")
        ended = wait(lambda: _ended(api.get(f"jobs/{asked}/")), 120, "the job on the silent Ceph to end or to say why")
        assert ended["error"]["code"] == "pool_unreachable", ended
        assert ended["error"]["hint"]
    finally:
        monitor.signal(signal.SIGCONT)
    storage_lab.wait_settled()
    disk = api.do("disks/", {"pool": pools["ceph"], "size_bytes": 8 * MIB})["subject"].removeprefix("disk:")
    api.do(f"disks/{disk}/delete/")


def _ended(job: dict[str, Any]) -> dict[str, Any] | None:
    return job if job["error"] else None


def test_a_disk_moves_under_its_guest_between_unlike_storages(storage_lab: Lab):
    api = storage_lab.api
    pools = {row["name"]: row for row in api.all("pools/")}
    for node, ways in ((UML_NODE, ("lvm", "", "thin", "")), ("n1", ("ceph", ""))):
        # Off the grid of extents and objects: it grows first, once.
        vm = storage_lab.create(node=storage_lab.node_id(node), disks=[{"size_bytes": 128 * MIB + 64 * 1024}])
        storage_lab.wait_console(vm["id"], f"LEASE {vm['addresses'][0]['address']}", 120)
        disk, before = api.all(f"disks/?vm={vm['id']}")[0], content(storage_lab, vm)
        for way in ways:
            body = {"pool": pools[way]["id"] if way else disk["pool"]}
            job = api.follow(api.post(f"disks/{disk['id']}/move/", body)["job"]["id"], 180)
            assert (job["state"], job["error"]) == ("succeeded", None), way
            now = api.get(f"disks/{disk['id']}/")
            assert (now["pool"], now["format"]) == (body["pool"], "raw" if way else "qcow2")
            assert now["size_bytes"] == 132 * MIB
            assert content(storage_lab, vm) == before
            if way == "lvm":
                refused = api.request("POST", f"disks/{disk['id']}/move/", {"pool": pools["thin"]["id"]})
                assert (refused.status, refused.body["code"]) == (422, "pools_share_names")
        assert storage_lab.audit(SLOW_SETTLE_S) == []
        api.do(f"vms/{vm['id']}/reset/")
        storage_lab.wait_console(vm["id"], f"DISK boots=2 sectors={132 * MIB // 512}", 120)
        for left in api.all("disks/"):
            if left["state"] == "trash":
                api.do(f"disks/{left['id']}/delete/")


def test_a_linked_clone_has_its_sources_content_grows_and_outlives_it(storage_lab: Lab):
    api, lab = storage_lab.api, storage_lab
    pools = {row["name"]: row["id"] for row in api.all("pools/")}
    for pool, node, rests in (("ceph", "n1", True), ("thin", UML_NODE, False)):
        source = lab.create(f"source-{pool}", node=lab.node_id(node))["id"]
        lab.wait_console(source, "DISK boots=1 ", 90)
        api.do(f"vms/{source}/stop/")
        parent = api.all(f"disks/?vm={source}")[0]["id"]
        api.do(f"disks/{parent}/move/", {"pool": pools[pool]})
        twin = api.do(f"vms/{source}/clone/", {"name": f"twin-{pool}", "linked": True})["subject"].removeprefix("vm:")
        disk = api.all(f"disks/?vm={twin}")[0]
        assert (disk["pool"], disk["parent"]) == (pools[pool], parent if rests else None)
        api.do(f"disks/{disk['id']}/resize/", {"size_bytes": 160 * MIB})
        api.do(f"vms/{twin}/start/")
        lab.wait_console(twin, "DISK boots=2 sectors=327680", 90)
        api.do(f"vms/{source}/start/")
        lab.wait_console(source, "DISK boots=2 sectors=262144", 90)
        if rests:
            refused = api.request("POST", f"vms/{source}/delete/", {"disks": True})
            assert refused.body["refusals"][0]["code"] == "disk_has_clones"
            api.do(f"disks/{disk['id']}/flatten/")
        api.do(f"vms/{source}/delete/", {"disks": True})
        api.do(f"vms/{twin}/reset/")
        lab.wait_console(twin, "DISK boots=3 ", 90)
