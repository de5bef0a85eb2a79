"""A hypervisor of the lab: a machine with a power button, its own libvirtd, and in time an agent."""

import shutil
import signal
import subprocess
import uuid
from pathlib import Path

from deploy.lab import network
from deploy.lab.processes import ROOT, Failed, Process, run, wait
from deploy.lab.state import LAB_ADDRESS, State

# The socket is root's alone inside the node, so nobody is asked who he is. TLS is for the other nodes; which of
# them may come in is the agent's to say, by certificate.
LIBVIRTD_CONF = """\
listen_tls = 1
listen_tcp = 0
tls_allowed_dn_list = ["*O=Ulei*"]
auth_unix_rw = "none"
host_uuid = "{host_uuid}"
"""
QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
default_tls_x509_cert_dir = "/etc/pki/qemu"
default_tls_x509_verify = 1
migrate_tls_x509_verify = 1
"""
IMAGES = "var/lib/libvirt/images"
ISOS = "var/lib/libvirt/boot"


class Node:
    patience_s = 30.0
    """How long libvirtd may take until it answers."""

    def __init__(self, state: State, name: str) -> None:
        self.state, self.name, self.address = state, name, state.addresses[name]
        self.folder = state.folder / "nodes" / name
        self._holder = state.process(f"{name}.namespaces")
        self._machine = state.process(name)
        self.libvirtd = state.process(f"{name}.libvirtd")
        self.agent = state.process(f"{name}.agent")

    # the machine

    @property
    def pid(self) -> int:
        """The node's PID 1 as the outer machine numbers it."""
        pid = self._machine.pid()
        if pid is None:
            raise Failed(f"node {self.name} is powered off")
        return pid

    @property
    def on(self) -> bool:
        return self._machine.pid() is not None

    def power_on(self) -> None:
        """Boots the node's namespaces; nothing runs in them yet."""
        if self.on:
            return
        self._write_files()
        env = self.state.environment(self.name)
        unshare = "unshare --mount --uts --pid --fork --mount-proc".split()
        init = [str(ROOT / "deploy/lab/node-init"), str(self.folder), self.name, *self.program()]
        holder = self._holder.start(["ip", "netns", "exec", self.namespace, *unshare, *init], env)
        self._machine.remember(wait(lambda: self._tini(holder), 10, f"boot of {self.name}", f"see {self._holder.log}"))

    @property
    def namespace(self) -> str:
        """The network namespace in which it runs."""
        return network.namespace(self.state, self.name)

    def program(self) -> list[str]:
        """What its machine is, when everything around it is in place."""
        return ["sleep", "infinity"]

    def shut_down(self) -> None:
        self.libvirtd.stop()
        self.power_off()

    def power_off(self) -> None:
        """Power loss: every process of the node dies at this moment, guests included."""
        self._machine.kill()
        wait(lambda: self._holder.pid() is None, 10, f"the namespaces of {self.name} to end")
        network.reset_node(self.state, self.name)

    def _tini(self, holder: int) -> int | None:
        """The child of ``unshare`` once it has become tini: then all mounts are in place."""
        try:
            children = Path(f"/proc/{holder}/task/{holder}/children").read_text().split()
            if children and Path(f"/proc/{children[0]}/comm").read_text().strip() == "tini":
                return int(children[0])
        except FileNotFoundError as error:
            raise Failed(f"{self.name} ended while booting", self._holder.last_lines(3)) from error
        return None

    def _write_files(self) -> None:
        for path in (IMAGES, ISOS, "etc/libvirt", "etc/pki/qemu", "etc/ulei", "var/log/libvirt/qemu"):
            (self.folder / path).mkdir(parents=True, exist_ok=True)
        hosts = [f"{address} {name}" for name, address in {"panel": LAB_ADDRESS, **self.state.addresses}.items()]
        (self.folder / "etc/hosts").write_text("\n".join(["127.0.0.1 localhost", *hosts, ""]))
        identity = self.folder / "host_uuid"
        if not identity.exists():
            identity.write_text(str(uuid.uuid4()))
        libvirt = self.folder / "etc/libvirt"
        if not (libvirt / "libvirtd.conf").exists():
            (libvirt / "libvirtd.conf").write_text(LIBVIRTD_CONF.format(host_uuid=identity.read_text()))
            (libvirt / "qemu.conf").write_text(QEMU_CONF)

    def put(self, image: Path, iso: Path) -> None:
        """Copies of the micro image and ISO in the two folders where the inventory looks."""
        for source, folder in ((image, IMAGES), (iso, ISOS)):
            target = self.folder / folder / source.name
            if not target.exists():
                shutil.copyfile(source, target.with_suffix(".copy"))
                target.with_suffix(".copy").rename(target)

    # what runs on it

    def enter(self, *argv: str) -> list[str]:
        """The command line that runs ``argv`` on this node."""
        return ["nsenter", "-t", str(self.pid), "-n", "-m", "-u", "-p", "--", *argv]

    def run(self, *argv: str, check: bool = True, **options) -> subprocess.CompletedProcess[str]:
        return run(*self.enter(*argv), check=check, env=self.environment("agent"), **options)

    def environment(self, process: str) -> dict[str, str]:
        return self.state.environment(f"{self.name}.{process}") | {"PYTHONPATH": str(ROOT)}

    def start_libvirtd(self) -> None:
        """libvirtd listens for other nodes once the node has its certificate, that is after the join."""
        if self.libvirtd.pid() is None:
            self.run("ulei-node", "before-libvirtd")  # as deploy/systemd/libvirtd.service.d has it
        listen = ["--listen"] if self.has_certificate else []
        self.libvirtd.start(["libvirtd", *listen], self.environment("libvirtd"), inside=self.pid)
        self.wait_for_libvirtd()

    def wait_for_libvirtd(self) -> None:
        def answers() -> bool:
            if self.libvirtd.pid() is None:
                raise Failed(f"libvirtd of {self.name} ended", self.libvirtd.last_lines(3))
            return self.run("virsh", "-c", "qemu:///system", "version", check=False).returncode == 0

        wait(answers, self.patience_s, f"libvirtd of {self.name} to answer", f"see {self.libvirtd.log}")

    def restart_libvirtd(self) -> None:
        """Guests do not notice: they are processes of their own."""
        self.libvirtd.stop()
        self.start_libvirtd()

    @property
    def has_certificate(self) -> bool:
        return (self.folder / "etc/pki/libvirt/servercert.pem").exists()

    @property
    def joined(self) -> bool:
        return (self.folder / "etc/ulei/node.toml").exists()

    def start_agent(self, **extra: str) -> None:
        self.agent.start(["ulei-node", "run"], self.environment("agent") | extra, inside=self.pid)

    def boot(self) -> None:
        """Power on and start what a boot starts: libvirtd and, on a node that has joined, the agent."""
        self.power_on()
        self.start_libvirtd()
        if self.joined:
            self.start_agent()

    def guests(self) -> list[int]:
        """Pids of the QEMU processes that run guests on this node, as the outer machine numbers them."""
        own = _namespace_of(self.pid)
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                argv = (process / "cmdline").read_bytes().split(b"\0")
                if b"-uuid" in argv and b"qemu-system" in argv[0] and _namespace_of(int(process.name)) == own:
                    found.append(int(process.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
        return found

    def processes(self) -> list[Process]:
        return [self.agent, self.libvirtd]

    def end_guests_by_force(self) -> None:
        run("kill", f"-{signal.SIGKILL.value}", *map(str, self.guests()), check=False)


def _namespace_of(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/pid").readlink())
