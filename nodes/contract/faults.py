"""Named points at which the fault runner may kill, hold or time a process: ``point("verb.started", "disk.create")``.

Off unless ``ULEI_FAULTS`` names a folder. There the runner writes a file ``<point>`` or ``<point>:<detail>``
with one word, before the action it wants to break:

``kill``   the process ends itself with SIGKILL, as if the power had gone;
``hold``   the process renames it to ``<point>.reached`` and waits until the runner removes that, so that
           the runner can kill *another* process (libvirtd, Redis) at exactly this moment;
``note``   the process adds a line ``<monotonic seconds> <point>:<detail>`` to the file ``notes``. That clock is
           one for all processes of a machine, so the notes of several can be laid side by side.

A point armed to kill or hold fires once: taking it is a rename, so of two processes only one is hit. ``note`` stays.
"""

import os
import signal
import time
from pathlib import Path

_FOLDER = os.environ.get("ULEI_FAULTS")


def point(name: str, detail: str = "") -> None:
    if _FOLDER is None:
        return
    for armed in (Path(_FOLDER, f"{name}:{detail}"), Path(_FOLDER, name)):
        fired = armed.with_name(f"{armed.name}.reached")
        try:
            order = armed.read_text().strip()
            if order == "note":
                _note(name, detail)
                return
            armed.rename(fired)
        except FileNotFoundError:
            continue
        # Not read again: whoever waited for this name may have removed it already.
        if order == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        while fired.exists():
            time.sleep(0.005)
        return


def _note(name: str, detail: str) -> None:
    line = f"{time.monotonic():.6f} {name}:{detail}\n"
    # One write to a file opened for appending: lines of several threads do not mix.
    file = os.open(f"{_FOLDER}/notes", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)
