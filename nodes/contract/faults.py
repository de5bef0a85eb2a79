"""Named points at which the fault runner may kill or hold a process: ``point("verb.started", "disk.create")``.

Off unless ``ULEI_FAULTS`` names a folder. There the runner writes a file ``<point>`` or ``<point>:<detail>``
with one word, before the action it wants to break:

``kill``   the process ends itself with SIGKILL, as if the power had gone;
``hold``   the process renames it to ``<point>.reached`` and waits until the runner removes that, so that
           the runner can kill *another* process (libvirtd, Redis) at exactly this moment.

An armed point fires once: taking it is a rename, so of two processes only one is hit.
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
            armed.rename(fired)
        except FileNotFoundError:
            continue
        if fired.read_text().strip() == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        while fired.exists():
            time.sleep(0.005)
        return
