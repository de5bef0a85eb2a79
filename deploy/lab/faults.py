"""Breaks a running lab on purpose, at a named moment (nodes/contract/faults.py) and never after a guessed delay.

Processes are named as the demo names them: ``redis web enrol conductor n1.agent n1.libvirtd``, ``n1`` for the
whole machine and ``database`` for the lab's own PostgreSQL. ``Faults.undo`` mends everything that was broken and is
still broken.
"""

import errno
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Self

from deploy.lab import broker, network
from deploy.lab.demo import PATIENCE_S, Demo
from deploy.lab.node import Node
from deploy.lab.processes import ROOT, Failed, Process, wait
from deploy.lib.postgres import Server

BALLAST = "ballast"
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


class Faults:
    def __init__(self, demo: Demo) -> None:
        self.demo = demo
        self._mend: dict[str, Callable[[], None]] = {}

    # named points

    def arm(self, process: str, point: str, action: str = "kill", detail: str = "") -> Path:
        """The next time that the process comes by this point it dies (``kill``) or waits (``hold``)."""
        folder = self.demo.state.faults_of(process)
        folder.mkdir(parents=True, exist_ok=True)
        armed = folder / (f"{point}:{detail}" if detail else point)
        reached(armed).unlink(missing_ok=True)
        new = folder / f".{armed.name}"
        new.write_text(action)
        new.rename(armed)  # whole from the first moment on
        return armed

    def wait_reached(self, armed: Path, seconds: float = PATIENCE_S) -> None:
        wait(lambda: reached(armed).exists(), seconds, f"{armed.parent.name} to come by {armed.name}")

    def release(self, armed: Path) -> None:
        reached(armed).unlink(missing_ok=True)

    def arm_again(self, armed: Path, action: str = "hold") -> Path:
        """Lets go who waits at the point, but it shall be stopped there the next time too.

        The new order is in place before the old one is lifted, so no passage slips through.
        """
        new = armed.with_name(f".{armed.name}")
        new.write_text(action)
        # While the file <point>.reached exists the process waits, and whoever comes next renames onto it.
        new.rename(armed)
        reached(armed).unlink()
        return armed

    def disarm(self) -> None:
        """Forgets every armed point and lets go whoever waits at one."""
        for path in (self.demo.state.folder / "faults").glob("*/*"):
            path.unlink(missing_ok=True)

    # processes

    def process(self, name: str) -> Process:
        found = next((process for process in self.demo.processes() if process.name == name), None)
        if found is None:
            raise Failed(f"no process is named {name}")
        return found

    def wait_dead(self, name: str, seconds: float = PATIENCE_S) -> None:
        wait(lambda: self.process(name).pid() is None, seconds, f"{name} to die")

    def kill(self, name: str) -> None:
        """kill -9; a node's name is its whole power."""
        if name in self.demo.nodes:
            self.demo.nodes[name].power_off()
        elif name == "database":
            self._database.stop()
        else:
            self.process(name).kill()
        self._mend[f"kill {name}"] = lambda: self.start(name)

    def start(self, name: str, **extra: str) -> None:
        """Starts it again as the demo does; what runs is left alone."""
        self._mend.pop(f"kill {name}", None)
        node, _, part = name.partition(".")
        if name == "redis":
            broker.start(self.demo.state)
        elif name == "database":
            self._database.start()
        elif name in self.demo.nodes:
            self.demo.nodes[name].boot()
        elif node == "ceph":
            self.demo.storage.ceph.start()
        elif part == "agent":
            self.demo.nodes[node].start_agent(**extra)
        elif part == "libvirtd":
            self.demo.nodes[node].start_libvirtd()
        else:
            self.demo.panel.start(name, **extra)

    def restart(self, name: str, **extra: str) -> None:
        """kill -9 and start."""
        self.kill(name)
        self.start(name, **extra)

    def restart_redis_empty(self) -> None:
        broker.restart_empty(self.demo.state)

    def kill_database_connections(self) -> None:
        """kill -9 of every process in which PostgreSQL serves the panel; it comes back by itself."""
        if not self._database.kill_connections():
            raise Failed("the panel has no connection to its database: there was nothing to strike")

    @property
    def _database(self) -> Server:
        database = self.demo.state.database
        if database is None:
            raise Failed("this lab's panel is not on a PostgreSQL of its own")
        return database

    def freeze(self, name: str) -> None:
        """SIGSTOP: it hangs, and its sockets stay open."""
        self.process(name).signal(signal.SIGSTOP)
        self._mend[f"freeze {name}"] = lambda: self.thaw(name)

    def thaw(self, name: str) -> None:
        self._mend.pop(f"freeze {name}", None)
        self.process(name).signal(signal.SIGCONT)

    def set_clock(self, name: str, offset: str) -> None:
        """Starts the process anew with its wall clock moved (``-10m``); the monotonic clock stays true."""
        if not FAKETIME.exists():
            raise Failed("libfaketime is not installed", "deploy/install --tests")
        moved = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        self.restart(name, **moved, PYTHONPATH=f"{ROOT / 'deploy/lab/clock'}:{ROOT}")
        self._mend[f"clock {name}"] = lambda: self.restart(name)

    # network

    def cut_cable(self, node: str) -> None:
        network.cable(self.demo.state, node, plugged=False)
        self._mend[f"cable {node}"] = lambda: self.plug_cable(node)

    def plug_cable(self, node: str) -> None:
        self._mend.pop(f"cable {node}", None)
        network.cable(self.demo.state, node, plugged=True)

    def slow_link(self, node: str, megabits: int) -> None:
        """A move from there takes its time."""
        network.slow(self.demo.state, node, megabits)
        self._mend[f"slow {node}"] = lambda: self.fast_link(node)

    def fast_link(self, node: str) -> None:
        self._mend.pop(f"slow {node}", None)
        network.slow(self.demo.state, node, None)

    def refuse(self, node: str) -> None:
        """The broker's machine answers this node with a reset."""
        self._filter(node, "reject")

    def drop(self, node: str) -> None:
        """What this node sends vanishes, without an answer."""
        self._filter(node, "drop")

    def cut_from_panel(self, node: str) -> None:
        """What this node sends to the panel vanishes; its guests and their storage notice nothing."""
        self._filter(node, "drop", all_ports=False)

    def _filter(self, node: str, verdict: str, *, all_ports: bool = True) -> None:
        network.heal_broker(self.demo.state, node)
        network.refuse_broker(self.demo.state, node, verdict, all_ports=all_ports)
        self._mend[f"filter {node}"] = lambda: self.heal(node)

    def heal(self, node: str) -> None:
        self._mend.pop(f"filter {node}", None)
        network.heal_broker(self.demo.state, node)

    # disk

    def fill_disk(self) -> None:
        """Leaves not a byte on the panel's disk; only where the state folder is a small disk of its own."""
        folder = self.demo.state.folder
        if not folder.is_mount():
            raise Failed(f"{folder} is not a mount of its own: filling it would fill this machine's disk")
        self._mend["disk"] = self.empty_disk
        with open(folder / BALLAST, "ab", buffering=0) as ballast:
            for size in (2**20, 2**12, 1):
                try:
                    while ballast.write(b"\0" * size):
                        pass
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def fill_folder(self, node: str, folder: str) -> None:
        """Leaves not a byte in a node's folder; only where that is a file system of its own."""
        run = self.demo.nodes[node].run
        if run("mountpoint", "-q", folder, check=False).returncode:
            raise Failed(f"{folder} is no file system of its own: filling it would fill this machine's disk")
        self._mend[f"folder {node}"] = lambda: self.empty_folder(node, folder)
        for size in ("64k", "1"):
            full = f"exec dd if=/dev/zero bs={size} >>{folder}/{BALLAST}"
            said = run("sh", "-c", full, check=False).stderr
            if os.strerror(errno.ENOSPC) not in said:
                raise Failed(f"{folder} of {node} could not be filled: {said}")

    def empty_folder(self, node: str, folder: str) -> None:
        self._mend.pop(f"folder {node}", None)
        self.demo.nodes[node].run("rm", "-f", f"{folder}/{BALLAST}")

    def empty_disk(self) -> None:
        self._mend.pop("disk", None)
        (self.demo.state.folder / BALLAST).unlink(missing_ok=True)

    # all of it

    def undo(self) -> None:
        """Mends what is still broken: the network first, then the processes in the order of their starting."""
        self.disarm()
        for mend in list(self._mend.values()):
            mend()
        self._mend.clear()
        if broker.process(self.demo.state).pid() is None:
            broker.start(self.demo.state)
        self.demo.panel.start()
        for node in self.demo.nodes.values():
            node.boot()
        wait(self.demo.api.ready, PATIENCE_S, "the panel to be ready again", f"logs: {self.demo.state.folder / 'log'}")


def reached(armed: Path) -> Path:
    return armed.with_name(f"{armed.name}.reached")


class Watch:
    """Looks twenty times a second, in a thread of its own, for as long as it is entered."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self.look()

    def look(self) -> None:
        raise NotImplementedError


class GuestWatch(Watch):
    """Looks all the time for a guest that runs twice on the machine; law 7 allows it at no moment.

    A guest is a QEMU process with ``-uuid``; during a move its target waits with ``-incoming`` and does not run.
    """

    def __init__(self, nodes: dict[str, Node]) -> None:
        super().__init__()
        self._nodes = nodes
        self.violations: list[str] = []

    def look(self) -> None:
        self.violations += [uuid for uuid, count in Counter(running_guests(self._nodes)).items() if count > 1]


def running_guests(nodes: dict[str, Node]) -> list[str]:
    """The uuid of every guest process on every node; one that stands twice runs twice."""
    found = []
    spaces = {space for node in nodes.values() if (space := _pid_space(node))}
    # Looked at twenty times a second: one pass for all nodes, by bare system calls.
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as cmdline:
                argv = cmdline.read().split(b"\0")
            if b"qemu-system" not in argv[0] or os.readlink(f"/proc/{name}/ns/pid") not in spaces:
                continue
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"-incoming" not in argv and b"-uuid" in argv:
            found.append(argv[argv.index(b"-uuid") + 1].decode())
    return found


def _pid_space(node: Node) -> str:
    """The node's PID namespace; nothing while it has no power."""
    try:
        return os.readlink(f"/proc/{node.pid}/ns/pid")
    except (Failed, FileNotFoundError, ProcessLookupError):
        return ""
