"""What a row of the table is, and how a measurement becomes one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.bench.statistics import (
    Interval,
    Limit,
    Verdict,
    difference_of_pairs,
    median_of,
    quantile_of_groups,
    ratio_of_pairs,
    verdict,
)

if TYPE_CHECKING:
    from tests.bench.bench import Bench

Samples = Sequence[float] | Sequence[Sequence[float]]


@dataclass(frozen=True)
class Row:
    """A line of the table. Goals are alternatives: one that is met is enough."""

    name: str
    title: str
    unit: str = "ms"
    goal: tuple[Limit, ...] = ()
    aim: tuple[Limit, ...] = ()


@dataclass
class Result:
    row: Row
    figures: dict[str, Interval]
    """``ratio`` (ours / bare), ``added`` (ours - bare), ``bare``, ``ours``, ``p50``, ``p99``, ``value``: in the row's
    unit, apart from the ratio."""
    samples: dict[str, Samples] = field(default_factory=dict)
    note: str = ""

    @property
    def verdict(self) -> Verdict | None:
        return verdict(self.row.goal, self.figures)

    @property
    def aimed(self) -> Verdict | None:
        return verdict(self.row.aim, self.figures)


def compared(row: Row, samples: dict[str, list[float]], note: str = "") -> Result:
    """From pairs ``bare`` and ``ours``; any further measure is compared with ours in the note's figures."""
    bare, ours = samples["bare"], samples["ours"]
    figures = {
        "bare": median_of(bare),
        "ours": median_of(ours),
        "ratio": ratio_of_pairs(ours, bare),
        "added": difference_of_pairs(ours, bare),
    }
    for other in samples.keys() - {"bare", "ours"}:
        figures[f"ratio to {other}"] = ratio_of_pairs(ours, samples[other])
    return Result(row, figures, dict(samples), note)


def latency(row: Row, groups: Sequence[Sequence[float]], note: str = "") -> Result:
    """From one group of samples an event."""
    figures = {"p50": quantile_of_groups(groups, 0.5), "p99": quantile_of_groups(groups, 0.99)}
    return Result(row, figures, {"ours": groups}, note)


def single(row: Row, values: Sequence[float], note: str = "") -> Result:
    return Result(row, {"value": median_of(values)}, {"ours": values}, note)


Measure = Callable[["Bench"], Iterable[Result]]


@dataclass(frozen=True)
class Group:
    """Rows that one course of measurements brings forth together."""

    rows: tuple[Row, ...]
    measure: Measure

    @property
    def name(self) -> str:
        return self.measure.__name__


GROUPS: list[Group] = []


def measures(*rows: Row) -> Callable[[Measure], Measure]:
    """Registers a function that yields results of these rows."""

    def register(measure: Measure) -> Measure:
        GROUPS.append(Group(rows, measure))
        return measure

    return register


def within_ratio(value: float) -> Limit:
    return Limit("ratio", value)


def within_added(value: float) -> Limit:
    return Limit("added", value)
