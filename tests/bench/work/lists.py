"""Milliseconds of the list of VMs, as API and as page, beside ``.values()`` and JSON of the same rows."""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.db import connection  # noqa: E402
from django.db.models import Q  # noqa: E402
from django.test import Client  # noqa: E402

from cluster.models import Disk, Nic, Vm  # noqa: E402
from deploy.lab.client import Api  # noqa: E402
from tests.bench.caller import Caller  # noqa: E402
from tests.bench.statistics import interleaved  # noqa: E402
from tests.bench.work.rows import Filler, make_nodes  # noqa: E402
from web.pages.paging import _write  # noqa: E402

PAGE = 50
FAR_PAGE = 900
WARM_UP = 3


def floor(after: Vm | None) -> bytes:
    """The same rows of a page by the least that Django and JSON can do: three queries, no objects."""
    rows = Vm.objects.order_by("name", "pk")
    if after is not None:
        rows = rows.filter(Q(name__gt=after.name) | Q(name=after.name, pk__gt=after.pk), name__gte=after.name)
    fields = "id name title state node_id tenant_id owner_id vcpus memory_bytes os protected version created".split()
    vms = list(rows.values(*fields)[: PAGE + 1])
    ids = [vm["id"] for vm in vms]
    disks = list(Disk.objects.filter(vm__in=ids).values("id", "vm_id", "pool_id", "size_bytes", "bus", "state"))
    nics = list(
        Nic.objects.filter(vm__in=ids).values(
            "id", "vm_id", "network_id", "model", "mac", "lease__id", "lease__address", "lease__network_id"
        )
    )
    return json.dumps([vms, disks, nics], default=str).encode()


class Lists:
    def __init__(self, token: str, url: str, pairs: int) -> None:
        self.pairs = pairs
        self.client = Client(SERVER_NAME="127.0.0.1", headers={"Authorization": f"Bearer {token}"})
        self.caller = Caller(Api(url, token))

    def measure(self, far: bool) -> dict[str, Any]:
        """Samples of every way to ask for one page: the first, or the 900th."""
        after = Vm.objects.order_by("name", "pk")[(FAR_PAGE - 1) * PAGE - 1] if far else None
        paths = {"api": self._api_path(far), "page": "/"}
        if after is not None:
            paths["page"] += "?cursor=" + _write(after, ("name", "pk"), back=False)
        found = {}
        for kind, path in paths.items():
            for way, ask in (("inside", self._inside), ("http", self._http)):
                measures = {"bare": partial(_ms, partial(floor, after)), "ours": partial(_ms, partial(ask, path))}
                for measure in measures.values():
                    for _ in range(WARM_UP):
                        measure()
                found[f"{kind}-{way}"] = interleaved(self.pairs, measures)
        return found

    def _api_path(self, far: bool) -> str:
        """By the links that the API gives; larger pages come there sooner, and the cursor knows no size."""
        path, left = "/api/v1/vms/", (FAR_PAGE - 1) * PAGE if far else 0
        cursor = ""
        while left:
            size = min(left, 500)
            answer = json.loads(self._inside(f"{path}?page_size={size}{cursor}"))
            cursor = "&cursor=" + answer["next"].partition("cursor=")[2].partition("&")[0]
            left -= size
        return f"{path}?page_size={PAGE}{cursor}"

    def _inside(self, path: str) -> bytes:
        answer = self.client.get(path)
        assert answer.status_code == 200, answer.content[:200]
        return bytes(answer.content)

    def _http(self, path: str) -> bytes:
        told = self.caller.request("GET", path)
        assert told.status == 200, told.body[:200]
        return bytes(told.body)


def _ms(work: Callable[[], bytes]) -> float:
    began = time.monotonic()
    work()
    return (time.monotonic() - began) * 1000


def main(sizes: list[int], pairs: int, url: str, token: str, nodes: int) -> None:
    assert not settings.DEBUG
    filler = Filler(make_nodes(nodes))
    lists = Lists(token, url, pairs)
    found: dict[str, Any] = {}
    for size in sizes:
        filler.fill_up(size)
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("ANALYZE")
        found[str(size)] = {"first": lists.measure(far=False)}
        if size > FAR_PAGE * PAGE:
            found[str(size)]["far"] = lists.measure(far=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
