"""The table's rows, one file a group; each registers itself when it is imported."""

import importlib

from tests.bench.row import GROUPS

ORDER = (
    "lifecycle",
    "click",
    "sockets",
    "idle",
    "storage",
    "moves",
    "lists",
    "pools",
    "placement",
    "ingest",
    "jobs",
    "storm",
)
"""Those that need the lab first; it is ended before the others."""


def load() -> None:
    for module in ORDER:
        importlib.import_module(f"{__name__}.{module}")
    GROUPS.sort(key=lambda group: ORDER.index(group.name))
