import fcntl
import logging
import signal
import threading
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from cluster.conductor import Conductor

log = logging.getLogger(__name__)


class Command(BaseCommand):
    help = "Run the conductor: it advances jobs and hears the nodes."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--without-lease",
            action="store_true",
            help="run beside another conductor; harmless (the rows decide), only wasteful",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        if options["without_lease"]:
            Conductor().run(stop)
            return
        with open(settings.STATE_DIR / "conductor.lock", "w") as lease:
            # Only to save work: two conductors would change nothing twice.
            while not _locked(lease):
                if stop.wait(1.0):
                    return
            Conductor().run(stop)


def _locked(file: Any) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
