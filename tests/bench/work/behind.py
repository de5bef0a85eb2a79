"""How many entries of the nodes' streams the conductor has not yet stored."""

import json

import django

django.setup()

import redis  # noqa: E402
from django.conf import settings  # noqa: E402

from cluster.models import StreamCursor  # noqa: E402
from nodes.contract.messages import Heartbeat, read_entry  # noqa: E402
from nodes.contract.wire import events_stream  # noqa: E402


def main() -> None:
    client = redis.Redis.from_url(settings.REDIS_CONDUCTOR_URL)
    left = 0
    for cursor in StreamCursor.objects.all():
        found = client.xrange(events_stream(cursor.node_id), min=f"({cursor.last}")
        left += sum(not isinstance(read_entry(fields[b"e"]), Heartbeat) for _, fields in found)
    print(json.dumps({"entries": left}))


if __name__ == "__main__":
    main()
