"""A PostgreSQL of the tests' own, from Debian's packages: a unix socket, no port, nothing that outlives the run."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

USER = "ulei"
# The data is thrown away with the run, so nothing need reach the disk.
CAREFREE = ("fsync=off", "full_page_writes=off", "max_connections=60")
# What is committed need not even have left the server's own memory. Not where that server is to be killed.
FORGETFUL = ("synchronous_commit=off",)


def binaries() -> Path | None:
    """Debian keeps each major version's programs in a folder of its own."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    return found[-1] if found else None


@dataclass(frozen=True)
class Server:
    """PostgreSQL refuses root, so it runs as its package's own user."""

    programs: Path
    folder: Path
    options: tuple[str, ...]
    output: IO[bytes]

    @property
    def url(self) -> str:
        """What ``DATABASE_URL`` is to say."""
        return f"postgresql://{USER}@/postgres?host={self.folder}"

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def initialize(self) -> None:
        self._run("initdb", "-U", USER, "--auth=trust", "-E", "UTF8", "--no-sync")

    def start(self) -> None:
        """Returns when it takes connections."""
        options = (*CAREFREE, *self.options, "listen_addresses=''", f"unix_socket_directories={self.folder}")
        chosen = " ".join(f"-c {option}" for option in options)
        self._run("pg_ctl", "-w", "-o", chosen, "-l", str(self.folder / "log"), "start")

    def stop(self) -> None:
        """At once, as if its machine's power had gone."""
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def kill_connections(self) -> int:
        """kill -9 of every process that serves a client, whereupon PostgreSQL ends all others too and begins anew.

        :returns: how many there were.
        """
        server = int((self._data / "postmaster.pid").read_text().split()[0])
        killed = 0
        for child in Path(f"/proc/{server}/task/{server}/children").read_text().split():
            with suppress(FileNotFoundError, ProcessLookupError):
                if Path(f"/proc/{child}/cmdline").read_bytes().startswith(f"postgres: {USER} ".encode()):
                    os.kill(int(child), signal.SIGKILL)
                    killed += 1
        return killed

    def _run(self, program: str, *argv: str) -> None:
        as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        where: dict[str, Any] = {"cwd": self.folder, "env": {**os.environ, "LC_ALL": "C.UTF-8"}}
        command = [*as_postgres, str(self.programs / program), "-D", str(self._data), *argv]
        subprocess.run(command, check=True, stdout=self.output, stderr=self.output, **where)


@contextmanager
def running(log: Path, *options: str) -> Iterator[Server]:
    """A server with these options beside its own."""
    programs = binaries()
    if programs is None:
        raise FileNotFoundError("no PostgreSQL in /usr/lib/postgresql: deploy/install --tests")
    # Its user must be able to reach the folder, which is not given below a private home.
    folder = Path(tempfile.mkdtemp(prefix="ulei-pg-", dir="/var/tmp"))
    shutil.chown(folder, "postgres", "postgres")
    with open(log, "wb") as output:
        server = Server(programs, folder, options, output)
        try:
            server.initialize()
            server.start()
            try:
                yield server
            finally:
                server.stop()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def server(log: Path) -> Iterator[str]:
    """Yields a ``DATABASE_URL``."""
    with running(log, *FORGETFUL) as started:
        yield started.url
