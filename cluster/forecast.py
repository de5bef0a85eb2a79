"""How long a move will take, and for how long its guest will stand still, before it begins.

QEMU sends all of the memory once, then what changed meanwhile, and so on, until what is left fits into the longest
pause that is allowed. Source: QEMU, docs/devel/migration; ``x-cpu-throttle-*`` in its qapi/migration.json.
"""

import math
from dataclasses import dataclass

USUAL_PAUSE_MS = 300
"""QEMU's ``downtime-limit`` where nobody asks for another."""
SWITCH_MS = 50
"""What the change itself takes: the devices' state goes over, and the guest goes on."""
BEGIN_S = 1.0
"""Until the first byte of memory: the other side's QEMU is started."""
MOST_PASSES = 100
THROTTLE_FIRST, THROTTLE_MORE, THROTTLE_MOST = 0.20, 0.10, 0.99


@dataclass(frozen=True)
class Load:
    """Of one guest and one way."""

    memory_bytes: int
    dirty_bytes: int
    """It changes in a second."""
    disk_bytes: int
    bandwidth_bytes: int
    """A second."""


@dataclass(frozen=True)
class Forecast:
    duration_s: float
    """Until the guest is over there; where it does not come to an end: of the first pass over all of it."""
    pause_ms: int
    """For how long it stands still; where it does not come to an end: what it would take to end it by a pause."""
    ends: bool
    """False: the guest changes its memory faster than the link takes it."""


def forecast(
    load: Load,
    *,
    paused: bool = False,
    max_pause_ms: int | None = None,
    auto_converge: bool = False,
    post_copy: bool = False,
) -> Forecast:
    """
    :param paused: the guest stands still for all of the move, so that its memory does not change.
    """
    speed = max(1, load.bandwidth_bytes)
    disk_s = BEGIN_S + load.disk_bytes / speed
    first_s = load.memory_bytes / speed
    if paused:
        return Forecast(disk_s + first_s, round((disk_s + first_s) * 1000), ends=True)
    if post_copy:
        # A second pass at most: what changes meanwhile is not sent again.
        again_s = min(load.memory_bytes, load.dirty_bytes * first_s) / speed
        return Forecast(disk_s + first_s + again_s, SWITCH_MS, ends=True)
    allowed_bytes = (max_pause_ms or USUAL_PAUSE_MS) / 1000 * speed
    left, dirty, throttle, spent_s = float(load.memory_bytes), float(load.dirty_bytes), 0.0, 0.0
    for _pass in range(MOST_PASSES):
        pass_s = left / speed
        spent_s += pass_s
        changed = min(load.memory_bytes, dirty * (1 - throttle) * pass_s)
        if changed <= allowed_bytes:
            return Forecast(disk_s + spent_s, SWITCH_MS + round(changed / speed * 1000), ends=True)
        if changed > left / 2 and auto_converge:
            throttle = min(THROTTLE_MOST, throttle + THROTTLE_MORE if throttle else THROTTLE_FIRST)
        elif changed >= left:
            break
        left = changed
    return Forecast(disk_s + first_s, SWITCH_MS + math.ceil(left / speed * 1000), ends=False)
