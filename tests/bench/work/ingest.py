"""Seconds in which the conductor takes changed states from the nodes' streams, beside the raw UPDATE of the same rows.

One round turns the state of every VM. ``batch`` is how many VMs one entry of a stream names: a node gathers what
happens within a few milliseconds.
"""

import json
import sys
import time
from collections import defaultdict
from typing import Any

import django

django.setup()

import redis  # noqa: E402
from django.conf import settings  # noqa: E402
from django.db import transaction  # noqa: E402
from django.db.models import F  # noqa: E402

from cluster.conductor import Conductor  # noqa: E402
from cluster.models import Node, Vm  # noqa: E402
from nodes.contract.messages import DomainChanged  # noqa: E402
from nodes.contract.specs import DomainFacts  # noqa: E402
from nodes.contract.wire import events_stream  # noqa: E402
from tests.bench.statistics import interleaved  # noqa: E402
from tests.bench.work.rows import Filler, make_nodes  # noqa: E402

SHOWN = {"running": "running", "stopped": "shutoff"}
AT_ONCE = 500
"""Ids in one statement: SQLite takes no endless lists."""
SILENT_S = 0.05


class Ingest:
    def __init__(self, nodes: int, vms: int, batch: int) -> None:
        self.batch = batch
        filler = Filler(make_nodes(nodes))
        filler.fill_up(nodes * vms)
        self.vms: dict[str, list[Vm]] = defaultdict(list)
        for vm in Vm.objects.all():
            self.vms[vm.node_id].append(vm)
        self.client = redis.Redis.from_url(settings.REDIS_CONDUCTOR_URL)
        self.browser = self.client.pubsub()
        """One listens: without any nothing is published."""
        self.browser.subscribe(settings.CHANNEL_LAYERS["default"]["CONFIG"]["prefix"] + "__group__vms.all")
        self.conductor = Conductor()
        self.state = "running"
        self.counter = 0
        self.cpu_s: list[float] = []
        self.published_s: list[float] = []
        """From the first entry until the last frame was given to Redis."""

    @property
    def count(self) -> int:
        return sum(map(len, self.vms.values()))

    def _turn_over(self) -> str:
        self.state = "stopped" if self.state == "running" else "running"
        return self.state

    def raw(self) -> float:
        """One transaction, a statement for the VMs of each node."""
        state = self._turn_over()
        ids = [[vm.pk for vm in vms] for vms in self.vms.values()]
        began = time.monotonic()
        with transaction.atomic():
            for some in ids:
                for start in range(0, len(some), AT_ONCE):
                    part = Vm.objects.filter(pk__in=some[start : start + AT_ONCE])
                    part.update(state=state, version=F("version") + 1)
        return time.monotonic() - began

    def ours(self) -> float:
        last = self._put(self._turn_over())
        began, cpu = time.monotonic(), time.process_time()
        while any(self.conductor.positions.get(stream) != position for stream, position in last.items()):
            self.conductor.turn(block_ms=1)
        took = time.monotonic() - began
        watching = time.thread_time()
        self.published_s.append(self._last_publish() - began)
        # Frames go out in a thread of their own; what it took to watch them is ours.
        self.cpu_s.append(time.process_time() - cpu - (time.thread_time() - watching))
        wrong = Vm.objects.exclude(state=self.state).count()
        assert not wrong, f"{wrong} of {self.count} rows are wrong"
        return took

    def _put(self, state: str) -> dict[str, str]:
        """Entries on the streams; the last position of each."""
        self.counter += 1
        last = {}
        pipe = self.client.pipeline(transaction=False)
        for node, vms in self.vms.items():
            for start in range(0, len(vms), self.batch):
                domains = tuple(
                    DomainFacts(uuid=vm.uuid, name=vm.domain_name, state=SHOWN[state], vm=vm.pk)
                    for vm in vms[start : start + self.batch]
                )
                entry = DomainChanged(incarnation=1, counter=self.counter, domains=domains)
                pipe.xadd(events_stream(node), {"e": entry.model_dump_json()})
        pipe.execute()
        for node in self.vms:
            stream = events_stream(node)
            last[stream] = self.client.xrevrange(stream, count=1)[0][0].decode()
        return last

    def _last_publish(self) -> float:
        """The moment at which Redis counted the last frame: from then on it counts none for a while."""
        seen, grew = -1, time.monotonic()
        while time.monotonic() - grew < SILENT_S:
            calls = self.client.info("commandstats").get("cmdstat_publish", {}).get("calls", 0)
            if calls != seen:
                seen, grew = calls, time.monotonic()
            time.sleep(0.002)
        return grew


def main(nodes: int, vms: int, batch: int, pairs: int) -> None:
    ingest = Ingest(nodes, vms, batch)
    ingest.conductor.turn(block_ms=1)
    ingest.ours()
    ingest.raw()
    ingest.cpu_s, ingest.published_s = [], []
    samples: dict[str, Any] = interleaved(pairs, {"bare": ingest.raw, "ours": ingest.ours})
    assert Node.objects.filter(state="online").count() == nodes
    print(json.dumps({**samples, "cpu": ingest.cpu_s, "published": ingest.published_s, "count": ingest.count}))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
