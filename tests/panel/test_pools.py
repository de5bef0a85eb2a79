"""Pools that people add: what each node shows decides, and only one in service takes disks."""

from collections.abc import Callable
from typing import Any

import pytest

from cluster.models import Job, Node, Pool
from nodes.contract.sizes import GIB
from tests.panel.client import Api
from tests.panel.engine.scenarios import SCENARIOS, Scene
from tests.panel.engine.world import Executor

pytestmark = pytest.mark.django_db
People = Callable[[str], Api]
KEY = "AQDsecret0secret0secret0secret0secret0=="


def add(scene: Scene, api: People, **changes: Any) -> Job:
    body = {**SCENARIOS["pool.add"](scene)[1], **changes}
    answer = api("administrator").post("pools/", body)
    assert answer.status_code == 202, answer.json()
    return Executor(world=scene.world).run(Job.objects.get(pk=answer.json()["job"]["id"]))


def test_a_pool_is_what_its_node_shows(scene: Scene, api: People) -> None:
    assert add(scene, api).state == "succeeded"
    row = next(row for row in api("administrator").get("pools/").json()["results"] if row["name"] == "fast")
    assert (row["kind"], row["state"], row["nodes"]) == ("lvm", "active", [scene.node.pk])
    assert (row["capacity_bytes"], row["granule_bytes"]) == (1 << 40, 4096)


def test_the_same_storage_is_not_added_twice(scene: Scene, api: People) -> None:
    add(scene, api)
    job = add(scene, api, name="again")
    assert (job.state, job.error["code"]) == ("failed", "pool_known")
    assert not Pool.objects.filter(name="again").exists()
    assert scene.world.messages[-1].verb == "pool.detach"


def test_a_key_is_in_no_answer_and_in_no_row_that_can_be_read(scene: Scene, api: People) -> None:
    job = add(scene, api, kind="rbd", monitors=["10.0.0.1:6789"], user="ulei", key=KEY)
    assert next(e for e in scene.world.messages if e.verb == "pool.attach").body["key"] == KEY
    assert KEY not in str(api("administrator").get("pools/").content) + str(
        api("administrator").get(f"jobs/{job.pk}/").content
    )
    assert KEY not in Pool.objects.get(name="fast").key


def test_before_it_is_in_service_a_pool_takes_no_disks_and_a_blank_one_only_afterwards(
    scene: Scene, api: People
) -> None:
    body = {"name": "shop", "vcpus": 1, "memory_bytes": 128 << 20, "nics": []}
    pool = Pool.objects.create(name="early", kind="lvm", identity="adding:x", path="vg0", state="adding", attached=True)
    early = api("administrator").post("vms/", {**body, "disks": [{"size_bytes": GIB, "pool": pool.pk}]})
    assert (early.status_code, early.json()["code"]) == (422, "pool_unknown")
    add(scene, api)
    fast = Pool.objects.get(name="fast").pk
    from_image = {**body, "image": scene.image.pk, "disks": [{"size_bytes": GIB, "pool": fast}]}
    assert api("administrator").post("vms/", from_image).json()["code"] == "image_needs_folder"
    blank = {**body, "disks": [{"size_bytes": GIB + 1, "pool": fast}]}
    quote = api("administrator").post("vms/?dry_run=true", blank).json()["quote"]["disks"][0]
    assert quote["size_bytes"] == GIB + 4096
    assert api("administrator").post("vms/", blank).status_code == 202


def test_a_pool_with_disks_and_a_nodes_own_folder_stay(scene: Scene, api: People) -> None:
    answer = api("administrator").post(f"pools/{scene.pool.pk}/remove/")
    assert {reason["code"] for reason in answer.json()["refusals"]} == {"pool_has_disks", "pool_of_node"}


def test_an_unknown_and_a_silent_node_are_refused(scene: Scene, api: People) -> None:
    Node.objects.filter(pk=scene.node.pk).update(state="offline")
    body = {**SCENARIOS["pool.add"](scene)[1], "nodes": [scene.node.pk, "nobody"]}
    answer = api("administrator").post("pools/", body)
    assert {reason["code"] for reason in answer.json()["refusals"]} == {"node_unknown", "node_offline"}
