"""Tell the conductor that something was committed. A lost wake-up costs at most one sweep."""

import functools
import logging

import redis
from django.conf import settings

from nodes.contract.wire import PANEL_WAKE

log = logging.getLogger(__name__)


@functools.cache
def _client() -> "redis.Redis":
    # A hung broker must not hang a web request: the sweep covers what is not said here.
    return redis.Redis.from_url(settings.REDIS_WEB_URL, socket_timeout=1.0, socket_connect_timeout=1.0)


def conductor(job_id: str = "") -> None:
    """``job_id`` empty: look at the nodes again (one was added or removed)."""
    try:
        _client().xadd(PANEL_WAKE, {"job": job_id}, maxlen=1000, approximate=True)
    except redis.RedisError as error:
        log.warning("the conductor was not woken for job %s: %s", job_id or "-", error)
