"""``deploy/demo --simulated``: the panel with many nodes that have no hypervisor, on one machine.

No namespaces, no QEMU: it also runs in a container. The nodes share a few processes (nodes/simulated), and join by
the same enrolment as everybody.
"""

import json
from pathlib import Path

from deploy.lab import broker
from deploy.lab.demo import Demo
from deploy.lab.panel import port_taken
from deploy.lab.processes import ROOT, Failed, Process, run, wait
from deploy.lab.state import Simulation, State

NODES_IN_A_PROCESS = 50
ONLINE_AFTER_S = 180.0


class SimulatedDemo(Demo):
    def __init__(self, state: State, simulation: Simulation, quiet: bool = False) -> None:
        super().__init__(state, quiet)
        self.simulation = simulation
        self.nodes = {}
        self.folder = state.folder / "nodes"
        names = [f"sim{number + 1}" for number in range(simulation.nodes)]
        count = -(-len(names) // NODES_IN_A_PROCESS)
        self.shares = {f"nodes{number + 1}": names[number::count] for number in range(count)}
        """Process -> the nodes that it runs."""

    def start(self, first_vm: bool = True) -> None:
        if self.panel.process("web").pid() is None and port_taken(self.state.port):
            raise Failed(f"port {self.state.port} is taken by another program", "choose another one: ULEI_PORT=8200")
        self.state.simulate(self.simulation)
        self.state.make_folders()
        with self.step("database, certificates, static files"):
            self.panel.prepare()
        with self.step("redis and panel"):
            broker.start(self.state)
            self.panel.start()
            self._wait_for_panel()
        with self.step("nodes join"):
            tickets = json.loads(self.panel.manage("simulate", "nodes", str(self.simulation.nodes)))
            self._simulated("join", json.dumps(tickets))
        with self.step("guests"):
            self._simulated("seed", self.panel.manage("simulate", "guests", str(self.simulation.vms)))
        with self.step("nodes start"):
            self.start_nodes()
            self.wait_for_nodes()

    def start_nodes(self) -> None:
        for name, nodes in self.shares.items():
            self.run_nodes(name, nodes, self.simulation.changes_per_s * len(nodes) / self.simulation.nodes)

    def run_nodes(self, name: str, nodes: list[str], changes_per_s: float) -> None:
        argv = [*self._command("run"), "--changes-per-s", str(changes_per_s), *nodes]
        self.state.process(name).start(argv, self._environment(name))

    def wait_for_nodes(self) -> None:
        """Until every node has said hello; a node's row may still be online from before."""

        def online() -> bool:
            for name in self.shares:
                process = self.state.process(name)
                if process.pid() is None:
                    raise Failed(f"{name} ended:\n{process.last_lines(8)}", str(process.log))
            self.panel.check_alive()
            return len(broker.listening(self.state)) >= self.simulation.nodes and not self.api.all(
                "nodes/?state=offline&page_size=1"
            )

        wait(
            online, ONLINE_AFTER_S, f"{self.simulation.nodes} nodes to be online", f"logs: {self.state.folder / 'log'}"
        )

    def stop(self) -> None:
        with self.step("nodes, panel and redis"):
            for name in self.shares:
                self.state.process(name).stop()
            self.panel.stop()
            broker.process(self.state).stop()

    def processes(self) -> list[Process]:
        return [*super().processes(), *(self.state.process(name) for name in self.shares)]

    def _command(self, command: str) -> list[str]:
        return [self.state.python, "-m", "nodes.simulated", "--folder", str(self.folder), command]

    def _environment(self, process: str) -> dict[str, str]:
        # Not this machine's own node, should it be one.
        return self.state.environment(process) | {"PYTHONPATH": str(ROOT), "ULEI_NODE_CONFIG": str(Path("/dev/null"))}

    def _simulated(self, command: str, given: str) -> None:
        run(*self._command(command), input=given, env=self._environment("simulated"), cwd=ROOT)
