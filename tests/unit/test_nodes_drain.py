"""When is it known that libvirtd holds no call of a dead client any more?"""

import threading
import time

import pytest

from nodes import drain
from nodes.contract.errors import NodeError
from nodes.drain import Drain, Sampler
from nodes.shell import Result, start_time


class Libvirtd:
    """Answers virt-admin's question with one number of busy workers after the other."""

    def __init__(self, *busy):
        self.busy = list(busy)

    def run(self, argv, timeout_s):
        busy = self.busy.pop(0) if len(self.busy) > 1 else self.busy[0]
        if busy is None:
            raise NodeError("command_timeout", "virt-admin hangs")
        free = 5 - min(busy, 5)
        return Result(0, f"nWorkers       : 5\nfreeWorkers    : {free}\njobQueueDepth  : {max(busy - 5, 0)}\n", "")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(drain, "SAMPLE_EVERY_S", 0)
    monkeypatch.setattr(drain, "libvirtd_process", lambda: None)


def over(libvirtd, ours=None, holder=None):
    return Drain(libvirtd, lambda: dict(ours or {})).is_over(holder)


OLD = time.monotonic() - 60


def test_it_is_over_when_every_worker_is_free():
    assert over(Libvirtd(0))


def test_it_is_not_over_while_somebody_is_busy_or_waits():
    assert not over(Libvirtd(1))
    assert not over(Libvirtd(7))


def test_one_quiet_moment_is_not_enough():
    assert not over(Libvirtd(0, 1, 0))


def test_a_libvirtd_that_does_not_answer_proves_nothing():
    assert not over(Libvirtd(None))


def test_our_own_call_in_flight_is_not_somebody_elses():
    assert over(Libvirtd(1), ours={1: OLD})
    assert not over(Libvirtd(2), ours={1: OLD})


def test_our_own_call_that_may_not_have_reached_a_worker_is_not_counted():
    assert not over(Libvirtd(1), ours={1: time.monotonic()})


def test_our_own_call_that_ends_meanwhile_is_not_counted():
    calls = [{1: OLD}, {1: OLD}, {}]
    assert not Drain(Libvirtd(1), lambda: calls.pop(0) if len(calls) > 1 else calls[0]).is_over(None)


def test_calls_end_with_the_libvirtd_that_took_them():
    assert over(Libvirtd(None), holder="1.1")  # no such process: pid 1 began at another time


def test_a_libvirtd_that_lives_may_hold_it():
    assert not over(Libvirtd(None), holder=f"{1}.{start_time(1)}")


def test_held_objects_are_released_when_it_is_over():
    known, released, done = threading.Event(), [], threading.Event()

    def release(name):
        released.append(name)
        done.set()

    sampler = Sampler(lambda holder: known.is_set(), release)
    sampler.hold("domain:a", "1.1")
    assert sampler.holds("domain:a")
    known.set()
    assert done.wait(5)
    assert released == ["domain:a"]
    assert not sampler.holds("domain:a")


def test_a_look_that_fails_proves_nothing_and_the_next_one_is_taken(monkeypatch):
    monkeypatch.setattr(drain, "LOOK_EVERY_S", 0)
    looks, released = [], threading.Event()

    def is_over(holder):
        looks.append(holder)
        if len(looks) == 1:
            raise FileNotFoundError("libvirtd ended between two reads of /proc")
        return True

    Sampler(is_over, lambda name: released.set()).hold("domain:a", None)
    assert released.wait(5)
