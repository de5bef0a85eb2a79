"""The panel is lost, and put back from a backup that is older than what its nodes have done since."""

import shutil
from pathlib import Path

from deploy.lab import broker
from deploy.lab.faults import Faults, GuestWatch
from deploy.lab.processes import wait
from tests.lab.conftest import Lab

PANEL = ("conductor", "enrol", "web")


def destroy_the_panel(lab: Lab, faults: Faults) -> None:
    """Its processes, its database, its keys and its CA. The nodes, their guests and Redis go on."""
    for name in PANEL:
        faults.kill(name)
    folder = lab.demo.state.folder
    for file in folder.glob("panel.*"):
        file.unlink()
    shutil.rmtree(lab.demo.state.ca)


def test_a_panel_put_back_from_a_backup_finds_its_nodes_and_says_what_it_does_not_know(own_lab: Lab, tmp_path: Path):
    lab, faults = own_lab, Faults(own_lab.demo)
    kept = lab.create("kept", node=lab.node_id("n1"))["id"]
    gone = lab.create("gone", node=lab.node_id("n2"))["id"]
    busy = lab.create("busy", node=lab.node_id("n2"))["id"]
    # A job is in the middle of its way when the backup is made.
    armed = faults.arm("n1.agent", "agent.started-written", "hold", "domain.define")
    half = lab.api.post("vms/", lab.vm_body("half", node=lab.node_id("n1")))
    faults.wait_reached(armed)
    backup = tmp_path / "panel.tar"
    lab.demo.panel.manage("panel_backup", str(backup))
    faults.release(armed)

    assert lab.api.follow(half["job"]["id"])["state"] == "succeeded"
    since = lab.create("since", node=lab.node_id("n1"))
    nic = since["nics"][0]
    forgotten = [
        since["id"],
        *(disk["id"] for disk in since["disks"]),
        nic["id"],
        lab.api.get(f"nics/{nic['id']}/")["mac"],
    ]
    lab.api.do(f"vms/{gone}/delete/", {"disks": True})
    lab.api.do(f"vms/{kept}/reset/")
    node2 = lab.node_id("n2")
    faults.kill("n2.agent")
    lab.api.post(f"vms/{busy}/stop/")
    waiting = f"n.{node2}.commands"
    wait(lambda: int(broker.cli(lab.demo.state, "LLEN", waiting)) > 0, 10, "the order to lie in the node's queue")
    running = {name: sorted(node.guests()) for name, node in lab.nodes.items()}
    assert [len(running[name]) for name in ("n1", "n2")] == [3, 1]

    with GuestWatch(lab.nodes) as watch:
        destroy_the_panel(lab, faults)
        lab.demo.panel.manage("panel_restore", str(backup), "--replace")
        lab.demo.panel.start()
        wait(lab.api.ready, 40, "the panel")
        wait(lambda: not int(broker.cli(lab.demo.state, "LLEN", waiting)), 10, "the order of the lost panel to be gone")
        lab.wait_node("n1")
        assert next(row["state"] for row in lab.api.all("nodes/") if row["name"] == "n2") == "offline"
        faults.start("n2.agent")
        lab.wait_node("n2")

        for vm, state in ((kept, "running"), (busy, "running"), (gone, "error")):
            lab.wait_state(vm, state)
        assert {name: sorted(node.guests()) for name, node in lab.nodes.items()} == running
        assert lab.api.request("GET", f"vms/{since['id']}/").status == 404
        strange = wait(lambda: unknown_guests(lab, "n1"), 30, "the node to show a guest that the panel does not know")
        assert f"since.{since['id']}" in strange
        assert unknown_guests(lab, "n2") is None

        # The job of then is not gone on with; a person looks, and says what has become of it.
        job = lab.api.job(half["job"]["id"])
        assert (job["state"], job["error"]["code"]) == ("stuck", "restored")
        lab.api.post(f"jobs/{job['id']}/retry/")
        job = lab.api.follow(job["id"])
        assert (job["state"], job["error"]["code"]) == ("stuck", "overtaken")
        lab.api.post(f"jobs/{job['id']}/resolve/", {"outcome": "done", "note": "it runs: I have looked"})
        assert wait(lambda: resolved(lab, job["id"]), 30, "the administrator's word to be taken") == "succeeded"
        lab.wait_state(half["vm"]["id"], "running")

        # From here on it is a panel like any other, above the numbers that its nodes have seen.
        lab.api.do(f"vms/{gone}/delete/", {"disks": True})
        lab.api.do(f"vms/{kept}/reset/")
        assert {name: sorted(node.guests()) for name, node in lab.nodes.items()} == running
        new = lab.create("new", node=lab.node_id("n2"))
        address = new["addresses"][0]["address"]
        assert address != since["addresses"][0]["address"]
        lab.wait_console(new["id"], f"LEASE {address}")
        for vm in (kept, busy, half["vm"]["id"], new["id"]):
            lab.api.do(f"vms/{vm}/delete/", {"disks": True})
    assert watch.violations == []
    left = lab.audit(settle_s=0)
    assert left
    assert [text for text in left if not any(word in text for word in forgotten)] == []


def unknown_guests(lab: Lab, name: str) -> str | None:
    """What the node's card says of guests that the panel does not know."""
    checks = next(row["checks"] for row in lab.api.all("nodes/") if row["name"] == name)
    return next((check["text"] for check in checks if check["code"] == "unknown_guests"), None)


def resolved(lab: Lab, job: str) -> str | None:
    state = lab.api.job(job)["state"]
    return state if state != "stuck" else None
