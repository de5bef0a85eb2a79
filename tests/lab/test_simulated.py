"""``deploy/demo --simulated``: the same panel and agents, without a hypervisor."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.lab.client import Api
from deploy.lab.processes import wait
from deploy.lab.simulated import SimulatedDemo
from deploy.lab.state import Simulation, State
from tests.lab.conftest import MIB, STATE, free_ports

SIMULATION = Simulation(nodes=3, vms=4, changes_per_s=0)


@pytest.fixture(scope="module")
def demo() -> Iterator[SimulatedDemo]:
    folder = STATE / "simulated"
    demo = SimulatedDemo(State(folder, free_ports(3)), SIMULATION, quiet=True)
    demo.stop()
    demo.forget()
    demo.start()
    yield demo
    demo.stop()


@pytest.fixture
def api(demo: SimulatedDemo) -> Api:
    return demo.api


def states(api: Api) -> dict[str, str]:
    return {row["name"]: row["state"] for row in api.all("vms/")}


def test_every_node_is_said_to_be_simulated_and_has_its_guests(api: Api):
    nodes = api.all("nodes/")
    assert [row["simulated"] for row in nodes] == [True] * SIMULATION.nodes
    assert len(api.all("vms/")) == SIMULATION.nodes * SIMULATION.vms
    assert set(states(api).values()) == {"running", "stopped"}


def test_a_guest_lives_its_whole_life_through_jobs(api: Api):
    body = {
        "name": "made",
        "vcpus": 1,
        "memory_bytes": 128 * MIB,
        "image": wait(lambda: api.all("images/"), 30, "an image")[0]["id"],
        "disks": [{"size_bytes": 1024 * MIB}],
        "nics": [{"network": api.all("networks/")[0]["id"]}],
        "start": True,
    }
    vm = api.do("vms/", body)["subject"].partition(":")[2]
    for operation, state in (("suspend", "paused"), ("resume", "running"), ("stop", "stopped"), ("start", "running")):
        api.do(f"vms/{vm}/{operation}/")
        assert api.get(f"vms/{vm}/")["state"] == state
    api.do(f"vms/{vm}/delete/", {"disks": True})
    assert api.request("GET", f"vms/{vm}/").status == 404


def test_after_a_restart_the_guests_are_as_they_were(demo: SimulatedDemo, api: Api):
    stopped = next(row for row in api.all("vms/") if row["state"] == "running")
    api.do(f"vms/{stopped['id']}/stop/")
    before = states(api)
    for name in demo.shares:
        demo.state.process(name).kill()
    wait(lambda: api.all("nodes/?state=offline"), 30, "the nodes to be silent")
    demo.start_nodes()
    demo.wait_for_nodes()
    wait(lambda: states(api) == before, 20, "the guests to be seen again")


def test_guests_that_come_and_go_are_seen(demo: SimulatedDemo, api: Api):
    before = states(api)
    for name, nodes in demo.shares.items():
        demo.state.process(name).stop()
        demo.run_nodes(name, nodes, changes_per_s=20)
    wait(lambda: states(api) != before, 30, "a change to be seen")
    assert set(states(api).values()) <= {"running", "stopped"}


def test_a_folder_with_real_nodes_is_not_made_a_simulated_one(tmp_path: Path):
    from deploy.lab.demo import wanted_simulation

    (tmp_path / "credentials.json").write_text("{}")
    with pytest.raises(SystemExit, match="real nodes"):
        wanted_simulation(State(tmp_path, 1), nodes=3, vms=None, changes_per_s=None, fresh=False)
    assert wanted_simulation(State(tmp_path, 1), nodes=3, vms=None, changes_per_s=None, fresh=True) == Simulation(
        3, 10, 0.0
    )
