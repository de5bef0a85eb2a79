"""The two listeners of the panel: HTTP with websockets, and enrolment."""

import os
from typing import Any

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path, re_path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cluster.settings")
_http = get_asgi_application()

from web.enrolment import enrolment  # noqa: E402 both need the apps that the line above loads
from web.live.consumers import StatusConsumer  # noqa: E402


async def _nowhere(scope: Any, receive: Any, send: Any) -> None:
    """Refuses the handshake of a socket at an address that there is not."""
    await receive()
    await send({"type": "websocket.close"})


application = ProtocolTypeRouter(
    {"http": _http, "websocket": URLRouter([path("ws/", StatusConsumer.as_asgi()), re_path("", _nowhere)])}  # type: ignore[arg-type]
)

__all__ = ["application", "enrolment"]
