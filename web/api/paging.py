"""Pages by keyset: a cursor holds the last row's place in the order, so page 900 costs as much as page 1."""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode

from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db.models import Model, QuerySet

from cluster.refusals import BadShape
from web.cursor import behind

DEFAULT_SIZE = 50
MAX_SIZE = 500
_LONGEST_CURSOR = 1000

M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class Order:
    """One field, ascending or descending; the primary key decides between equals."""

    field: str
    descending: bool

    @classmethod
    def of(cls, name: str) -> "Order":
        return cls(name.removeprefix("-"), name.startswith("-"))

    def __str__(self) -> str:
        return "-" * self.descending + self.field

    def names(self, *, backwards: bool) -> list[str]:
        sign = "-" if self.descending != backwards else ""
        return [sign + self.field, sign + "pk"]


@dataclass(frozen=True)
class Cursor:
    """``[backwards, order, value, pk]`` as base64 of JSON."""

    backwards: bool
    order: str
    value: Any
    pk: Any

    def __str__(self) -> str:
        packed = json.dumps([int(self.backwards), self.order, self.value, self.pk], default=str).encode()
        return base64.urlsafe_b64encode(packed).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str, order: Order, model: type[Model]) -> "Cursor":
        try:
            if len(text) > _LONGEST_CURSOR:
                raise ValueError("too long")
            packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            backwards, written_for, value, pk = json.loads(packed)
            if written_for != str(order) or backwards not in (0, 1):
                raise ValueError("made for another list")
            return cls(bool(backwards), written_for, _typed(model, order.field, value), _typed(model, "pk", pk))
        except (ValueError, TypeError, binascii.Error, RecursionError, FieldDoesNotExist, ValidationError):
            raise BadShape({"cursor": ["not a cursor of this list: begin without one"]}) from None


def _typed(model: type[Model], name: str, value: Any) -> Any:
    """The value as its column holds it; text without what a database cannot compare."""
    field = model._meta.pk if name == "pk" else model._meta.get_field(name)
    typed = field.to_python(value)  # type: ignore[union-attr]
    if typed is None or (isinstance(typed, str) and "\0" in typed):
        raise ValueError("no such value")
    if isinstance(typed, int) and abs(typed) >= 1 << 63:
        raise ValueError("too large")
    return typed


@dataclass(frozen=True)
class Page:
    rows: list[Any]
    next: str | None
    previous: str | None


def page(rows: "QuerySet[M]", order: Order, size: int, cursor: Cursor | None) -> Page:
    """One page, read with one row more than it shows."""
    backwards = cursor is not None and cursor.backwards
    if cursor:
        rows = rows.filter(behind(order.names(backwards=backwards), (cursor.value, cursor.pk)))
    found = list(rows.order_by(*order.names(backwards=backwards))[: size + 1])
    more, found = len(found) > size, found[:size]
    if backwards:
        found.reverse()
    has_next = backwards or more
    has_previous = more if backwards else cursor is not None

    def at(row: M, towards_start: bool) -> str:
        value = getattr(row, order.field)
        return str(Cursor(towards_start, str(order), _plain(value), _plain(row.pk)))

    return Page(
        found,
        next=at(found[-1], False) if found and has_next else None,
        previous=at(found[0], True) if found and has_previous else None,
    )


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


def link(address: str, query: dict[str, str], cursor: str | None) -> str | None:
    """The address of a neighbouring page, with the same filters."""
    if cursor is None:
        return None
    return f"{address}?{urlencode({**query, 'cursor': cursor})}"
