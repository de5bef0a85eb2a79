"""The profile's parts: every moment of a create belongs to one of them."""

import pytest

from tests.bench.notes import Note
from tests.bench.profile import parts_of

STEPS = [
    (1.000, "start.before-commit", "vm.create"),
    (1.011, "conductor.read", ""),
    (1.012, "start.after-commit", "vm.create"),
    (1.015, "engine.before-commit", "vm.create"),
    (1.020, "engine.after-commit", "vm.create"),
    (1.023, "agent.taken", "disk.create"),
    (1.023, "agent.taken", "nic.plug"),
    (1.024, "conductor.read", ""),
    (1.030, "disk.part-made", "d1"),
    (1.038, "agent.reply-written", "nic.plug"),
    (1.040, "conductor.read", ""),
    (1.044, "conductor.after-store", ""),
    (1.046, "engine.before-commit", "vm.create"),
    (1.048, "engine.after-commit", "vm.create"),
    (1.070, "disk.linked", "d1"),
    (1.080, "agent.reply-written", "disk.create"),
    (1.082, "conductor.read", ""),
    (1.090, "conductor.after-store", ""),
    (1.095, "engine.before-commit", "vm.create"),
    (1.100, "engine.after-commit", "vm.create"),
    (1.104, "agent.taken", "domain.start"),
    (1.110, "domain.before-call", "domain.start"),
    (1.310, "domain.after-call", "domain.start"),
    (1.320, "agent.reply-written", "domain.start"),
    (1.323, "conductor.read", ""),
    (1.330, "conductor.after-store", ""),
    (1.335, "engine.before-commit", "vm.create"),
    (1.340, "engine.after-commit", "vm.create"),
]


def test_the_parts_add_up_to_the_whole():
    found = parts_of([Note(*step) for step in STEPS], began=0.990, ended=1.343)
    assert found.whole == pytest.approx(353)
    assert sum(found.by_part.values()) == pytest.approx(found.whole)
    assert {part: round(ms, 3) for part, ms in found.by_part.items()} == {
        "web": 21.0,
        "wake-up": 0.0,
        "conductor": 9.0 + 10.0 + 10.0,
        "queue": 3.0 + 4.0,
        "agent": 57.0 - 40.0 + 216.0 - 200.0,
        "tools": 240.0,
        "stream": 2.0 + 3.0,
        "store": 8.0 + 7.0,
        "socket": 3.0,
    }
    assert found.by_verb["domain.start"] == pytest.approx({"agent": 16.0, "tools": 200.0})
    assert found.by_verb["nic.plug"] == pytest.approx({"agent": 15.0, "tools": 0.0})
