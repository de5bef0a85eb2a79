"""Backup and restore from end to end."""

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from django.conf import settings
from django.core.management import call_command
from django.db import DatabaseError, connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from cluster.refusals import Refusal, Refused
from nodes import __version__

from . import aftermath, archive, databases, installation

DUMP = "database"


def backup(target: Path) -> tuple[Path, archive.Manifest]:
    """Write the panel's archive while it runs; in a folder it gets a name by the moment.

    Raises :class:`Refused`: ``file_exists``, ``folder_absent``, ``database_program_missing``,
    ``database_program_failed``.
    """
    made = datetime.now(UTC)
    file = target / f"panel-{_stamp(made)}.tar" if target.is_dir() else target
    if not file.parent.is_dir():
        raise Refused(Refusal("folder_absent", {"folder": str(file.parent)}))
    if file.exists():
        raise Refused(Refusal("file_exists", {"file": str(file)}))
    database = databases.own()
    # Beside the archive: what there is room for twice there cannot run out of it.
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".panel-backup-") as name:
        folder = Path(name)
        database.dump(folder / DUMP)
        installation.collect(folder)
        manifest = archive.Manifest(
            version=__version__,
            made=made,
            database=database.kind,
            database_version=database.version(),
            migrations=tuple(sorted(f"{a}.{n}" for a, n in MigrationRecorder(connection).applied_migrations())),
        )
        return file, archive.pack(file, manifest, folder)


@dataclass(frozen=True)
class Restored:
    manifest: archive.Manifest
    stamp: str
    """In the names of what was set aside; empty: nothing was there."""
    jobs: int
    """Stuck: an administrator looks at them."""
    overridden: list[str]
    """Variables of the environment that win over the restored configuration, and differ."""


def restore(source: Path, *, replace: bool) -> Restored:
    """Put a panel back. Everything is checked before anything is touched, and nothing is deleted.

    Raises :class:`Refused`: ``panel_runs``, ``backup_unreadable``, ``backup_damaged``, ``backup_newer``,
    ``other_database``, ``not_empty``, ``no_disk_room``, ``database_program_missing``, ``database_program_failed``,
    ``migration_failed``.
    """
    settings.STATE_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
    stamp = _stamp(datetime.now(UTC))
    with (
        installation.stopped(),
        tempfile.TemporaryDirectory(dir=settings.STATE_DIR, prefix=".panel-restore-") as name,
    ):
        folder = Path(name)
        if source.is_file():
            installation.room_for(folder, 2 * source.stat().st_size)
        manifest = archive.unpack(source, folder)
        database = databases.own()
        _refuse_unfit(manifest, database)
        there = [one for one in (database.holds(), *installation.what_is_there()) if one]
        if there and not replace:
            raise Refused(Refusal("not_empty", {"found": there}))
        with database.replaced(folder / DUMP, stamp):
            _migrate()
            jobs = aftermath.settle(manifest.made, manifest.version)
            overridden = installation.put(folder, stamp)
    return Restored(manifest, stamp if there else "", jobs, overridden)


def _migrate() -> None:
    try:
        call_command("migrate", interactive=False, verbosity=0)
    except DatabaseError as error:
        raise Refused(Refusal("migration_failed", {"words": str(error).strip()})) from error


def _refuse_unfit(manifest: archive.Manifest, database: databases.Database) -> None:
    missing = {DUMP, installation.CONFIGURATION} - {part.name for part in manifest.parts}
    if missing:
        raise Refused(Refusal("backup_damaged", {"part": min(missing)}))
    if manifest.database != database.kind:
        raise Refused(Refusal("other_database", {"backup": manifest.database, "own": database.kind}))
    known = {f"{app}.{name}" for app, name in MigrationLoader(None).disk_migrations}
    newer = [name for name in manifest.migrations if name not in known]
    if newer:
        raise Refused(Refusal("backup_newer", {"version": manifest.version, "own": __version__, "newer": newer}))


def _stamp(moment: datetime) -> str:
    # To the millisecond: nothing set aside by one restore stands in the way of the next.
    return f"{moment:%Y%m%dT%H%M%S}{moment.microsecond // 1000:03}Z"
