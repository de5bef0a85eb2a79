"""Rule 2 of delivery as one pure function: what to do with a message, given what the ledger remembers.

Nothing here touches a file, a clock or a lock, so that every line can be tested by its sentence.
"""

from dataclasses import dataclass
from enum import Enum

from nodes.contract.messages import Outcome


class Decision(Enum):
    RUN = "run"
    RUN_LOOK_FIRST = "run, but look first"
    """The effect may have happened already: a plain verb is repeated, a move only looks."""
    ANSWER_AGAIN = "send the stored answer again"
    ANSWER_SUPERSEDED = "answer that a higher number was here"
    IGNORE = "the same message is being worked on, or nobody waits for this one"
    PARK = "wait until the running number of this object has finished"
    HOLD = "wait until libvirtd holds no call of ours on this object"
    REMEMBER_CANCEL = "the message that this cancels has not come yet: answer it with `cancelled` when it does"
    STOP = "tell the running verb to stop"
    NOTE_CANCEL = "write the wish down; what a dead incarnation or a doubt began is never stopped"


@dataclass(frozen=True)
class Known:
    """What the ledger and this process know of the object that a message names."""

    number: int | None = None
    """Of the last message that was started, finished, raised or cancelled; None: never heard of this object."""
    outcome: Outcome | None = None
    """Of that message; None while it has no reply."""
    running: int | None = None
    """The number that a thread of this process works on now; 0: the agent itself does, at a boot of the node."""
    same: bool = True
    """The last message was this very one. Two messages of one number: the panel has forgotten that it gave it out."""
    repeats: bool = False
    """That thread repeats what a dead incarnation or a doubt began."""
    held: bool = False


def on_look(known: Known) -> Decision:
    """A verb that only reads. It may run beside a verb that changes, but not into a call without an owner."""
    return Decision.HOLD if known.held else Decision.RUN


def on_message(dispatch: int, known: Known) -> Decision:
    """A verb that changes its object."""
    if known.held:
        return Decision.HOLD
    if known.number is None or dispatch > known.number:
        return Decision.RUN if known.running is None else Decision.PARK
    if dispatch < known.number or not known.same:
        return Decision.ANSWER_SUPERSEDED
    if known.running is not None:
        return Decision.IGNORE if known.running == dispatch else Decision.PARK
    if known.outcome is None or known.outcome == "uncertain":
        return Decision.RUN_LOOK_FIRST
    return Decision.ANSWER_AGAIN


def on_cancel(dispatch: int, known: Known) -> Decision:
    """A cancel that names a number."""
    if known.held:
        return Decision.HOLD
    if known.number is None or dispatch > known.number:
        return Decision.REMEMBER_CANCEL if known.running is None else Decision.PARK
    if dispatch < known.number:
        return Decision.IGNORE
    if known.outcome is not None:
        return Decision.ANSWER_AGAIN
    if known.running == dispatch and not known.repeats:
        return Decision.STOP
    return Decision.NOTE_CANCEL
