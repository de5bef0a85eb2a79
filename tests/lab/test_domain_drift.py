"""What people do by virsh behind the panel's back, on real nodes: seen within seconds, and each has its way out."""

import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from deploy.lab.node import Node
from deploy.lab.processes import wait
from tests.lab.conftest import MIB, Lab

SHARED, IMAGES = "/var/lib/libvirt/shared", "/var/lib/libvirt/images"
FORGET = """
from cluster.models import Disk, Node, Vm
vm = Vm.objects.select_related("node").get(pk={vm!r})
Node.objects.filter(pk=vm.node_id).update(
    memory_allocated_bytes=vm.node.memory_allocated_bytes - vm.memory_bytes,
    cpus_allocated=vm.node.cpus_allocated - vm.vcpus,
)
Disk.objects.filter(vm=vm).delete()
vm.delete()
"""
"""As a backup of the panel that is older than the VM would."""
SECONDS = 5.0
"""Within so many each change must be seen; the next full report may be a minute away."""


def domain_of(row: dict[str, Any]) -> str:
    return f"{row['name']}.{row['id']}"


def virsh(node: Node, *argv: str, **options: Any) -> str:
    return str(node.run("virsh", "-c", "qemu:///system", *argv, **options).stdout)


def seen(lab: Lab, vm: str, shows: Callable[[dict[str, Any]], Any], what: str) -> dict[str, Any]:
    began = time.monotonic()
    row = wait(lambda: row if shows(row := lab.api.get(f"vms/{vm}/")) else None, SECONDS, what)
    print(f"{what}: seen after {time.monotonic() - began:.1f} s")
    return dict(row)


def drift(row: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {each["field"]: (each["panel"], each["seen"]) for each in row["drift"]}


def test_what_virsh_does_to_a_vm_is_seen_within_seconds_and_is_taken_over_or_put_back(lab: Lab) -> None:
    vm = lab.create(start=False, node=lab.node_id("n1"))
    pk, node, domain = vm["id"], lab.nodes["n1"], domain_of(vm)
    assert vm["drift"] == []

    virsh(node, "start", domain)
    seen(lab, pk, lambda row: row["state"] == "running", "a start by hand")
    virsh(node, "destroy", domain)
    seen(lab, pk, lambda row: row["state"] == "stopped", "a stop by hand")

    virsh(node, "setvcpus", domain, "2", "--maximum", "--config")
    virsh(node, "setvcpus", domain, "2", "--config")
    virsh(node, "setmaxmem", domain, "192M", "--config")
    virsh(node, "autostart", domain)
    nic = vm["nics"][0]["mac"]
    virsh(node, "detach-interface", domain, "bridge", "--mac", nic, "--config")
    changed = {
        "vcpus": (1, 2),
        "memory_bytes": (128 * MIB, 192 * MIB),
        "autostart": (False, True),
        f"nic/{nic}": ("br0", None),
    }
    seen(lab, pk, lambda row: changed.items() <= drift(row).items(), "changes of the definition by hand")

    refused = lab.api.request("POST", f"vms/{pk}/adopt/", {"field": f"nic/{nic}"})
    assert (refused.status, refused.body["code"]) == (409, "drift_missing")
    lab.api.do(f"vms/{pk}/adopt/", {"field": "vcpus"})
    lab.api.do(f"vms/{pk}/adopt/", {"field": "memory_bytes"})
    row = lab.api.get(f"vms/{pk}/")
    assert (row["vcpus"], row["memory_bytes"]) == (2, 192 * MIB)
    lab.api.do(f"vms/{pk}/reapply/")
    assert "<vcpu placement='static'>2</vcpu>" in virsh(node, "dumpxml", domain)
    seen(lab, pk, lambda row: row["drift"] == [], "that all is as the panel has it")

    virsh(node, "undefine", domain)
    row = seen(lab, pk, lambda row: row["state"] == "error", "a deletion by hand")
    assert row["state_reason"]["code"] == "state_gone"
    refused = lab.api.request("POST", f"vms/{pk}/start/", {})
    assert (refused.status, refused.body["code"]) == (409, "state_gone")
    lab.api.do(f"vms/{pk}/reapply/")
    lab.api.do(f"vms/{pk}/start/")
    lab.wait_console(pk, "GUEST-UP", 60)


@pytest.fixture
def shared_pool(lab: Lab) -> Iterator[dict[str, Any]]:
    """A folder that both nodes see."""
    folder = lab.demo.state.folder / "shared"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for node in lab.nodes.values():
        node.run("mkdir", "-p", SHARED)
        node.run("mount", "--bind", str(folder), SHARED)
    try:
        nodes = [lab.node_id(name) for name in lab.nodes]
        asked = {"name": "shared", "kind": "directory", "path": SHARED, "nodes": nodes}
        made = lab.api.do("pools/", asked)["subject"].removeprefix("pool:")
        yield lab.api.get(f"pools/{made}/")
        lab.api.do(f"pools/{made}/remove/")
    finally:
        for node in lab.nodes.values():
            node.run("umount", "--lazy", SHARED)


@pytest.fixture
def open_door(lab: Lab) -> Iterator[None]:
    """An administrator has let the nodes' libvirtds talk to each other."""
    for node in lab.nodes.values():
        node.run("nft", "flush", "chain", "inet", "ulei", "input")
    yield
    for node in lab.nodes.values():
        node.agent.stop()
        node.start_agent()
    for name in lab.nodes:
        lab.wait_node(name)


def test_a_guest_that_was_moved_by_hand_is_followed_and_one_that_two_nodes_show_is_a_claim(
    lab: Lab, shared_pool: dict[str, Any], open_door: None
) -> None:
    disks = [{"pool": shared_pool["id"], "size_bytes": 128 * MIB}]
    iso = wait(lambda: next(iter(lab.api.all("isos/")), None), 30, "the ISO to be seen")
    vm = lab.create(iso=iso["id"], image=None, disks=disks, node=lab.node_id("n1"))
    pk, domain, n1, n2 = vm["id"], domain_of(vm), lab.nodes["n1"], lab.nodes["n2"]
    lab.wait_console(pk, "GUEST-UP", 60)

    xml = virsh(n1, "dumpxml", "--inactive", domain)
    virsh(n2, "define", "/dev/stdin", input=xml)
    row = seen(lab, pk, lambda row: row["claims"], "a second definition by hand")
    assert (row["claims"], row["node"]) == ([{"node": lab.node_id("n2"), "state": "stopped"}], lab.node_id("n1"))
    lab.api.do(f"vms/{pk}/stop/")
    refused = lab.api.request("POST", f"vms/{pk}/start/", {})
    assert (refused.status, refused.body["code"]) == (409, "vm_claimed")
    virsh(n2, "undefine", domain)
    seen(lab, pk, lambda row: not row["claims"], "that it is not claimed any more")
    lab.api.do(f"vms/{pk}/start/")

    by_hand = ["--live", "--p2p", "--tls", "--persistent", "--undefinesource", "--unsafe"]
    virsh(n1, "migrate", *by_hand, domain, "qemu+tls://n2/system")
    moved = seen(lab, pk, lambda row: row["node"] == lab.node_id("n2"), "a move by hand")
    assert (moved["state"], moved["claims"], moved["moved_from"]) == ("running", [], lab.node_id("n1"))
    [line] = [line for line in lab.api.all("audit/") if line["action"] == "vm.moved_by_hand"]
    assert (line["subject"], line["outcome"], line["user"]) == (f"vm:{pk}", "done", None)
    lab.api.do(f"vms/{pk}/reapply/")
    row = lab.api.get(f"vms/{pk}/")
    assert (row["state"], row["moved_from"], row["drift"]) == ("running", None, [])
    # Its lease, filter and the note for the next boot are where it is, and nowhere else; its volume both nodes see.
    assert [line for line in lab.audit() if row["disks"][0]["id"] not in line] == []
    lab.api.do(f"vms/{pk}/delete/", {"disks": True})


def test_an_administrator_gives_a_vm_to_the_node_that_shows_it_only_when_its_own_does_not_run_it(
    lab: Lab, shared_pool: dict[str, Any]
) -> None:
    disks = [{"pool": shared_pool["id"], "size_bytes": 128 * MIB}]
    iso = wait(lambda: next(iter(lab.api.all("isos/")), None), 30, "the ISO to be seen")
    vm = lab.create(iso=iso["id"], image=None, disks=disks, node=lab.node_id("n1"))
    pk, domain, n1, n2 = vm["id"], domain_of(vm), lab.nodes["n1"], lab.nodes["n2"]
    [guest] = n1.guests()
    virsh(n2, "define", "/dev/stdin", input=virsh(n1, "dumpxml", "--inactive", domain))
    seen(lab, pk, lambda row: row["claims"], "a second definition by hand")
    job = lab.api.follow(lab.api.post(f"vms/{pk}/adopt_claim/", {})["job"]["id"], 60)
    assert (job["state"], job["error"]["code"]) == ("failed", "claim_unclear")
    assert (n1.guests(), lab.api.get(f"vms/{pk}/")["node"]) == ([guest], lab.node_id("n1"))

    lab.api.do(f"vms/{pk}/stop/")
    virsh(n2, "start", domain)
    seen(lab, pk, lambda row: row["claims"] and row["claims"][0]["state"] == "running", "a start on the other node")
    lab.api.do(f"vms/{pk}/adopt_claim/", {"node": lab.node_id("n2")})
    row = lab.api.get(f"vms/{pk}/")
    assert (row["node"], row["state"], row["claims"], row["moved_from"]) == (lab.node_id("n2"), "running", [], None)
    assert (n1.guests(), len(n2.guests()), domain in virsh(n1, "list", "--all", "--name")) == ([], 1, False)
    assert [line for line in lab.audit() if row["disks"][0]["id"] not in line] == []
    lab.api.do(f"vms/{pk}/delete/", {"disks": True})


def test_domains_that_the_panel_does_not_know_are_listed_with_what_they_have(lab: Lab) -> None:
    node, pk = lab.nodes["n1"], lab.node_id("n1")
    theirs = "<domain type='qemu'><name>theirs</name><memory unit='MiB'>64</memory><vcpu>2</vcpu>"
    theirs += "<os><type>hvm</type></os>"
    node.run("qemu-img", "create", "-q", "-f", "qcow2", "/tmp/theirs.qcow2", "80M")
    theirs += "<devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
    theirs += "<source file='/tmp/theirs.qcow2'/><target dev='vda' bus='virtio'/></disk></devices></domain>"
    virsh(node, "define", "/dev/stdin", input=theirs)
    try:
        [stranger] = wait(lambda: lab.api.get(f"nodes/{pk}/")["strangers"], SECONDS, "a domain made by hand to be seen")
        assert (stranger["name"], stranger["state"], stranger["vcpus"]) == ("theirs", "stopped", 2)
        assert stranger["memory_bytes"] == 64 * MIB
        disk = {"place": "/tmp/theirs.qcow2", "bus": "virtio", "format": "qcow2", "size_bytes": 80 * MIB}
        assert stranger["disks"] == [disk]
        refused = lab.api.request("POST", f"nodes/{pk}/adopt_domain/", {"uuid": stranger["uuid"]})
        assert refused.status == 422
        assert [one["code"] for one in refused.body["refusals"]] == ["stranger_disk"]
    finally:
        virsh(node, "undefine", "theirs")
        node.run("rm", "/tmp/theirs.qcow2")
    wait(lambda: lab.api.get(f"nodes/{pk}/")["strangers"] == [], SECONDS, "a domain that is gone to be forgotten")


THEIRS = """\
<domain type='qemu'><name>Their_Guest</name><memory unit='MiB'>128</memory><vcpu>1</vcpu><os><type>hvm</type></os>
<devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{place}'/>
<target dev='vda' bus='virtio'/></disk>
<interface type='bridge'><mac address='52:54:00:aa:bb:01'/><source bridge='{bridge}'/><model type='virtio'/>
</interface></devices></domain>
"""


def test_a_guest_that_somebody_made_by_hand_becomes_a_vm_with_its_volume_once_it_is_off(lab: Lab) -> None:
    node, pk = lab.nodes["n1"], lab.node_id("n1")
    body = lab.vm_body()
    image = lab.api.get(f"images/{body['image']}/")["name"]
    bridge = lab.api.get(f"networks/{body['nics'][0]['network']}/")["bridge"]
    place = f"{IMAGES}/their guest.qcow2"
    node.run("qemu-img", "convert", "-O", "qcow2", f"{IMAGES}/{image}", place)
    virsh(node, "define", "/dev/stdin", input=THEIRS.format(place=place, bridge=bridge))
    virsh(node, "autostart", "Their_Guest")
    virsh(node, "start", "Their_Guest")
    lab.api.do(f"nodes/{pk}/inspect/")
    [stranger] = wait(lambda: lab.api.get(f"nodes/{pk}/")["strangers"], SECONDS, "a guest made by hand to be seen")
    adopt, ask = f"nodes/{pk}/adopt_domain/", {"uuid": stranger["uuid"], "name": "theirs", "networks": {}}
    refused = lab.api.request("POST", adopt, ask)
    assert [one["code"] for one in refused.body["refusals"]] == ["stranger_runs"]
    virsh(node, "destroy", "Their_Guest")
    wait(lambda: lab.api.get(f"nodes/{pk}/")["strangers"][0]["state"] == "stopped", SECONDS, "it to be off")

    # Another domain that names the volume hinders it; then all is as it was, autostart too.
    also = THEIRS.format(place=place, bridge=bridge).replace("Their_Guest", "also").replace("bb:01", "bb:02")
    virsh(node, "define", "/dev/stdin", input=also)
    job = lab.api.follow(lab.api.post(adopt, ask)["job"]["id"], 60)
    assert (job["state"], job["error"]["code"]) == ("failed", "disk_in_use")
    assert "Autostart:      enable" in virsh(node, "dominfo", "Their_Guest")
    node.run("test", "-f", place)
    virsh(node, "undefine", "also")

    lab.api.do(adopt, ask)
    [vm] = [vm for vm in lab.api.all("vms/") if vm["name"] == "theirs"]
    assert (vm["state"], vm["node"], vm["nics"][0]["mac"]) == ("stopped", pk, "52:54:00:aa:bb:01")
    assert lab.api.get(f"nodes/{pk}/")["strangers"] == []
    assert domain_of(vm) in virsh(node, "list", "--all", "--name").split()
    lab.api.do(f"vms/{vm['id']}/start/")
    lab.wait_console(vm["id"], f"LEASE {vm['addresses'][0]['address']}", 90)
    assert lab.api.get(f"vms/{vm['id']}/")["drift"] == []
    assert lab.audit() == []


def test_a_guest_of_an_older_panel_becomes_a_vm_again_and_does_not_notice(lab: Lab) -> None:
    odd_bytes = 128 * MIB + 5
    vm = lab.create(node=lab.node_id("n2"), memory_bytes=odd_bytes)
    node, address = lab.node_id("n2"), vm["addresses"][0]["address"]
    lab.wait_console(vm["id"], f"LEASE {address}", 60)
    lab.api.do(f"nodes/{node}/inspect/")
    assert lab.api.get(f"vms/{vm['id']}/")["drift"] == []
    [guest] = lab.nodes["n2"].guests()

    lab.demo.panel.manage("shell", "-c", FORGET.format(vm=vm["id"]))
    assert lab.api.request("GET", f"vms/{vm['id']}/").status == 404
    lab.api.do(f"nodes/{node}/inspect/")
    [stranger] = lab.api.get(f"nodes/{node}/")["strangers"]
    lab.api.do(f"nodes/{node}/adopt_domain/", {"uuid": stranger["uuid"]})
    again = lab.api.get(f"vms/{vm['id']}/")
    assert (again["name"], again["state"], again["node"]) == (vm["name"], "running", node)
    assert [one["address"] for one in again["addresses"]] == [address]
    assert [(disk["id"], disk["size_bytes"]) for disk in again["disks"]] == [
        (disk["id"], disk["size_bytes"]) for disk in vm["disks"]
    ]
    assert (again["drift"], lab.api.get(f"nodes/{node}/")["strangers"]) == ([], [])
    assert lab.nodes["n2"].guests() == [guest]
    assert lab.audit() == []
