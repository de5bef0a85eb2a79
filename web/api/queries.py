"""What stands behind the question mark: filters, search, order and page; anything unknown is refused."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

from django.db.models import Model, Q, QuerySet
from django.http import QueryDict

from cluster.permissions import Actor
from cluster.refusals import BadShape

from . import paging

if TYPE_CHECKING:
    from .nouns import Noun

MAX_SEARCH = 100
MAX_VALUES = 100
RESERVED = ("page_size", "search", "ordering", "cursor")


@dataclass(frozen=True)
class Filter:
    """``?name=a,b``: rows whose ``lookup`` is one of the values."""

    lookup: str
    choices: tuple[str, ...] = ()
    prefix: str = ""
    """Put before each value: ``?vm=<id>`` asks for the subject ``vm:<id>``."""
    cluster_only: bool = False
    """About something that tenants may not know: unknown to them."""
    check: Callable[[str], object] = str
    """Raises ValueError for a value that its column cannot be compared with."""

    def restrict(self, text: str, model: type[Model]) -> Q:
        """Raises ValueError with the reason."""
        values = text.split(",")
        wrong = [v for v in values if self.choices and v not in self.choices]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is not one of {', '.join(self.choices)}")
        if len(values) > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES} values")
        for value in values:
            self.check(value)
        return _rows_with(model, Q(**{self.lookup + "__in": [self.prefix + value for value in values]}))


def _rows_with(model: type[Model], condition: Q) -> Q:
    """As a subquery: a condition on several related rows must not list a row several times."""
    return Q(pk__in=model._base_manager.filter(condition).values("pk")) if _spans(condition) else condition


def _spans(condition: Q) -> bool:
    children: list[Any] = condition.children
    return any(_spans(one) if isinstance(one, Q) else "__" in one[0].rsplit("__", 1)[0] for one in children)


@dataclass
class Query:
    """The parsed query of a list."""

    size: int
    order: paging.Order
    cursor: paging.Cursor | None
    conditions: list[Q] = field(default_factory=list)

    def restrict(self, rows: "QuerySet[Model]") -> "QuerySet[Model]":
        return rows.filter(*self.conditions)


def parse(query: QueryDict, noun: "Noun", actor: Actor, model: type[Model]) -> Query:
    """Raises :class:`BadShape` with every fault."""
    faults: dict[str, list[str]] = {}
    known = {name: f for name, f in noun.filters.items() if not (f.cluster_only and actor.is_tenant_side)}
    for name, values in query.lists():
        if name not in known and name not in RESERVED:
            offered = ", ".join(sorted([*known, *RESERVED]))
            faults[_printable(name)] = [f"no such parameter here; there are: {offered}"]
        elif len(values) > 1:
            faults[name] = ["given more than once; separate several values by commas"]
        elif any(ord(c) < 32 for c in values[0]):
            faults[name] = ["holds a control character"]
    if faults:
        raise BadShape(faults)
    asked = {name: values[0] for name, values in query.lists()}
    result = Query(_size(asked, faults), _order(asked, noun, faults), None)
    for name, one in known.items():
        if name in asked:
            try:
                result.conditions.append(one.restrict(asked[name], model))
            except ValueError as error:
                faults[name] = [str(error)]
    if asked.get("search"):
        result.conditions.append(_search(asked["search"], noun, model, faults))
    if "cursor" in asked and not faults:
        result.cursor = paging.Cursor.parse(asked["cursor"], result.order, model)
    if faults:
        raise BadShape(faults)
    return result


def flag(query: QueryDict, name: str) -> bool:
    """``?dry_run=true``; anything but true and false is refused."""
    value = query.get(name, "false")
    if value not in ("true", "false"):
        raise BadShape({name: ["true or false"]})
    return value == "true"


def only(query: QueryDict, *names: str) -> None:
    """Refuses every parameter but these."""
    unknown = {_printable(name): ["no such parameter here"] for name in query if name not in names}
    if unknown:
        raise BadShape(unknown)


def _printable(name: str) -> str:
    return name.encode("ascii", "backslashreplace").decode()[:100]


def _size(asked: Mapping[str, str], faults: dict[str, list[str]]) -> int:
    text = asked.get("page_size", str(paging.DEFAULT_SIZE))
    if not (text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= paging.MAX_SIZE):
        faults["page_size"] = [f"a number from 1 to {paging.MAX_SIZE}"]
        return paging.DEFAULT_SIZE
    return int(text)


def _order(asked: Mapping[str, str], noun: "Noun", faults: dict[str, list[str]]) -> paging.Order:
    order = paging.Order.of(asked.get("ordering") or noun.ordering[0])
    if order.field not in [name.lstrip("-") for name in noun.ordering]:
        offered = ", ".join(name.lstrip("-") for name in noun.ordering)
        faults["ordering"] = [f"one of {offered}, with - before it for descending"]
        return paging.Order.of(noun.ordering[0])
    return order


def _search(text: str, noun: "Noun", model: type[Model], faults: dict[str, list[str]]) -> Q:
    if not noun.search:
        faults["search"] = ["this list cannot be searched"]
    elif len(text) > MAX_SEARCH:
        faults["search"] = [f"longer than {MAX_SEARCH} characters"]
    return _rows_with(model, reduce(or_, (Q(**{f"{name}__icontains": text}) for name in noun.search), Q()))
