"""What a disk becomes on another node's storage: its format there, and what it grows to."""

import pytest

from cluster.models import Disk, Pool
from cluster.operations import dry_run, start
from nodes.contract.sizes import GIB, MIB
from tests.panel.engine.scenarios import Scene, second_node

pytestmark = pytest.mark.django_db

FOLDER = {"qcow2": 65536, "raw": 512}
LVM = {"raw": 4 * MIB}


@pytest.mark.parametrize(
    ("here", "had", "there", "gets"),
    [
        (FOLDER, "qcow2", FOLDER, "qcow2"),
        (FOLDER, "raw", FOLDER, "raw"),
        (FOLDER, "qcow2", LVM, "raw"),
        (FOLDER, "raw", LVM, "raw"),
        (LVM, "raw", FOLDER, "qcow2"),  # raw was nobody's choice: that storage has no other
        (LVM, "raw", LVM, "raw"),
    ],
)
def test_a_disk_keeps_the_format_that_was_chosen_for_it_where_the_other_storage_has_it(
    here: dict[str, int], had: str, there: dict[str, int], gets: str, scene: Scene
) -> None:
    _node, (pool, _both) = second_node(scene)
    Pool.objects.filter(pk=scene.pool.pk).update(granules=here)
    Pool.objects.filter(pk=pool.pk).update(granules=there)
    Disk.objects.filter(vm=scene.running).update(format=had, size_bytes=GIB + 65536)
    plan = dry_run(scene.actor, "vm.migrate", {}, scene.running.pk)
    assert plan.refusals == []
    copied = start(scene.actor, "vm.migrate", {}, scene.running.pk).job.data["copied"]
    assert {one["format"] for one in copied.values()} == {gets}
    coarsest = max(here[had], there[gets])
    assert {one["size_bytes"] for one in copied.values()} == {-(-(GIB + 65536) // coarsest) * coarsest}
