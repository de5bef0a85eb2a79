"""Milliseconds of a pool's page and of its disks through the API, for a pool with few disks and for one with many."""

import json
import sys
import time
from functools import partial
from typing import Any

import django

django.setup()

from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402

from cluster.models import Disk, Pool, PoolOnNode  # noqa: E402
from nodes.contract.sizes import MIB  # noqa: E402
from tests.bench.statistics import interleaved  # noqa: E402
from tests.bench.work.rows import Filler, make_nodes  # noqa: E402

WARM_UP = 3
PATHS = {"page": "/pools/{}/", "api": "/api/v1/disks/?pool={}&page_size=50"}


def fill(filler: Filler, name: str, count: int) -> str:
    """A pool with so many disks of different sizes; its id."""
    about = {"kind": "lvm", "path": name, "capacity_bytes": 1 << 50, "free_bytes": 1 << 49}
    pool = Pool.objects.create(name=name, identity=name, granules={"raw": 4 * MIB}, **about)
    PoolOnNode.objects.create(pool=pool, node=filler.nodes[0])
    vms = list(filler.owner.vms.all()[:count])
    sizes = (MIB * (1 + number * 7919 % count) for number in range(count))
    Disk.objects.bulk_create(
        Disk(vm=vm, tenant=filler.tenant, pool=pool, format="raw", size_bytes=size, state="ready", position=1)
        for vm, size in zip(vms, sizes, strict=True)
    )
    return pool.pk


def ask(client: Client, path: str) -> float:
    began = time.monotonic()
    answer = client.get(path)
    took = (time.monotonic() - began) * 1000
    assert answer.status_code == 200, answer.content[:200]
    return took


def main(few: int, many: int, pairs: int, token: str) -> None:
    filler = Filler(make_nodes(2))
    filler.fill_up(many)
    pools = {"bare": fill(filler, "few", few), "ours": fill(filler, "many", many)}
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
    client = Client(SERVER_NAME="127.0.0.1", headers={"Authorization": f"Bearer {token}"})
    found: dict[str, Any] = {}
    for kind, path in PATHS.items():
        measures = {name: partial(ask, client, path.format(pk)) for name, pk in pools.items()}
        for measure in list(measures.values()) * WARM_UP:
            measure()
        found[kind] = interleaved(pairs, measures)
    print(json.dumps(found))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
