"""``/ws/``: a person subscribes to topics and hears of changes while their grant is what it was."""

import asyncio
import json
import logging
from typing import Any
from urllib.parse import urlsplit

import redis
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.http.request import split_domain_port, validate_host

from cluster.events import EPOCH_GROUP
from cluster.keys import EPOCH_KEY
from cluster.permissions import Actor
from web.actor import actor_of_headers

from .topics import EVERY, groups_of

log = logging.getLogger(__name__)

PING_S = 20.0
PINGS_PER_LOOK = 3
"""How often the person is looked up again: a session that ended or a token that expired sends no message."""
MAX_SUBSCRIPTIONS = 200
MAX_MESSAGE = 16 << 10
_REDIS_TIMEOUT_S = 5.0

# https://www.rfc-editor.org/rfc/rfc6455#section-7.4: 4000 to 4999 are an application's own.
ANONYMOUS, GRANT_CHANGED = 4401, 4403
UNSUPPORTED, POLICY, TOO_LARGE, TRY_LATER = 1003, 1008, 1009, 1013


class StatusConsumer(AsyncWebsocketConsumer):
    """One socket of one person."""

    actor: Actor | None = None
    _pinging: "asyncio.Task[None] | None" = None

    async def connect(self) -> None:
        self._topics: dict[str, dict[str, str]] = {}  # group -> id of what is heard, or EVERY -> topic
        self._headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in self.scope["headers"]}
        if not _is_same_origin(self._headers):
            await self.close()
            return
        await self.accept()
        self.actor = await database_sync_to_async(actor_of_headers)(self._headers)
        if self.actor is None:
            await self.close(ANONYMOUS)
            return
        try:
            async with asyncio.timeout(_REDIS_TIMEOUT_S):
                for name in (EPOCH_GROUP, self._grant_group):
                    await self.channel_layer.group_add(name, self.channel_name)
                # After joining the group: an epoch that begins in between is heard of twice, never missed.
                epoch = await asyncio.to_thread(_epoch)
        except (redis.RedisError, OSError, TimeoutError) as error:
            log.warning("a socket was refused, Redis does not answer: %r", error)
            await self.close(TRY_LATER)
            return
        await self._say({"hello": 1, "epoch": epoch})
        self._pinging = asyncio.create_task(self._ping())

    async def disconnect(self, code: int) -> None:
        if self._pinging:
            self._pinging.cancel()
        if self.actor is None:
            return
        for name in (EPOCH_GROUP, self._grant_group, *self._topics):
            await self.channel_layer.group_discard(name, self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if self._pinging is None:
            return
        if text_data is None:
            await self.close(UNSUPPORTED)
        elif len(text_data) > MAX_MESSAGE:
            await self.close(TOO_LARGE)
        elif (topics := _topics_of(text_data)) is None:
            await self.close(POLICY)
        else:
            await self._subscribe(topics)

    async def _subscribe(self, topics: list[str]) -> None:
        assert self.actor
        groups = await database_sync_to_async(groups_of)(self.actor, dict.fromkeys(topics))
        for topic in topics:
            name, about = groups[topic] or ("", EVERY)
            known = topic in self._topics.get(name, {}).values()
            if not name or (not known and sum(map(len, self._topics.values())) >= MAX_SUBSCRIPTIONS):
                await self._say({"refused": topic})
                continue
            if name not in self._topics:
                self._topics[name] = {}
                await self.channel_layer.group_add(name, self.channel_name)
            self._topics[name][about] = topic
            await self._say({"subscribed": topic})

    # --- messages of groups, by their type ----------------------------------------------------------------------

    async def frames(self, message: dict[str, Any]) -> None:
        if message["group"] == EPOCH_GROUP:
            for frame in message["frames"]:
                await self._say({"hello": 1, "epoch": frame["epoch"]})
            return
        topics = self._topics.get(message["group"], {})
        for frame in message["frames"]:
            for about in (EVERY, frame["id"]):
                if about in topics:
                    await self._say({"topic": topics[about], **frame})

    async def grant_changed(self, message: dict[str, Any]) -> None:
        await self.close(GRANT_CHANGED)

    # --- small parts -------------------------------------------------------------------------------------------

    @property
    def _grant_group(self) -> str:
        assert self.actor
        return f"grant-{self.actor.grant.pk}"

    async def _say(self, message: dict[str, Any]) -> None:
        await self.send(json.dumps(message, ensure_ascii=False, separators=(",", ":")))

    async def _ping(self) -> None:
        """Something to miss for a browser whose connection died without a word."""
        count = 0
        while True:
            await asyncio.sleep(PING_S)
            count += 1
            if count % PINGS_PER_LOOK == 0 and not await self._still_the_same():
                return
            try:
                await self._say({"ping": count})
            except OSError:  # the browser has gone, and ``disconnect`` is on its way
                return

    async def _still_the_same(self) -> bool:
        now = await database_sync_to_async(actor_of_headers)(self._headers)
        if now is None:
            await self.close(ANONYMOUS)
            return False
        if _rights_of(now) != _rights_of(self.actor):
            await self.close(GRANT_CHANGED)
            return False
        return True


def _rights_of(actor: Actor | None) -> Any:
    return actor and (actor.grant.pk, actor.grant.role, actor.grant.tenant_id, actor.grant.actions)


def _is_same_origin(headers: dict[str, str]) -> bool:
    """A browser says whose page opens the socket; only this panel's own pages may. Others send no Origin."""
    host = headers.get("host", "")
    if not validate_host(split_domain_port(host)[0], settings.ALLOWED_HOSTS):
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == host.lower()


def _topics_of(text: str) -> list[str] | None:
    """Of ``{"subscribe": [...]}``; None for anything else."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return None
    topics = message.get("subscribe") if isinstance(message, dict) else None
    if not isinstance(topics, list) or not all(isinstance(one, str) for one in topics):
        return None
    return topics


def _epoch() -> str:
    client = redis.Redis.from_url(
        settings.REDIS_WEB_URL, socket_timeout=_REDIS_TIMEOUT_S, socket_connect_timeout=_REDIS_TIMEOUT_S
    )
    with client:
        raw = client.get(EPOCH_KEY)
    return raw.decode() if isinstance(raw, bytes) else ""
