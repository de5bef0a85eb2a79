"""Guests on real nodes stand still for a snapshot, or go on from their memory; and a file becomes a disk."""

import time
from pathlib import Path
from typing import Any

import pytest

from deploy.lab.faults import Faults
from deploy.lab.processes import wait
from tests.lab.conftest import Lab, console, content

IMAGES = "/var/lib/libvirt/images"


@pytest.fixture
def vm(lab: Lab) -> dict[str, Any]:
    """A guest in which an agent answers."""
    vm = lab.create(node=lab.node_id("n1"))
    lab.wait_console(vm["id"], f"LEASE {vm['addresses'][0]['address']}", 60)
    name = f"{vm['name']}.{vm['id']}"

    def listens() -> bool:
        return "state='connected'" in lab.nodes["n1"].run("virsh", "-q", "dumpxml", name).stdout

    wait(listens, 60, "the agent inside to open its channel")
    return vm


def said(lab: Lab, vm: dict[str, Any]) -> str:
    return console(lab.nodes["n1"], vm["id"])


def ticks_on(lab: Lab, vm: dict[str, Any]) -> None:
    before = said(lab, vm).count("tick ")
    wait(lambda: said(lab, vm).count("tick ") > before + 1, 30, "the guest to tick")


def stands_still(lab: Lab, vm: dict[str, Any]) -> bool:
    """It writes to its disk before each tick, and would tick every second."""
    before = said(lab, vm).count("tick ")
    time.sleep(2.5)
    return said(lab, vm).count("tick ") == before


def notes(lab: Lab) -> list[Path]:
    return list((lab.nodes["n1"].folder / "var/lib/ulei/frozen").glob("*"))


def test_a_guest_stands_still_for_its_backup_and_not_for_long_where_the_agent_dies_at_its_snapshot(
    lab: Lab, vm: dict[str, Any], faults: Faults
) -> None:
    lab.api.do(f"vms/{vm['id']}/backup/", {"quiesce": "required"})
    assert said(lab, vm).count("AGENT-freeze") == 1 == said(lab, vm).count("AGENT-thaw")
    faults.arm("n1.agent", "domain.frozen", "kill", "")
    job = lab.api.post(f"vms/{vm['id']}/snapshot/", {"quiesce": "required"})["job"]["id"]
    faults.wait_dead("n1.agent")
    assert stands_still(lab, vm)
    assert len(notes(lab)) == 1
    faults.start("n1.agent")
    assert lab.api.follow(job, 90)["state"] == "succeeded"
    ticks_on(lab, vm)
    assert said(lab, vm).count("AGENT-freeze") == said(lab, vm).count("AGENT-thaw") > 1
    assert notes(lab) == []
    backup = lab.api.all(f"backups/?vm={vm['id']}")[0]
    assert (backup["consistency"], lab.api.all("snapshots/")[0]["consistency"]) == ("quiesced", "quiesced")
    lab.api.do(f"backups/{backup['id']}/delete/")


def test_a_guest_goes_on_from_its_memory_with_the_disk_of_then(lab: Lab, vm: dict[str, Any]) -> None:
    before = content(lab, vm)
    lab.api.do(f"vms/{vm['id']}/snapshot/", {"memory": True})
    snapshot = lab.api.all(f"snapshots/?vm={vm['id']}")[0]
    assert (snapshot["memory"], snapshot["consistency"]) == (True, "memory")
    lab.api.do(f"vms/{vm['id']}/reset/")
    lab.wait_console(vm["id"], "DISK boots=2 ", 60)
    wait(lambda: content(lab, vm) != before, 60, "the second boot to be on the disk")
    lab.api.do(f"snapshots/{snapshot['id']}/revert/", {"stop": True, "snapshot_first": True})
    assert lab.api.get(f"vms/{vm['id']}/")["state"] == "running"
    ticks_on(lab, vm)
    assert content(lab, vm) == before
    # Its console begins anew with its QEMU: it did not boot.
    assert "GUEST-UP" not in said(lab, vm)
    assert len(lab.api.all(f"snapshots/?vm={vm['id']}")) == 2
    assert lab.audit() == []


def test_a_file_that_somebody_left_becomes_a_disk_of_a_guest_that_runs(lab: Lab, vm: dict[str, Any]) -> None:
    lab.nodes["n1"].run("qemu-img", "create", "-q", "-f", "qcow2", f"{IMAGES}/left.qcow2", "24M")
    lab.api.do(f"nodes/{lab.node_id('n1')}/inspect/")
    pool = lab.api.all(f"disks/?vm={vm['id']}")[0]["pool"]
    strangers = wait(lambda: lab.api.get(f"pools/{pool}/")["strangers"], 30, "the file to be seen")
    assert {"name": "left.qcow2", "format": "qcow2", "size_bytes": 24 << 20} in strangers
    disk = lab.api.do(f"pools/{pool}/import/", {"name": "left.qcow2"})["subject"].removeprefix("disk:")
    lab.api.do(f"disks/{disk}/attach/", {"vm": vm["id"]})
    lab.wait_console(vm["id"], "DISKS vda vdb.", 60)
    assert lab.nodes["n1"].run("ls", IMAGES).stdout.count("left") == 0
    assert "left.qcow2" not in [stranger["name"] for stranger in lab.api.get(f"pools/{pool}/")["strangers"]]
    assert lab.audit() == []
