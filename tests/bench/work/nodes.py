"""Nodes that answer every verb with ``done`` at once: what is left is the panel's own time."""

import base64
import json
import threading
import time

import django

django.setup()

import redis  # noqa: E402
from django.conf import settings  # noqa: E402

from cluster.models import Node  # noqa: E402
from nodes.contract.messages import Envelope, Heartbeat, Reply  # noqa: E402
from nodes.contract.wire import HEARTBEAT_S, commands_queue, events_stream  # noqa: E402


def answer(raw: bytes, counter: int) -> Reply | None:
    """To a Celery message as kombu puts it into a list; None for one that is no verb."""
    _, keywords, _ = json.loads(base64.b64decode(json.loads(raw)["body"]))
    if "envelope" not in keywords:
        return None
    asked = Envelope.model_validate(keywords["envelope"])
    about = {name: getattr(asked, name) for name in ("verb", "object", "dispatch", "job", "step", "phase", "attempt")}
    return Reply(incarnation=1, counter=counter, outcome="done", **about)


def beat(client: redis.Redis, ids: list[str]) -> None:
    while True:
        said = Heartbeat(
            incarnation=1, counter=1, load_1m=0.0, memory_available_bytes=1, wall_clock=time.time(), libvirt_ok=True
        ).model_dump_json()
        for node in ids:
            client.xadd(events_stream(node), {"e": said}, maxlen=1000, approximate=True)
        time.sleep(HEARTBEAT_S)


def main() -> None:
    client = redis.Redis.from_url(settings.REDIS_CONDUCTOR_URL)
    ids = list(Node.objects.values_list("pk", flat=True))
    threading.Thread(target=beat, args=(client, ids), daemon=True).start()
    node_of = {commands_queue(node).encode(): node for node in ids}
    counter = 1
    while True:
        found = client.brpop(list(node_of), timeout=2)
        if found:
            counter += 1
            reply = answer(found[1], counter)
            if reply is not None:
                client.xadd(events_stream(node_of[found[0]]), {"e": reply.model_dump_json()})


if __name__ == "__main__":
    main()
