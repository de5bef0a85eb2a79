"""Law 1 as one table: what both nodes of a move in doubt show, and what follows from it.

The source is asked first, and the target only after the source showed no migration under way: an answer of the target
that is older than that could be from before the switch.
"""

from typing import Literal

from nodes.contract.messages import DomainWhereabouts

from .saga.steps import Verdict

Shown = Literal["silent", "moving", "on", "switched", "post_copy", "incoming", "off", "absent"]
"""on: runs, or is paused by a person. switched: paused by its migration. moving: its migration is under way."""

WENT: tuple[Shown, ...] = ("switched", "off", "absent")
TABLE: dict[tuple[Shown, Shown], Verdict] = {
    # (source, target)
    ("on", "incoming"): "not_done",
    ("on", "absent"): "not_done",
    ("switched", "absent"): "not_done",
    ("off", "absent"): "not_done",  # the source lost power before the switch
    ("post_copy", "on"): "done",
    **dict.fromkeys(((source, "on") for source in WENT), "done"),
    # Its definition came with the guest: the target lost power after the switch.
    **dict.fromkeys(((source, "off") for source in WENT), "done"),
    # Nobody speaks to it any more: the target's libvirtd ends or finishes it by itself.
    **dict.fromkeys(((source, "incoming") for source in WENT), "wait"),
}
"""All else (running on both, on none, one of them silent, a post-copy that broke) decides nothing: touch nothing."""


def shown(seen: DomainWhereabouts | None) -> Shown:
    if seen is None:
        return "silent"
    if seen.state in ("incoming", "absent"):
        return seen.state
    if seen.job_active:
        return "moving"
    if seen.post_copy:
        return "post_copy"
    if seen.paused_by_migration:
        return "switched"
    return "on" if seen.state in ("running", "paused") else "off"


def verdict(source: DomainWhereabouts | None, target: DomainWhereabouts | None) -> Verdict:
    """Whether the guest has moved."""
    here, there = shown(source), shown(target)
    return "wait" if here == "moving" else TABLE.get((here, there), "unclear")


def proves(outcome: str, source: DomainWhereabouts | None, target: DomainWhereabouts | None) -> bool:
    """Whether what answers bears out an administrator's word, ``done`` or ``undone``; silence is no evidence."""
    here, there = shown(source), shown(target)
    if outcome == "done":
        return there == "on"
    return here == "on" or (here == "silent" and there == "absent")
