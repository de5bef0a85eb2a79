"""The pages as one person's browser asks for them, without a browser."""

import re
from typing import Any

from django.test import Client

from tests.people import Person

HTMX = {"HX-Request": "true"}


class Browser:
    """Signed in as ``person``; None: nobody."""

    def __init__(self, person: Person | None = None) -> None:
        self.client = Client(headers={"Authorization": f"Bearer {person.token}"} if person else None)

    def get(self, path: str, **headers: str) -> Any:
        return self.client.get(path, headers=headers)

    def post(self, path: str, typed: dict[str, Any] | None = None, **headers: str) -> Any:
        return self.client.post(path, typed or {}, headers=headers)

    def fragment(self, path: str) -> Any:
        return self.client.get(path, headers=HTMX)

    def press(self, path: str, typed: dict[str, Any] | None = None) -> Any:
        """A button whose answer htmx takes."""
        return self.client.post(path, typed or {}, headers=HTMX)


def text_of(response: Any) -> str:
    """What a person reads: without tags, with single spaces."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", response.content.decode())).strip()
