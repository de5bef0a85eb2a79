"""``manage.py panel_backup`` and ``panel_restore`` as an administrator runs them: processes, databases and files."""

import contextlib
import fcntl
import io
import itertools
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from django.conf import settings

ROOT = Path(__file__).parents[2]
ON_POSTGRESQL = settings.DATABASES["default"]["ENGINE"].endswith("postgresql")
KINDS = ["sqlite", "postgresql"] if ON_POSTGRESQL else ["sqlite"]
SECRET, FIELD_KEY = "a-secret-that-is-32-letters-long", "a2V5IG9mIDMyIGJ5dGVzLCBub3QgYSByZWFsIG9uZSE="
TENANTS = "SELECT name FROM cluster_tenant ORDER BY name"
NUMBERS = itertools.count()


@dataclass(frozen=True)
class Place:
    """An installation of a panel: its state folder and its database."""

    state: Path
    port: int
    database: str = ""

    @property
    def environment(self) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith("ULEI_")}
        env |= {"ULEI_STATE": str(self.state), "ULEI_PORT": str(self.port), "DATABASE_URL": self.database}
        return env | {"PYTHONPATH": str(ROOT), "DJANGO_SETTINGS_MODULE": "cluster.settings"}

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "manage.py", *argv]
        return subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True)

    def manage(self, *argv: str) -> str:
        done = self.run(*argv)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def python(self, code: str) -> str:
        return self.manage("shell", "--no-imports", "-c", code).strip()

    def refused(self, *argv: str) -> str:
        """The code of the refusal."""
        done = self.run(*argv)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stderr.removeprefix("CommandError: ").partition(":")[0]

    def backup(self, file: Path) -> Path:
        self.manage("panel_backup", str(file))
        return file

    def sql(self, statement: str) -> list[str]:
        """The first column of what it answers."""
        if self.database:
            with psycopg.connect(self.database) as connection:
                cursor = connection.execute(statement)
                return [row[0] for row in cursor.fetchall()] if cursor.description else []
        with contextlib.closing(sqlite3.connect(self.state / "panel.sqlite3")) as connection, connection:
            return [row[0] for row in connection.execute(statement).fetchall()]

    def add_tenant(self, name: str) -> None:
        self.sql(f"INSERT INTO cluster_tenant (id, name, title, created) VALUES ('{name}', '{name}', '', '2026-11-20')")

    def files(self) -> dict[str, bytes]:
        """Everything in the state folder, but for the lock that a look at it makes."""
        paths = sorted(path for path in self.state.rglob("*") if path.is_file() and path.name != "conductor.lock")
        return {path.relative_to(self.state).as_posix(): path.read_bytes() for path in paths}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def server() -> Iterator[psycopg.Cursor]:
    """The PostgreSQL of this test run."""
    own = settings.DATABASES["default"]
    values = {"host": own["HOST"], "port": own["PORT"], "user": own["USER"], "password": own["PASSWORD"]}
    given = {name: value for name, value in values.items() if value}
    with psycopg.connect(dbname="postgres", autocommit=True, **given) as connection, connection.cursor() as cursor:
        yield cursor


@dataclass
class Places:
    """Makes installations with one kind of database."""

    kind: str
    folder: Path
    databases: list[str] = field(default_factory=list)

    def empty(self) -> Place:
        return self.copy_of(None)

    def copy_of(self, other: Place | None) -> Place:
        state = self.folder / f"state{next(NUMBERS)}"
        if other:
            shutil.copytree(other.state, state)
        else:
            state.mkdir()
        return Place(state, free_port(), self._database(other) if self.kind == "postgresql" else "")

    def _database(self, other: Place | None) -> str:
        self.databases.append(f"ulei_place_{os.getpid()}_{next(NUMBERS)}")
        template = urlsplit(other.database).path.lstrip("/") if other else "template1"
        with server() as cursor:
            cursor.execute(f"CREATE DATABASE {self.databases[-1]} TEMPLATE {template}")
        own = settings.DATABASES["default"]
        where = f"host={own['HOST']}&port={own['PORT']}"
        return f"postgresql://{own['USER']}:{own['PASSWORD']}@/{self.databases[-1]}?{where}"

    def forget(self) -> None:
        if self.databases:
            with server() as cursor:
                for name in self.databases:
                    cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module", params=KINDS)
def places(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    places = Places(request.param, tmp_path_factory.mktemp("places"))
    yield places
    places.forget()


@pytest.fixture(scope="module")
def installed(places: Places) -> tuple[Place, Place]:
    """An installation with keys, a CA, and a tenant in its database: of an older panel, and of this one."""
    older = places.empty()
    (older.state / "panel.env").write_text(f"# ours\nULEI_SECRET_KEY={SECRET}\nULEI_FIELD_KEY={FIELD_KEY}\n")
    older.manage("ca_init")
    older.manage("migrate", "cluster", "0005", "--no-input", "--verbosity=0")
    older.add_tenant("before")
    place = places.copy_of(older)
    place.manage("migrate", "--no-input", "--verbosity=0")
    return older, place


@pytest.fixture(scope="module")
def backups(installed: tuple[Place, Place], places: Places) -> tuple[Path, Path]:
    older, place = installed
    return older.backup(places.folder / "older.tar"), place.backup(places.folder / "panel.tar")


@pytest.fixture
def archive(backups: tuple[Path, Path]) -> Path:
    """Of ``place`` as each test finds it."""
    return backups[1]


@pytest.fixture
def older(places: Places, installed: tuple[Place, Place]) -> Place:
    return places.copy_of(installed[0])


@pytest.fixture
def place(places: Places, installed: tuple[Place, Place]) -> Place:
    return places.copy_of(installed[1])


@pytest.fixture
def elsewhere(places: Places) -> Place:
    """Another machine, with nothing of a panel on it."""
    return places.empty()


def without(archive: Path, *names: str) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.name not in names}  # type: ignore[union-attr]


def test_a_backup_is_one_private_file_with_all_that_a_panel_is(place: Place, tmp_path: Path) -> None:
    archive = place.backup(tmp_path / "panel.tar")
    assert archive.stat().st_mode & 0o777 == 0o600
    parts = without(archive, "manifest.json")
    assert set(parts) == {"database", "panel.env", *(f"ca/{n}" for n in ("ca.key", "ca.pem", "redis.key", "redis.pem"))}
    assert f"ULEI_FIELD_KEY={FIELD_KEY}" in parts["panel.env"].decode().splitlines()
    with tarfile.open(archive) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert {part["name"]: part["size_bytes"] for part in manifest["parts"]} == {n: len(c) for n, c in parts.items()}
    assert "cluster.0001_initial" in manifest["migrations"]
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("state")) == ["panel.tar"]
    assert place.refused("panel_backup", str(archive)) == "file_exists"
    assert place.refused("panel_backup", str(tmp_path / "absent" / "x.tar")) == "folder_absent"


def test_a_panel_is_put_back_on_another_machine_with_its_keys_and_its_ca(
    place: Place, elsewhere: Place, archive: Path
) -> None:
    sealed = place.python("from cluster import crypto; print(crypto.seal('open sesame'))")
    assert "before-restore" not in elsewhere.manage("panel_restore", str(archive))
    assert elsewhere.sql(TENANTS) == ["before", "default"]
    assert elsewhere.python(f"from cluster import crypto; print(crypto.unseal('{sealed}'))") == "open sesame"
    assert elsewhere.manage("ca_init") == place.manage("ca_init")
    assert (elsewhere.state / "ca/ca.key").read_bytes() == (place.state / "ca/ca.key").read_bytes()
    assert [p.name for p in elsewhere.state.rglob("*") if p.is_file() and p.stat().st_mode & 0o077] == []
    left = {path.name for path in elsewhere.state.iterdir() if not path.name.startswith("panel.sqlite3")}
    assert left == {"ca", "panel.env", "conductor.lock"}


def test_what_is_there_is_refused_and_with_replace_set_aside(place: Place, archive: Path) -> None:
    place.add_tenant("since")
    (place.state / "panel.env").write_text("ULEI_SECRET_KEY=another\n")
    assert place.refused("panel_restore", str(archive)) == "not_empty"
    assert place.sql(TENANTS) == ["before", "default", "since"]
    assert "before-restore" in place.manage("panel_restore", str(archive), "--replace")
    assert place.sql(TENANTS) == ["before", "default"]
    assert SECRET in (place.state / "panel.env").read_text()
    [aside] = place.state.glob("panel.env.before-restore-*")
    assert aside.read_text() == "ULEI_SECRET_KEY=another\n"
    [ca] = place.state.glob("ca.before-restore-*")
    assert (ca / "ca.key").exists()
    assert former_tenants(place) == ["before", "default", "since"]
    # And once more, from the same file.
    place.add_tenant("again")
    place.manage("panel_restore", str(archive), "--replace")
    assert place.sql(TENANTS) == ["before", "default"]


def former_tenants(place: Place) -> list[str]:
    """In the database that was set aside."""
    query = "SELECT name FROM {}cluster_tenant ORDER BY name"
    if place.database:
        with psycopg.connect(place.database) as connection:
            schemas = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'before_restore%'"
            [(schema,)] = connection.execute(schemas).fetchall()
            return [name for (name,) in connection.execute(query.format(f"{schema}.")).fetchall()]
    [file] = [p for p in place.state.glob("panel.sqlite3.before-restore-*") if not p.name.endswith(("-wal", "-shm"))]
    with contextlib.closing(sqlite3.connect(file)) as database:
        return [name for (name,) in database.execute(query.format("")).fetchall()]


def test_a_panel_that_runs_is_not_replaced(place: Place, archive: Path) -> None:
    before = place.files()
    with open(place.state / "conductor.lock", "w") as lease:
        fcntl.flock(lease, fcntl.LOCK_EX)
        assert place.refused("panel_restore", str(archive), "--replace") == "panel_runs"
    with socket.socket() as web:
        web.bind(("127.0.0.1", place.port))
        web.listen()
        assert place.refused("panel_restore", str(archive), "--replace") == "panel_runs"
    assert place.files() == before


def test_a_backup_of_a_newer_panel_is_refused_and_one_of_an_older_is_migrated(
    place: Place, elsewhere: Place, backups: tuple[Path, Path], tmp_path: Path
) -> None:
    row = "(id, app, name, applied) VALUES (9999, 'cluster', '9999_of_the_future', '2027-01-01')"
    place.sql(f"INSERT INTO django_migrations {row}")
    new = place.backup(tmp_path / "new.tar")
    assert elsewhere.refused("panel_restore", str(new)) == "backup_newer"
    assert elsewhere.files() == {}
    elsewhere.manage("panel_restore", str(backups[0]))
    assert elsewhere.sql(TENANTS) == ["before", "default"]
    elsewhere.manage("migrate", "--check")


def test_a_restore_that_fails_leaves_everything_as_it_was(older: Place, place: Place, tmp_path: Path) -> None:
    """Its migrations fail in the middle: a table that an older database lacks is there already."""
    older.sql("CREATE TABLE cluster_snapshot (x integer)")
    archive = older.backup(tmp_path / "panel.tar")
    place.add_tenant("since")
    before = {name: content for name, content in place.files().items() if not name.startswith("panel.sqlite3")}
    assert place.refused("panel_restore", str(archive), "--replace") == "migration_failed"
    assert place.sql(TENANTS) == ["before", "default", "since"]
    after = {name: content for name, content in place.files().items() if not name.startswith("panel.sqlite3")}
    assert after == before


def test_the_kind_of_database_must_be_the_same(place: Place, archive: Path, tmp_path: Path) -> None:
    state = tmp_path / "other"
    state.mkdir()
    other = replace(place, state=state, database="")
    if not place.database:
        archive = Path(shutil.copy(archive, tmp_path / "other.tar"))
        repack(archive, "manifest.json", lambda text: text.replace(b'"sqlite"', b'"postgresql"'))
    assert other.refused("panel_restore", str(archive)) == "other_database"


def test_paths_of_this_machine_hold_and_the_keys_come_from_the_backup(elsewhere: Place, archive: Path) -> None:
    ca = elsewhere.state / "own-ca"
    (elsewhere.state / "panel.env").write_text(f"ULEI_CA_DIR={ca}\nULEI_SECRET_KEY=made-at-first-start\n")
    elsewhere.manage("panel_restore", str(archive), "--replace")
    lines = (elsewhere.state / "panel.env").read_text().splitlines()
    assert {f"ULEI_CA_DIR={ca}", f"ULEI_SECRET_KEY={SECRET}", "# ours"} <= set(lines)
    assert (ca / "ca.key").exists()
    assert not (elsewhere.state / "ca").exists()


def test_a_backup_of_a_database_that_is_written_all_the_time_is_of_one_moment(place: Place, tmp_path: Path) -> None:
    """Two rows always change together; in no backup do they differ."""
    twins = (
        "import itertools\nfrom django.db import transaction\nfrom cluster.models import Tenant\n"
        "for n in itertools.count():\n"
        "    if n == 1: print('ready', flush=True)\n"
        "    with transaction.atomic():\n"
        "        for name in ('before', 'default'): Tenant.objects.filter(name=name).update(title=str(n))\n"
    )
    argv = [sys.executable, "manage.py", "shell", "--no-imports", "-c", twins]
    with subprocess.Popen(argv, cwd=ROOT, env=place.environment, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == "ready\n"
        archive = place.backup(tmp_path / "panel.tar")
        assert writer.poll() is None
        writer.kill()
    place.manage("panel_restore", str(archive), "--replace")
    titles = place.sql("SELECT title FROM cluster_tenant")
    assert len(set(titles)) == 1
    assert titles[0].isdigit()


def repack(archive: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """The archive with another content of one part; sums are not made anew."""
    with tarfile.open(archive) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    with tarfile.open(archive, "w") as tar:
        for member, content in members:
            content = change(content) if member.name == name else content
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
