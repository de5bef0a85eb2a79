"""Each part struck at each point of a create and of a delete (design 4 and 5, on real parts): tests/lab/fault_table.py.

Whatever dies, wherever: once it is back the job settles by itself, as done or as never having been, no guest ran
twice meanwhile, and the audit is clean. The budgeted run takes a seeded sample; ``deploy/test --full`` runs every case.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from deploy.lab.faults import Faults, GuestWatch
from deploy.lab.node import IMAGES
from deploy.lab.processes import wait
from tests.lab.conftest import FULL, MIB, SEED, STATE, Lab
from tests.lab.fault_table import Case, chosen
from tests.lab.strike import NODE, Strike

SAMPLE = int(os.environ.get("ULEI_TEST_SAMPLE") or 6)
PART = os.environ.get("ULEI_TEST_PART") or "1/1"
"""``2/3``: the second of three parts of the table, to run them side by side in labs of their own."""

EMPTY = "empty.qcow2"
MANY = 4
ENDS = {"forward": ("succeeded", "failed"), "cancel": ("cancelled", "succeeded"), "undo": ("cancelled",)}


def of_this_part(cases: list[Case]) -> list[Case]:
    number, count = map(int, PART.split("/"))
    return [case for position, case in enumerate(cases) if position // 2 % count == number - 1]


@pytest.fixture(scope="module")
def told() -> Callable[[dict[str, Any]], None]:
    """Writes a line for every case into ``faults.jsonl``: what the table of docs/results/faults.md is made of."""
    path = STATE / "faults.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)

    def tell(row: dict[str, Any]) -> None:
        with open(path, "a") as file:
            file.write(json.dumps(row) + "\n")

    return tell


@pytest.fixture(scope="module")
def struck_lab(running_lab: Lab) -> Iterator[Lab]:
    """One audit a case is enough: what a case leaves behind is still there when it is looked for.

    The guests have an empty image: a kernel that boots without KVM would take most of the time.
    """
    node = running_lab.nodes[NODE]
    node.run("qemu-img", "create", "-q", "-f", "qcow2", f"/{IMAGES}/{EMPTY}", str(MIB))
    running_lab.api.do(f"nodes/{running_lab.node_id(NODE)}/inspect/")
    yield running_lab
    running_lab.delete_all()
    assert running_lab.audit() == []


@pytest.fixture
def broken(struck_lab: Lab) -> Iterator[Faults]:
    faults = Faults(struck_lab.demo)
    with GuestWatch(struck_lab.nodes) as watch:
        yield faults
        faults.undo()
        for name in struck_lab.nodes:
            struck_lab.wait_node(name)
        struck_lab.wait_settled()
    assert watch.violations == []


def body(lab: Lab) -> dict[str, Any]:
    image = next(row["id"] for row in lab.api.all("images/") if row["name"] == EMPTY)
    name = f"vm{os.urandom(4).hex()}"
    return lab.vm_body(name, image=image, node=lab.node_id(NODE), memory_bytes=32 * MIB, disks=[{"size_bytes": MIB}])


def a_running_vm(lab: Lab) -> str:
    for row in lab.api.all("vms/"):
        if row["state"] == "running" and lab.node_name(row["id"]) == NODE:
            return row["id"]
    job = lab.api.do("vms/", body(lab))
    return job["subject"].partition(":")[2]


@pytest.mark.parametrize("case", of_this_part(chosen(None if FULL else SAMPLE, SEED)), ids=str)
def test_whatever_is_struck_nothing_is_left_behind(struck_lab: Lab, broken: Faults, told: Callable, case: Case):
    lab = struck_lab
    lab.wait_node(NODE)
    row = {"operation": case.operation, "way": case.way, "part": case.part, "where": case.where}
    if len(lab.api.all("vms/")) > MANY:
        lab.delete_all()  # a node boots its guests one after another
    if case.operation == "vm.create":
        path, asked = "vms/", body(lab)
    else:
        vm = a_running_vm(lab)
        path, asked = f"vms/{vm}/delete/", {"disks": True}
    strike = Strike(lab, broken, case)
    began = time.monotonic()
    try:
        answer = strike.around(path, asked)
        wait(lab.api.ready, 30, "the panel to be ready")
        job = lab.api.follow(answer["job"]["id"], 120)
    except BaseException as error:
        told(row | {"job": "", "error": str(error)})
        raise
    finally:
        strike.end()
    seconds = round(time.monotonic() - began, 1)
    if case.operation == "vm.create":
        vm = answer["vm"]["id"]
    status = lab.api.request("GET", f"vms/{vm}/").status
    differences = lab.audit()
    told(row | {"job": job["state"], "there": status == 200, "seconds": seconds, "audit": differences})
    assert job["state"] in ENDS[case.way], job
    assert (status == 200) == ((case.operation == "vm.create") == (job["state"] == "succeeded"))
    if case.operation == "vm.delete" and status == 200:
        assert lab.api.get(f"vms/{vm}/")["state"] == "running"
    assert differences == []
