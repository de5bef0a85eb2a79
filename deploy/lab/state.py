"""A demo's state folder: its paths, names and settings. Two folders are two demos that share nothing."""

import base64
import hashlib
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy.lab.processes import ROOT, Failed, Process
from deploy.lib.postgres import Server

LAB_ADDRESS = "10.99.0.1"
PREFIX_LENGTH = 24
ENROL_PORT = 8101
REDIS_PORT = 6380

USUAL_NODES = 2
MOST_NODES = 8
UML_NODE = f"n{USUAL_NODES + 1}"
"""The LVM node, behind as many others as there usually are."""

SIMULATION = "simulated.json"

# A unix socket's path must fit into sockaddr_un.
SOCKET_PATH_MAX = 107


@dataclass(frozen=True)
class Simulation:
    nodes: int
    vms: int
    """Guests of each node."""
    changes_per_s: float
    """Guests that go off or come back by themselves, over all nodes."""


@dataclass(frozen=True)
class State:
    folder: Path
    port: int
    faults: bool = False
    """Whether the processes look for named points to die at (nodes/contract/faults.py)."""
    database: Server | None = None
    """A PostgreSQL that tests may break; None: the one of ``DATABASE_URL``, else SQLite."""

    @classmethod
    def from_environment(cls) -> "State":
        folder = Path(os.environ.get("ULEI_STATE") or ROOT / "var").absolute()
        return cls(folder, int(os.environ.get("ULEI_PORT") or 8100), bool(os.environ.get("ULEI_FAULTS")))

    def __post_init__(self) -> None:
        if len(str(self.redis_socket)) > SOCKET_PATH_MAX:
            raise Failed(f"the state folder's path is too long: {self.folder}", "set ULEI_STATE to a shorter one")

    @property
    def tag(self) -> str:
        """Prefix of this demo's namespaces."""
        return "ulei" + hashlib.sha256(str(self.folder).encode()).hexdigest()[:6]

    @property
    def nodes(self) -> dict[str, str]:
        """Addresses of the nodes whose guests move between them: namespaces of this machine."""
        try:
            count = int(self._node_count.read_text())
        except FileNotFoundError:
            count = USUAL_NODES
        return {f"n{number}": _address(number) for number in range(1, count + 1)}

    def want_nodes(self, count: int) -> None:
        """How many of them there are; for a state folder that has none yet."""
        if not USUAL_NODES <= count <= MOST_NODES:
            raise Failed(f"{count} nodes: {USUAL_NODES} to {MOST_NODES} are possible")
        if count != len(self.nodes) and self.credentials.exists():
            raise Failed(f"{self.folder} has {len(self.nodes)} nodes", "choose another ULEI_STATE, or --fresh")
        self.make_folders()
        self._node_count.write_text(str(count))

    @property
    def _node_count(self) -> Path:
        return self.folder / "run/nodes"

    @property
    def uml_node(self) -> str:
        """The LVM node's name: the next one."""
        return f"n{len(self.nodes) + 1}"

    @property
    def addresses(self) -> dict[str, str]:
        """Of all real nodes, also of one that is not there."""
        return self.nodes | {self.uml_node: _address(len(self.nodes) + 1)}

    @property
    def simulation(self) -> "Simulation | None":
        """What was asked of a demo whose nodes are simulated; None: they are real."""
        try:
            return Simulation(**json.loads((self.folder / SIMULATION).read_text()))
        except FileNotFoundError:
            return None

    def simulate(self, simulation: "Simulation") -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / SIMULATION).write_text(json.dumps(asdict(simulation)))

    @property
    def address(self) -> str:
        """Where nodes find Redis and the enrolment."""
        return "127.0.0.1" if self.simulation else LAB_ADDRESS

    @property
    def enrol_port(self) -> int:
        # Real nodes have a network of their own; simulated ones share this machine's with other demos.
        return self.port + 1 if self.simulation else ENROL_PORT

    @property
    def redis_port(self) -> int:
        return self.port + 2 if self.simulation else REDIS_PORT

    def in_lab(self, *argv: str) -> list[str]:
        """The command line that runs ``argv`` where the nodes can reach it."""
        return list(argv) if self.simulation else ["ip", "netns", "exec", f"{self.tag}-lab", *argv]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def python(self) -> str:
        return str(ROOT / "var/venv/bin/python")

    @property
    def redis_socket(self) -> Path:
        return self.folder / "redis.sock"

    @property
    def cache(self) -> Path:
        """Built guests; demos may share it, for its entries are named by what they are made of."""
        return Path(os.environ.get("ULEI_CACHE") or self.folder / "cache")

    @property
    def ca(self) -> Path:
        return self.folder / "ca"

    @property
    def credentials(self) -> Path:
        return self.folder / "credentials.json"

    @property
    def env_file(self) -> Path:
        return self.folder / "panel.env"

    def faults_of(self, process: str) -> Path:
        """Folder in which points are armed for one process (``n1.agent``, ``conductor``, ``web``)."""
        return self.folder / "faults" / process

    def process(self, name: str) -> Process:
        return Process(name, self.folder / "run" / f"{name}.pid", self.folder / "log" / f"{name}.log")

    def make_folders(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("run", "log", "nodes", "ca", "redis"):
            (self.folder / name).mkdir(exist_ok=True, mode=0o700)

    def environment(self, process: str) -> dict[str, str]:
        """What every process of the demo sees; nothing of the caller's own environment leaks in."""
        path = f"{ROOT / 'var/venv/bin'}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        env = {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
        if self.faults:
            folder = self.faults_of(process)
            folder.mkdir(parents=True, exist_ok=True)
            env["ULEI_FAULTS"] = str(folder)
        return env

    def panel_environment(self, process: str) -> dict[str, str]:
        """Settings of web, conductor and management commands; the secrets are made at the first start."""
        env = self.environment(process)
        env |= {
            "DJANGO_SETTINGS_MODULE": "cluster.settings",
            "ULEI_STATE": str(self.folder),
            "ULEI_PORT": str(self.port),
            "ULEI_REDIS_SOCKET": str(self.redis_socket),
            "PYTHONPATH": str(ROOT),
        }
        database = self.database.url if self.database else os.environ.get("DATABASE_URL")
        if database:
            env["DATABASE_URL"] = database
        if self.simulation:
            env["ULEI_SIMULATED"] = "1"
        if self.faults:
            env["ULEI_UNANSWERED_AFTER_S"] = "6"  # a test would wait a minute for it
            env["ULEI_DOWNLOAD_NETWORKS"] = f"{LAB_ADDRESS}/32"  # where a test has its web server
        return env | self.panel_secrets()

    def panel_secrets(self) -> dict[str, str]:
        if not self.env_file.exists():
            made = {
                "ULEI_SECRET_KEY": secrets.token_urlsafe(48),
                "ULEI_FIELD_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
                "ULEI_REDIS_WEB_PASSWORD": secrets.token_urlsafe(24),
                "ULEI_REDIS_CONDUCTOR_PASSWORD": secrets.token_urlsafe(24),
                "ULEI_REDIS_CHANNELS_PASSWORD": secrets.token_urlsafe(24),
                "ULEI_ENROL_URL": f"https://{self.address}:{self.enrol_port}",
                "ULEI_NODE_REDIS_HOST": self.address,
                "ULEI_NODE_REDIS_PORT": str(self.redis_port),
                "ULEI_CA_DIR": str(self.ca),
            }
            write_private(self.env_file, "".join(f"{name}={value}\n" for name, value in made.items()))
        lines = self.env_file.read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def _address(number: int) -> str:
    return f"10.99.0.{10 + number}"


def write_private(path: Path, text: str) -> None:
    """A file for root's eyes: never readable by others, not even while it is being written."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    new.rename(path)
