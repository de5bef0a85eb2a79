"""What the panel expects of a move, by numbers that were measured."""

import pytest

from cluster.forecast import SWITCH_MS, USUAL_PAUSE_MS, Load, forecast

MIB = 1 << 20


def load(dirty_mib: float, memory_mib: int = 1000, disk_mib: int = 0, speed_mib: int = 100) -> Load:
    return Load(memory_mib * MIB, int(dirty_mib * MIB), disk_mib * MIB, speed_mib * MIB)


def test_an_idle_guest_takes_as_long_as_its_memory_does() -> None:
    expected = forecast(load(dirty_mib=0))
    assert expected.ends
    assert expected.duration_s == pytest.approx(11, abs=0.1)
    assert expected.pause_ms == SWITCH_MS


def test_disks_that_are_copied_add_what_they_hold() -> None:
    assert forecast(load(0, disk_mib=2000)).duration_s == pytest.approx(31, abs=0.1)


def test_a_busy_guest_is_sent_again_in_part() -> None:
    expected = forecast(load(dirty_mib=50))
    assert expected.ends
    assert 15 < expected.duration_s < 25
    assert expected.pause_ms <= SWITCH_MS + USUAL_PAUSE_MS


@pytest.mark.parametrize("dirty_mib", [100, 150, 1000])
def test_a_guest_that_changes_faster_than_the_link_takes_never_ends(dirty_mib: int) -> None:
    expected = forecast(load(dirty_mib))
    assert not expected.ends
    assert expected.pause_ms > USUAL_PAUSE_MS


@pytest.mark.parametrize("dirty_mib", [100, 150, 1000])
def test_slowing_it_down_or_going_on_over_there_or_a_pause_ends_it(dirty_mib: int) -> None:
    live = forecast(load(dirty_mib))
    slowed, post_copy = forecast(load(dirty_mib), auto_converge=True), forecast(load(dirty_mib), post_copy=True)
    paused = forecast(load(dirty_mib), paused=True)
    assert all(way.ends for way in (slowed, post_copy, paused))
    assert slowed.duration_s > live.duration_s
    assert post_copy.pause_ms == SWITCH_MS
    assert paused.pause_ms == pytest.approx(paused.duration_s * 1000)


def test_the_pause_that_would_end_it_is_said_and_is_enough() -> None:
    stubborn = forecast(load(dirty_mib=120))
    assert forecast(load(dirty_mib=120), max_pause_ms=stubborn.pause_ms).ends


def test_a_guest_that_is_off_has_nothing_to_send() -> None:
    assert forecast(load(0, memory_mib=0)).duration_s < 2
