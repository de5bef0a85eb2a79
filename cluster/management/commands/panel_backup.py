from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cluster.panel_backup import restore
from cluster.refusals import Refused


class Command(BaseCommand):
    help = "Write the panel (database, keys, CA, configuration) to one file, while it runs. Keep it as a key is kept."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="a new file, or a folder in which it gets a name by the moment")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            file, manifest = restore.backup(options["file"])
        except Refused as refused:
            raise CommandError(refused.in_words()) from None
        self.stdout.write(f"{file} {sum(part.size_bytes for part in manifest.parts)}")
