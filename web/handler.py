"""Django under ASGI, in threads that stay."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponseBase

THREADS = 16
"""Requests at once; the others wait for a moment. Each thread keeps a connection to the database."""


class Http(ASGIHandler):
    """Middleware and view of a request run from end to end in one thread.

    Django itself takes a new thread for each request, and with it a new connection to the database, and changes
    between thread and event loop at every middleware: half the time of a short answer.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="http")
        super().__init__()

    def load_middleware(self, is_async: bool = False) -> None:
        super().load_middleware(is_async=False)
        answer: Any = self._middleware_chain  # type: ignore[has-type]

        def in_thread(request: HttpRequest) -> HttpResponseBase:
            # Django's signals do this in a thread of their own, where no connection is.
            close_old_connections()
            try:
                response: HttpResponseBase = answer(request)
                return response
            finally:
                close_old_connections()

        self._middleware_chain = sync_to_async(in_thread, thread_sensitive=False, executor=self._threads)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.handle(scope, receive, send)
