"""On the path of a Python process whose clock is moved: ``time.sleep`` without ``clock_nanosleep``.

Python 3.11 sleeps until an absolute monotonic time, and libfaketime 0.9.10 moves that time although it was told to
leave the monotonic clock alone: every sleep then fails with EINVAL.
"""

import select
import time


def sleep(seconds: float) -> None:
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    select.select([], [], [], seconds)


time.sleep = sleep
