"""A private lab for the tests: its own state folder, port and namespaces, with named points armed by ``faults``."""

import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from deploy.lab import look, network
from deploy.lab.client import Api
from deploy.lab.demo import PATIENCE_S, Demo
from deploy.lab.faults import Faults, GuestWatch
from deploy.lab.node import Node
from deploy.lab.processes import ROOT, wait
from deploy.lab.state import USUAL_NODES, State
from deploy.lib.postgres import Server

T = TypeVar("T")
ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as guest:
    if sys.argv[3]:  # what nobody there reads would cut its answer off
        guest.sendall(sys.argv[3].encode() + b"\\n")
    print(guest.makefile().read())
"""
MIB = 2**20
SMALL = "/var/lib/libvirt/small"
"""Where :func:`pool_in_memory` is mounted."""
SLOW_SETTLE_S = 90.0
"""A look of the user-mode Linux node at all that it has may take half of it, on a machine with other work."""
FULL = bool(os.environ.get("ULEI_TEST_FULL"))
SEED = int(os.environ.get("ULEI_TEST_SEED") or 1)
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
STATE = Path(os.environ.get("ULEI_STATE") or ROOT / "var/test").absolute() / WORKER
"""Each of several workers has labs of its own."""


@dataclass
class Lab:
    """A running demo and what tests ask of it."""

    demo: Demo
    _numbers: Iterator[int] = field(default_factory=lambda: iter(range(1, 10_000)))

    @property
    def api(self) -> Api:
        return self.demo.api

    @property
    def nodes(self) -> dict[str, Node]:
        return self.demo.nodes

    def vm_body(self, name: str = "", **changes: Any) -> dict[str, Any]:
        """What a create of a micro guest takes."""
        body = {
            "name": name or f"vm{next(self._numbers)}",
            "vcpus": 1,
            "memory_bytes": 128 * MIB,
            "image": wait(self.demo.micro_image, PATIENCE_S, "the micro image to be seen"),
            "disks": [{"size_bytes": 128 * MIB}],
            "nics": [{"network": self.api.all("networks/")[0]["id"]}],
            "start": True,
        }
        return body | changes

    def may_create_on(self, name: str) -> bool:
        answer = self.api.request("POST", "vms/?dry_run=true", self.vm_body("dry-run", node=self.node_id(name)))
        return answer.status == 200 and not answer.body["refusals"]

    def node_id(self, name: str) -> str:
        return next(row["id"] for row in self.api.all("nodes/") if row["name"] == name)

    def create(self, name: str = "", **changes: Any) -> dict[str, Any]:
        """A VM that runs; its row."""
        job = self.api.do("vms/", self.vm_body(name, **changes))
        return self.api.get(f"vms/{job['subject'].partition(':')[2]}/")

    def wait_state(self, vm: str, state: str, seconds: float = PATIENCE_S) -> dict[str, Any]:
        def there() -> dict[str, Any] | None:
            row = self.api.get(f"vms/{vm}/")
            return row if row["state"] == state else None

        return wait(there, seconds, f"vm {vm} to be {state}")

    def wait_node(self, name: str, state: str = "online", seconds: float = PATIENCE_S) -> None:
        def there() -> bool:
            return any(row["name"] == name and row["state"] == state for row in self.api.all("nodes/"))

        wait(there, seconds, f"node {name} to be {state}")

    def wait_settled(self, seconds: float = 2 * PATIENCE_S) -> None:
        """No job is open any more."""

        def settled() -> bool:
            open_states = ("waiting", "running", "undoing", "cancelling")
            return not any(self.api.all(f"jobs/?state={state}") for state in open_states)

        wait(settled, seconds, "all jobs to settle")

    def wait_console(self, vm: str, words: str, seconds: float = PATIENCE_S) -> None:
        """The guest's serial console has said this."""
        node = self.nodes[self.node_name(vm)]

        def said() -> bool:
            return words in console(node, vm)

        wait(said, seconds, f"the console of {vm} to say {words!r}")

    def node_name(self, vm: str) -> str:
        wanted = self.api.get(f"vms/{vm}/")["node"]
        wanted = wanted["id"] if isinstance(wanted, dict) else wanted
        return next(row["name"] for row in self.api.all("nodes/") if row["id"] == wanted)

    def audit(self, settle_s: float = 15.0) -> list[str]:
        return look.differences(self.demo, settle_s)

    def delete_all(self) -> None:
        ids = [row["id"] for row in self.api.all("vms/")]
        jobs = [self.api.post(f"vms/{vm}/delete/", {"disks": True})["job"]["id"] for vm in ids]
        for job in jobs:
            self.api.follow(job)
        for disk in self.api.all("disks/"):
            if disk["state"] == "trash":
                self.api.do(f"disks/{disk['id']}/delete/")


def goes_back_to_its_snapshot(lab: Lab, vm: str) -> None:
    """A micro guest that runs counts its boots on its first disk: after the way back it counts the second one again."""

    def boots() -> list[str]:
        said = console(lab.nodes[lab.node_name(vm)], vm).splitlines()
        return [line.split()[1] for line in said if line.startswith("DISK boots=")]

    wait(lambda: boots() == ["boots=1"], 60, "the first boot to be counted")
    lab.api.do(f"vms/{vm}/snapshot/", {"name": "before"})
    assert lab.api.get(f"vms/{vm}/")["state"] == "running"
    snapshot = lab.api.all(f"snapshots/?vm={vm}")[0]["id"]
    lab.api.do(f"vms/{vm}/reset/")
    wait(lambda: boots() == ["boots=1", "boots=2"], 60, "the second boot to be counted")
    refused = lab.api.request("POST", f"snapshots/{snapshot}/revert/", {})
    assert (refused.status, refused.body["code"]) == (409, "revert_needs_stop")
    lab.api.do(f"snapshots/{snapshot}/revert/", {"stop": True})
    assert lab.api.get(f"vms/{vm}/")["state"] == "stopped"
    lab.api.do(f"vms/{vm}/start/")
    # A start begins the console's log anew.
    wait(lambda: len(boots()) == 1, 60, "a boot to be counted")
    assert boots() == ["boots=2"]
    lab.api.do(f"vms/{vm}/snapshot/", {"name": "after"})
    lab.api.do(f"snapshots/{snapshot}/delete/")
    left = lab.api.all(f"snapshots/?vm={vm}")
    assert [(row["name"], row["parent"]) for row in left] == [("after", None)]


def sample(cases: Iterable[T], count: int) -> list[T]:
    """All of them in a full run, else so many, chosen by the seed."""
    every = list(cases)
    return every if FULL or count >= len(every) else random.Random(SEED).sample(every, count)


def console(node: Node, vm: str) -> str:
    """Everything that a guest has printed on its serial port; the log's name has the VM's id in it."""
    logs = sorted((node.folder / "var/log/libvirt/qemu").glob(f"*{vm}*"))
    return "".join(path.read_text(errors="replace") for path in logs)


def ask_guest(lab: Lab, vm: dict[str, Any], port: int, words: str = "") -> str:
    """What a micro guest answers on one of its ports (deploy/lab/guest-init); empty: nothing."""
    space, address = network.namespace(lab.demo.state), vm["addresses"][0]["address"]
    argv = ["ip", "netns", "exec", space, sys.executable, "-c", ASK, address, str(port), words]
    return subprocess.run(argv, capture_output=True, text=True).stdout.strip()


def told(lab: Lab, vm: dict[str, Any], port: int) -> str:
    """The first word of what the guest answers there, when it does."""
    return wait(lambda: ask_guest(lab, vm, port), 60, f"the guest to answer on port {port}").split()[0]


def content(lab: Lab, vm: dict[str, Any]) -> str:
    """MD5 of the first 40 MiB of its disk, by the guest itself."""
    return told(lab, vm, 81)


def stands(lab: Lab, vm: str, code: str) -> dict[str, Any] | None:
    """Its row, when it says this of itself: that its storage has stopped it."""
    row: dict[str, Any] = lab.api.get(f"vms/{vm}/")
    return row if (row["state_reason"] or {}).get("code") == code else None


@contextmanager
def pool_in_memory(lab: Lab, node: str, size_mib: int) -> Iterator[dict[str, Any]]:
    """A pool so small that it can be filled to its last byte; its row."""
    run = lab.nodes[node].run
    run("mkdir", "-p", SMALL)
    run("mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", SMALL)
    try:
        pool = {"name": "small", "kind": "directory", "path": SMALL, "nodes": [lab.node_id(node)]}
        made = lab.api.do("pools/", pool)["subject"].removeprefix("pool:")
        yield lab.api.get(f"pools/{made}/")
        lab.api.do(f"pools/{made}/remove/")
    finally:
        run("umount", "--lazy", SMALL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def free_ports(count: int) -> int:
    """The first of so many free ports in a row."""
    while True:
        with ExitStack() as probes, suppress(OSError):
            first = free_port()
            for port in range(first, first + count):
                probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


def start_lab(folder: Path, nodes: int = USUAL_NODES, database: Server | None = None) -> Demo:
    os.environ.setdefault("ULEI_CACHE", str(ROOT / "var/cache"))
    left_over = Demo(State(folder, 0, faults=True), quiet=True)
    left_over.stop()
    left_over.forget()
    state = State(folder, free_port(), faults=True, database=database)
    state.want_nodes(nodes)
    demo = Demo(state, quiet=True)
    try:
        demo.start(first_vm=False)
        lab = Lab(demo)
        for name in demo.nodes:
            wait(lambda node=name: lab.may_create_on(node), PATIENCE_S, f"{name} to show its images")
    except BaseException:
        demo.stop()
        raise
    return demo


@pytest.fixture(scope="session")
def running_lab() -> Iterator[Lab]:
    """Two nodes and a panel, fresh for this run."""
    demo = start_lab(STATE / "lab")
    yield Lab(demo)
    demo.stop()


@pytest.fixture
def lab(running_lab: Lab) -> Iterator[Lab]:
    """The lab without a VM in it. Every test ends with an audit, and with nothing left, in the trash neither."""
    yield running_lab
    running_lab.wait_settled()
    assert running_lab.audit() == []
    running_lab.delete_all()
    assert running_lab.audit() == []


@pytest.fixture
def api(lab: Lab) -> Api:
    return lab.api


@pytest.fixture
def faults(lab: Lab) -> Iterator[Faults]:
    """Breaks the lab; afterwards all is mended, and no guest ran twice meanwhile."""
    broken = Faults(lab.demo)
    with GuestWatch(lab.nodes) as watch:
        yield broken
        broken.undo()
        for name in lab.nodes:
            lab.wait_node(name)
        lab.wait_settled()
    assert watch.violations == []


@pytest.fixture
def own_lab() -> Iterator[Lab]:
    """A lab for one test that leaves things behind on purpose."""
    demo = start_lab(STATE / "own")
    yield Lab(demo)
    demo.stop()


@pytest.fixture
def storage_lab() -> Iterator[Lab]:
    """A lab with Ceph and the user-mode Linux node; it ends with an audit, and with nothing left."""
    demo = start_lab(STATE / "storage")
    try:
        demo.start_storage()
        lab = Lab(demo)
        yield lab
        lab.wait_settled()
        assert lab.audit(SLOW_SETTLE_S) == []
        lab.delete_all()
        assert lab.audit(SLOW_SETTLE_S) == []
    finally:
        demo.stop()


@pytest.fixture
def small_disk_lab() -> Iterator[Lab]:
    """A lab whose state folder is a disk of 160 MiB; the nodes keep their images elsewhere."""
    folder, nodes = STATE / "small", STATE / "small-nodes"
    folder.mkdir(parents=True, exist_ok=True)
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)
    shutil.rmtree(nodes, ignore_errors=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m,mode=700", "tmpfs", str(folder)], check=True)
    try:
        nodes.mkdir()
        (folder / "nodes").symlink_to(nodes)
        demo = start_lab(folder)
        yield Lab(demo)
        demo.stop()
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        shutil.rmtree(nodes, ignore_errors=True)
