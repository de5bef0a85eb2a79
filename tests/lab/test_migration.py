"""A guest moves between two real nodes: what it keeps, what it notices, and where it is when something breaks."""

import itertools
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from deploy.lab import network
from deploy.lab.faults import Faults, Watch
from deploy.lab.processes import wait
from tests.lab.conftest import MIB, Lab, console, sample

DISKS = [{"size_bytes": 128 * MIB}, {"size_bytes": 64 * MIB}]
TICK = re.compile(r"^tick (\d+)\s*$", re.MULTILINE)
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


class Ticks(Watch):
    """Reads all the time what the guest says on each node: it counts seconds, so no number may come from two nodes."""

    def __init__(self, lab: Lab, vm: str) -> None:
        super().__init__()
        self._lab, self._vm = lab, vm
        self.seen: dict[str, set[int]] = {name: set() for name in lab.nodes}

    def look(self) -> None:
        for name, node in self._lab.nodes.items():
            # The old node removes what its guest said when that has gone.
            with suppress(FileNotFoundError):
                self.seen[name] |= {int(number) for number in TICK.findall(console(node, self._vm))}

    def last(self, name: str) -> int:
        self.look()
        return max(self.seen[name], default=0)

    def wait_for_more(self, name: str) -> None:
        before = self.last(name)
        wait(lambda: self.last(name) > before, 30, f"the guest to go on on {name}")

    @property
    def from_two_nodes(self) -> set[int]:
        one, other = self.seen.values()
        return one & other


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


def migrate(lab: Lab, vm: str, target: str, **options: Any) -> str:
    return lab.api.post(f"vms/{vm}/migrate/", {"target": lab.node_id(target), **options})["job"]["id"]


def step_of(job: dict[str, Any], name: str) -> dict[str, Any]:
    return next(step for step in job["steps"] if step["name"] == name)


def wait_under_way(lab: Lab, job: str) -> dict[str, Any]:
    """Until the other node has got some of it."""

    def under_way() -> dict[str, Any] | None:
        step = step_of(lab.api.job(job), "move")
        return step if step["state"] == "running" and step["facts"].get("memory_left_bytes") else None

    return wait(under_way, 30, "the move to be under way")


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


# --- what breaks --------------------------------------------------------------------------------------------

POINTS = [
    ("n2.agent", "agent.effect-done", "disk.create"),
    ("n2.agent", "agent.effect-done", "nic.plug"),
    ("n2.agent", "agent.started-written", "domain.expect"),
    ("n2.agent", "agent.effect-done", "domain.expect"),
    ("n1.agent", "agent.started-written", "domain.move"),
    ("n1.agent", "domain.before-call", "domain.move"),
    ("n1.agent", "domain.after-call", "domain.move"),
    ("n1.agent", "agent.effect-done", "domain.move"),
    ("n1.agent", "agent.reply-written", "domain.move"),
    ("n2.agent", "agent.started-written", "domain.adopt"),
    ("n2.agent", "agent.effect-done", "domain.adopt"),
    ("n1.agent", "agent.started-written", "domain.leave"),
    ("n1.agent", "agent.effect-done", "domain.leave"),
]


@pytest.mark.parametrize(("process", "point", "verb"), sample(POINTS, 2))
def test_an_agent_that_dies_at_any_point_of_a_move_leaves_one_guest_and_nothing_else(
    lab: Lab, vm: dict[str, Any], faults: Faults, process: str, point: str, verb: str
) -> None:
    with Ticks(lab, vm["id"]) as ticks:
        faults.arm(process, point, "kill", verb)
        job = migrate(lab, vm["id"], "n2")
        faults.wait_dead(process)
        faults.start(process)
        settled(lab, vm["id"], job, ticks)
    assert ticks.from_two_nodes == set()


STRUCK = ["n1.agent", "n1.libvirtd", "n2.libvirtd", "n2.agent", "conductor", "redis", "n2", "n1", "link"]
MOMENTS = {
    "before": ("n2.agent", "agent.effect-done", "domain.expect"),
    "on its way": None,
    "at the switch": ("n1.agent", "domain.after-call", "domain.move"),
    "after": ("n2.agent", "agent.started-written", "domain.adopt"),
}
"""Where the move stands still while a part is struck; on its way it goes on, slowly."""


@pytest.mark.parametrize(("moment", "part"), sample(itertools.product(MOMENTS, STRUCK), 2))
def test_a_part_that_dies_at_any_moment_of_a_move_leaves_one_guest_and_nothing_else(
    lab: Lab, vm: dict[str, Any], faults: Faults, moment: str, part: str
) -> None:
    held = MOMENTS[moment]
    if held is None:
        faults.slow_link("n1", 20)
    armed = faults.arm(held[0], held[1], "hold", held[2]) if held else None
    with Ticks(lab, vm["id"]) as ticks:
        job = migrate(lab, vm["id"], "n2")
        if armed:
            faults.wait_reached(armed)
        else:
            wait_under_way(lab, job)
        strike(lab, faults, part, armed)
        faults.fast_link("n1")
        settled(lab, vm["id"], job, ticks)
    if part not in ("n1", "n2"):  # a guest that lost power counts anew
        assert ticks.from_two_nodes == set()


def strike(lab: Lab, faults: Faults, part: str, armed: Path | None) -> None:
    if part == "link":
        faults.cut_cable("n2")
        lab.wait_node("n2", "offline")
        faults.plug_cable("n2")
    else:
        faults.kill(part)
    if armed:
        faults.release(armed)
    if part != "link":
        faults.start(part)


def settled(lab: Lab, vm: str, job: str, ticks: Ticks) -> None:
    """It has moved or stayed; either way it runs, on the node that the panel says."""
    ended = lab.api.follow(job, 180)
    assert ended["state"] in ("succeeded", "failed"), (ended["state"], ended["error"], ended["waiting_reason"])
    assert lab.node_name(vm) == ("n2" if ended["state"] == "succeeded" else "n1"), ended
    lab.wait_state(vm, "running", 60)
    ticks.wait_for_more(lab.node_name(vm))
