"""Nodes that are filled alike: what is planned, what is left alone, what the clock does, and that it can be undone."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from cluster import balance, balancing
from cluster.balance import Options
from cluster.models import Balance, Balancing, Job, Lock, Node, Vm
from cluster.operations import dry_run, start
from cluster.refusals import Refused
from nodes.contract.sizes import GIB, MIB
from tests.panel.engine.scenarios import Scene, uneven
from tests.panel.engine.world import Executor

pytestmark = pytest.mark.django_db


@pytest.fixture
def scene(scene: Scene) -> Scene:
    uneven(scene)
    return scene


def run(scene: Scene, code: str, target: str | None = None, **params: Any) -> Job:
    return Executor(world=scene.world).run(start(scene.actor, code, params, target).job)


def where() -> str:
    return str(Vm.objects.get(name="vm-running").node.name)


def test_the_fullest_node_gives_to_the_emptiest_and_says_what_it_gains(scene: Scene) -> None:
    prospect = balance.plan(Options())
    assert [move.vm.name for move in prospect.moves] == ["vm-running"]
    assert prospect.spread_after < prospect.spread_before
    assert prospect.moves[0].gain > balance.LEAST_GAIN


def test_a_move_that_only_turns_the_scales_over_is_not_made(scene: Scene) -> None:
    """Without the other one it would make the second node as full as its own is now."""
    Vm.objects.filter(pk=scene.stopped.pk).update(memory_bytes=128 * MIB)
    Node.objects.filter(pk=scene.node.pk).update(memory_allocated_bytes=4 * GIB, cpus_allocated=1)
    assert balance.plan(Options()).moves == []


@pytest.mark.parametrize("case", ["threshold", "copy", "cooldown", "job", "stopped", "maintenance"])
def test_what_is_left_alone(scene: Scene, case: str) -> None:
    assert balance.plan(Options()).moves
    options = Options()
    if case == "threshold":
        options = Options(threshold_points=900)
    if case == "copy":
        options = Options(copy_disks=False)
    if case == "cooldown":
        moved = {"operation": "vm.migrate", "subject": f"vm:{scene.running.pk}", "state": "succeeded"}
        Job.objects.create(**moved, finished=timezone.now() - timedelta(minutes=5))
        options = Options(cooldown=timedelta(minutes=10))
        assert balance.plan(Options(cooldown=timedelta(minutes=1))).moves
    if case == "job":
        Lock.objects.create(name=f"vm:{scene.running.pk}", exclusive=True, job=Job.objects.create(operation="vm.stop"))
    if case == "stopped":
        Vm.objects.update(state="stopped")
    if case == "maintenance":
        Node.objects.filter(name="n2").update(in_maintenance=True)
    assert balance.plan(options).moves == []


def test_it_is_applied_and_undone_at_a_click_each(scene: Scene) -> None:
    moves = dry_run(scene.actor, "balance.apply", {}).moves
    assert moves
    assert [(move["name"], move["source_name"], move["node_name"]) for move in moves] == [("vm-running", "n1", "n2")]
    assert run(scene, "balance.apply").state == "succeeded"
    assert where() == "n2"
    done = Balance.objects.get()
    assert [move["name"] for move in done.moves] == ["vm-running"]
    with pytest.raises(Refused) as refused:
        start(scene.actor, "balance.apply", {})
    assert refused.value.refusals[0].code == "balanced_already"
    assert run(scene, "balance.undo", done.pk).state == "succeeded"
    assert where() == "n1"
    with pytest.raises(Refused) as refused:
        start(scene.actor, "balance.undo", {}, done.pk)
    assert refused.value.refusals[0].code == "balance_undone"


def test_what_was_moved_on_since_is_not_brought_back(scene: Scene) -> None:
    assert run(scene, "balance.apply").state == "succeeded"
    Vm.objects.filter(pk=scene.running.pk).update(node=scene.node)
    with pytest.raises(Refused) as refused:
        start(scene.actor, "balance.undo", {}, Balance.objects.get().pk)
    assert refused.value.refusals[0].code == "nothing_to_undo"


def test_the_clock_is_off_until_somebody_says_how_often(scene: Scene) -> None:
    balancing.run_due()
    assert not Job.objects.filter(operation="balance.apply").exists()
    balancing.edit(scene.actor, threshold_points=100)
    balancing.run_due()
    assert not Job.objects.filter(operation="balance.apply").exists()


def test_the_clock_moves_only_what_has_been_uneven_for_so_long(scene: Scene) -> None:
    balancing.edit(scene.actor, every_minutes=60, hold_minutes=10, copy_disks=True, threshold_points=100)
    now = timezone.now()
    for minutes, begun in ((0, 0), (5, 0), (11, 1), (12, 1)):
        balancing.run_due(now + timedelta(minutes=minutes, seconds=1))
        assert Job.objects.filter(operation="balance.apply").count() == begun, minutes
    assert Job.objects.get(operation="balance.apply").user == scene.actor.user


def test_what_was_even_in_between_begins_to_count_anew(scene: Scene) -> None:
    balancing.edit(scene.actor, every_minutes=60, hold_minutes=10, copy_disks=True, threshold_points=100)
    now = timezone.now()
    balancing.run_due(now + timedelta(seconds=1))
    Node.objects.filter(name="n2").update(in_maintenance=True)
    balancing.run_due(now + timedelta(minutes=5))
    Node.objects.filter(name="n2").update(in_maintenance=False)
    Balancing.objects.update(next_run=now)
    balancing.run_due(now + timedelta(minutes=11))
    assert not Job.objects.filter(operation="balance.apply").exists()


def test_another_conductor_begins_nothing_twice(scene: Scene) -> None:
    balancing.edit(scene.actor, every_minutes=60, hold_minutes=0, copy_disks=True, threshold_points=100)
    for _conductor in range(2):
        balancing.run_due()
    assert Job.objects.filter(operation="balance.apply").count() == 1


def test_what_the_clock_was_refused_is_kept_for_people(scene: Scene) -> None:
    balancing.edit(scene.actor, every_minutes=60, hold_minutes=0, copy_disks=True, threshold_points=100)
    scene.actor.grant.role = "read_only"
    scene.actor.grant.save()
    balancing.run_due()
    problem = Balancing.objects.get().problem
    assert problem
    assert problem["code"] == "role_may_not"
