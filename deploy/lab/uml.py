"""A node with a kernel of its own: user-mode Linux, for what this machine's kernel may lack: device-mapper.

It joins, is looked at and loses its power as the other nodes do; what its processes are is told by its own kernel,
over ``deploy.lab.channel``. One CPU, no KVM, no IPv6, and no nftables but for bridges, where its migration ports are
closed too (``deploy/lab/uml-nft``).
"""

import secrets
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.lab import channel, network
from deploy.lab.node import IMAGES, ISOS, Node
from deploy.lab.processes import ROOT, Failed, Process, run, wait
from deploy.lab.state import PREFIX_LENGTH, State, write_private

MEMORY = "1536M"
DISKS_BYTES = {
    "disk.img": 8 * 2**30,
    "vg0-first.img": 4 * 2**30,
    "vg0-second.img": 4 * 2**30,
    "spare.img": 4 * 2**30,
}
"""Sparse files: the node's own disk, the two of vg0 (so that stripes can be made), and a blank one for tests."""
LVM_CONFIG = """\
devices { use_devicesfile = 0 scan = [ "/dev" ] types = [ "ubd", 16 ] }
activation { udev_sync = 0 udev_rules = 0 monitoring = 0 error_when_full = 1 }
"""
BOOT_S = 60.0
COMMAND_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class InsideProcess(Process):
    """A process of the node's own kernel; its pid counts there, its log lies here."""

    node: "UmlNode"

    def start(self, argv: Sequence[str], env: Mapping[str, str], inside: int | None = None) -> int:
        pid = self.pid()
        if pid is not None:
            return pid
        spawn = ["python", "-m", "deploy.lab.spawn", str(self.pid_file), str(self.log), "--", *argv]
        self.node.run("mkdir", "-p", str(self.pid_file.parent))
        self.node.run(*spawn, env=dict(env))
        pid = self.pid()
        if pid is None:
            raise Failed(f"{self.name} did not start: it ended at once", f"see {self.log}")
        return pid

    def pid(self) -> int | None:
        return self._ask(None)

    def signal(self, number: signal.Signals) -> bool:
        return self._ask(number.value) is not None

    def _ask(self, number: int | None) -> int | None:
        """Of a node without power, or one that hangs, nothing runs as far as anybody can tell."""
        if not self.node.on:
            return None
        try:
            return self.node.ask({"process": {"pid_file": str(self.pid_file), "number": number}}, 10)
        except OSError:
            return None


class UmlNode(Node):
    patience_s = 120.0

    def __init__(self, state: State, name: str) -> None:
        super().__init__(state, name)
        self._machine = Process(name, self._machine.pid_file, self._holder.log)
        self.libvirtd, self.agent = (
            InsideProcess(f"{name}.{part}", Path(f"/run/lab/{part}.pid"), state.folder / f"log/{name}.{part}.log", self)
            for part in ("libvirtd", "agent")
        )
        self._token = self.folder / "channel.token"

    @property
    def namespace(self) -> str:
        return network.namespace(self.state)

    def program(self) -> list[str]:
        address = f"{self.address}/{PREFIX_LENGTH}"
        script = str(ROOT / "deploy/lab/uml-machine")
        return [script, str(self.state.folder), str(self.folder.resolve()), self.name, address, MEMORY]

    def power_on(self) -> None:
        """Returns when the node takes commands; its volume group is there by then."""
        network.uml_up(self.state, self.name)
        super().power_on()
        wait(self._answers, BOOT_S, f"{self.name} to boot", f"see {self._machine.log}")

    def _answers(self) -> bool:
        if not self.on:
            raise Failed(f"{self.name} ended while booting:\n{self._machine.last_lines(8)}", f"see {self._machine.log}")
        return self.run("true", check=False).returncode == 0

    def shut_down(self) -> None:
        self.libvirtd.stop()
        self.run("sync", check=False, timeout=20)  # a node that hangs is switched off all the same
        self.power_off()

    def power_off(self) -> None:
        self._machine.kill()
        wait(lambda: self._holder.pid() is None, 10, f"the namespaces of {self.name} to end")

    def _write_files(self) -> None:
        super()._write_files()
        (self.folder / "etc/lvm").mkdir(exist_ok=True)
        (self.folder / "etc/lvm/lvm.conf").write_text(LVM_CONFIG)
        if not self._token.exists():
            write_private(self._token, secrets.token_urlsafe(32))
        for name, size_bytes in DISKS_BYTES.items():
            disk = self.folder / name
            if not disk.exists():
                new = disk.with_suffix(".new")
                with new.open("wb") as file:
                    file.truncate(size_bytes)
                if name == "disk.img":
                    run("mkfs.ext4", "-q", str(new))
                new.rename(disk)

    def put(self, image: Path, iso: Path) -> None:
        """By way of the folder that both sides see."""
        super().put(image, iso)
        for folder, name in ((IMAGES, image.name), (ISOS, iso.name)):
            target = f"/{folder}/{name}"
            if self.run("test", "-e", target, check=False).returncode:
                self.run("install", "-D", "-m", "644", str(self.folder / folder / name), f"{target}.copy")
                self.run("mv", f"{target}.copy", target)

    # what runs on it

    def ask(self, request: dict[str, object], timeout_s: float):
        return channel.ask(self.namespace, self._token, request, timeout_s)

    def run(
        self,
        *argv: str,
        check: bool = True,
        env: dict[str, str] | None = None,
        input: str | None = None,
        timeout: float = COMMAND_TIMEOUT_S,
    ) -> subprocess.CompletedProcess[str]:
        """Status 255, as with ssh, when the node does not answer; 127 when the command cannot be run."""
        env = self.environment("agent") if env is None else env
        request = {"argv": argv, "env": env, "stdin": input, "timeout_s": timeout}
        try:
            answer = self.ask({"run": request}, timeout + 5)
        except OSError as error:
            answer = {"status": 255, "stdout": "", "stderr": str(error)}
        done = subprocess.CompletedProcess(argv, answer["status"], answer["stdout"], answer["stderr"])
        if check and done.returncode:
            words = (done.stderr or done.stdout).strip() or done.returncode
            raise Failed(f"{self.name}: {' '.join(argv[:6])}: {words}")
        return done

    def enter(self, *argv: str) -> list[str]:
        raise NotImplementedError(f"{self.name} has a kernel of its own: run() goes there")

    def guests(self) -> list[int]:
        """Pids as the node's own kernel numbers them."""
        pattern = r"^/usr/bin/qemu-system.* -uuid "
        return [int(pid) for pid in self.run("pgrep", "-f", pattern, check=False).stdout.split()]

    def end_guests_by_force(self) -> None:
        self.run("kill", f"-{signal.SIGKILL.value}", *map(str, self.guests()), check=False)

    def processes(self) -> list[Process]:
        return [self._machine, *super().processes()]
