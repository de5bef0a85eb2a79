"""What every page and every endpoint costs in queries; new addresses join by being in the URL conf."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from cluster.models import (
    Address,
    AddressRange,
    AffinityGroup,
    Disk,
    Image,
    ImageCopy,
    Iso,
    IsoCopy,
    Job,
    Network,
    Node,
    NodeGroup,
    Pool,
    PoolOnNode,
    Schedule,
    Snapshot,
    SnapshotDisk,
    Step,
    Tenant,
    new_id,
)
from cluster.operations import start
from tests.panel.asking import API, FORMS, Request, every_request, made_ready, rolled_back
from tests.panel.browser import HTMX
from tests.panel.client import Api, vm_like
from tests.panel.engine.scenarios import Scene, backup_of
from tests.people import PASSWORD, Person

ASKED_BY = ("administrator", "owner", "anonymous")
NOT_COUNTED = ("SAVEPOINT", "RELEASE", "ROLLBACK", "BEGIN", "COMMIT", "SELECT pg_advisory")
"""Each database opens its transactions in its own way."""

MOST = 22
MORE = {
    "/backup/": 6,
    "/migrate/": 23,
    "/forecast/": 18,
    "/vms/new/": 2,
    "/balances/": 6,
    "/nodes/balance/": 1,
    "/restart_elsewhere/": 13,
    "/adopt_claim/": 3,
}
"""A backup's interfaces are read, and it and its copies are rows; a move, its forecast and a balance ask what
each node has; who creates a VM chooses among two kinds of groups; a claim is asked for with the storage of its node.
"""
MAKE_A_VM = re.compile(r"(POST /api/v1/vms/|POST /vms/new/|.*/(clone|restore|adopt_domain)/)( dry run| fragment)?")
"""Each disk and each interface is made by itself, and none is taken twice; each network's addresses are asked for."""

Row = dict[str, tuple[int, int]]


@pytest.fixture
def sessions(people: dict[str, Person]) -> dict[str, str]:
    """Name -> the cookie of a person who has signed in."""
    found = {}
    for name in ("administrator", "owner"):
        user, browser = people[name].user, Client()
        user.set_password(PASSWORD)
        user.save()
        browser.force_login(user, "django.contrib.auth.backends.ModelBackend")
        found[name] = browser.cookies[settings.SESSION_COOKIE_NAME].value
    return found


def test_a_page_or_endpoint_costs_what_the_golden_file_says_however_many_rows_there_are(
    ids: dict[str, str],
    scene: Scene,
    people: dict[str, Person],
    sessions: dict[str, str],
    golden: Callable[[str, Any], None],
    authority: None,
) -> None:
    more_rows(ids, scene, people, range(1))
    few = costs(ids, scene, people, sessions)
    more_rows(ids, scene, people, range(1, 6))
    many = costs(ids, scene, people, sessions)
    for request, row in few.items():
        if not MAKE_A_VM.fullmatch(request):
            assert many[request] == row, request
            most = MOST + sum(more for name, more in MORE.items() if name in request)
            assert max(count for _status, count in row.values()) <= most, request
    words = {request: [f"{name} {s} in {count}" for name, (s, count) in row.items()] for request, row in few.items()}
    golden("query_counts.json", {request: ", ".join(said) for request, said in words.items()})


def costs(ids: dict[str, str], scene: Scene, people: dict[str, Person], sessions: dict[str, str]) -> dict[str, Row]:
    """Request -> for each person the answer's status and the number of queries."""
    found = {}
    for request in every_request():
        row: Row = {}
        for name in ASKED_BY:
            person = people.get(name, people["owner"])
            own = {"username": person.name, "grants": person.actor.grant.pk}
            ask = asker(request, people.get(name), sessions.get(name))
            with rolled_back():
                path, body = made_ready(request, ids | own, scene)
                connection.queries_log.clear()  # it holds 9,000, and counts no further
                with CaptureQueriesContext(connection) as queries:
                    status = ask("/" + path, body).status_code
            row[name] = status, sum(not query["sql"].startswith(NOT_COUNTED) for query in queries)
        status, _ = row["administrator"]
        if status == 405:
            assert request.path in FORMS, f"{request}: what is typed there?"
            continue
        assert status < 400 or request.path == "readyz", f"{request}: an administrator is refused"
        found[str(request)] = row
    return found


def asker(request: Request, person: Person | None, session: str | None) -> Callable[[str, Any], Any]:
    """Programs come with a token, people with a session."""
    if request.path.startswith(API):
        client = Api(person.token if person else None)
        query = "?dry_run=true" if request.way == "dry run" else ""
        return lambda path, body: client.ask(request.method, path + query, body)
    browser = Client()
    if session:
        browser.cookies[settings.SESSION_COOKIE_NAME] = session
    send = browser.get if request.method == "GET" else browser.post
    return lambda path, typed: send(path, typed, headers=HTMX if request.way == "fragment" else {})


def more_rows(ids: dict[str, str], scene: Scene, people: dict[str, Person], numbers: range) -> None:
    """Of each kind one more, and of each thing that the things asked for are made of."""
    owner = people["owner"].actor
    for number in numbers:
        name = f"more{number}"
        about = {
            "kind": "directory",
            "path": "/",
            "granules": {"raw": 512},
            "facts": scene.pool.facts,
            "attached": True,
        }
        NodeGroup.objects.create(name=name)
        together = AffinityGroup.objects.create(name=name, tenant=scene.running.tenant, policy="together")
        together.vms.set([scene.running, scene.stopped])
        pool = Pool.objects.create(name=name, identity=name, **about)
        network = Network.objects.create(name=name, bridge="br0")
        AddressRange.objects.create(network=network, first="10.99.0.100", last="10.99.0.200", prefix_length=24)
        image = Image.objects.create(name=name, format="raw", size_bytes=1, virtual_size_bytes=1)
        node = node_like(scene.node, name=name, address=f"10.99.1.{number}")
        for one, where in ((pool, node), (pool, scene.node), (scene.pool, node)):
            PoolOnNode.objects.create(pool=one, node=where)
        kept = Snapshot.objects.create(vm=scene.running, name=name, parent_id=ids["snapshots"], state="ready")
        SnapshotDisk.objects.bulk_create(
            SnapshotDisk(snapshot=kept, disk=disk, size_bytes=1) for disk in scene.running.disks.all()[:1]
        )
        for one, where in ((image, node), (scene.image, node)):
            ImageCopy.objects.create(image=one, node=where)
        IsoCopy.objects.create(iso=Iso.objects.create(name=name, size_bytes=1), node=node)
        Tenant.objects.create(name=name)
        backup_of(scene, scene.running)
        again = {"every_hours": 24, "keep": 7, "next_run": timezone.now() + timedelta(days=1)}
        Schedule.objects.create(vm=scene.running, action="snapshot", grant=owner.grant, **again)
        vm = vm_like(scene.running, name=name)
        for position, one in enumerate((vm, scene.running, scene.stopped)):
            disk, nic = scene.running.disks.all()[0], scene.running.nics.all()[0]
            disk.pk, disk.vm, disk.pool, disk.image = new_id(), one, pool, image
            disk.save(force_insert=True)
            nic.pk, nic.vm, nic.network = new_id(), one, network
            nic.mac = f"52:54:00:01:{number:02}:{position:02}"
            nic.save(force_insert=True)
            Address.objects.create(network=network, nic=nic, address=f"10.99.0.{160 + 3 * number + position}")
        Disk.objects.create(pk=f"inp1{number}", vm=vm, tenant=vm.tenant, pool=scene.pool, size_bytes=1, position=1)
        start(owner, "vm.start", {}, vm.pk)
        waiting = start(owner, "vm.stop", {}, vm.pk).job
        Job.objects.filter(pk=waiting.pk).update(parent=ids["jobs"])
        for subject in (f"vm:{scene.running.pk}", f"node:{scene.node.pk}"):
            job = Job.objects.create(
                operation="vm.start", subject=subject, tenant=owner.tenant, user=owner.user, state="failed"
            )
            Step.objects.create(job=job, position=0, name="start", node=node)
        Step.objects.create(job_id=ids["jobs"], position=10 + number, name="start", node=node)


def node_like(node: Node, **changes: Any) -> Node:
    names = ("state", "redis_password_sha256", "facts", "cpus", "memory_bytes")
    same = {name: getattr(node, name) for name in names}
    return Node.objects.create(**same, default_pool=node.default_pool, **changes)
