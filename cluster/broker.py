"""The panel's hands on Redis: users of nodes, messages to nodes, streams from nodes.

Redis forgets its ACL users when it restarts, so the database is where they live and the conductor applies them again
at every new connection.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import redis
from django.conf import settings
from kombu import Queue
from kombu.exceptions import OperationalError
from redis.lock import Lock as RedisLock

from nodes.contract.messages import Cancel, Envelope, Welcome
from nodes.contract.wire import (
    CANCEL_TASK,
    CELERY_TASK_PREFIX,
    PANEL_WAKE,
    acl_rules,
    commands_queue,
    events_stream,
    redis_user,
    welcome_list,
)

from .celery import sender
from .keys import ALIVE_KEY, EPOCH_KEY

log = logging.getLogger(__name__)

BLOCK_MS = 1000
READ_AT_ONCE = 500
WELCOME_LIFETIME_S = 60

Entries = list[tuple[str, dict[str, str]]]


class Unreachable(Exception):
    """Redis does not answer now."""


class Broker:
    def __init__(self) -> None:
        self._celery = sender()
        # redis-py types every answer as bytes | str | None at once, whatever decode_responses says.
        self._redis: Any = redis.Redis.from_url(
            settings.REDIS_CONDUCTOR_URL,
            decode_responses=True,
            # A node may write any bytes into its stream: that must not stop the others'.
            encoding_errors="replace",
            socket_timeout=BLOCK_MS / 1000 + 4,
            socket_connect_timeout=2.0,
        )

    def run_id(self) -> str:
        """Changes with every start of Redis."""
        return str(self._info()["run_id"])

    def _info(self) -> Mapping[str, Any]:
        try:
            info: Mapping[str, Any] = self._redis.info("server")
        except redis.RedisError as error:
            raise Unreachable(str(error)) from error
        return info

    def apply_users(self, nodes: Mapping[str, str]) -> None:
        """Make Redis' node users exactly these: ``{node id: SHA-256 of its password}``."""
        try:
            # redis-py and kombu call these by EVALSHA; a node may not load them itself.
            for script in (
                RedisLock.LUA_RELEASE_SCRIPT,
                RedisLock.LUA_EXTEND_SCRIPT,
                RedisLock.LUA_REACQUIRE_SCRIPT,
            ):
                self._redis.script_load(script)
            wanted = {redis_user(node): acl_rules(node, sha256) for node, sha256 in nodes.items()}
            for user in self._redis.acl_users():
                if user.startswith("n") and len(user) == 14 and user not in wanted:
                    self._redis.execute_command("ACL", "DELUSER", user)
            for node, sha256 in nodes.items():
                self._apply_user(redis_user(node), sha256, wanted[redis_user(node)])
        except redis.RedisError as error:
            raise Unreachable(str(error)) from error

    def _apply_user(self, user: str, password_sha256: str, rules: list[str]) -> None:
        known = self._redis.acl_getuser(user)
        self._redis.execute_command("ACL", "SETUSER", user, *rules)
        if known and known["passwords"] != [password_sha256]:
            # Another machine has joined as this node. A connection outlives its password: the old one would go on
            # taking messages beside the new one.
            self._redis.execute_command("CLIENT", "KILL", "USER", user)

    def read(self, positions: Mapping[str, str], block_ms: int = BLOCK_MS) -> dict[str, Entries]:
        """New entries of each stream after its position; waits until there are any, at most ``block_ms``."""
        try:
            found = self._xread(positions, block_ms)
        except redis.RedisError as error:
            raise Unreachable(str(error)) from error
        rows = found.items() if isinstance(found, dict) else found or []
        # RESP3 wraps a stream's entries in one more list than RESP2.
        return {
            stream: (entries[0] if entries and isinstance(entries[0], list) else entries) for stream, entries in rows
        }

    def _xread(self, positions: Mapping[str, str], block_ms: int) -> Any:
        try:
            return self._redis.xread(dict(positions), count=READ_AT_ONCE, block=block_ms)
        except redis.ResponseError as error:
            if not _says_no_stream(error):
                raise
        # One node's key refuses the question about all of them. The others are read now, that one the next time.
        streams = {name: position for name, position in positions.items() if not self._removed_as_no_stream(name)}
        return self._redis.xread(streams, count=READ_AT_ONCE, block=block_ms)

    def _removed_as_no_stream(self, key: str) -> bool:
        """A node may make anything of its own keys: what is no stream is removed, so that its agent can go on."""
        kind = self._redis.type(key)
        if kind in ("stream", "none"):
            return False
        log.warning("%s was a %s and no stream: it was removed", key, kind)
        self._redis.delete(key)
        return True

    def last_wake(self) -> str:
        """Position after which wake-ups are new."""
        try:
            last = self._redis.xrevrange(PANEL_WAKE, count=1)
        except redis.RedisError as error:
            raise Unreachable(str(error)) from error
        return str(last[0][0]) if last else "0-0"

    def ends_below(self, node_id: str, position: str) -> bool:
        """Whether the stream is shorter than the cursor says: it was emptied behind our back."""
        return stream_order(self.end_of(node_id)) < stream_order(position)

    def end_of(self, node_id: str) -> str:
        """Position of the last entry of the node's stream."""
        stream = events_stream(node_id)
        try:
            last = [] if self._removed_as_no_stream(stream) else self._redis.xrevrange(stream, count=1)
        except redis.ResponseError as error:
            if not _says_no_stream(error):
                raise Unreachable(str(error)) from error
            last = []  # it became something else in between: the next reading removes that
        except redis.RedisError as error:
            raise Unreachable(str(error)) from error
        return str(last[0][0]) if last else "0-0"

    def send(self, node_id: str, envelope: Envelope) -> bool:
        """Put a verb into the node's queue. False when Redis did not take it: the sweep sends it again."""
        return self._send(node_id, CELERY_TASK_PREFIX + envelope.verb, {"envelope": envelope.model_dump(mode="json")})

    def cancel(self, node_id: str, cancel: Cancel) -> bool:
        return self._send(node_id, CANCEL_TASK, {"cancel": cancel.model_dump(mode="json")})

    def _send(self, node_id: str, task: str, arguments: dict[str, Any]) -> bool:
        # Of a direct exchange Celery makes the anonymous one: straight into the list.
        queue: Any = Queue(commands_queue(node_id))
        try:
            self._celery.send_task(
                task,
                kwargs=arguments,
                queue=queue,
                # No binding keys: nobody looks them up.
                declare=[],
                retry=False,
                ignore_result=True,
                # The default is the repr of the arguments, and a body may hold a secret.
                kwargsrepr="-",
            )
        except (OperationalError, redis.RedisError, OSError) as error:
            log.warning("%s was not sent to node %s: %s", task, node_id, error)
            return False
        return True

    def welcome(self, node_id: str, welcome: Welcome) -> None:
        try:
            pipe = self._redis.pipeline()
            pipe.delete(welcome_list(node_id))
            pipe.lpush(welcome_list(node_id), welcome.model_dump_json())
            pipe.expire(welcome_list(node_id), WELCOME_LIFETIME_S)
            pipe.execute()
        except redis.RedisError as error:
            log.warning("node %s was not welcomed: %s", node_id, error)

    def drop_queue(self, node_id: str) -> None:
        """After a resolve: what still waits for a silent node must not run when it returns."""
        try:
            self._redis.delete(commands_queue(node_id))
        except redis.RedisError as error:
            log.warning("the queue of node %s was not dropped: %s", node_id, error)

    def forget(self, node_ids: Iterable[str]) -> None:
        """Keys of nodes that were removed."""
        keys = [key for n in node_ids for key in (commands_queue(n), events_stream(n), welcome_list(n))]
        if keys:
            self._redis.delete(*keys)

    def alive(self, epoch: str) -> None:
        try:
            self._redis.set(ALIVE_KEY, "1", ex=15)
            self._redis.set(EPOCH_KEY, epoch)
        except redis.RedisError as error:
            raise Unreachable(str(error)) from error


def _says_no_stream(error: redis.ResponseError) -> bool:
    return str(error).startswith("WRONGTYPE")


def stream_order(position: str) -> tuple[int, int]:
    """Positions in a stream as they follow each other: ``<ms>-<sequence>``."""
    ms, _, sequence = position.partition("-")
    return int(ms), int(sequence or 0)
