"""The bench's arithmetic; its clocks are never part of a test."""

import random

import pytest

from tests.bench.statistics import (
    Interval,
    Limit,
    at_size,
    difference_of_pairs,
    exponent,
    growth,
    interleaved,
    median_of,
    orders,
    percentile,
    quantile_of_groups,
    ratio_of_pairs,
    verdict,
)


def test_every_second_pair_is_taken_in_the_other_order():
    assert list(orders(3)) == [("bare", "ours"), ("ours", "bare"), ("bare", "ours")]
    taken = []
    samples = interleaved(2, {"bare": lambda: taken.append("bare") or 1.0, "ours": lambda: taken.append("ours") or 2.0})
    assert taken == ["bare", "ours", "ours", "bare"]
    assert samples == {"bare": [1.0, 1.0], "ours": [2.0, 2.0]}


def test_a_drift_of_the_machine_does_not_change_the_ratio_of_pairs():
    bare = [100 + 10 * n for n in range(20)]
    found = ratio_of_pairs([1.2 * value for value in bare], bare)
    assert found.value == pytest.approx(1.2)
    assert found.low == pytest.approx(1.2)
    assert found.high == pytest.approx(1.2)


def test_the_added_time_is_the_median_of_the_differences():
    assert difference_of_pairs([12, 13, 40], [10, 10, 10]).value == 3


def test_the_interval_holds_the_true_median_about_19_times_in_20():
    draw = random.Random(7)
    hits = 0
    for _ in range(60):
        found = median_of([draw.gauss(10, 2) for _ in range(20)])
        hits += found.low <= 10 <= found.high
    assert 52 <= hits <= 60


def test_the_same_samples_say_the_same():
    values = [random.Random(3).random() for _ in range(20)]
    assert median_of(values) == median_of(values)


def test_without_samples_nothing_is_said():
    with pytest.raises(ValueError, match="no samples"):
        median_of([])


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.5, 2.5), (1.0, 4), (0.99, 3.97)], ids=["p0", "p50", "p100", "p99"]
)
def test_percentiles_lie_between_the_nearest_ranks(share: float, expected: float):
    assert percentile([4, 1, 3, 2], share) == pytest.approx(expected)


def test_many_sockets_of_one_event_are_one_observation():
    quick, slow = [1.0] * 500, [9.0] * 500
    found = quantile_of_groups([quick, slow], 0.5)
    assert (found.low, found.high) == (1.0, 9.0)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(1.0, 1.25, "met"), (1.26, 1.4, "missed"), (1.2, 1.3, "undecided"), (1.25, 1.3, "undecided")],
)
def test_a_goal_is_met_or_missed_only_by_the_whole_interval(low: float, high: float, expected: str):
    assert Limit("ratio", 1.25).verdict(Interval((low + high) / 2, low, high)) == expected


@pytest.mark.parametrize(("low", "high", "expected"), [(100, 120, "met"), (80, 99, "missed"), (90, 110, "undecided")])
def test_a_goal_may_be_a_least(low: float, high: float, expected: str):
    assert Limit("per_s", 100, at_least=True).verdict(Interval((low + high) / 2, low, high)) == expected


def test_alternatives_are_met_by_any_and_missed_by_all():
    limits = (Limit("ratio", 1.2), Limit("added_ms", 60))
    high, low = Interval(2, 1.9, 2.1), Interval(50, 40, 55)
    assert verdict(limits, {"ratio": high, "added_ms": low}) == "met"
    assert verdict(limits, {"ratio": high, "added_ms": Interval(60, 50, 70)}) == "undecided"
    assert verdict(limits, {"ratio": high, "added_ms": Interval(90, 80, 95)}) == "missed"
    assert verdict((), {"ratio": high}) is None


@pytest.mark.parametrize(
    ("power", "word"), [(0.0, "flat"), (0.2, "flat"), (0.5, "linear"), (1.0, "linear"), (1.5, "worse"), (2.0, "worse")]
)
def test_growth_is_the_power_of_the_size(power: float, word: str):
    sizes = [10, 50, 200]
    values = [3 * size**power for size in sizes]
    assert exponent(sizes, values) == pytest.approx(power)
    assert growth(exponent(sizes, values)) == word
    assert at_size(sizes, values, 1000) == pytest.approx(3 * 1000**power)
