"""What tests of the panel stand on: a real Redis of their own, people, a small cluster, clients of the API."""

import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connections
from django.test import override_settings
from django.utils import timezone

from cluster import ca, wake
from cluster.models import (
    Address,
    AffinityGroup,
    AuditEvent,
    Balance,
    Iso,
    IsoCopy,
    NodeGroup,
    Schedule,
    Snapshot,
    Upload,
)
from cluster.operations import start
from tests.panel.client import Api, vm_like
from tests.panel.engine.scenarios import Scene, backup_of, make_scene
from tests.people import Person, make_people

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def redis_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Redis of this test run alone; the panel's settings point to it."""
    folder = tmp_path_factory.mktemp("redis")
    socket = folder / "redis.sock"
    argv = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", ""]
    server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    for line in server.stdout:
        if "eady to accept connections" in line:
            break
    url = f"unix://{socket}?db=0"
    layer = {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [{"address": url, "socket_timeout": None}], "prefix": "panel.ch"},
    }
    with override_settings(REDIS_WEB_URL=url, REDIS_CONDUCTOR_URL=url, CHANNEL_LAYERS={"default": layer}):
        wake._client.cache_clear()
        yield socket
    wake._client.cache_clear()
    server.terminate()
    server.wait()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A certificate authority of this test run alone."""
    folder = tmp_path_factory.mktemp("ca")
    with override_settings(INSTALLATION=settings.INSTALLATION.model_copy(update={"ca_dir": str(folder)})):
        ca.fingerprint.cache_clear()
        ca.init("127.0.0.1")
        yield
    ca.fingerprint.cache_clear()


@pytest.fixture
async def no_connection_is_left() -> AsyncIterator[None]:
    """Asynchronous code reaches the database from a thread of its loop, whose connection nobody else closes."""
    yield
    await sync_to_async(connections.close_all)()


@pytest.fixture
def people(db: None) -> dict[str, Person]:
    return make_people()


@pytest.fixture
def scene(people: dict[str, Person], library: Path) -> Scene:
    """A node with a pool, a network and an image; two VMs of the owner, one running and one stopped."""
    scene = make_scene()
    owner = people["owner"].actor
    for vm in (scene.running, scene.stopped):
        vm.tenant, vm.owner = owner.grant.tenant, owner.user  # type: ignore[assignment]
        vm.save()
        vm.disks.update(tenant=vm.tenant, owner=vm.owner)
    lease = {"network": scene.network, "nic": scene.running.nics.get(), "address": "10.99.0.150"}
    Address.objects.create(**lease)
    return scene


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Path]:
    """Where the panel keeps uploads, of this test alone."""
    changes = {"library_dir": str(tmp_path / "library")}
    with override_settings(INSTALLATION=settings.INSTALLATION.model_copy(update=changes)):
        yield tmp_path / "library"


def _balance(scene: Scene) -> Balance:
    """One that is undone: nobody asks for a second node here."""
    return Balance.objects.create(moves=[], spread_before=300, spread_after=100, undone=True)


@pytest.fixture
def ids(library: Path, scene: Scene, people: dict[str, Person]) -> dict[str, str]:
    """For each noun one row that has to do with the owner, where it can."""
    owner, vm = people["owner"].actor, scene.running
    job = start(owner, "vm.start", {}, vm_like(vm, name="third").pk).job
    iso = Iso.objects.create(name="rescue.iso", size_bytes=1)
    IsoCopy.objects.create(iso=iso, node=scene.node)
    nic = vm.nics.select_related("lease").get()
    snapshot = Snapshot.objects.create(vm=vm, name="old", state="ready")
    again = {"every_hours": 24, "keep": 7, "next_run": timezone.now() + timedelta(days=1)}
    schedule = Schedule.objects.create(vm=vm, action="backup", grant=owner.grant, **again)
    administrator = people["administrator"].user
    upload = Upload.objects.create(kind="image", name="half.raw", size_bytes=1 << 20, user=administrator)
    return {
        "vms": vm.pk,
        "nodes": scene.node.pk,
        "node-groups": NodeGroup.objects.create(name="ssd").pk,
        "pools": scene.pool.pk,
        "affinity-groups": AffinityGroup.objects.create(name="web", tenant=vm.tenant, policy="apart").pk,
        "networks": scene.network.pk,
        "addresses": nic.lease.pk,
        "images": scene.image.pk,
        "isos": iso.pk,
        "uploads": upload.pk,
        "disks": vm.disks.all()[0].pk,
        "nics": nic.pk,
        "snapshots": snapshot.pk,
        "backups": backup_of(scene, vm),
        "schedules": schedule.pk,
        "balances": _balance(scene).pk,
        "jobs": job.pk,
        "tenants": vm.tenant_id,
        "users": owner.user.pk,
        "grants": owner.grant.pk,
        "audit": str(AuditEvent.objects.get(job=job).pk),
    }


@pytest.fixture
def api(people: dict[str, Person]) -> Callable[[str], Api]:
    """``api("owner")``; ``api("anonymous")`` sends no token."""
    return lambda name: Api(people[name].token if name in people else None)


@pytest.fixture
def golden() -> Callable[[str, Any], None]:
    """Compares with a file that people read and review; ``ULEI_GOLDEN=write`` writes it anew."""

    def compare(name: str, value: Any) -> None:
        path = GOLDEN / name
        if os.environ.get("ULEI_GOLDEN") == "write":
            path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
        assert value == json.loads(path.read_text())

    return compare
