"""The panel's side of Celery: it only sends. No worker runs on the panel; each node's agent has its own app."""

from celery import Celery
from django.conf import settings


def sender() -> Celery:
    """An app over the panel's Redis, for ``send_task``."""
    app = Celery("ulei.panel", set_as_current=False)
    app.conf.update(
        broker_url=settings.REDIS_CONDUCTOR_URL.replace("unix://", "redis+socket://").replace(
            "?db=0", "?virtual_host=0"
        ),
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_create_missing_queues=False,
        broker_connection_retry=False,
        # A broker that hangs must not hold the conductor: what was not sent is sent by the next sweep.
        broker_transport_options={"socket_timeout": 5.0, "socket_connect_timeout": 2.0},
    )
    return app
