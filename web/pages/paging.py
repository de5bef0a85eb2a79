"""Pages by cursor: the place in the order is remembered, not its number, so page 900 is as quick as page 1."""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet

from web.cursor import behind

SIZE = 50

M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class Page(Generic[M]):
    rows: list[M]
    next: str = ""
    previous: str = ""


def page_of(queryset: "QuerySet[M]", order: tuple[str, ...], cursor: str, size: int = SIZE) -> Page[M]:
    """One page in ``order`` (``-name`` is descending; the last field is unique). A spoiled cursor is the first page."""
    at = _read(cursor, len(order))
    backwards = at is not None and at["back"]
    whole, order_now = queryset, tuple(_turn(field) for field in order) if backwards else order
    try:
        if at:
            queryset = queryset.filter(behind(order_now, at["values"]))
        rows = list(queryset.order_by(*order_now)[: size + 1])
    except (ValidationError, ValueError, OverflowError):
        return page_of(whole, order, "", size)
    more = len(rows) > size
    rows = rows[:size]
    if backwards:
        rows.reverse()
    if not rows:
        return Page(rows)
    return Page(
        rows,
        next=_write(rows[-1], order, back=False) if more or backwards else "",
        previous=_write(rows[0], order, back=True) if (more if backwards else at) else "",
    )


def _turn(field: str) -> str:
    return field[1:] if field.startswith("-") else "-" + field


def _write(row: Model, order: tuple[str, ...], *, back: bool) -> str:
    values = [_plain(getattr(row, field.lstrip("-"))) for field in order]
    text = json.dumps({"back": back, "values": values}, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int)) else value.isoformat()


def _read(cursor: str, length: int) -> dict[str, Any] | None:
    try:
        at = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        values = [value for value in at["values"] if isinstance(value, (str, int))]
        if isinstance(at["back"], bool) and len(values) == length:
            return {"back": at["back"], "values": values}
    except (binascii.Error, ValueError, KeyError, TypeError):
        pass
    return None
