"""The two listeners of the panel: HTTP with websockets, and enrolment."""

import os
from typing import Any

import django
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path, re_path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cluster.settings")
django.setup(set_prefix=False)

from web.enrolment import enrolment  # noqa: E402 all need the apps that the line above loads
from web.handler import Http  # noqa: E402
from web.live.consumers import StatusConsumer  # noqa: E402


async def _nowhere(scope: Any, receive: Any, send: Any) -> None:
    """Refuses the handshake of a socket at an address that there is not."""
    await receive()
    await send({"type": "websocket.close"})


application = ProtocolTypeRouter(
    {"http": Http(), "websocket": URLRouter([path("ws/", StatusConsumer.as_asgi()), re_path("", _nowhere)])}  # type: ignore[arg-type]
)

__all__ = ["application", "enrolment"]
