"""Puts changed states on the nodes' streams at a steady rate, one entry a change, until it is told to stop."""

import json
import sys
import time
from itertools import cycle

import django

django.setup()

import redis  # noqa: E402
from django.conf import settings  # noqa: E402

from cluster.models import Vm  # noqa: E402
from nodes.contract.messages import DomainChanged, Heartbeat  # noqa: E402
from nodes.contract.specs import DomainFacts  # noqa: E402
from nodes.contract.wire import HEARTBEAT_S, events_stream  # noqa: E402

TURN_S = 0.02


def entries() -> list[tuple[str, str, str]]:
    """(stream, entry that says off, entry that says running) of every VM, the nodes in turns."""
    found = []
    for vm in Vm.objects.order_by("name"):
        off, on = (
            DomainChanged(
                incarnation=1,
                counter=1,
                domains=(DomainFacts(uuid=vm.uuid, name=vm.domain_name, state=state, vm=vm.pk),),
            ).model_dump_json()
            for state in ("shutoff", "running")
        )
        found.append((events_stream(vm.node_id), off, on))
    return found


def main(rate_per_s: float, seconds: float) -> None:
    client = redis.Redis.from_url(settings.REDIS_CONDUCTOR_URL)
    rows = entries()
    # Round after round: all go off, then all come back.
    changes = cycle([(stream, off) for stream, off, _ in rows] + [(stream, on) for stream, _, on in rows])
    streams = sorted({stream for stream, _, _ in rows})
    began, sent, beat_at = time.monotonic(), 0, 0.0
    while (passed := time.monotonic() - began) < seconds:
        pipe = client.pipeline(transaction=False)
        while sent < passed * rate_per_s:
            stream, entry = next(changes)
            pipe.xadd(stream, {"e": entry}, maxlen=20_000, approximate=True)
            sent += 1
        if passed >= beat_at:
            beat_at = passed + HEARTBEAT_S
            for stream in streams:
                pipe.xadd(stream, {"e": _heartbeat()})
        pipe.execute()
        time.sleep(TURN_S)
    print(json.dumps({"sent": sent}))


def _heartbeat() -> str:
    return Heartbeat(
        incarnation=1, counter=1, load_1m=0.0, memory_available_bytes=1, wall_clock=time.time(), libvirt_ok=True
    ).model_dump_json()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
