from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from cluster.panel_backup import restore
from cluster.refusals import Refused


class Command(BaseCommand):
    help = "Put a panel back from a file of panel_backup, into an installation that is stopped."
    # The database may not be there yet, or be the one that is replaced.
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--replace", action="store_true", help="set what is there aside; nothing is deleted")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            done = restore.restore(options["file"], replace=options["replace"])
        except Refused as refused:
            raise CommandError(refused.in_words()) from None
        made = f"{done.manifest.made:%Y-%m-%d %H:%M} UTC"
        self.stdout.write(_("The panel is as it was at %(made)s.") % {"made": made})
        if done.stamp:
            self.stdout.write(
                _("What was there before has “before-restore-%(stamp)s” in its name.") % {"stamp": done.stamp}
            )
        if done.jobs:
            words = ngettext(
                "%(count)s job was open then and is stuck: look at its node, then resolve it or retry.",
                "%(count)s jobs were open then and are stuck: look at their nodes, then resolve them or retry.",
                done.jobs,
            )
            self.stdout.write(words % {"count": done.jobs})
        if done.overridden:
            names = ", ".join(done.overridden)
            self.stderr.write(
                _("The environment says otherwise than the backup, and wins: %(names)s") % {"names": names}
            )
