"""A consistent dump of the panel's database while it is used, and a dump put in the database's place."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import ClassVar, Literal, Protocol

from django.db import connection, transaction

from cluster.refusals import Refusal, Refused

from .installation import set_aside, to_owner

POSTGRESQL_FOLDERS = Path("/usr/lib/postgresql")
"""Where Debian keeps each major version's programs."""


class Database(Protocol):
    kind: ClassVar[Literal["sqlite", "postgresql"]]

    def version(self) -> str: ...

    def dump(self, target: Path) -> None:
        """One moment's content, whatever is written meanwhile."""

    def holds(self) -> str:
        """What is there, for people; empty when nothing is."""

    def replaced(self, dump: Path, stamp: str) -> AbstractContextManager[None]:
        """In it the database is the dump. It stays so, and the former one is set aside; an error takes all back."""


def own() -> "Database":
    """This installation's database."""
    return Postgresql() if connection.vendor == "postgresql" else Sqlite()


class Sqlite:
    kind: ClassVar[Literal["sqlite", "postgresql"]] = "sqlite"

    def __init__(self) -> None:
        self.file = Path(connection.settings_dict["NAME"])

    def version(self) -> str:
        return sqlite3.sqlite_version

    def dump(self, target: Path) -> None:
        connection.ensure_connection()
        with closing(sqlite3.connect(target)) as copy:
            connection.connection.backup(copy)
            # One file; the write-ahead log comes back with the first connection of a panel.
            copy.execute("PRAGMA journal_mode=DELETE")
        target.chmod(0o600)

    def holds(self) -> str:
        return str(self.file) if self.file.exists() and self.file.stat().st_size else ""

    @contextmanager
    def replaced(self, dump: Path, stamp: str) -> Iterator[None]:
        new = self.file.with_name(f".{self.file.name}.{stamp}")
        shutil.copyfile(dump, new)
        to_owner(new)
        self._use(new)
        try:
            with connection.cursor() as cursor:
                cursor.execute("PRAGMA integrity_check")
                if cursor.fetchone() != ("ok",):
                    raise Refused(Refusal("backup_damaged", {"part": "database"}))
            yield
            with connection.cursor() as cursor:
                cursor.execute("PRAGMA journal_mode=DELETE")
            self._use(self.file)
            # The log of a panel that was killed holds what it had committed last: it goes with its database.
            for suffix in ("-wal", "-shm"):
                set_aside(self.file.with_name(self.file.name + suffix), stamp, suffix)
            set_aside(self.file, stamp)
            new.rename(self.file)
        except BaseException:
            self._use(self.file)
            for suffix in ("", "-wal", "-shm"):
                new.with_name(new.name + suffix).unlink(missing_ok=True)
            raise

    def _use(self, file: Path) -> None:
        connection.close()
        connection.settings_dict["NAME"] = str(file)


class Postgresql:
    kind: ClassVar[Literal["sqlite", "postgresql"]] = "postgresql"

    def version(self) -> str:
        connection.ensure_connection()
        return str(connection.pg_version // 10000)  # type: ignore[attr-defined]

    def dump(self, target: Path) -> None:
        # What earlier restores set aside is kept here, and is not the panel's.
        excluded = ["--exclude-schema=before_restore_*", "--exclude-schema=failed_restore_*"]
        self._run("pg_dump", "--format=custom", "--no-owner", "--no-privileges", *excluded, f"--file={target}")
        target.chmod(0o600)

    def holds(self) -> str:
        tables = self._tables()
        return f"{connection.settings_dict['NAME']} ({len(tables)})" if tables else ""

    @contextmanager
    def replaced(self, dump: Path, stamp: str) -> Iterator[None]:
        self._program("pg_restore")
        name = stamp.lower()
        self._move_tables(f"before_restore_{name}")
        try:
            where = f"--dbname={connection.settings_dict['NAME']}"
            how = ["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction"]
            self._run("pg_restore", *how, where, str(dump))
            yield
        except BaseException:
            connection.close()
            self._move_tables(f"failed_restore_{name}")
            self._move_tables_back(f"before_restore_{name}")
            raise

    def _tables(self, schema: str = "public") -> list[str]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY tablename", [schema])
            return [name for (name,) in cursor.fetchall()]

    def _move_tables(self, schema: str) -> None:
        """Their sequences and indexes go with them."""
        tables = self._tables()
        if tables:
            self._execute(f"CREATE SCHEMA {schema}", *(f'ALTER TABLE public."{t}" SET SCHEMA {schema}' for t in tables))

    def _move_tables_back(self, schema: str) -> None:
        tables = self._tables(schema)
        if tables:
            back = (f'ALTER TABLE {schema}."{table}" SET SCHEMA public' for table in tables)
            self._execute(*back, f"DROP SCHEMA {schema}")

    def _execute(self, *statements: str) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def _run(self, program: str, *arguments: str) -> None:
        settings = connection.settings_dict
        names = {"PGDATABASE": "NAME", "PGUSER": "USER", "PGPASSWORD": "PASSWORD", "PGHOST": "HOST", "PGPORT": "PORT"}
        environment = {variable: str(settings[name]) for variable, name in names.items() if settings.get(name)}
        done = subprocess.run(
            [str(self._program(program)), *arguments],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            words = done.stderr.strip()[-2000:]
            raise Refused(Refusal("database_program_failed", {"program": program, "words": words}))

    def _program(self, name: str) -> Path:
        """Of the server's own major version: an older one refuses, a newer one writes what the server cannot read."""
        major = self.version()
        debians = POSTGRESQL_FOLDERS / major / "bin" / name
        if debians.exists():
            return debians
        found = shutil.which(name)
        said = subprocess.run([found, "--version"], capture_output=True, text=True).stdout if found else ""
        if found and f" {major}." in said:
            return Path(found)
        raise Refused(Refusal("database_program_missing", {"program": name, "version": major}))
