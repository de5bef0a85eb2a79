"""Where a page begins, as a condition; pages and API write and read their cursors each in their own way."""

from collections.abc import Sequence
from typing import Any

from django.db.models import Q


def behind(order: Sequence[str], values: Sequence[Any]) -> Q:
    """Rows behind ``values``: greater in the first field, or equal there and greater in the second, and so on.

    :param order: ``-name`` is descending; the last field is unique.
    """
    places = [(f.removeprefix("-"), "lt" if f.startswith("-") else "gt", v) for f, v in zip(order, values, strict=True)]
    found, equal = Q(), Q()
    for name, compare, value in places:
        found |= equal & Q(**{f"{name}__{compare}": value})
        equal &= Q(**{name: value})
    name, compare, value = places[0]
    # Said once more without "or": with it alone no database begins to read at that place of its index.
    return Q(**{f"{name}__{compare}e": value}) & found
