"""From libvirt's event to the websocket's frame, with 1, 100 and 500 sockets.

A guest is suspended and resumed on the node behind the panel's back. The clock starts when libvirtd tells another
client of it, and stops in each socket when its frame has come.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from deploy.lab.client import Api
from deploy.lab.demo import Demo
from deploy.lab.processes import ROOT, wait
from tests.bench.bench import Bench
from tests.bench.byhand import ByHand
from tests.bench.places import free_ports
from tests.bench.row import Result, Row, latency, measures
from tests.bench.statistics import Limit

NODE = "n2"
BETWEEN_S = 0.6
"""Long enough for the slowest frame of one event to come before the next one."""
ROWS = {
    (1, 1): Row("event-1", "libvirt event to 1 socket", goal=(Limit("p99", 25),)),
    (100, 1): Row("event-100", "libvirt event to 100 sockets of one web process"),
    (500, 1): Row("event-500", "libvirt event to 500 sockets of one web process"),
    (500, 3): Row("event-500-3", "libvirt event to 500 sockets of 3 web processes", goal=(Limit("p99", 150),)),
}


@measures(*ROWS.values())
def sockets(bench: Bench) -> Iterator[Result]:
    lab = bench.lab
    vm = lab.create("watched", node=lab.node_id(NODE))
    uuid = lab.nodes[NODE].run("virsh", "domuuid", f"{vm['name']}.{vm['id']}").stdout.strip()
    with ByHand(lab.nodes[NODE]) as hands:
        for (count, webs), row in ROWS.items():
            bench.wait_quiet()
            with _webs(lab.demo, webs) as ports:
                groups, lost = _course(bench, lab.api, hands, vm["id"], uuid, ports, count)
            sent = len(groups) * count
            yield latency(row, groups, f"{lost} of {sent} frames did not come" if lost else "")
    lab.api.do(f"vms/{vm['id']}/delete/", {"disks": True})


def _course(
    bench: Bench, api: Api, hands: ByHand, vm: str, uuid: str, ports: list[int], count: int
) -> tuple[list[list[float]], int]:
    """Milliseconds of every socket, a list for each event; and how many frames never came."""
    with Crowd(api.token, ports, count) as crowd:
        events = []
        for _ in range(bench.pairs):
            for action, state in (("suspend", "paused"), ("resume", "running")):
                events.append((hands.do(action, uuid=uuid)["event"], state))
                time.sleep(BETWEEN_S)
        heard = crowd.end()
    groups, lost = [], 0
    for at, state in events:
        group = []
        for frames in heard:
            came = next((m for m, which, _, s in frames if which == vm and s == state and m >= at), None)
            if came is None or came - at > BETWEEN_S:
                lost += 1
            else:
                group.append((came - at) * 1000)
        if group:
            groups.append(group)
    return groups, lost


class Crowd:
    """So many sockets, spread over the web processes; one process of ours for each of theirs."""

    def __init__(self, token: str, ports: list[int], count: int) -> None:
        self._processes: list[subprocess.Popen[str]] = []
        env = {**os.environ, "ULEI_BENCH_TOKEN": token}
        for number, port in enumerate(ports):
            share = count // len(ports) + (number < count % len(ports))
            argv = [sys.executable, "-m", "tests.bench.load", str(port), str(share)]
            pipe = subprocess.PIPE
            self._processes.append(subprocess.Popen(argv, cwd=ROOT, env=env, stdin=pipe, stdout=pipe, text=True))

    def __enter__(self) -> "Crowd":
        for process in self._processes:
            assert process.stdout
            if process.stdout.readline() != "ready\n":
                raise ConnectionError("the sockets could not be opened")
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
            process.wait()

    def end(self) -> list[list[Any]]:
        """What each socket got."""
        return [frames for process in self._processes for frames in json.loads(process.communicate(timeout=60)[0])]


@contextmanager
def _webs(demo: Demo, count: int) -> Iterator[list[int]]:
    """Ports of so many web processes: the demo's own, and further ones beside it."""
    ports = [demo.state.port]
    with ExitStack() as stack:
        for number in range(2, count + 1):
            process, port = demo.state.process(f"web{number}"), free_ports(1)
            argv = [str(port) if word == str(demo.state.port) else word for word in demo.panel.command("web")]
            stack.callback(process.stop)
            process.start(argv, demo.state.panel_environment("web"))
            url = f"http://127.0.0.1:{port}"
            wait(Api(url, demo.api.token).ready, 30, f"web process {number} to be ready")
            ports.append(port)
        yield ports
