"""A PostgreSQL of the tests' own, from Debian's packages: a unix socket, no port, nothing that outlives the run."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# The data is thrown away with the run, so nothing need reach the disk.
CAREFREE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=60")


def binaries() -> Path | None:
    """Debian keeps each major version's programs in a folder of its own."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    return found[-1] if found else None


@contextmanager
def server(log: Path) -> Iterator[str]:
    """Yields a ``DATABASE_URL``. PostgreSQL refuses root, so it runs as its package's own user."""
    programs = binaries()
    if programs is None:
        raise FileNotFoundError("no PostgreSQL in /usr/lib/postgresql: deploy/install --tests")
    # Its user must be able to reach the folder, which is not given below a private home.
    folder = Path(tempfile.mkdtemp(prefix="ulei-pg-", dir="/var/tmp"))
    shutil.chown(folder, "postgres", "postgres")
    as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data = folder / "data"
    options = " ".join(
        f"-c {option}" for option in (*CAREFREE, "listen_addresses=''", f"unix_socket_directories={folder}")
    )
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    with open(log, "wb") as output:

        def run(*argv: str) -> None:
            subprocess.run([*as_postgres, *argv], check=True, cwd=folder, env=env, stdout=output, stderr=output)

        try:
            run(str(programs / "initdb"), "-D", str(data), "-U", "ulei", "--auth=trust", "-E", "UTF8", "--no-sync")
            run(str(programs / "pg_ctl"), "-D", str(data), "-w", "-o", options, "-l", str(folder / "log"), "start")
            try:
                yield f"postgresql://ulei@/postgres?host={folder}"
            finally:
                run(str(programs / "pg_ctl"), "-D", str(data), "-w", "-m", "immediate", "stop")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
