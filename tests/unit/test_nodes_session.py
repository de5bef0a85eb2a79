"""How an agent introduces itself, with Redis replaced."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from nodes import session
from nodes.contract.messages import Welcome


def test_a_hello_that_a_dying_redis_may_have_lost_is_said_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after the ten seconds that an unanswered one waits."""
    monkeypatch.setattr(session, "RETRY_S", 0.0)
    answers = iter([redis.ConnectionError("gone"), ("list", Welcome(incarnation=3).model_dump_json())])
    hellos: list[int] = []

    def brpop(keys: list[str], timeout: int) -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(session, "_say_hello", lambda stream, ledger, facts, incarnation: hellos.append(incarnation))
    config: Any = SimpleNamespace(id="a" * 13)
    ledger: Any = SimpleNamespace(raise_to=lambda raises, placed: None)
    client: Any = SimpleNamespace(brpop=brpop)
    nothing: Any = None
    welcome = session.introduce(config, client, nothing, ledger, nothing, 3, threading.Event())
    assert welcome is not None
    assert hellos == [3, 3]
