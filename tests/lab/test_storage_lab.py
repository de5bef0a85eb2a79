"""Real Ceph and a node with real LVM: the parts that storage is tried on."""

from collections.abc import Iterator

import pytest

from deploy.lab import ceph
from deploy.lab.faults import Faults
from deploy.lab.processes import wait
from deploy.lab.state import UML_NODE
from tests.lab.conftest import FULL, MIB, STATE, Lab, goes_back_to_its_snapshot, start_lab

pytestmark = pytest.mark.skipif(not FULL, reason="Ceph and user-mode Linux take minutes: deploy/test --full")


@pytest.fixture
def storage_lab() -> Iterator[Lab]:
    """A lab with Ceph and the user-mode Linux node; it ends with an audit, and with nothing left."""
    demo = start_lab(STATE / "storage")
    try:
        demo.start_storage()
        lab = Lab(demo)
        yield lab
        lab.wait_settled()
        assert lab.audit() == []
        lab.delete_all()
        assert lab.audit() == []
    finally:
        demo.stop()


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
    storage_lab.wait_state(vm, "running", 60)
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
