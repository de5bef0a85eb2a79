"""A plant's web process, which knows the empty operations too: they are registered before addresses are made."""

import django

django.setup()

from tests.bench.work import empty  # noqa: E402

empty.register()

from web.asgi import application  # noqa: E402

__all__ = ["application"]
