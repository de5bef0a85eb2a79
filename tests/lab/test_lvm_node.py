"""The LVM node beside the others: guests come to it and leave it, and its thin pool runs full."""

import hashlib
import itertools
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.lab.node import IMAGES
from deploy.lab.processes import wait
from deploy.lab.state import UML_NODE
from tests.lab.conftest import FULL, MIB, SLOW_SETTLE_S, Lab, ask_guest, console, content, stands

pytestmark = pytest.mark.skipif(not FULL, reason="Ceph and user-mode Linux take minutes: deploy/test --full")

SUMMED_BYTES, COUNTER_AT = 40 * MIB, 36 * MIB
"""Of a micro guest's disk: what it tells the checksum of, and where it counts its boots (deploy/lab/guest-init)."""
OFF_GRID = 128 * MIB + 64 * 1024
GROWN = 132 * MIB
MOVED_S = 240


def as_image(lab: Lab, folder: Path, boots: int) -> str:
    """The checksum of a disk made from the micro image whose guest has booted so often."""
    image = next((lab.nodes["n1"].folder / IMAGES).glob("micro*.qcow2"))
    raw = folder / "image.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(image), str(raw)], check=True)
    held = bytearray(raw.read_bytes()[:SUMMED_BYTES].ljust(SUMMED_BYTES, b"\0"))
    held[COUNTER_AT : COUNTER_AT + 512] = f"{boots}\n".encode().ljust(512, b"\0")
    return hashlib.md5(held).hexdigest()


def lv_bytes(lab: Lab, volume: str) -> int:
    argv = ("lvs", "--noheadings", "--units", "b", "--nosuffix", "-o", "lv_size", volume)
    return int(lab.nodes[UML_NODE].run(*argv).stdout)


def boot(lab: Lab, vm: str, boots: int) -> None:
    """Also: the guest sees the disk's whole size."""
    lab.wait_console(vm, f"DISK boots={boots} sectors={GROWN // 512}", 120)


@pytest.mark.parametrize("kind", ["lvm", "thin"])
def test_a_vm_moves_from_qcow2_to_lvm_on_another_node_and_back_while_it_runs_and_while_it_is_off(
    storage_lab: Lab, tmp_path: Path, kind: str
) -> None:
    lab, api = storage_lab, storage_lab.api
    pools = {row["name"]: row["id"] for row in api.all("pools/")}
    vm = lab.create(node=lab.node_id("n1"), disks=[{"size_bytes": OFF_GRID}])
    lab.wait_console(vm["id"], f"LEASE {vm['addresses'][0]['address']}", 120)
    disk = api.all(f"disks/?vm={vm['id']}")[0]
    assert (disk["size_bytes"], disk["format"]) == (OFF_GRID, "qcow2")
    assert content(lab, vm) == as_image(lab, tmp_path, 1)
    assert not may_connect(lab, 16514)
    forecast = api.job(api.do(f"vms/{vm['id']}/forecast/", {"target": lab.node_id(UML_NODE)}, MOVED_S)["id"])["result"]
    assert forecast["bandwidth_bytes"] > MIB
    boots = itertools.count(2)

    for runs in (True, False):
        if not runs:
            api.do(f"vms/{vm['id']}/stop/")
        for target, pool in ((UML_NODE, kind), ("n1", "n1-images")):
            body = {"target": lab.node_id(target), "pools": {disk["id"]: pools[pool]}}
            quote = api.post(f"vms/{vm['id']}/migrate/?dry_run=true", body, expect=200)["quote"]["disks"]
            assert [row["size_bytes"] for row in quote] == [GROWN]
            api.do(f"vms/{vm['id']}/migrate/", body, MOVED_S)
            now = api.get(f"disks/{disk['id']}/")
            assert (lab.node_name(vm["id"]), now["pool"]) == (target, pools[pool])
            assert (now["format"], now["size_bytes"]) == ("raw" if target == UML_NODE else "qcow2", GROWN)
            if target == UML_NODE:
                assert lv_bytes(lab, f"vg0/{disk['id']}") == GROWN
            booted = next(boots)
            if runs:
                assert "GUEST-UP" not in console(lab.nodes[target], vm["id"]), "it booted"
                assert content(lab, vm) == as_image(lab, tmp_path, booted - 1)
            api.do(f"vms/{vm['id']}/{'reset' if runs else 'start'}/")
            boot(lab, vm["id"], booted)
            assert content(lab, vm) == as_image(lab, tmp_path, booted)
            if not runs:
                api.do(f"vms/{vm['id']}/stop/")
    assert lab.audit(SLOW_SETTLE_S) == []
    assert not may_connect(lab, 16514)


def may_connect(lab: Lab, port: int) -> bool:
    """False: the LVM node drops what another node sends there."""
    knock = f"</dev/tcp/{lab.nodes[UML_NODE].address}/{port}"
    done = lab.nodes["n1"].run("timeout", "5", "bash", "-c", knock, check=False)
    assert done.returncode in (0, 124), done.stderr
    return done.returncode == 0


@pytest.fixture
def small_thin(storage_lab: Lab) -> dict[str, Any]:
    """A thin pool of 64 MiB, in the panel by the name ``small``."""
    argv = ("--type", "thin-pool", "--size", "64m", "--name", "small", "vg0")
    storage_lab.nodes[UML_NODE].run("lvcreate", "--quiet", "--yes", *argv)
    storage_lab.nodes[UML_NODE].run("lvchange", "--quiet", "--errorwhenfull", "n", "vg0/small")  # LVM's own default
    place = {"name": "small", "kind": "lvmthin", "path": "vg0/small", "nodes": [storage_lab.node_id(UML_NODE)]}
    made = storage_lab.api.do("pools/", place)["subject"].removeprefix("pool:")
    return storage_lab.api.get(f"pools/{made}/")


def warnings(lab: Lab, pool: dict[str, Any]) -> dict[str, str]:
    """Code -> level, after a look of the node."""
    lab.api.do(f"nodes/{lab.node_id(UML_NODE)}/inspect/")
    return {line["code"]: line["level"] for line in lab.api.get(f"pools/{pool['id']}/")["warnings"]}


def test_guests_of_a_full_thin_pool_stand_still_name_it_and_the_way_out_and_go_on_when_it_has_grown(
    storage_lab: Lab, small_thin: dict[str, Any]
) -> None:
    lab, api, run = storage_lab, storage_lab.api, storage_lab.nodes[UML_NODE].run
    assert warnings(lab, small_thin) == {"when_full": "warning"}
    run("lvchange", "--quiet", "--errorwhenfull", "y", "vg0/small")
    assert warnings(lab, small_thin) == {}

    iso = wait(lambda: next(iter(api.all("isos/")), None), 30, "the ISO to be seen")["id"]
    body = {"iso": iso, "image": None, "node": lab.node_id(UML_NODE)}
    disks = [{"pool": small_thin["id"], "size_bytes": 48 * MIB}]  # two are more than the pool has
    calm, greedy = (lab.create(name, disks=disks, **body) for name in ("calm", "greedy"))
    for vm in (calm, greedy):
        lab.wait_console(vm["id"], f"LEASE {vm['addresses'][0]['address']}", 120)
    fill(lab, calm, 48)
    fill(lab, greedy, 8)
    assert warnings(lab, small_thin) == {"data": "warning"}

    assert ask_guest(lab, greedy, 83, "44") == "FILLS 44"
    for again in (False, True):  # without room it stands still again
        if again:
            api.do(f"vms/{greedy['id']}/resume/")
        what = "the guest to stand still and to name the pool"
        row = wait(lambda: stands(lab, greedy["id"], "state_thin_pool_full"), 60, what)
        reason = row["state_reason"]
        assert row["state"] == "paused"
        assert "small" in reason["cause"]
        assert "lvextend --size +10g vg0/small" in reason["hint"]
    assert warnings(lab, small_thin) == {"data": "error"}
    assert api.get(f"vms/{calm['id']}/")["state"] == "running"

    run("lvextend", "--quiet", "--size", "128m", "vg0/small")
    assert warnings(lab, small_thin) == {}
    assert api.get(f"vms/{greedy['id']}/")["state_reason"]["code"] == "state_io_error"
    api.do(f"vms/{greedy['id']}/resume/")
    lab.wait_console(greedy["id"], "FILLED 44", 120)
    row = api.get(f"vms/{greedy['id']}/")
    assert (row["state"], row["state_reason"]) == ("running", None)
    written = hashlib.md5((b"ULEI\n" * (SUMMED_BYTES // 5 + 1))[:SUMMED_BYTES]).hexdigest()
    assert [content(lab, vm) for vm in (calm, greedy)] == [written, written]


def fill(lab: Lab, vm: dict[str, Any], mebibytes: int) -> None:
    assert ask_guest(lab, vm, 83, str(mebibytes)) == f"FILLS {mebibytes}"
    lab.wait_console(vm["id"], f"FILLED {mebibytes}", 120)
