import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from cluster.models import AuditEvent, ObjectNumber, RaisedNumber, Step


class Command(BaseCommand):
    help = "Print an object's history (``domain:<vm>``, ``disk:<id>``, ``nic:<id>``): the panel's half, as JSON."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("object")
        parser.add_argument("--json", action="store_true", help="accepted for symmetry; the output is always JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        name: str = options["object"]
        steps = Step.objects.filter(object=name).select_related("job", "node").order_by("job__created", "position")
        answer = {
            "object": name,
            "numbers": {row.node.name: row.number for row in ObjectNumber.objects.filter(object=name)},
            "raised": {row.node.name: row.number for row in RaisedNumber.objects.filter(object=name)},
            "steps": [
                {
                    "job": s.job_id,
                    "operation": s.job.operation,
                    "job_state": s.job.state,
                    "step": s.name,
                    "step_id": s.pk,
                    "state": s.state,
                    "phase": s.phase,
                    "verb": s.verb,
                    "node": s.node.name if s.node else None,
                    "dispatch": s.dispatch,
                    "attempt": s.attempt,
                    "error": s.error,
                    "started": s.started,
                    "finished": s.finished,
                }
                for s in steps
            ],
            "journal": list(
                AuditEvent.objects.filter(subject__endswith=":" + name.split(":")[-1])
                .order_by("id")
                .values("at", "username", "action", "outcome", "job_id")
            ),
        }
        self.stdout.write(json.dumps(answer, indent=1, default=str))
