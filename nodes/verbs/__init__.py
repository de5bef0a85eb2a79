"""The verbs: one function each, found by the message that it takes.

A verb means "make it so": it looks first, does what is missing, and may be repeated after a crash at any line.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from nodes.contract.messages import Message, Result
from nodes.node import Node
from nodes.verbs.run import Run

M = TypeVar("M", bound=Message)
Handler = Callable[[Node, Any, Run], Result]

HANDLERS: dict[str, Handler] = {}


def handles(message: type[M]) -> Callable[[Callable[[Node, M, Run], Result]], Callable[[Node, M, Run], Result]]:
    """Register the function that carries out a message."""

    def register(function: Callable[[Node, M, Run], Result]) -> Callable[[Node, M, Run], Result]:
        HANDLERS[message.verb] = function
        return function

    return register


def load() -> None:
    """Import every module of verbs, so that HANDLERS is complete."""
    from nodes.verbs import demo, disks, domains, files, forecast, host, migration, nics, pools, takeover  # noqa: F401
