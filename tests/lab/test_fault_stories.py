"""Troubles with a story of their own: jobs that are really stuck, a boot without a panel, guests that do not listen."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from deploy.lab.client import FINAL
from deploy.lab.faults import Faults
from deploy.lab.node import Node
from deploy.lab.processes import wait
from tests.lab.conftest import MIB, Lab, console, sample

IMAGES = "/var/lib/libvirt/images"
TWO_DISKS = {"disks": [{"size_bytes": 128 * MIB}, {"size_bytes": 64 * MIB}]}
DEAF: dict[str, Any] = {"image": None, "disks": [{"size_bytes": MIB}], "nics": [], "memory_bytes": 32 * MIB}
"""A guest without an operating system: it hears no power button."""
AT_ONCE_S = 3.0


@contextmanager
def somebody_rests_on(node: Node, disk: str) -> Iterator[None]:
    """A foreign file whose backing file is this disk: law 3 forbids to delete it."""
    foreign = f"{IMAGES}/theirs-{disk}.qcow2"
    node.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", f"{IMAGES}/{disk}.qcow2", foreign)
    try:
        yield
    finally:
        node.run("rm", foreign)


def delete_that_gets_stuck(lab: Lab, faults: Faults, vm: dict[str, Any]) -> tuple[str, str, Any]:
    """Past the pivot, at the second disk. The job, the disk, and who rests on it (to be left)."""
    node = lab.nodes["n2"]
    armed = faults.arm("n2.agent", "agent.reply-written", "hold", "disk.delete")
    job = lab.api.post(f"vms/{vm['id']}/delete/", {"disks": True})["job"]["id"]
    faults.wait_reached(armed)
    there = node.run("ls", IMAGES).stdout
    disk = next(d["id"] for d in vm["disks"] if f"{d['id']}.qcow2" in there)
    foreign = somebody_rests_on(node, disk)
    foreign.__enter__()
    faults.release(armed)
    stuck = lab.api.follow(job, 90)
    assert stuck["state"] == "stuck", stuck
    assert stuck["error"]["code"] == "disk_in_use"
    return job, disk, foreign


def a_stuck_delete_goes_on_when_its_cause_is_gone(lab: Lab, faults: Faults):
    vm = lab.create(node=lab.node_id("n2"), **TWO_DISKS)
    job, _disk, foreign = delete_that_gets_stuck(lab, faults, vm)
    assert lab.api.request("POST", f"jobs/{job}/cancel/", {}).status == 409
    foreign.__exit__(None, None, None)
    lab.api.post(f"jobs/{job}/retry/")
    assert lab.api.follow(job)["state"] == "succeeded"
    assert lab.api.request("GET", f"vms/{vm['id']}/").status == 404


def an_administrators_word_is_held_against_what_the_node_shows(lab: Lab, faults: Faults):
    node = lab.nodes["n2"]
    vm = lab.create(node=lab.node_id("n2"), nics=[], **TWO_DISKS)
    job, disk, foreign = delete_that_gets_stuck(lab, faults, vm)
    word = {"outcome": "done", "note": "I have looked"}

    def resolution() -> dict[str, Any] | None:
        said = lab.api.job(job)["resolution"]
        return said if said["state"] != "asked" else None

    lab.api.post(f"jobs/{job}/resolve/", word)
    refused = wait(resolution, 20, "the node to be looked at")
    assert refused["state"] == "refused"
    assert [c["object"] for c in refused["contradictions"]] == [f"disk:{disk}"]
    assert lab.api.job(job)["state"] == "stuck"
    # The administrator makes the word true, by hand.
    foreign.__exit__(None, None, None)
    node.run("rm", f"{IMAGES}/{disk}.qcow2")
    lab.api.post(f"jobs/{job}/resolve/", word)
    assert wait(resolution, 20, "the node to be looked at")["state"] == "applied"
    assert lab.api.follow(job)["state"] == "succeeded"
    assert lab.api.request("GET", f"vms/{vm['id']}/").status == 404
    lab.create(node=lab.node_id("n2"))


def a_create_that_cannot_be_put_back_waits_for_its_cause_to_go(lab: Lab, faults: Faults):
    node = lab.nodes["n2"]
    armed = faults.arm("n2.agent", "agent.started-written", "hold", "domain.define")
    answer = lab.api.post("vms/", lab.vm_body(node=lab.node_id("n2")))
    job, vm = answer["job"]["id"], answer["vm"]["id"]
    faults.wait_reached(armed)
    with somebody_rests_on(node, lab.api.get(f"vms/{vm}/")["disks"][0]["id"]):
        lab.api.post(f"jobs/{job}/cancel/")
        faults.release(armed)
        stuck = lab.api.follow(job, 90)
        assert (stuck["state"], stuck["error"]["code"]) == ("stuck", "disk_in_use")
    lab.api.post(f"jobs/{job}/retry/")
    ended = lab.api.follow(job)
    assert ended["state"] == "cancelled", ended
    assert lab.api.request("GET", f"vms/{vm}/").status == 404


def a_node_boots_its_guests_while_the_panel_is_away(lab: Lab, faults: Faults):
    """Law 5: only local disks, so nobody needs to be asked."""
    vm = lab.create(node=lab.node_id("n2"))["id"]
    lab.create(node=lab.node_id("n2"), start=False)
    node = lab.nodes["n2"]
    lab.wait_console(vm, "GUEST-UP")
    for part in ("web", "conductor", "redis", "n2"):
        faults.kill(part)
    faults.start("n2")
    wait(lambda: "boots=2" in console(node, vm), 60, "the guest's second boot")
    assert len(node.guests()) == 1
    for part in ("redis", "conductor", "web"):
        faults.start(part)
    wait(lab.api.ready, 30, "the panel")
    lab.wait_node("n2")
    lab.wait_state(vm, "running")
    assert len(node.guests()) == 1


def guests_that_do_not_listen_hold_up_no_stop(lab: Lab, faults: Faults):
    """Six long verbs on one node, and a stop beside them; then the six say what can be done instead."""
    node = lab.node_id("n2")
    deaf = [lab.create(node=node, **DEAF)["id"] for _ in range(6)]
    other = lab.create(node=node, **DEAF)["id"]
    jobs = [lab.api.post(f"vms/{vm}/shutdown/", {"timeout_s": 12})["job"]["id"] for vm in deaf]

    def all_wait() -> bool:
        return all(lab.api.job(job)["steps"][1]["state"] == "running" for job in jobs)

    wait(all_wait, 10, "six guests to be asked")
    began = time.monotonic()
    lab.api.do(f"vms/{other}/stop/")
    assert time.monotonic() - began < AT_ONCE_S
    assert not any(lab.api.job(job)["state"] in FINAL for job in jobs)
    for vm, job in zip(deaf, jobs, strict=True):
        ended = lab.api.follow(job, 40)
        assert (ended["state"], ended["error"]["code"]) == ("failed", "guest_did_not_shut_down")
        assert ended["error"]["hint"]
        assert lab.api.get(f"vms/{vm}/")["state"] == "running"
        lab.api.do(f"vms/{vm}/stop/")
        lab.wait_state(vm, "stopped")


def a_shutdown_that_nobody_hears_can_be_cancelled(lab: Lab, faults: Faults, *, also_killed: bool = False):
    vm = lab.create(node=lab.node_id("n2"), **DEAF)["id"]
    pressed = faults.arm("n2.agent", "domain.after-call", "hold", "domain.shutdown")
    job = lab.api.post(f"vms/{vm}/shutdown/", {"timeout_s": 20})["job"]["id"]
    faults.wait_reached(pressed)
    taken = faults.arm("n2.agent", "agent.cancel-taken", "hold")
    lab.api.post(f"jobs/{job}/cancel/")
    faults.wait_reached(taken)
    if also_killed:
        faults.restart("n2.agent")
    faults.release(taken)
    faults.release(pressed)
    ended = lab.api.follow(job, 60)
    assert ended["state"] in ("cancelled", "failed"), ended
    assert lab.api.get(f"vms/{vm}/")["state"] == "running"


def a_cancelled_shutdown_outlives_its_agent(lab: Lab, faults: Faults):
    a_shutdown_that_nobody_hears_can_be_cancelled(lab, faults, also_killed=True)


def foreign_things_of_exactly_the_wanted_names_survive(lab: Lab, faults: Faults):
    """Somebody else's file, then somebody else's domain, is made in the moment in which the agent dies."""
    node = lab.nodes["n2"]

    def create_that_meets(verb: str, foreign: Callable[[dict[str, Any]], None]) -> None:
        armed = faults.arm("n2.agent", "agent.started-written", "hold", verb)
        answer = lab.api.post("vms/", lab.vm_body(node=lab.node_id("n2")))
        faults.wait_reached(armed)
        foreign(lab.api.get(f"vms/{answer['vm']['id']}/"))
        faults.restart("n2.agent")
        faults.release(armed)
        ended = lab.api.follow(answer["job"]["id"])
        assert (ended["state"], ended["error"]["code"]) == ("failed", "exists_not_ours"), ended

    files: list[str] = []

    def make_file(vm: dict[str, Any]) -> None:
        files.append(f"{IMAGES}/{vm['disks'][0]['id']}.qcow2")
        node.run("tee", files[0], input="theirs")

    domains: list[str] = []

    def make_domain(vm: dict[str, Any]) -> None:
        domains.append(f"{vm['name']}.{vm['id']}")
        kind = "<os><type>hvm</type></os>"
        xml = f"<domain type='qemu'><name>{domains[0]}</name><memory>65536</memory>{kind}</domain>"
        node.run("virsh", "define", "/dev/stdin", input=xml)

    try:
        create_that_meets("disk.create", make_file)
        create_that_meets("domain.define", make_domain)
        assert node.run("cat", files[0]).stdout == "theirs"
        assert domains[0] in node.run("virsh", "list", "--all", "--name").stdout.split()
    finally:
        for path in files:
            node.run("rm", path)
        for domain in domains:
            node.run("virsh", "undefine", domain)


def a_hung_guest_holds_its_job_until_it_is_ended_or_an_administrator_speaks(lab: Lab, faults: Faults):
    """QEMU hangs, so libvirtd waits for its monitor for ever, while the node is online all the time."""
    node = lab.nodes["n2"]

    def suspend_of_a_hung_guest() -> tuple[str, str, int]:
        before = set(node.guests())
        vm = lab.create(node=lab.node_id("n2"), **DEAF)["id"]
        (pid,) = set(node.guests()) - before
        os.kill(pid, signal.SIGSTOP)
        job = lab.api.post(f"vms/{vm}/suspend/")["job"]["id"]

        def said() -> bool:
            return (lab.api.job(job)["waiting_reason"] or {}).get("code") == "no_answer"

        wait(said, 30, "the job to say who holds it")
        return vm, job, pid

    vm, job, pid = suspend_of_a_hung_guest()
    began = time.monotonic()
    neighbour = lab.create(node=lab.node_id("n2"), **DEAF)["id"]
    lab.api.do(f"vms/{neighbour}/stop/")
    assert time.monotonic() - began < AT_ONCE_S, "its neighbours do not notice"
    os.kill(pid, signal.SIGKILL)
    assert lab.api.follow(job)["state"] == "failed"
    lab.wait_state(vm, "stopped")
    lab.api.do(f"vms/{vm}/start/")
    vm, job, pid = suspend_of_a_hung_guest()
    lab.api.post(f"jobs/{job}/resolve/", {"outcome": "undone", "note": "its QEMU hangs", "node": "n2"})
    wait(lambda: lab.api.job(job)["resolution"]["state"] == "applied", 40, "the administrator's word to be taken")
    ended = lab.api.job(job)
    assert (ended["state"], [row["node"] for row in ended["leftovers"]]) == ("failed", ["n2"])
    stop = lab.api.post(f"vms/{vm}/stop/")["job"]["id"]
    os.kill(pid, signal.SIGKILL)
    assert lab.api.follow(stop)["state"] == "succeeded"
    lab.wait_state(vm, "stopped")


def a_guest_that_hangs_can_be_stopped_also_after_a_restart_of_libvirtd(lab: Lab, faults: Faults):
    """libvirtd comes back and waits for the QEMU's monitor; every question about the domain's job waits for that."""
    node = lab.nodes["n2"]
    before = set(node.guests())
    vm = lab.create(node=lab.node_id("n2"), **DEAF)["id"]
    (pid,) = set(node.guests()) - before
    os.kill(pid, signal.SIGSTOP)
    faults.restart("n2.libvirtd")
    began = time.monotonic()
    assert lab.api.follow(lab.api.post(f"vms/{vm}/stop/")["job"]["id"], 60)["state"] == "succeeded"
    assert time.monotonic() - began < 25, "before libvirt gives up waiting for its lock"
    lab.wait_state(vm, "stopped")


STORIES: list[Callable[[Lab, Faults], None]] = [
    a_stuck_delete_goes_on_when_its_cause_is_gone,
    an_administrators_word_is_held_against_what_the_node_shows,
    a_create_that_cannot_be_put_back_waits_for_its_cause_to_go,
    a_node_boots_its_guests_while_the_panel_is_away,
    guests_that_do_not_listen_hold_up_no_stop,
    a_shutdown_that_nobody_hears_can_be_cancelled,
    a_cancelled_shutdown_outlives_its_agent,
    foreign_things_of_exactly_the_wanted_names_survive,
    a_hung_guest_holds_its_job_until_it_is_ended_or_an_administrator_speaks,
    a_guest_that_hangs_can_be_stopped_also_after_a_restart_of_libvirtd,
]


@pytest.mark.parametrize("story", sample(STORIES, 1), ids=lambda story: story.__name__)
def test_story(lab: Lab, faults: Faults, story: Callable[[Lab, Faults], None]):
    story(lab, faults)
