"""A guest's disks while its agent or its libvirtd dies: the job comes to its end, and nothing is lost or left over."""

from collections.abc import Callable
from typing import Any

import pytest

from deploy.lab.faults import Faults
from tests.lab.conftest import MIB, Lab, sample

Asked = Callable[[Lab, dict[str, Any]], str]


def comes(lab: Lab, vm: dict[str, Any]) -> str:
    return lab.api.post("disks/", {"vm": vm["id"], "size_bytes": 16 * MIB})["job"]["id"]


def goes(lab: Lab, vm: dict[str, Any]) -> str:
    small = next(disk["id"] for disk in vm["disks"] if disk["size_bytes"] == 64 * MIB)
    return lab.api.post(f"disks/{small}/detach/", {})["job"]["id"]


def copied(lab: Lab, vm: dict[str, Any]) -> str:
    return lab.api.post(f"vms/{vm['id']}/backup/", {})["job"]["id"]


CASES: list[tuple[Asked, str, str]] = [
    (asked, verb, point)
    for asked, verb in ((comes, "domain.plug"), (goes, "domain.unplug"), (copied, "domain.backup"))
    for point in ("domain.before-call", "domain.after-call", "agent.effect-done")
]


@pytest.fixture
def vm(lab: Lab) -> dict[str, Any]:
    disks = [{"size_bytes": 128 * MIB}, {"size_bytes": 64 * MIB}]
    vm = lab.create(node=lab.node_id("n1"), disks=disks)
    lab.wait_console(vm["id"], "DISKS vda vdb", 60)
    return vm


@pytest.mark.parametrize(
    ("asked", "verb", "point"), sample(CASES, 2), ids=lambda value: getattr(value, "__name__", value)
)
def test_an_agent_that_dies_in_the_middle_leaves_nothing_half_done(
    asked: Asked, verb: str, point: str, vm: dict[str, Any], lab: Lab, faults: Faults
) -> None:
    faults.arm("n1.agent", point, "kill", verb)
    job = asked(lab, vm)
    faults.wait_dead("n1.agent")
    faults.start("n1.agent")
    assert lab.api.follow(job, 90)["state"] == "succeeded"
    assert lab.api.get(f"vms/{vm['id']}/")["state"] == "running"
    for row in lab.api.all("backups/"):
        lab.api.do(f"backups/{row['id']}/delete/")
    for row in lab.api.all("disks/"):
        if row["vm"] is None:
            lab.api.do(f"disks/{row['id']}/delete/")


def test_a_backup_that_is_cancelled_leaves_nothing(vm: dict[str, Any], lab: Lab, faults: Faults) -> None:
    armed = faults.arm("n1.agent", "domain.before-call", "hold", "domain.backup")
    job = copied(lab, vm)
    faults.wait_reached(armed)
    lab.api.post(f"jobs/{job}/cancel/")
    faults.release(armed)
    ended = lab.api.follow(job, 60)
    assert (ended["state"], ended["error"]) == ("cancelled", None)
    assert lab.api.all("backups/") == []
    assert lab.api.get(f"vms/{vm['id']}/")["state"] == "running"
    lab.api.do(f"vms/{vm['id']}/suspend/")  # QEMU copies nothing any more, and takes orders
