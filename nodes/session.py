"""The agent's introduction to the panel: hello on the stream, welcome past the queue."""

import threading

import redis
from pydantic import ValidationError

from nodes import __version__
from nodes.config import Config
from nodes.contract import wire
from nodes.contract.faults import point
from nodes.contract.messages import PROTOCOL, Hello, Welcome, known_fields
from nodes.contract.specs import NodeFacts
from nodes.ledger import Ledger
from nodes.log import Log
from nodes.stream import RETRY_S, Stream
from nodes.verbs import HANDLERS

log = Log("ulei.session")

HELLO_EVERY_S = 10.0
WAIT_S = 2
"""Shorter than the client's socket timeout."""


def introduce(
    config: Config,
    client: redis.Redis,
    stream: Stream,
    ledger: Ledger,
    facts: NodeFacts,
    incarnation: int,
    stopping: threading.Event,
) -> Welcome | None:
    """Say hello until the panel answers; apply what it raises before anything runs. None: this agent is to end."""
    waited_s = HELLO_EVERY_S
    while not stopping.is_set():
        if waited_s >= HELLO_EVERY_S:
            waited_s = 0.0
            point("agent.hello")
            _say_hello(stream, ledger, facts, incarnation)
        try:
            welcome = _listen(client, config.id)
        except redis.RedisError as error:
            log.warning("redis cannot be asked for a welcome", cause=error)
            stopping.wait(RETRY_S)
            waited_s = HELLO_EVERY_S  # the hello may be lost with that Redis: say it again
            continue
        waited_s += WAIT_S
        if welcome is not None and welcome.incarnation == incarnation:
            ledger.raise_to(welcome.raises, welcome.placed)
            log.info("welcomed", incarnation=incarnation, raised=len(welcome.raises), placed=len(welcome.placed))
            return welcome
    return None


def _say_hello(stream: Stream, ledger: Ledger, facts: NodeFacts, incarnation: int) -> None:
    stream.report(
        Hello(
            incarnation=incarnation,
            counter=ledger.counter,
            protocol=PROTOCOL,
            version=__version__,
            verbs={verb: known_fields(verb) for verb in HANDLERS},
            facts=facts,
        )
    )


def _listen(client: redis.Redis, node_id: str) -> Welcome | None:
    answer = client.brpop([wire.welcome_list(node_id)], timeout=WAIT_S)
    if not answer:
        return None
    try:
        return Welcome.model_validate_json(answer[1])
    except ValidationError as error:
        log.error("a welcome that this agent cannot read", cause=error)
        return None
