"""What a panel is beside its database: its configuration with the keys, and the cluster's CA."""

import fcntl
import io
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from django.conf import settings
from dotenv import dotenv_values

from cluster.refusals import Refusal, Refused

CONFIGURATION = "panel.env"
PLACES = ("ca_dir", "redis_socket")
"""Paths: where this installation names its own, those hold and not the archive's."""
_PLAIN = re.compile(r"[\w./:@,+=\[\]-]*", re.ASCII)


def configuration_file() -> Path:
    return Path(settings.STATE_DIR / CONFIGURATION)


def ca_folder(values: Mapping[str, str] | None = None) -> Path:
    """Where the CA is, or with ``values`` (lines of a configuration) where it will be looked for."""
    if values is None:
        return Path(settings.INSTALLATION.ca_dir)
    return Path(values.get("ULEI_CA_DIR") or settings.STATE_DIR / "ca")


def explicit(*names: str) -> dict[str, str]:
    """Values that were set here, by the environment or the file, as lines of a configuration have them."""
    chosen = set(names) & settings.INSTALLATION.model_fields_set if names else settings.INSTALLATION.model_fields_set
    return {f"ULEI_{name.upper()}": str(getattr(settings.INSTALLATION, name)) for name in sorted(chosen)}


def configuration(text: str, values: Mapping[str, str]) -> str:
    """The text with these values in it; all its other lines stay as they are."""
    kept = [line for line in text.splitlines() if _name(line) not in values]
    return "".join(f"{line}\n" for line in [*kept, *(f"{name}={_quoted(value)}" for name, value in values.items())])


def values_of(text: str) -> dict[str, str]:
    return {name.upper(): value or "" for name, value in dotenv_values(stream=io.StringIO(text)).items()}


def collect(folder: Path) -> None:
    """Copy configuration and CA to ``folder``."""
    file, folder_of_ca = configuration_file(), ca_folder()
    text = file.read_text() if file.exists() else ""
    _write(folder / CONFIGURATION, configuration(text, explicit()).encode())
    (folder / "ca").mkdir(mode=0o700)
    for path in sorted(folder_of_ca.glob("*.pem")) + sorted(folder_of_ca.glob("*.key")):
        _write(folder / "ca" / path.name, path.read_bytes())


def put(folder: Path, stamp: str) -> list[str]:
    """Put configuration and CA of an unpacked archive in their places, and what is there aside.

    Returns the variables of the environment that say something else than the restored file and win over it.
    """
    text = (folder / CONFIGURATION).read_text()
    merged = configuration(text, explicit(*PLACES))
    file, ca = configuration_file(), ca_folder(values_of(merged))
    new_file, new_ca = file.with_name(f".{file.name}.{stamp}"), ca.with_name(f".{ca.name}.{stamp}")
    ca.parent.mkdir(parents=True, exist_ok=True)
    new_ca.mkdir(mode=0o700)
    to_owner(new_ca)
    for path in sorted((folder / "ca").glob("*")):
        _write(new_ca / path.name, path.read_bytes())
    _write(new_file, merged.encode())
    for new, place in ((new_ca, ca), (new_file, file)):
        set_aside(place, stamp)
        new.rename(place)
    wanted = values_of(merged)
    return sorted(name for name, value in wanted.items() if name in os.environ and os.environ[name] != value)


def what_is_there() -> list[str]:
    """Files of a panel that a restore would replace."""
    ca = ca_folder()
    return [
        str(path) for path in (configuration_file(), ca) if path.is_file() or (path.is_dir() and any(path.iterdir()))
    ]


def set_aside(path: Path, stamp: str, suffix: str = "") -> None:
    """Beside its place, under a name that says when: never deleted. ``suffix`` stays at the end of the name."""
    if path.exists():
        bare = path.name.removesuffix(suffix) if suffix else path.name
        path.rename(path.with_name(f"{bare}.before-restore-{stamp}{suffix}"))


def to_owner(path: Path) -> None:
    """A restore is run by root more often than the panel is."""
    owner = settings.STATE_DIR.stat()
    if os.geteuid() == 0:
        os.chown(path, owner.st_uid, owner.st_gid)
    path.chmod(0o700 if path.is_dir() else 0o600)


@contextmanager
def stopped() -> Iterator[None]:
    """A context in which no conductor and no web process of this installation runs, and none can begin.

    Raises :class:`Refused` (``panel_runs``).
    """
    with ExitStack() as held:
        lease = settings.STATE_DIR / "conductor.lock"
        file = held.enter_context(open(lease, "a"))
        to_owner(lease)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(Refusal("panel_runs", {"process": "conductor", "held": str(lease)})) from None
        web = held.enter_context(socket.socket())
        # Else a connection that a web process closed a minute ago would look like one.
        web.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        host, port = "127.0.0.1", settings.INSTALLATION.port
        try:
            web.bind((host, port))
            web.listen()
        except OSError:
            raise Refused(Refusal("panel_runs", {"process": "web", "held": f"{host}:{port}"})) from None
        yield


def room_for(folder: Path, size_bytes: int) -> None:
    """Raises :class:`Refused` (``no_disk_room``) before a disk runs full in the middle."""
    free = shutil.disk_usage(folder).free
    if free < size_bytes:
        raise Refused(Refusal("no_disk_room", {"folder": str(folder), "free": free, "needed": size_bytes}))


def _name(line: str) -> str:
    return line.partition("=")[0].strip().removeprefix("export ").strip().upper()


def _quoted(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _write(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    to_owner(path)
