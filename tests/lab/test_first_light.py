"""The whole way on real parts: API, conductor, broker, agent, libvirt, QEMU, and the guest's own words."""

import json
import subprocess

import pytest

from deploy.lab import broker
from deploy.lab.processes import Failed, run, wait
from deploy.lab.state import LAB_ADDRESS, REDIS_PORT
from tests.lab.conftest import MIB, Lab, console, goes_back_to_its_snapshot


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_guest_is_made_from_an_image_boots_gets_its_address_and_is_deleted(lab: Lab, node: str):
    vm = lab.create(node=lab.node_id(node))
    assert vm["state"] == "running"
    lab.wait_console(vm["id"], "GUEST-UP")
    assert "DISK boots=1 sectors=262144" in console(lab.nodes[node], vm["id"])
    address = lab.api.get(f"vms/{vm['id']}/")["addresses"][0]["address"]
    lab.wait_console(vm["id"], f"LEASE {address}")
    assert lab.nodes[node].run("virsh", "list", "--name").stdout.strip().endswith(vm["id"])
    lab.api.do(f"vms/{vm['id']}/delete/", {"disks": True})
    assert lab.api.request("GET", f"vms/{vm['id']}/").status == 404


def test_every_power_action_does_what_it_says(lab: Lab):
    vm = lab.create()["id"]
    lab.wait_console(vm, "GUEST-UP")
    for action, state in [
        ("suspend", "paused"),
        ("resume", "running"),
        ("reset", "running"),
        ("stop", "stopped"),
        ("start", "running"),
    ]:
        lab.api.do(f"vms/{vm}/{action}/")
        lab.wait_state(vm, state)
    lab.wait_console(vm, "GUEST-UP")
    lab.api.do(f"vms/{vm}/shutdown/")
    lab.wait_state(vm, "stopped")
    assert "POWER-BUTTON" in console(lab.nodes[lab.node_name(vm)], vm)


def test_a_disk_grows_under_its_guest_and_the_guest_has_it(lab: Lab):
    vm = lab.create()["id"]
    lab.wait_console(vm, "GUEST-UP")
    disk, node = lab.api.all(f"disks/?vm={vm}")[0]["id"], lab.nodes[lab.node_name(vm)]
    lab.api.do(f"disks/{disk}/resize/", {"size_bytes": 256 * MIB - 1})
    assert lab.api.get(f"disks/{disk}/")["size_bytes"] == 256 * MIB
    domain = node.run("virsh", "list", "--name").stdout.split()[-1]
    assert f"Capacity:       {256 * MIB}" in node.run("virsh", "domblkinfo", domain, "vda").stdout
    lab.api.do(f"vms/{vm}/reset/")
    lab.wait_console(vm, "DISK boots=2 sectors=524288")


def test_a_running_guest_goes_back_to_its_snapshot(lab: Lab):
    vm = lab.create(disks=[{"size_bytes": 128 * MIB}, {"size_bytes": 64 * MIB}])["id"]
    goes_back_to_its_snapshot(lab, vm)
    lab.api.do(f"vms/{vm}/delete/", {"disks": True})  # the snapshot that is left goes too


def disks_seen(lab: Lab, vm: str) -> list[str]:
    """What the guest has said of its disks since it booted, each time that they changed."""
    said = console(lab.nodes[lab.node_name(vm)], vm).splitlines()
    return [line.removeprefix("DISKS ").rstrip(". ") for line in said if line.startswith("DISKS ")]


def test_a_disk_comes_to_a_guest_that_runs_and_goes_again(lab: Lab):
    vm = lab.create()["id"]
    wait(lambda: disks_seen(lab, vm) == ["vda"], 60, "the guest to see its disk")
    disk = lab.api.do("disks/", {"vm": vm, "size_bytes": 64 * MIB})["subject"].removeprefix("disk:")
    wait(lambda: disks_seen(lab, vm) == ["vda", "vda vdb"], 30, "the guest to see one more")
    assert lab.api.get(f"disks/{disk}/")["pending"] is None
    assert lab.api.request("POST", f"disks/{disk}/delete/", {}).body["code"] == "disk_attached"
    lab.api.do(f"disks/{disk}/detach/")
    assert disks_seen(lab, vm)[2:] == ["vda"] or wait(lambda: disks_seen(lab, vm)[2:] == ["vda"], 10, "it to be gone")
    assert (lab.api.get(f"disks/{disk}/")["vm"], lab.api.get(f"disks/{disk}/")["pending"]) == (None, None)
    lab.api.do(f"disks/{disk}/attach/", {"vm": vm})
    wait(lambda: disks_seen(lab, vm)[3:] == ["vda vdb"], 30, "it to be back")
    lab.api.do(f"disks/{disk}/detach/")
    lab.api.do(f"disks/{disk}/delete/")
    assert not [row for row in lab.api.all("disks/") if row["id"] == disk]


def test_a_guest_that_does_not_let_go_of_a_disk_keeps_it_until_it_is_off(lab: Lab):
    vm = lab.create(disks=[{"size_bytes": 128 * MIB}, {"size_bytes": 64 * MIB}])["id"]
    wait(lambda: disks_seen(lab, vm) == ["vda vdb"], 60, "the guest to see its disks")
    disk = next(row["id"] for row in lab.api.all(f"disks/?vm={vm}") if row["size_bytes"] == 64 * MIB)
    lab.api.do(f"vms/{vm}/suspend/")
    lab.api.do(f"disks/{disk}/detach/")
    assert (lab.api.get(f"disks/{disk}/")["vm"], lab.api.get(f"disks/{disk}/")["pending"]) == (vm, "detach")
    lab.api.do(f"vms/{vm}/stop/")
    assert lab.api.get(f"disks/{disk}/")["vm"] is None
    lab.api.do(f"vms/{vm}/start/")
    wait(lambda: disks_seen(lab, vm) == ["vda"], 60, "the guest to see only the other")
    lab.api.do(f"disks/{disk}/delete/")


@pytest.mark.parametrize("runs", [True, False])
def test_a_deleted_vm_is_made_again_of_its_backup_with_what_its_disk_held(lab: Lab, runs: bool):
    vm = lab.create(name=f"kept-{runs}".lower())["id"]
    lab.wait_console(vm, "DISK boots=1")
    lab.wait_console(vm, "GUEST-UP")
    if not runs:
        lab.api.do(f"vms/{vm}/stop/")
    lab.api.do(f"vms/{vm}/backup/")
    if runs:
        lab.api.do(f"vms/{vm}/reset/")
        lab.wait_console(vm, "DISK boots=2")
    lab.api.do(f"vms/{vm}/delete/", {"disks": True})
    backup = lab.api.all("backups/")[0]
    assert (backup["state"], backup["vm"]) == ("ready", None)
    again = lab.api.do(f"backups/{backup['id']}/restore/", {"name": "again", "start": True})
    restored = again["subject"].partition(":")[2]
    lab.wait_console(restored, "DISK boots=2")  # what it held at the time of the backup, and one boot more
    lab.api.do(f"backups/{backup['id']}/delete/")
    assert lab.api.all("backups/") == []


def test_an_iso_is_changed_while_the_guest_runs(lab: Lab):
    iso = wait(lambda: next(iter(lab.api.all("isos/")), None), 30, "the ISO to be seen")
    vm = lab.create(iso=iso["id"], image=None)["id"]
    node = lab.nodes[lab.node_name(vm)]
    lab.wait_console(vm, "GUEST-UP")

    def in_the_drive(*which: str) -> str:
        domain = node.run("virsh", "list", "--name").stdout.split()[-1]
        return next(
            line for line in node.run("virsh", "domblklist", domain, *which).stdout.splitlines() if "hda" in line
        )

    assert iso["name"] in in_the_drive()
    lab.api.do(f"vms/{vm}/iso/", {"iso": None})
    assert iso["name"] not in in_the_drive()
    assert iso["name"] not in in_the_drive("--inactive")
    lab.api.do(f"vms/{vm}/iso/", {"iso": iso["id"]})
    assert iso["name"] in in_the_drive()
    assert iso["name"] in in_the_drive("--inactive")


def test_an_iso_boots_first_and_the_blank_disk_is_there(lab: Lab):
    iso = wait(lambda: next(iter(lab.api.all("isos/")), None), 30, "the ISO to be seen")
    body = {"iso": iso["id"], "image": None, "disks": [{"size_bytes": 64 * MIB}]}
    vm = lab.create(**body)["id"]
    lab.wait_console(vm, "GUEST-UP")
    assert "DISK boots=1 sectors=131072" in console(lab.nodes[lab.node_name(vm)], vm)


def test_guests_that_ran_run_again_after_a_power_loss_of_their_node(lab: Lab, faults):
    running = lab.create(node=lab.node_id("n2"))["id"]
    stopped = lab.create(node=lab.node_id("n2"), start=False)["id"]
    lab.wait_console(running, "GUEST-UP")
    faults.kill("n2")
    lab.wait_node("n2", "offline", 30)
    assert lab.api.get(f"vms/{running}/")["state"] == "unknown"
    faults.start("n2")
    lab.wait_node("n2")
    lab.wait_state(running, "running")
    lab.wait_state(stopped, "stopped")
    wait(lambda: "boots=2" in console(lab.nodes["n2"], running), 30, "the guest's second boot from the same disk")


def test_one_nodes_broker_account_reaches_nothing_of_the_other(lab: Lab):
    """With n1's own certificate and password, against the keys of n2."""
    node, other = lab.nodes["n1"], lab.node_id("n2")
    own = lab.node_id("n1")
    tls = ["--tls", "--cacert", "/etc/pki/CA/cacert.pem", "--cert", "/etc/pki/ulei/cert.pem"]
    base = ["redis-cli", "-h", LAB_ADDRESS, "-p", str(REDIS_PORT), *tls, "--key", "/etc/pki/ulei/key.pem"]
    script = f'REDISCLI_AUTH=$(cat /var/lib/ulei/redis.password) exec {" ".join(base)} --user n{own} "$@"'

    def said(*command: str) -> str:
        return node.run("bash", "-c", script, "bash", *command, check=False).stdout

    assert "PONG" in said("PING")
    for command in (
        ["LPUSH", f"n.{other}.commands", "x"],
        ["XADD", f"n.{other}.events", "*", "a", "b"],
        ["GET", "panel.wake"],
        ["KEYS", "*"],
        ["ACL", "LIST"],
        ["CLIENT", "PAUSE", "10000"],
        ["EVAL", "return 1", "0"],
        ["FLUSHALL"],
        ["SUBSCRIBE", "panel.ch"],
    ):
        assert "NOPERM" in said(*command), command


def test_redis_lets_nobody_in_without_a_certificate_of_the_cluster(lab: Lab):
    command = f"redis-cli -h {LAB_ADDRESS} -p {REDIS_PORT} --tls --insecure PING".split()
    assert "PONG" not in lab.nodes["n1"].run(*command, check=False).stdout


def test_a_token_that_was_used_is_refused_in_words(lab: Lab):
    given = lab.demo.panel.manage("node_add", "n9", "10.99.0.19", "--json")
    given = json.loads(given)
    try:
        done = lab.nodes["n1"].run(*given["command"].replace(given["token"], "x" * 32).split(), check=False)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
    finally:
        lab.api.do(f"nodes/{given['id']}/remove/")


def test_the_demo_can_be_stopped_and_goes_on_with_what_it_had(lab: Lab):
    vm = lab.create()["id"]
    lab.wait_console(vm, "GUEST-UP")
    lab.demo.stop()
    assert run("ip", "netns").stdout.count(lab.demo.state.tag) == 0
    assert any("POWER-BUTTON" in console(node, vm) for node in lab.nodes.values())
    lab.demo.start(first_vm=False)
    lab.wait_state(vm, "running", 40)
    wait(lambda: "boots=2" in console(lab.nodes[lab.node_name(vm)], vm), 30, "the guest's second boot")
    assert lab.audit() == []


def test_the_audit_finds_what_somebody_did_behind_the_panels_back(lab: Lab):
    """An audit that is always silent would pass every other test of this folder."""
    vm = lab.create(start=False)
    node = lab.nodes[lab.node_name(vm["id"])]
    domain = f"{vm['name']}.{vm['id']}"
    xml = node.run("virsh", "dumpxml", domain).stdout
    node.run("virsh", "undefine", domain)
    assert any("has no domain" in text for text in lab.audit(settle_s=0))
    node.run("virsh", "define", "/dev/stdin", input=xml)
    broker.cli(lab.demo.state, "ACL", "SETUSER", "stranger", "on", "nopass")
    assert lab.audit(settle_s=0) == ["Redis user stranger is left over"]
    broker.cli(lab.demo.state, "ACL", "DELUSER", "stranger")
    assert lab.audit() == []


def test_history_tells_one_objects_story_from_all_sides(lab: Lab):
    vm = lab.create()
    env = lab.demo.state.panel_environment("manage")
    done = subprocess.run(["deploy/lab/history", f"domain:{vm['id']}"], capture_output=True, text=True, env=env)
    if done.returncode:
        raise Failed(done.stderr)
    assert "vm.create" in done.stdout
    assert "ledger" in done.stdout
    assert "domain.start" in done.stdout
