"""Where a guest is, and what is left over, when something breaks while it moves: the table of issue and moment.

The lab has three nodes between which guests move, and its panel is on a PostgreSQL that can be broken too.
"""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.lab.demo import PATIENCE_S
from deploy.lab.faults import Faults
from deploy.lab.processes import wait
from deploy.lib import postgres
from tests.lab.conftest import FULL, MIB, SMALL, STATE, Lab, pool_in_memory, sample, start_lab, told
from tests.lab.moving import DISKS, Ticks, migrate, wait_under_way

AWAY_S = 5.0
SETTLED_S = 240.0


@pytest.fixture(scope="module")
def running_lab() -> Iterator[Lab]:
    STATE.mkdir(parents=True, exist_ok=True)
    with postgres.running(STATE / "moves-postgres.log") as database:
        demo = start_lab(STATE / "moves", nodes=3, database=database)
        yield Lab(demo)
        demo.stop()


@pytest.fixture
def vm(lab: Lab) -> dict[str, Any]:
    vm = lab.create(node=lab.node_id("n1"), disks=DISKS)
    lab.wait_console(vm["id"], "GUEST-UP")
    return vm


# --- an agent at each of its points ---------------------------------------------------------------------------

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


@pytest.mark.parametrize(("process", "point", "verb"), sample(POINTS, 1))
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


# --- any part at each moment ----------------------------------------------------------------------------------

CONNECTIONS = "database connections"
STRUCK = ["n1.agent", "n1.libvirtd", "n2.libvirtd", "n2.agent", "conductor", "redis", "n2", "n1", "link"]
STRUCK += [CONNECTIONS, "database"]
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
    armed = arm(faults, MOMENTS[moment])
    with Ticks(lab, vm["id"]) as ticks:
        job = migrate(lab, vm["id"], "n2")
        wait_for_moment(lab, faults, job, armed)
        strike(lab, faults, part, armed)
        faults.fast_link("n1")
        settled(lab, vm["id"], job, ticks)
    if part not in ("n1", "n2"):  # a guest that lost power counts anew
        assert ticks.from_two_nodes == set()


def arm(faults: Faults, held: tuple[str, str, str] | None) -> Path | None:
    if held is None:
        faults.slow_link("n1", 20)
        return None
    process, point, verb = held
    return faults.arm(process, point, "hold", verb)


def wait_for_moment(lab: Lab, faults: Faults, job: str, armed: Path | None, *, disks: bool = False) -> None:
    if armed:
        faults.wait_reached(armed)
    else:
        wait_under_way(lab, job, disks=disks)


def strike(lab: Lab, faults: Faults, part: str, armed: Path | None) -> None:
    if part == "link":
        faults.cut_cable("n2")
        lab.wait_node("n2", "offline")
        faults.plug_cable("n2")
    elif part == CONNECTIONS:
        faults.kill_database_connections()
    else:
        faults.kill(part)
    if armed:
        faults.release(armed)
    if part == "database":
        says_that_its_database_is_away(lab)
    if part not in ("link", CONNECTIONS):
        faults.start(part)


def says_that_its_database_is_away(lab: Lab) -> None:
    """For as long as it is: nobody is told that something is wrong inside the panel, and nobody waits."""
    until = time.monotonic() + AWAY_S
    while time.monotonic() < until:
        asked = lab.api.request("GET", "jobs/")
        assert (asked.status, asked.body["code"]) == (503, "database_unavailable")
        assert lab.api.request("GET", f"{lab.api.url}/vms/").status == 503
        time.sleep(0.25)


def settled(lab: Lab, vm: str, job: str, ticks: Ticks) -> None:
    """It has moved or stayed; either way it runs, on the node that the panel says."""
    ended = lab.api.follow(job, SETTLED_S)
    assert ended["state"] in ("succeeded", "failed"), (ended["state"], ended["error"], ended["waiting_reason"])
    assert lab.node_name(vm) == ("n2" if ended["state"] == "succeeded" else "n1"), ended
    lab.wait_state(vm, "running")
    ticks.wait_for_more(lab.node_name(vm))


# --- the target's disk is full --------------------------------------------------------------------------------

FULL_AT = {
    "before its disks are made": ("n2.agent", "agent.started-written", "disk.create"),
    **MOMENTS,
    "its disks are on their way": None,
}
STAYS = {
    "before its disks are made": "no_room",
    "before": "move_no_room",
    "on its way": "move_no_room",
    "its disks are on their way": "move_no_room",
}
"""At this moment the guest is still where it was, and this is said of the move."""


@pytest.fixture
def small_pool(lab: Lab) -> Iterator[dict[str, Any]]:
    """A pool of 320 MiB on n2, in memory, so that it can be filled to its last byte."""
    with pool_in_memory(lab, "n2", 320) as pool:
        yield pool
        lab.delete_all()


@pytest.mark.parametrize("moment", sample(FULL_AT, 1))
def test_a_target_that_is_full_at_any_moment_of_a_move_leaves_one_guest_and_says_why(
    lab: Lab, vm: dict[str, Any], small_pool: dict[str, Any], faults: Faults, moment: str
) -> None:
    assert told(lab, vm, 84) == "WRITING"
    armed = arm(faults, FULL_AT[moment])
    with Ticks(lab, vm["id"]) as ticks:
        job = migrate(lab, vm["id"], "n2", pools={disk["id"]: small_pool["id"] for disk in vm["disks"]})
        wait_for_moment(lab, faults, job, armed, disks=moment == "its disks are on their way")
        faults.fill_folder("n2", SMALL)
        if armed:
            faults.release(armed)
        ended = lab.api.follow(job, SETTLED_S)
        if moment in STAYS:
            assert (ended["state"], ended["error"]["code"]) == ("failed", STAYS[moment]), ended["error"]
            assert "small" in ended["error"]["cause"]
            assert "n2" in ended["error"]["cause"]
            assert ended["error"]["hint"]
            assert lab.audit() == [], "while it is still full"
            goes_on(lab, vm["id"], "n1", ticks)
            assert vm["disks"][0]["id"] not in lab.nodes["n2"].run("ls", SMALL).stdout
        else:
            assert (ended["state"], ended["error"]) == ("succeeded", None)
            wait(lambda: lab.api.get(f"vms/{vm['id']}/")["state_reason"], PATIENCE_S, "the guest to stand still")
            row = lab.api.get(f"vms/{vm['id']}/")
            assert (row["state"], row["state_reason"]["code"]) == ("paused", "state_io_error")
            assert lab.audit() == [], "while it is still full"
            faults.empty_folder("n2", SMALL)
            lab.api.do(f"vms/{vm['id']}/resume/")
            goes_on(lab, vm["id"], "n2", ticks)
    assert ticks.from_two_nodes == set()


def goes_on(lab: Lab, vm: str, node: str, ticks: Ticks) -> None:
    row = lab.wait_state(vm, "running")
    assert (lab.node_name(vm), row["state_reason"]) == (node, None)
    ticks.wait_for_more(node)


# --- three nodes ----------------------------------------------------------------------------------------------

MATRIX = pytest.mark.skipif(not FULL, reason="evacuations of three nodes take minutes: deploy/test --full")


@pytest.fixture
def guests(lab: Lab) -> Iterator[dict[str, str]]:
    """Two on n1 and one on n2: id -> node. Afterwards every node is open again."""
    made = {lab.create(node=lab.node_id(node), disks=[{"size_bytes": 64 * MIB}])["id"]: node for node in PLACES}
    for vm in made:
        lab.wait_console(vm, "GUEST-UP")
    yield made
    lab.wait_settled()
    for node in lab.api.all("nodes/"):
        if node["state"] == "maintenance":
            lab.api.do(f"nodes/{node['id']}/maintenance/", {"on": False})


PLACES = ("n1", "n1", "n2")


def places(lab: Lab) -> list[str]:
    return sorted(lab.node_name(row["id"]) for row in lab.api.all("vms/"))


def asked(lab: Lab, operation: str, *nodes: str) -> list[str]:
    """The jobs, begun at once."""
    return [lab.api.post(f"nodes/{lab.node_id(node)}/{operation}/", {})["job"]["id"] for node in nodes]


def end_of(lab: Lab, *jobs: str) -> list[str]:
    return [lab.api.follow(job, SETTLED_S)["state"] for job in jobs]


@MATRIX
def test_two_nodes_evacuated_towards_each_other_at_once_both_end_and_can_be_put_back(
    lab: Lab, faults: Faults, guests: dict[str, str]
) -> None:
    states = end_of(lab, *asked(lab, "evacuate", "n1", "n2"))
    assert set(states) <= {"succeeded", "failed"}
    # A guest may have been on its way to the other node already when that was closed: it is said, and moves on.
    if "failed" in states:
        assert end_of(lab, *asked(lab, "evacuate", "n1", "n2")) == ["succeeded", "succeeded"]
    assert places(lab) == ["n3", "n3", "n3"]
    assert lab.audit() == []
    assert end_of(lab, *asked(lab, "put_back", "n1", "n2")) == ["succeeded", "succeeded"]
    assert {vm: lab.node_name(vm) for vm in guests} == guests


@MATRIX
@pytest.mark.parametrize("part", ["n2", "n2.libvirtd", "n3.agent", "conductor"])
def test_an_evacuation_in_which_a_part_is_struck_ends_and_can_be_put_back(
    lab: Lab, faults: Faults, guests: dict[str, str], part: str
) -> None:
    armed = faults.arm("n1.agent", "domain.before-call", "hold", "domain.move")
    evacuated = asked(lab, "evacuate", "n1")
    faults.wait_reached(armed)
    faults.kill(part)
    faults.release(armed)
    faults.start(part)
    assert end_of(lab, *evacuated)[0] in ("succeeded", "failed")
    for vm in guests:
        lab.wait_state(vm, "running")
    assert lab.audit() == []
    if "n1" in places(lab):  # whom the blow had kept there
        assert end_of(lab, *asked(lab, "evacuate", "n1")) == ["succeeded"]
    assert "n1" not in places(lab)
    assert end_of(lab, *asked(lab, "put_back", "n1")) == ["succeeded"]
    assert {vm: lab.node_name(vm) for vm in guests} == guests
