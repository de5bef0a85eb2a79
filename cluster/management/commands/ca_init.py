from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from cluster import ca


class Command(BaseCommand):
    help = "Make the cluster's certificate authority and Redis' certificate where they are missing."

    def handle(self, *args: Any, **options: Any) -> None:
        ca.init(settings.INSTALLATION.node_redis_host)
        self.stdout.write(ca.fingerprint())
