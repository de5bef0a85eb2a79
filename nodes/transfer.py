"""What getting and giving a large file over a network have in common: patience with the other side, and a full disk."""

import errno
import os
import threading
import time
from pathlib import Path

from nodes.contract.errors import NodeError
from nodes.contract.specs import PoolPlace
from nodes.storage.base import no_room
from nodes.verbs.run import Run

PIECE_BYTES = 1 << 20
PATIENCE_S, AGAIN_S = 60.0, 2.0
"""How long the other side may be away in the middle (it is being restarted), and how often it is asked then."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Patience:
    """It ends ``PATIENCE_S`` after the last time that anything moved."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.renew()

    def renew(self) -> None:
        self._until = time.monotonic() + PATIENCE_S

    def wait(self, why: NodeError) -> None:
        """A moment, before the next attempt. Raises ``why`` when there is to be none, :class:`Cancelled`."""
        self._run.cancellation.check()
        if time.monotonic() >= self._until:
            raise why
        asleep = threading.Condition()
        self._run.cancellation.wake(asleep)
        with asleep:
            asleep.wait(AGAIN_S)
        self._run.cancellation.check()


def is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in _FULL


def check_room(part: Path, size_bytes: int) -> None:
    """Raises ``no_room`` where a file of that size, of which a part is there, would not fit."""
    room = os.statvfs(part.parent)
    needed_bytes = size_bytes - part.stat().st_size
    if needed_bytes > room.f_bavail * room.f_frsize:
        raise no_room_in(part.parent, needed_bytes)


def no_room_in(folder: Path, needed_bytes: int) -> NodeError:
    room = os.statvfs(folder)
    return no_room(
        PoolPlace(kind="directory", path=str(folder)), "folder", room.f_bavail * room.f_frsize, needed_bytes, "free it"
    )
