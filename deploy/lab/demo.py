"""``deploy/demo``: the panel and two or more nodes on this machine, ready to be clicked at; Ceph, an LVM node follow.

Started again, it goes on with the same state; everything that it starts has a pid file in the state folder, and
``--stop`` ends exactly that.
"""

import argparse
import fcntl
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from deploy.lab import broker, micro, network
from deploy.lab.client import Api
from deploy.lab.node import Node
from deploy.lab.panel import PROCESSES, Panel, port_taken
from deploy.lab.processes import Failed, Process, wait
from deploy.lab.state import SIMULATION, Simulation, State
from deploy.lab.storage import Storage

# What --fresh forgets. The rest of the folder (built guests, the virtual environment) is not the demo's memory.
MEMORY = (
    "panel.sqlite3*",
    "panel.env",
    "credentials.json",
    "ca",
    "redis",
    "redis.sock",
    "nodes",
    "ceph",
    "run",
    "log",
    "faults",
    SIMULATION,
)
SHUTDOWN_S = 20.0
PATIENCE_S = 120.0
"""What is waited for comes in seconds where nobody else works on the machine."""


class Demo:
    def __init__(self, state: State, quiet: bool = False) -> None:
        self.state, self.quiet = state, quiet
        self.panel = Panel(state)
        self.nodes = {name: Node(state, name) for name in state.nodes}
        self.storage = Storage(state)
        if self.storage.known:
            self.nodes[self.storage.node.name] = self.storage.node

    @property
    def api(self) -> Api:
        return Api(self.state.url, json.loads(self.state.credentials.read_text())["token"])

    # start

    def start(self, first_vm: bool = True) -> None:
        if self.panel.process("web").pid() is None and port_taken(self.state.port):
            raise Failed(f"port {self.state.port} is taken by another program", "choose another one: ULEI_PORT=8200")
        self.state.make_folders()
        with self.step("micro guest"):
            image, iso = micro.build(self.state.cache)
        with self.step("network"):
            network.up(self.state)
        with ThreadPoolExecutor() as pool:
            own = [self.nodes[name] for name in self.state.nodes]
            booting = [pool.submit(self.boot, node, image, iso) for node in own]
            with self.step("database, certificates, static files"):
                self.panel.prepare()
            with self.step("redis and panel"):
                broker.start(self.state)
                self.panel.start()
                self._wait_for_panel()
            with self.step("nodes"):
                for done in booting:
                    done.result()
                list(pool.map(self.connect, own))
                self.wait_for_nodes(own)
        self._first_network()
        if first_vm:
            self._first_vm()

    def start_storage(self) -> None:
        """Ceph and the LVM node, as a node like the others; returns when both serve."""
        self.nodes[self.storage.node.name] = self.storage.node
        with ThreadPoolExecutor() as pool:
            ceph = pool.submit(self.storage.ceph.start)
            self.boot(self.storage.node, *micro.build(self.state.cache))
            self.connect(self.storage.node)
            self.wait_for_nodes([self.storage.node], 120)
            ceph.result()
        self.storage.offer_pools(self.api)

    def boot(self, node: Node, image: Any, iso: Any) -> None:
        node.power_on()
        node.put(image, iso)
        node.start_libvirtd()

    def _wait_for_panel(self) -> None:
        def ready() -> bool:
            self.panel.check_alive()
            return self.api.ready()

        wait(ready, PATIENCE_S, f"{self.state.url}/readyz", f"logs: {self.state.folder / 'log'}")

    def connect(self, node: Node) -> None:
        """Joins the node the first time, by the very command that the panel shows for a remote machine."""
        if not node.joined:
            given = json.loads(self.panel.manage("node_add", node.name, node.address, "--json"))
            node.run(*shlex.split(given["command"]))
            node.restart_libvirtd()  # it has its certificate only now
        node.start_agent()

    def wait_for_nodes(self, nodes: list[Node], seconds: float = PATIENCE_S) -> None:
        names = {node.name for node in nodes}

        def online() -> bool:
            for node in nodes:
                if node.agent.pid() is None:
                    raise Failed(f"the agent of {node.name} ended:\n{node.agent.last_lines(8)}", str(node.agent.log))
            self.panel.check_alive()
            # A node's row may still be online from before; an agent that waits for messages is so now.
            rows = [row for row in self.api.all("nodes/") if row["name"] in names and row["state"] == "online"]
            return len(rows) == len(names) and {row["id"] for row in rows} <= broker.listening(self.state)

        wait(online, seconds, f"{' and '.join(sorted(names))} to be online", f"logs: {self.state.folder / 'log'}")

    def _first_network(self) -> None:
        if not self.api.all("networks/"):
            with self.step("first network"):
                ranges = [{"first": "10.99.0.100", "last": "10.99.0.200", "prefix_length": 24}]
                self.api.post("networks/", {"name": "lab", "bridge": network.NODE_BRIDGE, "ranges": ranges}, expect=201)

    def _first_vm(self) -> None:
        api = self.api
        if api.all("vms/") or (self.state.folder / "run/first-vm").exists():
            return
        with self.step("first virtual machine"):
            image = wait(self.micro_image, PATIENCE_S, "the micro image to be seen by a node's inventory")
            body = {
                "name": "first",
                "vcpus": 1,
                "memory_bytes": 128 * 2**20,
                "image": image,
                "disks": [{"size_bytes": 128 * 2**20}],
                "nics": [{"network": api.all("networks/")[0]["id"]}],
                "start": True,
            }
            api.do("vms/", body)
            (self.state.folder / "run/first-vm").touch()  # once deleted by a person it stays deleted

    def micro_image(self) -> str | None:
        return next((row["id"] for row in self.api.all("images/") if row["name"].startswith("micro")), None)

    # stop

    def stop(self) -> None:
        """Agents first: a guest that the demo switches off is still wanted and comes back with the next start."""
        self.storage.starting.stop()
        with self.step("agents"):
            for node in self.nodes.values():
                node.agent.stop(15)
        with self.step("guests"), ThreadPoolExecutor() as pool:
            list(pool.map(self._stop_guests, [node for node in self.nodes.values() if node.on]))
        with self.step("nodes, panel and redis"), ThreadPoolExecutor() as pool:
            # The kernel takes a second or two over a node's namespaces; the panel ends meanwhile.
            ending = [pool.submit(node.shut_down) for node in self.nodes.values() if node.on]
            self.panel.stop()
            broker.process(self.state).stop()
            for done in ending:
                done.result()
            self.storage.ceph.stop()
            network.down(self.state)

    def _stop_guests(self, node: Node) -> None:
        if not node.guests():
            return
        if node.libvirtd.pid() is not None:
            try:
                wait(lambda: self._pressed_off(node), SHUTDOWN_S, f"guests of {node.name} to obey the power button")
            except Failed:
                self.say(f"\n    {len(node.guests())} guests of {node.name} did not obey: ended by force")
        node.end_guests_by_force()

    def _pressed_off(self, node: Node) -> bool:
        """Presses the power button of every guest, and looks; one that was just booting needs to be pressed again."""
        for name in node.run("virsh", "list", "--name", check=False).stdout.split():
            node.run("virsh", "shutdown", name, "--mode", "acpi", check=False)
        try:
            return wait(lambda: not node.guests(), 2, "")
        except Failed:
            return False

    def forget(self) -> None:
        for pattern in MEMORY:
            for path in self.state.folder.glob(pattern):
                if path.is_symlink():  # a folder that somebody keeps elsewhere
                    continue
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    # look

    def processes(self) -> list[Process]:
        own = [broker.process(self.state), *(self.panel.process(name) for name in PROCESSES)]
        own += [process for name in self.state.nodes if name in self.nodes for process in self.nodes[name].processes()]
        return own + self.storage.processes() * self.storage.known

    def status(self) -> bool:
        """Prints who runs; true when all do."""
        for process in self.processes():
            self.say(f"  {process.name:14} {process.pid() or 'not running':<12} {process.log}")
        if self.storage.starting.pid() is not None:
            self.say(f"  {'storage':14} {'comes up':<12} {self.storage.starting.log}")
        spared = set() if self.storage.needed else {process.name for process in self.storage.processes()}
        complete = all(process.pid() is not None for process in self.processes() if process.name not in spared)
        if complete and self.api.ready():
            for row in self.api.all("nodes/"):
                self.say(f"  node {row['name']}: {row['state']}")
            for row in self.api.all("vms/"):
                self.say(f"  vm {row['name']}: {row['state']}")
        return complete

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        if not self.quiet:
            print(f"  {name} ... ", end="", flush=True)
        try:
            yield
        except BaseException:
            self.say("failed")
            raise
        self.say(f"{time.monotonic() - began:.1f} s")


@contextmanager
def alone(state: State) -> Iterator[None]:
    """One ``deploy/demo`` at a time for a state folder."""
    state.folder.mkdir(parents=True, exist_ok=True)
    with open(state.folder / ".demo.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failed(
                f"another deploy/demo works on {state.folder}", "wait for it, or choose another ULEI_STATE"
            ) from None
        yield


def main() -> int:
    parser = argparse.ArgumentParser(prog="deploy/demo", description="The panel and two nodes on this machine.")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--stop", action="store_true", help="end what it started: guests by ACPI, then the rest")
    choice.add_argument("--fresh", action="store_true", help="forget everything and begin anew")
    choice.add_argument("--status", action="store_true", help="who runs")
    parser.add_argument("--nodes", type=int, metavar="NODES", help="between which guests move (default 2)")
    parser.add_argument("--without-storage", action="store_true", help="no Ceph, and no LVM node (the last one)")
    parser.add_argument("--simulated", nargs="?", type=int, const=10, metavar="NODES", help="many nodes without QEMU")
    parser.add_argument("--vms", type=int, metavar="VMS", help="with --simulated: guests of each node (default 10)")
    parser.add_argument("--changes-per-s", type=float, metavar="RATE", help="guests that go off and come back")
    chosen = parser.parse_args()
    state = State.from_environment()
    simulation = wanted_simulation(
        state, nodes=chosen.simulated, vms=chosen.vms, changes_per_s=chosen.changes_per_s, fresh=chosen.fresh
    )
    if os.geteuid() != 0 and simulation is None:
        print("FAILED: deploy/demo makes network namespaces and needs root\n  run it with sudo", file=sys.stderr)
        return 1
    try:
        return _run(state, simulation, chosen)
    except Failed as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        print("  what was started still runs: deploy/demo tries again, deploy/demo --stop ends it", file=sys.stderr)
        return 1


def wanted_simulation(
    state: State, *, nodes: int | None, vms: int | None, changes_per_s: float | None, fresh: bool
) -> Simulation | None:
    """As asked, else as this state folder was started; a folder's nodes are all simulated or all real."""
    before = None if fresh else state.simulation
    if nodes is None and before is None:
        return None
    if before is None and not fresh and state.credentials.exists():
        raise SystemExit(f"{state.folder} has real nodes: choose another ULEI_STATE, or --fresh")
    asked = {"nodes": nodes, "vms": vms, "changes_per_s": changes_per_s}
    known = asdict(before) if before else {"nodes": 10, "vms": 10, "changes_per_s": 0.0}
    return Simulation(**known | {name: value for name, value in asked.items() if value is not None})


def _demo(state: State, simulation: Simulation | None) -> Demo:
    if simulation is None:
        return Demo(state)
    from deploy.lab.simulated import SimulatedDemo

    return SimulatedDemo(state, simulation)


def _run(state: State, simulation: Simulation | None, chosen: argparse.Namespace) -> int:
    if chosen.status:
        return 0 if _demo(state, simulation).status() else 1
    began = time.monotonic()
    with alone(state):
        if chosen.stop or chosen.fresh:
            before = _demo(state, state.simulation)
            before.stop()
            if chosen.stop:
                return 0
            before.forget()
        if chosen.nodes:
            state.want_nodes(chosen.nodes)
        demo = _demo(state, simulation)
        demo.start()
    given = json.loads(state.credentials.read_text())
    print(f"\nUlei is ready after {time.monotonic() - began:.1f} s: {given['url']}")
    print(f"  user {given['username']}, password {given['password']}  (also in {state.credentials})")
    if demo.storage.want(not chosen.without_storage and state.simulation is None):
        demo.storage.start_detached()
        which = f"Ceph and the LVM node {demo.storage.node.name}"
        print(f"  {which} come up by themselves within a minute or so: {demo.storage.starting.log}")
    print("  deploy/demo --status looks, deploy/demo --stop ends it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
