"""A part that is away, hangs, lies about the time or comes twice, and what the others must not feel of it."""

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.lab.faults import Faults
from deploy.lab.processes import ROOT, wait
from deploy.lab.state import LAB_ADDRESS, REDIS_PORT
from tests.lab.conftest import MIB, Lab, console, sample

# A neighbour's troubles may cost this much and not more (seconds). Far above what is measured in quiet, far below
# any time-out that a careless wait would run into.
LIST_PAGE_S = 1.0
RESET_S = 4.0

AWAY: dict[str, Callable[[Faults], None]] = {
    "its broker port refuses": lambda faults: faults.refuse("n1"),
    "its cable is out": lambda faults: faults.cut_cable("n1"),
    "its packets are dropped": lambda faults: faults.drop("n1"),
    "its libvirtd hangs": lambda faults: faults.freeze("n1.libvirtd"),
    "its agent hangs": lambda faults: faults.freeze("n1.agent"),
}


@pytest.mark.parametrize("trouble", sample(AWAY, 2))
def test_a_node_in_trouble_slows_nobody_else(lab: Lab, faults: Faults, trouble: str):
    near = lab.create(node=lab.node_id("n2"))["id"]
    far = lab.create(node=lab.node_id("n1"))["id"]
    AWAY[trouble](faults)
    # A job for the troubled node is under way meanwhile; it must block nothing but itself.
    pending = lab.api.post(f"vms/{far}/reset/")["job"]["id"]
    slowest_page = slowest_reset = 0.0
    began = time.monotonic()
    while time.monotonic() - began < 8:
        slowest_page = max(slowest_page, *(lab.api.request("GET", p).seconds for p in ("vms/", "nodes/", "jobs/")))
        started = time.monotonic()
        lab.api.do(f"vms/{near}/reset/")
        slowest_reset = max(slowest_reset, time.monotonic() - started)
    assert slowest_page < LIST_PAGE_S
    assert slowest_reset < RESET_S
    faults.undo()
    lab.wait_node("n1")
    assert lab.api.follow(pending, 90)["state"] == "succeeded"


def test_a_silent_node_is_offline_within_15_s_and_back_by_itself(lab: Lab, faults: Faults):
    vm = lab.create(node=lab.node_id("n2"))["id"]
    lab.wait_console(vm, "GUEST-UP")
    guest = lab.nodes["n2"].guests()
    began = time.monotonic()
    faults.drop("n2")
    lab.wait_node("n2", "offline", 20)
    assert time.monotonic() - began < 17  # one heartbeat may have been on its way
    assert lab.api.get(f"vms/{vm}/")["state"] == "unknown"
    faults.heal("n2")
    lab.wait_node("n2", "online", 60)
    lab.wait_state(vm, "running")
    assert lab.nodes["n2"].guests() == guest


def test_a_broker_that_died_without_a_word_is_found_again_by_the_queue_too(lab: Lab, faults: Faults):
    """The queue's connection only ever waits for its next message: nobody tells it that its other end is gone."""
    vm = lab.create(node=lab.node_id("n2"))["id"]
    faults.drop("n2")
    faults.restart("redis")
    faults.heal("n2")
    lab.wait_node("n2")
    assert lab.api.follow(lab.api.post(f"vms/{vm}/reset/")["job"]["id"], 40)["state"] == "succeeded"


def test_a_nodes_migration_ports_take_nobody_and_still_serve_its_own_connections(lab: Lab):
    """They are also among those from which a machine connects to others."""

    def connect(node: str, target: tuple[str, int], source_port: int = 0) -> str:
        code = (
            "import socket\n"
            f"try: socket.create_connection({target!r}, timeout=2, source_address=('', {source_port})); print('open')\n"
            "except OSError as error: print(type(error).__name__)"
        )
        return lab.nodes[node].run("python3", "-c", code).stdout.strip()

    assert connect("n2", (lab.nodes["n1"].address, 16514)) == "TimeoutError"
    assert connect("n2", (lab.nodes["n1"].address, 49152)) == "TimeoutError"
    assert connect("n2", (lab.nodes["n1"].address, 49151)) == "ConnectionRefusedError"
    assert connect("n2", (LAB_ADDRESS, REDIS_PORT), source_port=49190) == "open"


@pytest.mark.parametrize("process", sample(["conductor", "web", "n2.agent"], 1))
def test_a_clock_set_back_ten_minutes_changes_nothing(lab: Lab, faults: Faults, process: str):
    faults.set_clock(process, "-10m")
    wait(lab.api.ready, 30, "the panel")
    lab.wait_node("n2")
    vm = lab.create(node=lab.node_id("n2"))["id"]
    lab.wait_console(vm, "GUEST-UP")
    lab.api.do(f"vms/{vm}/delete/", {"disks": True})


def test_a_node_that_vanishes_mid_create_is_said_and_the_job_can_be_ended(own_lab: Lab):
    lab, faults = own_lab, Faults(own_lab.demo)
    armed = faults.arm("n2.agent", "agent.effect-done", "hold", "domain.define")
    answer = lab.api.post("vms/", lab.vm_body(node=lab.node_id("n2")))
    job, vm = answer["job"]["id"], answer["vm"]["id"]
    faults.wait_reached(armed)
    faults.kill("n2")
    faults.release(armed)
    lab.wait_node("n2", "offline", 30)
    lab.api.post(f"jobs/{job}/cancel/")
    wait(lambda: lab.api.job(job)["state"] in ("undoing", "cancelling"), 10, "the job to turn round")
    word = {"outcome": "undone", "note": "it burnt"}
    assert lab.api.request("POST", f"jobs/{job}/resolve/", word).status == 422  # its name must be typed
    lab.api.post(f"jobs/{job}/resolve/", word | {"node": "n2"})
    wait(lambda: lab.api.job(job)["resolution"]["state"] != "asked", 30, "the word to be taken")
    ended = lab.api.job(job)
    assert ended["state"] in ("cancelled", "failed"), ended
    assert ended["leftovers"], "what may be left over on the silent node is listed"
    assert lab.api.request("GET", f"vms/{vm}/").status == 404
    # Other work goes on without it, and when it comes back nothing of the dead job runs.
    lab.create(node=lab.node_id("n1"))
    faults.start("n2")
    lab.wait_node("n2")
    assert lab.nodes["n2"].guests() == []
    assert all(text.startswith("n2: ") for text in lab.audit(settle_s=5))


def test_two_conductors_at_once_do_nothing_twice(lab: Lab, faults: Faults):
    state = lab.demo.state
    second = state.process("conductor.second")
    env = state.panel_environment("conductor.second")
    second.start([state.python, "manage.py", "conductor", "--without-lease"], env)
    try:
        ids = [lab.create()["id"] for _ in range(3)]
        for vm in ids:
            lab.api.do(f"vms/{vm}/delete/", {"disks": True})
    finally:
        second.kill()


def test_foreign_things_of_the_wanted_names_survive(lab: Lab, faults: Faults):
    """A domain and a file that are not ours, and a create that dies beside them."""
    node = lab.nodes["n2"]
    images = "/var/lib/libvirt/images"
    node.run("bash", "-c", f"echo theirs > {images}/theirs.qcow2; echo theirs > {images}/theirs.part")
    xml = "<domain type='qemu'><name>theirs</name><memory>65536</memory><os><type>hvm</type></os></domain>"
    node.run("virsh", "define", "/dev/stdin", input=xml)
    try:
        faults.arm("n2.agent", "agent.effect-done", "kill", "disk.create")
        answer = lab.api.post("vms/", lab.vm_body("theirs", node=lab.node_id("n2")))
        faults.wait_dead("n2.agent")
        faults.start("n2.agent")
        assert lab.api.follow(answer["job"]["id"])["state"] == "succeeded"
        lab.api.do(f"vms/{answer['vm']['id']}/delete/", {"disks": True})
        assert node.run("cat", f"{images}/theirs.qcow2", f"{images}/theirs.part").stdout == "theirs\ntheirs\n"
        assert "theirs" in node.run("virsh", "list", "--all", "--name").stdout.split()
    finally:
        node.run("virsh", "undefine", "theirs", check=False)
        node.run("rm", f"{images}/theirs.qcow2", f"{images}/theirs.part", check=False)


def test_twenty_creates_at_once_overshoot_no_node(lab: Lab, faults: Faults):
    """More memory is asked for than there is: some are refused with 507, none takes what another has."""
    free = min(row["memory_limit_bytes"] - row["memory_allocated_bytes"] for row in lab.api.all("nodes/"))
    body = lab.vm_body(start=False, memory_bytes=max(128 * MIB, free // 6 // MIB * MIB))
    answers = []

    def ask(number: int) -> None:
        answers.append(lab.api.request("POST", "vms/", body | {"name": f"crowd{number}"}))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status for answer in answers} <= {202, 507}
    for row in lab.api.all("nodes/"):
        assert row["memory_allocated_bytes"] <= row["memory_limit_bytes"]
        assert row["cpus_allocated"] <= row["cpus_limit"]
    for answer in answers:
        if answer.status == 202:
            lab.api.follow(answer.body["job"]["id"], 120)


def test_an_agent_replaced_while_it_works_goes_on(lab: Lab, faults: Faults):
    armed = faults.arm("n2.agent", "agent.started-written", "hold", "domain.define")
    answer = lab.api.post("vms/", lab.vm_body(node=lab.node_id("n2")))
    faults.wait_reached(armed)
    replaced = threading.Thread(target=lambda: lab.nodes["n2"].agent.stop(20))
    replaced.start()
    faults.release(armed)
    replaced.join()
    faults.start("n2.agent")
    assert lab.api.follow(answer["job"]["id"])["state"] == "succeeded"


def test_a_full_disk_of_the_panel_loses_nothing(small_disk_lab: Lab):
    lab = small_disk_lab
    faults = Faults(lab.demo)
    vm = lab.create(node=lab.node_id("n1"))["id"]
    armed = faults.arm("n1.agent", "agent.effect-done", "hold", "domain.define")
    answer = lab.api.post("vms/", lab.vm_body(node=lab.node_id("n1")))
    faults.wait_reached(armed)
    faults.fill_disk()
    faults.release(armed)
    assert lab.api.request("POST", "vms/", lab.vm_body()).status in (500, 503, 507)
    faults.empty_disk()
    faults.undo()
    wait(lab.api.ready, 30, "the panel")
    assert lab.api.follow(answer["job"]["id"], 90)["state"] in ("succeeded", "failed")
    lab.wait_settled()
    lab.wait_state(vm, "running")
    assert lab.audit() == []


def test_a_second_demo_beside_this_one_shares_nothing(lab: Lab):
    """Another state folder, another port: its own namespaces, and --stop of one leaves the other alone."""
    folder, port = lab.demo.state.folder.with_name("beside"), lab.demo.state.port + 1
    env = lab.demo.state.environment("beside") | {"ULEI_STATE": str(folder), "ULEI_PORT": str(port)}
    env["ULEI_CACHE"] = str(lab.demo.state.cache)

    def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["python3", "-m", "deploy.lab.demo", *arguments]
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)

    try:
        done = demo("--fresh")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Ulei is ready" in done.stdout
    finally:
        assert demo("--stop").returncode == 0
    assert lab.api.ready()
    assert all(row["state"] == "online" for row in lab.api.all("nodes/"))
    assert console(lab.nodes["n1"], "none") == ""


def test_a_guest_whose_start_libvirtd_did_not_survive_is_started_by_the_next_one(lab: Lab, faults: Faults):
    """Killed before there is a QEMU: libvirt by itself then takes the domain for active and refuses even its end."""
    node = lab.nodes["n1"]
    vm = lab.create(node=lab.node_id("n1"), start=False)["id"]
    # The file of the domain's status is put in place once before the process that becomes QEMU is made, and once with
    # its number while that process waits for a last word from libvirtd.
    strike = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=rename:signal=KILL:when=2"]
    with subprocess.Popen(["timeout", "30", *strike, "-p", str(node.libvirtd.pid())]):
        wait(lambda: "TracerPid:\t0\n" not in Path(f"/proc/{node.libvirtd.pid()}/status").read_text(), 10, "strace")
        job = lab.api.post(f"vms/{vm}/start/")["job"]["id"]
    faults.wait_dead("n1.libvirtd")
    assert node.guests() == []
    faults.start("n1.libvirtd")
    assert lab.api.follow(job, 25)["state"] == "succeeded"
    lab.wait_console(vm, "GUEST-UP")
    assert len(node.guests()) == 1
