import base64
import secrets
from typing import Any

from django.db import models


def new_id() -> str:
    """13 lower-case base32 characters of a random 64-bit number: short enough that ``ul`` + id is an interface name."""
    return base64.b32encode(secrets.token_bytes(8)).decode().rstrip("=").lower()


class IdField(models.CharField):
    """A primary key that is never reused and says nothing about how many there are."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"primary_key": True, "max_length": 13, "default": new_id, "editable": False, **kwargs})
