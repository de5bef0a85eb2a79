"""The node's stream to the panel: replies are sent until Redis takes them, reports are not worth that."""

import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from nodes.config import Config
from nodes.contract import wire
from nodes.contract.messages import Entry
from nodes.log import Log

log = Log("ulei.stream")

RETRY_S = 1.0
TIMEOUT_S = 5.0


def uptime_s() -> float:
    """Seconds since the boot of the machine, also while it slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def connect(config: Config) -> redis.Redis:
    """A client as the node's own user. Nothing is retried inside it: whoever calls knows what that would mean."""
    return redis.Redis(
        host=config.redis_host,
        port=config.redis_port,
        username=wire.redis_user(config.id),
        password=config.redis_password(),
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        **({"ssl": True, **tls_options(config)} if config.redis_tls else {}),
    )


def tls_options(config: Config) -> dict[str, Any]:
    """For redis-py and, the same, for kombu."""
    return {
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
        "ssl_check_hostname": True,
        "ssl_ca_certs": str(config.ca_file),
        "ssl_certfile": str(config.certificate_file),
        "ssl_keyfile": str(config.key_file),
    }


class Stream:
    """Thread-safe; keeps the order in which entries were sent."""

    def __init__(self, client: redis.Redis, node_id: str) -> None:
        self._client = client
        self._key = wire.events_stream(node_id)
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Entry, Callable[[], None]]] = deque()
        self._wake = threading.Event()
        self.taken_at = uptime_s()
        """When Redis has last taken something, by :func:`uptime_s`; at the start: now."""
        self.on_reconnect: Callable[[], None] = lambda: None
        """Called when Redis answers again: what was reported meanwhile is lost, so all must be told."""
        threading.Thread(target=self._retry, name="stream", daemon=True).start()

    def reply(self, entry: Entry, sent: Callable[[], None]) -> None:
        """Send until it is taken. ``sent`` is called then, perhaps in another thread."""
        if not self._try_to_send(entry, keep_for=sent):
            return
        sent()

    def report(self, entry: Entry) -> bool:
        """Send once. False: Redis did not take it, and a later report will say more."""
        return self._try_to_send(entry, keep_for=None)

    def _try_to_send(self, entry: Entry, keep_for: Callable[[], None] | None) -> bool:
        with self._lock:
            if not self._waiting:
                try:
                    self._add(entry)
                    return True
                except redis.RedisError as error:
                    log.warning("redis does not take entries", cause=error)
                    self._wake.set()
            if keep_for is not None:
                self._waiting.append((entry, keep_for))
            return False

    def _add(self, entry: Entry) -> None:
        self._client.xadd(self._key, {"e": entry.model_dump_json()}, maxlen=wire.STREAM_MAXLEN, approximate=True)
        self.taken_at = uptime_s()

    def _retry(self) -> None:
        """While Redis is away: try again and again, in order."""
        while self._wake.wait():
            time.sleep(RETRY_S)
            try:
                self._client.ping()
                while self._send_first_waiting():
                    pass
            except redis.RedisError:
                continue
            log.info("redis takes entries again")
            self.on_reconnect()

    def _send_first_waiting(self) -> bool:
        # Under the lock, so that nothing overtakes; a reply that arrives meanwhile waits its turn.
        with self._lock:
            if not self._waiting:
                self._wake.clear()
                return False
            entry, sent = self._waiting[0]
            self._add(entry)
            self._waiting.popleft()
        sent()
        return True
