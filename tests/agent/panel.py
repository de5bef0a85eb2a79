"""The panel's side of the broker, as small as a test needs it."""

import hashlib
import itertools
from collections.abc import Callable
from typing import Any

import redis
from celery import Celery
from kombu import Queue

from nodes.contract import messages as m
from nodes.contract import wire

NODE = "aaaaaaaaaaaaa"
PASSWORD = "a-node-made-this"
PATIENCE_S = 30.0


class Panel:
    def __init__(self, port: int) -> None:
        self.redis = redis.Redis("127.0.0.1", port, decode_responses=True, socket_timeout=None)
        self._celery = Celery("panel", broker=f"redis://127.0.0.1:{port}/0", set_as_current=False)
        self._cursor = "0"
        self._heard: list[Any] = []
        self._numbers: dict[str, itertools.count] = {}
        self.let_in()

    def let_in(self) -> None:
        rules = wire.acl_rules(NODE, hashlib.sha256(PASSWORD.encode()).hexdigest())
        self.redis.execute_command("ACL", "SETUSER", wire.redis_user(NODE), *rules)

    def begin_anew(self) -> None:
        """After a restart of Redis, which has forgotten everything."""
        self.let_in()
        self._cursor = "0"

    # --- speaking -----------------------------------------------------------------------------------------

    def number(self, message: m.Message) -> int | None:
        """The next one for this object."""
        return next(self._numbers.setdefault(message.object, itertools.count(1))) if message.changes else None

    def send(self, message: m.Message, dispatch: int | None, attempt: int = 1, **body: Any) -> None:
        envelope = m.Envelope(
            verb=message.verb,
            object=message.object,
            dispatch=dispatch,
            job="job",
            step="step",
            phase="do",
            attempt=attempt,
            body={**m.body_of(message), **body},
        )
        self.task(message.verb, envelope=envelope.model_dump(mode="json"))

    def cancel(self, message: m.Message, dispatch: int) -> None:
        cancel = m.Cancel(object=message.object, dispatch=dispatch, job="job", step="step")
        self.task("cancel", cancel=cancel.model_dump(mode="json"))

    def task(self, verb: str, **keywords: Any) -> None:
        queue = Queue(wire.commands_queue(NODE), no_declare=True)
        self._celery.send_task(wire.CELERY_TASK_PREFIX + verb, kwargs=keywords, queue=queue, ignore_result=True)

    def welcome(self, **values: Any) -> m.Hello:
        hello = self.next(m.Hello)
        answer = m.Welcome(incarnation=hello.incarnation, **values)
        self.redis.lpush(wire.welcome_list(NODE), answer.model_dump_json())
        return hello

    def call(self, message: m.Message) -> m.Reply:
        """Send with a new number and wait for the answer."""
        dispatch = self.number(message)
        self.send(message, dispatch)
        return self.reply(message, dispatch)

    def done(self, message: m.Message) -> dict[str, Any]:
        reply = self.call(message)
        assert reply.outcome == "done", reply
        return reply.result

    # --- listening ----------------------------------------------------------------------------------------

    def next(self, kind: type, matches: Callable[[Any], bool] = lambda entry: True) -> Any:
        """The next entry of this kind that no test has seen yet; others are kept for later."""
        waited_s = 0.0
        while True:
            for entry in self._heard:
                if isinstance(entry, kind) and matches(entry):
                    self._heard.remove(entry)
                    return entry
            assert waited_s < PATIENCE_S, f"no {kind.__name__} came; there are {self._heard}"
            waited_s += self._listen(block_ms=1000)

    def reply(self, message: m.Message, dispatch: int | None) -> m.Reply:
        return self.next(m.Reply, lambda reply: (reply.object, reply.dispatch) == (message.object, dispatch))

    def newest(self, kind: type) -> Any:
        """The last entry of this kind that has been heard."""
        return [entry for entry in self._heard if isinstance(entry, kind)][-1]

    def replies_so_far(self, message: m.Message) -> list[m.Reply]:
        """Those that a look, which is answered after them, has overtaken nothing of."""
        while not self._listen(block_ms=1):
            pass
        return [entry for entry in self._heard if isinstance(entry, m.Reply) and entry.object == message.object]

    def _listen(self, block_ms: int) -> float:
        """Returns the seconds that passed in vain."""
        streams = self.redis.xread({wire.events_stream(NODE): self._cursor}, block=block_ms)
        found = streams.items() if isinstance(streams, dict) else streams or []
        entries = [entry for _, entries in found for entry in _flat(entries)]
        for position, fields in entries:
            self._cursor = position
            self._heard.append(m.read_entry(fields["e"]))
        return 0.0 if entries else block_ms / 1000


def _flat(entries: list[Any]) -> list[Any]:
    """RESP3 wraps a stream's entries in one more list than RESP2."""
    return (
        entries[0] if entries and isinstance(entries[0], list) and isinstance(entries[0][0], (list, tuple)) else entries
    )


def code(reply: m.Reply) -> str:
    """Of a certain failure."""
    assert reply.outcome == "failed", reply
    assert reply.error is not None
    assert reply.error.certain
    return reply.error.code
