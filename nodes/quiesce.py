"""Guests whose file systems stand still while their disks are kept or copied, by the agent inside, where it answers.

A note stands in a folder from before the freeze until after the thaw, so that the next agent knows what one that was
killed has frozen. A guest is never left to stand still: after a limit the node thaws it by itself, and goes on trying.
"""

import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

from nodes.contract.errors import NodeError
from nodes.contract.faults import point
from nodes.contract.messages import Quiesce
from nodes.drain import CallLost
from nodes.files import write_atomically
from nodes.hypervisor import Hypervisor
from nodes.log import Log

log = Log("ulei.quiesce")

LIMIT_S = 60.0
AGAIN_S = 2.0
ANSWER_S = 10
"""So long the agent inside the guest has for its answer; a guest may be anybody's."""


def during(folder: Path, hypervisor: Hypervisor, uuid: str, asked: Quiesce, work: Callable[[], object]) -> bool:
    """Let the guest's file systems stand still while the work is done. Whether they did, all the time.

    :raises NodeError: ``guest_agent_silent``, where it is required; whatever the work raises.
    """
    wanted = asked != "no" and hypervisor.whereabouts(uuid).state == "running"
    frozen = wanted and freeze(folder, hypervisor, uuid)
    if asked == "required" and not frozen:
        raise silent()
    try:
        work()
    finally:
        still = frozen and thaw(folder, hypervisor, uuid)
    return still


def silent() -> NodeError:
    return NodeError(
        "guest_agent_silent",
        "the agent inside the guest did not let its file systems stand still",
        "Install qemu-guest-agent in the guest, or ask without it.",
    )


def freeze(folder: Path, hypervisor: Hypervisor, uuid: str) -> bool:
    """Whether the guest's file systems stand still now; False: it cannot be asked, or does not do it."""
    if (folder / uuid).exists():
        thaw(folder, hypervisor, uuid)
    if not hypervisor.guest_agent_listens(uuid):
        return False
    token = secrets.token_hex(8)
    write_atomically(folder / uuid, token)
    _watch(folder, hypervisor, uuid, token, LIMIT_S)
    point("domain.freeze-noted", uuid)
    try:
        count = hypervisor.freeze(uuid, ANSWER_S)
    except CallLost:
        raise
    except NodeError as error:
        log.warning("a guest was not frozen", uuid=uuid, cause=error.info.cause)
        count = 0
    point("domain.frozen", uuid)
    if not count:
        thaw(folder, hypervisor, uuid)
    return count > 0


def thaw(folder: Path, hypervisor: Hypervisor, uuid: str) -> bool:
    """Whether it stood still until now. One that does not answer is asked again until it does, or is off."""
    token = _note(folder, uuid)
    if token is None:
        return False
    try:
        return _thaw(folder, hypervisor, uuid)
    except CallLost:
        raise
    except NodeError as error:
        log.warning("a guest does not thaw yet", uuid=uuid, cause=error.info.cause)
        _watch(folder, hypervisor, uuid, token, AGAIN_S)
        return False


def thaw_left_over(folder: Path, hypervisor: Hypervisor) -> None:
    """What an agent that is gone has frozen."""
    for note in folder.glob("*") if folder.exists() else ():
        if (token := _note(folder, note.name)) is not None:
            _watch(folder, hypervisor, note.name, token, 0.0)


def _note(folder: Path, uuid: str) -> str | None:
    try:
        return (folder / uuid).read_text()
    except FileNotFoundError:
        return None


def _thaw(folder: Path, hypervisor: Hypervisor, uuid: str) -> bool:
    domain = hypervisor.find(uuid=uuid)
    count = hypervisor.thaw(uuid, ANSWER_S) if domain is not None and domain.active else 0
    (folder / uuid).unlink(missing_ok=True)
    return count > 0


def _watch(folder: Path, hypervisor: Hypervisor, uuid: str, token: str, limit_s: float) -> None:
    """Thaw it after the limit, unless that was done or begun anew meanwhile."""

    def watch() -> None:
        time.sleep(limit_s)
        while _note(folder, uuid) == token:
            try:
                _thaw(folder, hypervisor, uuid)
                log.warning("a guest was thawed by the node itself", uuid=uuid)
            except NodeError:
                time.sleep(AGAIN_S)  # its agent is silent, it is paused, or libvirtd is away

    threading.Thread(target=watch, name="thaw", daemon=True).start()
