"""The panel's processes: web, enrolment listener and conductor, and its management commands."""

import hashlib
from pathlib import Path

from deploy.lab.processes import ROOT, Failed, Process, run
from deploy.lab.state import State

PROCESSES = ("web", "enrol", "conductor")


class Panel:
    def __init__(self, state: State) -> None:
        self.state = state

    def process(self, name: str) -> Process:
        return self.state.process(name)

    def manage(self, *argv: str) -> str:
        """A management command; its standard output."""
        env = self.state.panel_environment("manage")
        done = run(self.state.python, "manage.py", *argv, env=env, cwd=ROOT, check=False)
        if done.returncode:
            words = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
            raise Failed(f"manage.py {' '.join(argv[:2])}: {words}")
        return done.stdout

    def prepare(self) -> None:
        """Certificates, database, static files and the first user; what is up to date is left alone."""
        if not (self.state.ca / "redis.pem").exists():
            self.manage("ca_init")
        self._once("migrate", ["cluster/migrations/*.py", "requirements.lock"], "migrate", "--no-input")
        self._once("collectstatic", ["web/static/**/*", "requirements.lock"], "collectstatic", "--no-input")
        if not self.state.credentials.exists():
            self.manage("first_user", "--write", str(self.state.credentials))

    def _once(self, name: str, patterns: list[str], *command: str) -> None:
        """Runs the command unless it ran in this state folder on the same files."""
        digest = hashlib.sha256(self.state.panel_environment("manage").get("DATABASE_URL", "").encode())
        for path in sorted(path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()):
            digest.update(str(path).encode() + path.read_bytes())
        stamp = self.state.folder / "run" / f"{name}.stamp"
        if not (stamp.exists() and stamp.read_text() == digest.hexdigest()):
            self.manage(*command)
            stamp.write_text(digest.hexdigest())

    def start(self, *names: str, **extra: str) -> None:
        """Starts these processes, or all; ``extra`` is added to their environment."""
        for name in names or PROCESSES:
            self.process(name).start(self.command(name), self.state.panel_environment(name) | extra)

    def command(self, name: str) -> list[str]:
        python = self.state.python
        uvicorn = [python, "-m", "uvicorn", "--lifespan", "off", "--no-access-log"]
        tls = ["--ssl-certfile", str(self.state.ca / "ca.pem"), "--ssl-keyfile", str(self.state.ca / "ca.key")]
        enrol = ["web.asgi:enrolment", "--host", self.state.address, "--port", str(self.state.enrol_port), *tls]
        return {
            "web": [*uvicorn, "web.asgi:application", "--host", "127.0.0.1", "--port", str(self.state.port)],
            "enrol": self.state.in_lab(*uvicorn, *enrol),
            "conductor": [python, "manage.py", "conductor"],
        }[name]

    def check_alive(self) -> None:
        for name in PROCESSES:
            process = self.process(name)
            if process.pid() is None:
                raise Failed(f"{name} ended:\n{process.last_lines(8)}", f"the log: {process.log}")

    def stop(self) -> None:
        for name in reversed(PROCESSES):
            self.process(name).stop()


def port_taken(port: int) -> bool:
    """Whether somebody listens on this port of the root namespace's loopback (IPv4)."""
    wanted = f"{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, state = line.split()[1], line.split()[3]
        if state == "0A" and local.endswith(f":{wanted}"):
            return True
    return False
