"""A guest moves between two real nodes: what it keeps, and what it notices."""

import itertools
import subprocess
import sys
from typing import Any

import pytest

from deploy.lab import network
from deploy.lab.faults import Faults
from tests.lab.conftest import MIB, Lab, console
from tests.lab.moving import DISKS, Ticks, migrate, wait_under_way

KNOCK = """
import socket, sys, time
while True:
    try:
        with socket.create_connection((sys.argv[1], 22), timeout=0.5) as guest:
            guest.settimeout(0.5)
            if guest.recv(6) == b"SSH-OK":
                print(time.monotonic(), flush=True)
    except OSError:
        pass
    time.sleep(0.05)
"""


class Knocking:
    """Somebody on the guest's network asks it something ten times a second."""

    def __init__(self, lab: Lab, address: str) -> None:
        space = network.namespace(lab.demo.state)
        argv = ["ip", "netns", "exec", space, sys.executable, "-c", KNOCK, address]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    def longest_silence_s(self) -> float:
        self._process.terminate()
        answered = [float(line) for line in self._process.communicate()[0].split()]
        assert len(answered) > 2
        return max(later - earlier for earlier, later in itertools.pairwise(answered))


@pytest.fixture
def vm(lab: Lab) -> dict[str, Any]:
    vm = lab.create(node=lab.node_id("n1"), disks=DISKS)
    lab.wait_console(vm["id"], "GUEST-UP", 60)
    return vm


def test_a_guest_that_runs_moves_there_and_back_and_keeps_all_that_it_has(lab: Lab, vm: dict[str, Any]) -> None:
    address = vm["addresses"][0]["address"]
    lab.wait_console(vm["id"], f"LEASE {address}")
    with Ticks(lab, vm["id"]) as ticks:
        for target, source in (("n2", "n1"), ("n1", "n2")):
            knocking = Knocking(lab, address)
            ticks.wait_for_more(source)
            before = ticks.last(source)
            job = lab.api.follow(migrate(lab, vm["id"], target))
            assert (job["state"], job["error"]) == ("succeeded", None)
            ticks.wait_for_more(target)
            ticks.wait_for_more(target)
            assert knocking.longest_silence_s() < 1.5  # TCG: a second of it is the guest's own slowness
            assert lab.node_name(vm["id"]) == target
            assert "GUEST-UP" not in console(lab.nodes[target], vm["id"]), "it booted"
            assert min(n for n in ticks.seen[target] if n > before - 1) > 1
            if target == "n2":
                assert ticks.from_two_nodes == set()
    row = lab.api.get(f"vms/{vm['id']}/")
    assert (row["state"], [one["address"] for one in row["addresses"]]) == ("running", [address])
    lab.api.do(f"vms/{vm['id']}/reset/")
    lab.wait_console(vm["id"], "DISK boots=2", 60)


@pytest.mark.parametrize("state", ["paused", "stopped"])
def test_a_vm_that_does_not_run_moves_and_stays_so(lab: Lab, vm: dict[str, Any], state: str) -> None:
    lab.api.do(f"vms/{vm['id']}/{'suspend' if state == 'paused' else 'stop'}/")
    with Ticks(lab, vm["id"]) as ticks:
        ticks.look()
        here = set(ticks.seen["n1"])
        assert lab.api.follow(migrate(lab, vm["id"], "n2"))["state"] == "succeeded"
    assert ticks.seen == {"n1": here, "n2": set()}, "not one of its instructions was executed"
    assert lab.api.get(f"vms/{vm['id']}/")["state"] == state
    lab.api.do(f"vms/{vm['id']}/{'resume' if state == 'paused' else 'start'}/")
    if state == "paused":
        Ticks(lab, vm["id"]).wait_for_more("n2")
        lab.api.do(f"vms/{vm['id']}/reset/")
    lab.wait_console(vm["id"], "DISK boots=2", 60)


def test_a_guest_takes_its_iso_where_the_other_node_has_it(lab: Lab) -> None:
    iso = lab.api.all("isos/")[0]["id"]
    vm = lab.create(node=lab.node_id("n1"), image=None, iso=iso, disks=[{"size_bytes": 64 * MIB}])
    lab.wait_console(vm["id"], "GUEST-UP", 60)
    assert lab.api.follow(migrate(lab, vm["id"], "n2"))["state"] == "succeeded"
    lab.api.do(f"vms/{vm['id']}/iso/", {"iso": None})
    assert lab.api.get(f"vms/{vm['id']}/")["state"] == "running"


def test_a_move_that_is_cancelled_leaves_the_guest_where_it_was(lab: Lab, vm: dict[str, Any], faults: Faults) -> None:
    faults.slow_link("n1", 20)
    with Ticks(lab, vm["id"]) as ticks:
        job = migrate(lab, vm["id"], "n2")
        facts = wait_under_way(lab, job)["facts"]
        assert facts["memory_left_bytes"] + facts["disk_left_bytes"] > 0
        lab.api.post(f"jobs/{job}/cancel/")
        ended = lab.api.follow(job)
        assert (ended["state"], ended["error"]) == ("cancelled", None)
        assert lab.node_name(vm["id"]) == "n1"
        ticks.wait_for_more("n1")
    assert ticks.seen["n2"] == set()


@pytest.mark.parametrize(("then", "state", "node"), [("abort", "failed", "n1"), ("force", "succeeded", "n2")])
def test_a_move_that_takes_too_long_ends_as_was_asked(
    lab: Lab, vm: dict[str, Any], faults: Faults, then: str, state: str, node: str
) -> None:
    faults.slow_link("n1", 20)
    job = lab.api.follow(migrate(lab, vm["id"], "n2", time_limit_s=2, on_time_limit=then), 120)
    assert job["state"] == state, job["error"]
    assert (job["error"] or {}).get("code") == ("move_time_limit" if then == "abort" else None)
    assert lab.node_name(vm["id"]) == node
    assert lab.api.get(f"vms/{vm['id']}/")["state"] == "running"
    Ticks(lab, vm["id"]).wait_for_more(node)


def test_a_node_that_cannot_take_it_says_every_reason(lab: Lab, vm: dict[str, Any], faults: Faults) -> None:
    faults.kill("n2.agent")
    lab.wait_node("n2", "offline")
    answer = lab.api.post(f"vms/{vm['id']}/migrate/?dry_run=true", {}, expect=200)
    assert [(row["name"], row["possible"]) for row in answer["targets"]] == [("n2", False)]
    assert [reason["code"] for reason in answer["targets"][0]["reasons"]] == ["node_offline"]
    assert answer["placement"] is None
    refused = lab.api.request("POST", f"vms/{vm['id']}/migrate/", {})
    assert (refused.status, refused.body["code"]) == (422, "node_offline")
