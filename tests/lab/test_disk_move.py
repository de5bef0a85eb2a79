"""A disk moves under a real guest: its content is the same, read from inside, and a fault leaves nothing half done."""

from collections.abc import Iterator
from typing import Any

import pytest

from deploy.lab.faults import Faults
from tests.lab.conftest import Lab, console, content, sample

FOLDER = "/var/lib/libvirt/second"


@pytest.fixture
def second(lab: Lab) -> Iterator[str]:
    """A further folder of n1 as a pool; it goes with all that a test has put there."""
    lab.nodes["n1"].run("mkdir", "-p", FOLDER)
    body = {"name": "second", "kind": "directory", "path": FOLDER, "nodes": [lab.node_id("n1")]}
    pool = lab.api.do("pools/", body)["subject"].removeprefix("pool:")
    yield pool
    lab.wait_settled()
    assert lab.audit() == []
    lab.delete_all()
    for row in lab.api.all("disks/"):
        lab.api.do(f"disks/{row['id']}/delete/")
    left = lab.nodes["n1"].run("ls", FOLDER).stdout.split()
    lab.api.do(f"pools/{pool}/remove/")
    lab.nodes["n1"].run("rm", "-r", FOLDER)
    assert left == []


@pytest.fixture
def vm(lab: Lab, second: str) -> dict[str, Any]:
    vm = lab.create(node=lab.node_id("n1"))
    lab.wait_console(vm["id"], f"LEASE {vm['addresses'][0]['address']}", 60)
    return vm


def disk_of(lab: Lab, vm: dict[str, Any]) -> dict[str, Any]:
    return lab.api.all(f"disks/?vm={vm['id']}")[0]


def move(lab: Lab, vm: dict[str, Any], pool: str, disk_format: str) -> str:
    disk = disk_of(lab, vm)["id"]
    return lab.api.post(f"disks/{disk}/move/", {"pool": pool, "format": disk_format})["job"]["id"]


def boots(lab: Lab, vm: dict[str, Any]) -> int:
    return console(lab.nodes["n1"], vm["id"]).count("DISK boots=")


def boots_again(lab: Lab, vm: dict[str, Any], count: int) -> None:
    lab.api.do(f"vms/{vm['id']}/reset/")
    lab.wait_console(vm["id"], f"DISK boots={count} ", 60)


def test_a_disk_moves_under_its_guest_to_another_folder_and_format_and_back(
    lab: Lab, vm: dict[str, Any], second: str
) -> None:
    first, before = disk_of(lab, vm), content(lab, vm)
    for pool, disk_format in ((second, "raw"), (first["pool"], "qcow2"), (first["pool"], "raw"), (second, "qcow2")):
        job = lab.api.follow(move(lab, vm, pool, disk_format))
        assert (job["state"], job["error"]) == ("succeeded", None)
        now = disk_of(lab, vm)
        assert (now["id"], now["pool"], now["format"], now["state"]) == (first["id"], pool, disk_format, "ready")
        assert now["size_bytes"] == first["size_bytes"]
        assert content(lab, vm) == before
        assert lab.audit() == []
    assert boots(lab, vm) == 1, "it did not notice"
    boots_again(lab, vm, 2)
    lab.api.do(f"vms/{vm['id']}/stop/")
    lab.api.do(f"vms/{vm['id']}/start/")
    lab.wait_console(vm["id"], "DISK boots=3 ", 60)
    left = [row for row in lab.api.all("disks/") if row["vm"] is None]
    assert {row["state"] for row in left} == {"trash"}
    assert len(left) == 4
    assert lab.audit() == []


def test_a_disk_of_a_vm_that_is_off_moves_and_what_it_left_can_be_attached_again(
    lab: Lab, vm: dict[str, Any], second: str
) -> None:
    lab.api.do(f"vms/{vm['id']}/stop/")
    assert lab.api.follow(move(lab, vm, second, "raw"))["state"] == "succeeded"
    (left,) = [row for row in lab.api.all("disks/") if row["state"] == "trash"]
    lab.api.do(f"disks/{left['id']}/attach/", {"vm": vm["id"]})
    lab.api.do(f"vms/{vm['id']}/start/")
    lab.wait_console(vm["id"], "DISK boots=2 ", 60)
    lab.wait_console(vm["id"], "DISKS vda vdb.", 60)
    assert lab.audit() == []


POINTS = [
    ("agent.effect-done", "disk.create"),
    ("agent.started-written", "domain.mirror"),
    ("domain.before-call", "domain.mirror"),
    ("domain.after-call", "domain.mirror"),
    ("agent.effect-done", "domain.mirror"),
    ("agent.started-written", "domain.pivot"),
    ("domain.before-call", "domain.pivot"),
    ("domain.after-call", "domain.pivot"),
    ("agent.effect-done", "domain.pivot"),
    ("agent.effect-done", "domain.define"),
    ("agent.started-written", "disk.rename"),
    ("disk.linked", ""),
    ("agent.effect-done", "disk.rename"),
]


@pytest.mark.parametrize(("point", "verb"), sample(POINTS, 2))
def test_an_agent_that_dies_at_any_point_of_a_move_leaves_nothing_half_done(
    point: str, verb: str, lab: Lab, vm: dict[str, Any], second: str, faults: Faults
) -> None:
    before = content(lab, vm)
    faults.arm("n1.agent", point, "kill", verb)
    job = move(lab, vm, second, "raw")
    faults.wait_dead("n1.agent")
    faults.start("n1.agent")
    ended = lab.api.follow(job, 90)
    assert (ended["state"], ended["error"]) == ("succeeded", None)
    assert disk_of(lab, vm)["pool"] == second
    assert content(lab, vm) == before
    boots_again(lab, vm, 2)


@pytest.mark.parametrize(
    ("part", "point", "verb"),
    sample(
        [
            (part, point, verb)
            for part in ("n1.libvirtd", "n1")
            for point in ("domain.before-call", "domain.after-call")
            for verb in ("domain.mirror", "domain.pivot")
        ],
        1,
    ),
)
def test_a_part_that_dies_beside_it_leaves_the_disk_where_it_was_or_where_it_goes(
    part: str, point: str, verb: str, lab: Lab, vm: dict[str, Any], second: str, faults: Faults
) -> None:
    first = disk_of(lab, vm)["pool"]
    armed = faults.arm("n1.agent", point, "hold", verb)
    job = move(lab, vm, second, "raw")
    faults.wait_reached(armed)
    faults.kill(part)
    faults.release(armed)
    faults.start(part)
    ended = lab.api.follow(job, 180)
    assert ended["state"] in ("succeeded", "failed"), (ended["state"], ended["error"], ended["waiting_reason"])
    assert disk_of(lab, vm)["pool"] == (second if ended["state"] == "succeeded" else first)
    lab.wait_state(vm["id"], "running", 60)
    if part == "n1.libvirtd":
        boots_again(lab, vm, 2)
    lab.wait_console(vm["id"], "DISK boots=2 ", 60)


def test_a_move_that_is_cancelled_leaves_the_disk_where_it_was(
    lab: Lab, vm: dict[str, Any], second: str, faults: Faults
) -> None:
    first, before = disk_of(lab, vm)["pool"], content(lab, vm)
    armed = faults.arm("n1.agent", "domain.after-call", "hold", "domain.mirror")
    job = move(lab, vm, second, "raw")
    faults.wait_reached(armed)
    lab.api.post(f"jobs/{job}/cancel/")
    faults.release(armed)
    ended = lab.api.follow(job, 60)
    assert (ended["state"], ended["error"]) == ("cancelled", None)
    assert disk_of(lab, vm)["pool"] == first
    assert lab.nodes["n1"].run("ls", FOLDER).stdout.split() == []
    assert content(lab, vm) == before
    assert lab.api.get(f"vms/{vm['id']}/")["state"] == "running"
