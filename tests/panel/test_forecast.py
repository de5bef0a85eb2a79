"""The forecast of a move: what it says, to whom, and that it leaves nothing behind."""

from typing import Any

import pytest

from cluster.job_views import job_view
from cluster.models import Grant, Job, Link, Node, Role, User
from cluster.operations import dry_run, start
from cluster.permissions import Actor
from cluster.refusals import NotKnown, Refused
from nodes.contract.sizes import MIB
from tests.panel.engine.scenarios import Scene, second_node
from tests.panel.engine.world import Executor

pytestmark = pytest.mark.django_db


@pytest.fixture
def there(scene: Scene) -> Node:
    return second_node(scene)[0]


def forecast(scene: Scene, **params: Any) -> Job:
    job = start(scene.actor, "vm.forecast", params, scene.running.pk).job
    return Executor(world=scene.world).run(job)


def test_four_ways_are_said_with_what_was_measured(scene: Scene, there: Node) -> None:
    before = scene.fingerprint()
    job = forecast(scene, target=there.pk)
    assert scene.fingerprint() == before
    found = job_view(scene.actor, job)["result"]
    assert (found["node"], found["memory_bytes"], found["bandwidth_bytes"]) == (there.pk, 100 * MIB, 100 * MIB)
    assert [way["way"] for way in found["ways"]] == ["live", "auto_converge", "post_copy", "paused"]
    assert all(way["ends"] for way in found["ways"])
    link = Link.objects.get()
    assert (link.source, link.target, link.bandwidth_bytes) == (scene.node, there, 100 * MIB)


def test_a_limit_of_bandwidth_is_what_the_move_would_get(scene: Scene, there: Node) -> None:
    unlimited, limited = (
        job_view(scene.actor, forecast(scene, **params))["result"] for params in ({}, {"bandwidth_bytes": MIB})
    )
    assert limited["bandwidth_bytes"] == MIB
    assert limited["ways"][3]["duration_ms"] > 50 * unlimited["ways"][3]["duration_ms"]
    assert Link.objects.get().bandwidth_bytes == 100 * MIB


def test_what_hinders_the_move_hinders_its_forecast(scene: Scene, there: Node) -> None:
    Node.objects.filter(pk=there.pk).update(in_maintenance=True)
    assert [r.code for r in dry_run(scene.actor, "vm.forecast", {"target": there.pk}, scene.running.pk).refusals] == [
        "maintenance"
    ]
    with pytest.raises(Refused):
        forecast(scene, target=there.pk)
    with pytest.raises(NotKnown):
        forecast(scene, target="nosuchnode222")


def test_the_tenant_hears_that_there_was_a_job_and_not_what_nodes_said(scene: Scene, there: Node) -> None:
    job = forecast(scene, target=there.pk)
    user = User.objects.create(username="tenant")
    grant = Grant.objects.create(user=user, role=Role.TENANT_ADMINISTRATOR, tenant=scene.running.tenant)
    assert job_view(Actor(user, grant), job)["result"] is None


def test_what_was_measured_tells_later_plans_how_long_moves_take(scene: Scene, there: Node) -> None:
    plan = dry_run(scene.actor, "vm.migrate", {}, scene.running.pk)
    assert plan.targets
    assert [row["takes_s"] for row in plan.targets] == [None]
    forecast(scene, target=there.pk)
    plan = dry_run(scene.actor, "vm.migrate", {}, scene.running.pk)
    assert plan.targets
    assert plan.targets[0]["takes_s"] >= 2
    moves = dry_run(scene.actor, "node.evacuate", {}, scene.node.pk).moves
    assert moves
    assert all(row["takes_s"] for row in moves)
