"""What samples say: medians with 95 % bootstrap intervals, and whether a goal is met, missed or undecided.

Nothing here knows of a unit or a clock. Resampling is seeded, so the same samples always say the same.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Literal

ROUNDS = 2000
CONFIDENCE = 0.95
SEED = 1

Verdict = Literal["met", "missed", "undecided"]
Growth = Literal["flat", "linear", "worse"]


@dataclass(frozen=True)
class Interval:
    """An estimate and where it lies with 95 % confidence."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Limit:
    """A goal for one figure of a row: at most (or at least) so much, the border included."""

    figure: str
    value: float
    at_least: bool = False

    def verdict(self, found: Interval) -> Verdict:
        good, bad = (found.low, found.high) if self.at_least else (found.high, found.low)
        if self._holds(good):
            return "met"
        return "undecided" if self._holds(bad) else "missed"

    def _holds(self, number: float) -> bool:
        return number >= self.value if self.at_least else number <= self.value


def verdict(limits: Sequence[Limit], figures: dict[str, Interval]) -> Verdict | None:
    """Limits are alternatives: met with any of them, missed when all are. None without limits."""
    found = {limit.verdict(figures[limit.figure]) for limit in limits if limit.figure in figures}
    if not found:
        return None
    return next(word for word in ("met", "undecided", "missed") if word in found)  # type: ignore[return-value]


def orders(count: int, names: tuple[str, ...] = ("bare", "ours")) -> Iterator[tuple[str, ...]]:
    """Who comes first in each pair: swapped in every second one, so that a drift hits both alike."""
    for number in range(count):
        yield names if number % 2 == 0 else tuple(reversed(names))


def interleaved(count: int, measures: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """``count`` samples of each measure, taken in turns."""
    samples: dict[str, list[float]] = {name: [] for name in measures}
    for order in orders(count, tuple(measures)):
        for name in order:
            samples[name].append(measures[name]())
    return samples


def percentile(values: Sequence[float], share: float) -> float:
    """Between the two nearest ranks, as most tools have it; ``share`` 0.99 for p99."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median_of(values: Sequence[float]) -> Interval:
    return _bootstrap(values, lambda drawn: median(drawn))


def ratio_of_pairs(ours: Sequence[float], bare: Sequence[float]) -> Interval:
    """Median of the pairs' ratios: each pair is its own comparison, so a slow minute of the machine cancels out."""
    return median_of([one / other for one, other in zip(ours, bare, strict=True)])


def difference_of_pairs(ours: Sequence[float], bare: Sequence[float]) -> Interval:
    return median_of([one - other for one, other in zip(ours, bare, strict=True)])


def quantile_of_groups(groups: Sequence[Sequence[float]], share: float, rounds: int = 400) -> Interval:
    """A quantile over all samples. Whole groups are drawn: what one event showed to 500 sockets is no 500 events."""

    def quantile(drawn: Sequence[Sequence[float]]) -> float:
        return percentile([value for group in drawn for value in group], share)

    return _bootstrap(groups, quantile, rounds)


def _bootstrap(values: Sequence, estimate: Callable[[Sequence], float], rounds: int = ROUNDS) -> Interval:
    if not values:
        raise ValueError("no samples")
    draw = random.Random(SEED)
    found = [estimate(draw.choices(values, k=len(values))) for _ in range(rounds)]
    beyond = (1 - CONFIDENCE) / 2
    return Interval(estimate(values), percentile(found, beyond), percentile(found, 1 - beyond))


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The power with which a value grows with the size: the slope of the line through the logarithms."""
    x, y = [math.log(size) for size in sizes], [math.log(max(value, 1e-9)) for value in values]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((each - middle_x) ** 2 for each in x)
    return sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True)) / spread


def growth(power: float) -> Growth:
    """A power of 0.25: sixteen times the size costs twice. Above 1.15: twice the size costs clearly more than twice."""
    if power <= 0.25:
        return "flat"
    return "linear" if power <= 1.15 else "worse"


def at_size(sizes: Sequence[float], values: Sequence[float], size: float) -> float:
    """What the fitted power says of another size, starting from the largest one that was measured."""
    return values[-1] * (size / sizes[-1]) ** exponent(sizes, values)
