"""Nodes that were declared dead and are heard again: what they still have of others' guests is ended at once.

In the name of who declared them dead; where that fails, or who it was has lost the right, the node's page offers it.
"""

import logging

from . import operations
from .models import Job, Lock, Node, NodeState
from .permissions import Actor
from .refusals import Forbidden, NotKnown, Refused

log = logging.getLogger(__name__)


def take_back_due() -> None:
    """With each sweep of the conductor. Once for each time that a node was declared dead."""
    for node in Node.objects.exclude(declared_dead=None).exclude(state=NodeState.OFFLINE):
        jobs = Job.objects.filter(subject=f"node:{node.pk}", created__gte=node.declared_dead)
        # While VMs are still being started elsewhere it is not known what is to be ended.
        under_way = Lock.objects.filter(name=f"maintenance:{node.pk}").exists()
        if under_way or jobs.filter(operation="node.take_back").exists():
            continue
        _begin(node)


def _begin(node: Node) -> None:
    asked = Job.objects.filter(subject=f"node:{node.pk}", operation="node.declare_dead").order_by("-created")
    declared = asked.select_related("user", "grant").first()
    if declared is None or declared.user is None or declared.grant is None:
        return
    try:
        operations.start(Actor(declared.user, declared.grant), "node.take_back", {}, node.pk)
    except (Refused, Forbidden, NotKnown) as error:
        log.warning("node %s cannot be taken back: %s", node.name, error)
