import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cluster import services
from cluster.models import Grant, Node, Role
from cluster.permissions import Actor
from cluster.refusals import Refused


class Command(BaseCommand):
    help = "Add a node, or give a fresh token to one that exists; prints the command to run there."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")
        parser.add_argument("address")
        parser.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        grant = Grant.objects.filter(role=Role.ADMINISTRATOR, user__is_active=True).first()
        if grant is None:
            raise CommandError("there is no administrator yet; run first_user")
        actor = Actor(grant.user, grant)
        node = Node.objects.filter(name=options["name"]).first()
        try:
            if node:
                answer = services.node_token(actor, node)
            else:
                node, answer = services.node_add(actor, options["name"], options["address"])
        except Refused as refused:
            raise CommandError("; ".join(r.said()["cause"] for r in refused.refusals)) from None
        if options["json"]:
            self.stdout.write(json.dumps({"id": node.pk, **answer}, default=str))
        else:
            self.stdout.write(answer["command"])
