"""What the panel expects of a move beside what then happens: a guest that is idle, one that is busy, a hopeless one."""

import time
from typing import Any

import pytest

from deploy.lab.faults import Faults
from tests.lab.conftest import FULL, MIB, Lab, ask_guest
from tests.lab.moving import step_of

GUESTS = {"idle": (400, ""), "busy": (160, "4 1"), "hopeless": (40, "40 0")}
"""The link of each in Mbit/s, and what it is told to change of its memory: MiB, and seconds of rest in between."""


def measured(lab: Lab, vm: str, **options: Any) -> dict[str, Any]:
    job = lab.api.do(f"vms/{vm}/forecast/", {"target": lab.node_id("n2"), **options})
    result: dict[str, Any] = lab.api.job(job["id"])["result"]
    return result | {"ways": {row["way"]: row for row in result["ways"]}}


@pytest.mark.parametrize("kind", GUESTS if FULL else ["idle"])
def test_a_forecast_comes_true(lab: Lab, faults: Faults, kind: str) -> None:
    megabits, work = GUESTS[kind]
    vm = lab.create(node=lab.node_id("n1"), disks=[{"size_bytes": 64 * MIB}])
    lab.wait_console(vm["id"], f"LEASE {vm['addresses'][0]['address']}", 60)
    if work:
        assert ask_guest(lab, vm, 82, work).startswith("DIRTY")
        time.sleep(3)  # its first rounds only take the memory that it will then change
    faults.slow_link("n1", megabits)
    seen = measured(lab, vm["id"])
    assert seen["bandwidth_bytes"] == pytest.approx(megabits * 1e6 / 8, rel=0.25)
    expected = seen["ways"]["live"]
    assert expected["ends"] == (kind != "hopeless")
    began = time.monotonic()
    limit = {} if expected["ends"] else {"time_limit_s": 50}
    job = lab.api.follow(
        lab.api.post(f"vms/{vm['id']}/migrate/", {"target": lab.node_id("n2"), **limit})["job"]["id"], 180
    )
    took_s = time.monotonic() - began
    print(f"\n{kind}: {seen}\n  took {took_s:.1f} s, {job['state']}, {step_of(job, 'move')['facts']}")
    if expected["ends"]:
        assert job["state"] == "succeeded", job["error"]
        assert took_s == pytest.approx(expected["duration_ms"] / 1000, rel=0.5, abs=2)
        return
    assert job["error"]["code"] == "move_time_limit"
    began = time.monotonic()
    lab.api.do(f"vms/{vm['id']}/migrate/", {"target": lab.node_id("n2"), "live": False}, 180)
    took_s = time.monotonic() - began
    print(f"  paused: {seen['ways']['paused']}, took {took_s:.1f} s")
    assert took_s == pytest.approx(seen["ways"]["paused"]["duration_ms"] / 1000, rel=0.5, abs=2)
