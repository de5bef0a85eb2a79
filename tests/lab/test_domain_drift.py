"""What people do by virsh behind the panel's back, on real nodes: seen within seconds, and each has its way out."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from deploy.lab.node import IMAGES, Node
from deploy.lab.processes import wait
from tests.lab.conftest import MIB, Lab

SHARED = "/var/lib/libvirt/shared"
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
    virsh(node, "autostart", "--disable", domain)
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
