"""Volumes that are nobody's, in the panel: what nodes tell of them, and how one becomes a disk."""

from typing import Any

import pytest

from cluster import drift, operations, pools
from cluster.models import Disk, Image, ImageCopy, Node, Pool
from cluster.refusals import Refused
from nodes.contract.messages import VolumesSeen
from nodes.contract.specs import Stranger
from tests.panel.engine.scenarios import Scene, second_node
from tests.panel.engine.world import Executor
from web.api.rows import pools as rows

pytestmark = pytest.mark.django_db
GIB = 1 << 30
THEIRS = Stranger(name="theirs.qcow2", format="qcow2", size_bytes=GIB)


def tell(scene: Scene, *strangers: Stranger, node: Node | None = None) -> None:
    seen = VolumesSeen(counter=1, sizes={scene.pool.identity: {}}, strangers={scene.pool.identity: strangers})
    drift.observe(node or scene.node, seen)


def run(scene: Scene, name: str = THEIRS.name, executor: Executor | None = None, **params: Any) -> Any:
    executor = executor or Executor()
    executor.world = scene.world
    started = operations.start(scene.actor, "disk.import", {"name": name, **params}, scene.pool.pk)
    return executor.run(started.job)


@pytest.fixture
def left(scene: Scene) -> Scene:
    """Somebody has left a volume there."""
    tell(scene, THEIRS)
    scene.world.objects[scene.node.pk, "volume:" + THEIRS.name] = "disk"
    return scene


def an_image(scene: Scene) -> Image:
    image = Image.objects.create(name=THEIRS.name, format="qcow2", size_bytes=1, virtual_size_bytes=GIB)
    ImageCopy.objects.create(image=image, node=scene.node)
    return image


def test_what_nodes_see_is_listed_once_and_the_page_hears_of_it(scene: Scene) -> None:
    there, _pools = second_node(scene)
    tell(scene, THEIRS)
    scene.pool.places.create(node=there)
    version = Pool.objects.get(pk=scene.pool.pk).version
    tell(scene, THEIRS, Stranger(name="a.raw", format="raw", size_bytes=512), node=there)
    pool = Pool.objects.get(pk=scene.pool.pk)
    assert pool.version > version
    assert [one["name"] for one in rows(scene.actor, [pool])[0]["strangers"]] == ["a.raw", "theirs.qcow2"]
    tell(scene, node=there)
    assert [one["name"] for one in pools.strangers_of(Pool.objects.get(pk=scene.pool.pk))] == ["theirs.qcow2"]


def test_it_becomes_a_disk_without_a_vm_that_one_can_have(left: Scene) -> None:
    assert run(left, title="Архив", tenant=left.stopped.tenant_id).state == "succeeded"
    disk = Disk.objects.get(vm=None)
    assert (disk.title, disk.format, disk.size_bytes, disk.state) == ("Архив", "qcow2", GIB, "ready")
    assert left.world.objects[left.node.pk, "disk:" + disk.pk] == "disk"
    assert pools.strangers_of(Pool.objects.get(pk=left.pool.pk)) == []
    attach = operations.start(left.actor, "disk.attach", {"vm": left.stopped.pk}, disk.pk).job
    assert Executor(world=left.world).run(attach).state == "succeeded"


def test_every_node_that_sees_the_pool_is_asked_who_uses_it(left: Scene) -> None:
    there, _pools = second_node(left)
    left.pool.places.create(node=there)
    job = run(left)
    assert (job.state, job.error["code"]) == ("failed", "volume_absent")
    left.world.objects[there.pk, "volume:" + THEIRS.name] = "disk"
    assert run(left).state == "succeeded"
    assert [envelope.verb for envelope in left.world.messages][-3:] == ["pool.find", "pool.find", "disk.take"]


def test_one_that_the_panel_has_not_heard_of_is_looked_at_by_the_node(scene: Scene) -> None:
    scene.world.objects[scene.node.pk, "volume:new.qcow2"] = "disk"
    assert run(scene, "new.qcow2").state == "succeeded"
    job = run(scene, "absent.qcow2")
    assert (job.state, job.error["code"]) == ("failed", "volume_absent")
    assert Disk.objects.filter(vm=None).count() == 1


def test_a_name_leads_nowhere_else(scene: Scene) -> None:
    for name in ("../shadow.raw", "/etc/shadow", ".hidden.raw", "", "a\nb.raw"):
        with pytest.raises(operations.BadShape):
            operations.start(scene.actor, "disk.import", {"name": name}, scene.pool.pk)


def test_an_image_that_nobody_uses_is_an_image_no_more(left: Scene) -> None:
    an_image(left)
    assert run(left).state == "succeeded"
    assert not Image.objects.filter(name=THEIRS.name).exists()


def test_an_image_that_could_not_be_taken_stays_one(left: Scene) -> None:
    image = an_image(left)
    fault = Executor(fault=lambda n, envelope: "refused" if envelope.verb == "disk.take" else None)
    assert run(left, executor=fault).state == "failed"
    image.refresh_from_db()
    assert image.state == "active"


def test_an_image_with_disks_is_not_taken(left: Scene) -> None:
    left.stopped.disks.update(image=an_image(left))
    with pytest.raises(Refused) as refused:
        run(left)
    assert [reason.code for reason in refused.value.refusals] == ["file_has_disks"]


def test_the_size_is_said_before_and_a_node_without_the_pool_is_refused(left: Scene) -> None:
    plan = operations.dry_run(left.actor, "disk.import", {"name": THEIRS.name}, left.pool.pk)
    assert [row["size_bytes"] for row in plan.quote["disks"]] == [GIB]
    there, _pools = second_node(left)
    plan = operations.dry_run(left.actor, "disk.import", {"name": THEIRS.name, "node": there.pk}, left.pool.pk)
    assert [reason.code for reason in plan.refusals] == ["pool_not_there"]
