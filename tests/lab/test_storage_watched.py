"""Storage that changes behind the panel's back, on real parts: what is said of it, and the way out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.lab.node import IMAGES
from deploy.lab.processes import wait
from tests.lab.conftest import MIB, SMALL, Lab, pool_in_memory, stands

FILLER = f"{SMALL}/filler"


def disks_of(lab: Lab, vm: str) -> list[dict[str, Any]]:
    return sorted(lab.api.all(f"disks/?vm={vm}"), key=lambda row: row["boot_order"] or 99)


def volume(lab: Lab, disk: dict[str, Any]) -> Path:
    folder = lab.nodes[lab.node_name(disk["vm"])].folder / IMAGES
    return folder / f"{disk['id']}.{disk['format']}"


def test_a_volume_that_was_resized_or_deleted_by_hand_is_said_and_a_larger_size_is_taken_over(lab: Lab) -> None:
    vm = lab.create(start=False, disks=[{"size_bytes": 128 * MIB}, {"size_bytes": 64 * MIB}], node=lab.node_id("n1"))
    first, second = disks_of(lab, vm["id"])
    lab.nodes["n1"].run("qemu-img", "resize", "-q", "-f", "qcow2", f"/{IMAGES}/{volume(lab, first).name}", "192M")
    volume(lab, second).rename(kept := volume(lab, second).with_suffix(".away"))

    lab.api.do(f"nodes/{lab.node_id('n1')}/inspect/")
    grown, gone = (lab.api.get(f"disks/{row['id']}/") for row in (first, second))
    assert grown["drift"] == [{"field": "size_bytes", "panel": 128 * MIB, "seen": 192 * MIB}]
    assert gone["drift"] == [{"field": "size_bytes", "panel": 64 * MIB, "seen": None}]
    refused = lab.api.request("POST", f"disks/{second['id']}/adopt/", {})
    assert (refused.status, refused.body["code"]) == (409, "volume_gone")

    lab.api.do(f"disks/{first['id']}/adopt/")
    taken = lab.api.get(f"disks/{first['id']}/")
    assert (taken["size_bytes"], taken["drift"]) == (192 * MIB, [])

    lab.api.do(f"disks/{second['id']}/detach/")
    lab.api.do(f"disks/{second['id']}/delete/")
    assert [row["id"] for row in lab.api.all("disks/")] == [first["id"]]
    kept.unlink()
    lab.api.do(f"vms/{vm['id']}/start/")
    lab.wait_console(vm["id"], "GUEST-UP", 60)


@pytest.fixture
def small_pool(lab: Lab) -> Iterator[dict[str, Any]]:
    """A pool of 96 MiB on n1, in memory."""
    with pool_in_memory(lab, "n1", 96) as pool:
        yield pool


def test_a_guest_whose_storage_is_full_stands_still_says_why_and_goes_on_when_there_is_room(
    lab: Lab, small_pool: dict[str, Any]
) -> None:
    iso = wait(lambda: next(iter(lab.api.all("isos/")), None), 30, "the ISO to be seen")
    disks = [{"pool": small_pool["id"], "size_bytes": 64 * MIB}]
    vm = lab.create("full", iso=iso["id"], image=None, disks=disks, node=lab.node_id("n1"), start=False)["id"]
    lab.nodes["n1"].run("dd", "if=/dev/zero", f"of={FILLER}", "bs=64k", check=False)

    for power in ("start", "resume"):  # without room it stands still again
        lab.api.do(f"vms/{vm}/{power}/")
        what = f"the guest to stand still after its {power} and to name the pool"
        row = wait(lambda: stands(lab, vm, "state_pool_full"), 30, what)
        assert row["state"] == "paused"
        assert "small" in row["state_reason"]["cause"]
        assert SMALL in row["state_reason"]["hint"]

    lab.nodes["n1"].run("rm", FILLER)
    lab.api.do(f"vms/{vm}/resume/")
    lab.wait_console(vm, "DISK boots=1", 60)
    row = lab.api.get(f"vms/{vm}/")
    assert (row["state"], row["state_reason"]) == ("running", None)
    lab.api.do(f"vms/{vm}/delete/", {"disks": True})
