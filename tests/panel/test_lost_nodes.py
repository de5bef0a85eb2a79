"""A silent node is declared dead: what is started where, what stays and why, and what happens when it is back."""

from typing import Any

import pytest
from django.db import transaction

from cluster import job_words, reconcile, returning, services
from cluster.models import Job, LeftGuest, Lock, Node, Pool, PoolOnNode, RaisedNumber, Vm
from cluster.operations import dry_run, start
from cluster.refusals import Forbidden, Refused
from nodes.contract.sizes import GIB
from nodes.contract.specs import PoolFacts
from tests.panel.engine.scenarios import Scene, returned, second_node
from tests.panel.engine.world import Executor
from tests.people import Person

pytestmark = pytest.mark.django_db


@pytest.fixture
def other(scene: Scene) -> Node:
    """Sees the pool of all disks, which can shut a node out; the scene's node has fallen silent."""
    there, (_own, both) = second_node(scene)
    Pool.objects.filter(pk=both.pk).update(facts={**both.facts, "fences": True})
    for vm in (scene.running, scene.stopped):
        vm.disks.update(pool=both)
    with transaction.atomic():
        reconcile.node_offline(scene.node)
    return there


def declare(scene: Scene, executor: dict[str, Any] | None = None, **params: Any) -> Job:
    job = start(scene.actor, "node.declare_dead", {"confirm": "n1", **params}, scene.node.pk).job
    return Executor(world=scene.world, **(executor or {})).run(job)


def places() -> dict[str, tuple[str, str]]:
    return {vm.name: (vm.node.name, vm.state) for vm in Vm.objects.select_related("node")}


def planned(scene: Scene, **params: Any) -> list[tuple[str, str, list[str]]]:
    plan = dry_run(scene.actor, "node.declare_dead", {"confirm": "n1", **params}, scene.node.pk)
    assert plan.moves is not None
    return [(row["name"], row["then"], sorted({r["code"] for r in row["reasons"]})) for row in plan.moves]


def refused(*args: Any) -> list[str]:
    with pytest.raises(Refused) as error:
        start(*args)
    return [refusal.code for refusal in error.value.refusals]


def test_silence_starts_nothing_elsewhere_by_itself(scene: Scene, other: Node) -> None:
    returning.take_back_due()
    assert places() == {"vm-running": ("n1", "unknown"), "vm-stopped": ("n1", "unknown")}
    assert not Job.objects.exists()


def test_its_vms_are_as_they_were_on_the_other_node_and_the_old_one_is_shut_out_first(
    scene: Scene, other: Node
) -> None:
    assert declare(scene).state == "succeeded"
    assert places() == {"vm-running": ("n2", "running"), "vm-stopped": ("n2", "stopped")}
    for vm in (scene.running, scene.stopped):
        disks = [f"disk:{pk}" for pk in vm.disks.values_list("pk", flat=True)]
        about = [e for e in scene.world.messages if e.object in (f"domain:{vm.pk}", *disks)]
        assert [e.verb for e in about[:3]] == ["disk.fence", "disk.fence", "domain.define"]
        assert [e.body["addresses"] for e in about[:2]] == [["10.99.0.11"]] * 2
    node, there = Node.objects.get(pk=scene.node.pk), Node.objects.get(pk=other.pk)
    assert (node.state, node.in_maintenance, node.memory_allocated_bytes) == ("offline", True, 0)
    assert there.memory_allocated_bytes == 256 << 20
    assert node.declared_dead is not None
    assert set(LeftGuest.objects.values_list("vm", flat=True)) == {scene.running.pk, scene.stopped.pk}
    assert RaisedNumber.objects.filter(node=node, object=f"domain:{scene.running.pk}").exists()


def test_only_a_silent_node_and_only_with_its_name_typed(scene: Scene, other: Node) -> None:
    assert refused(scene.actor, "node.declare_dead", {}, scene.node.pk) == ["type_to_declare_dead"]
    assert refused(scene.actor, "node.declare_dead", {"confirm": "n2"}, other.pk) == ["node_answers"]
    assert "node_not_dead" in refused(scene.actor, "vm.restart_elsewhere", {}, scene.running.pk)
    assert not Job.objects.exists()


def test_the_first_one_started_is_the_one_with_the_highest_priority_and_the_rest_must_fit(
    scene: Scene, other: Node
) -> None:
    Vm.objects.filter(pk=scene.stopped.pk).update(memory_bytes=400 << 20)
    Vm.objects.filter(pk=scene.running.pk).update(memory_bytes=400 << 20, restart_priority=5)
    Node.objects.filter(pk=other.pk).update(memory_bytes=GIB)
    assert planned(scene) == [("vm-running", "restart", []), ("vm-stopped", "leave", ["no_memory"])]
    Vm.objects.filter(pk=scene.stopped.pk).update(restart_priority=6)
    assert planned(scene) == [("vm-stopped", "restart", []), ("vm-running", "leave", ["no_memory"])]


def test_what_only_the_dead_node_has_stays_with_it(scene: Scene, other: Node) -> None:
    scene.running.disks.filter(position=1).update(pool=scene.pool)
    assert planned(scene) == [("vm-running", "leave", ["disk_not_there"]), ("vm-stopped", "restart", [])]
    assert declare(scene).state == "succeeded"
    assert places()["vm-running"] == ("n1", "unknown")


def test_storage_that_cannot_shut_it_out_is_used_only_when_its_power_is_off(scene: Scene, other: Node) -> None:
    both = Pool.objects.get(name="both")
    Pool.objects.filter(pk=both.pk).update(facts={**both.facts, "fences": False, "holds_back": True})
    assert planned(scene) == [("vm-running", "leave", ["no_fence"]), ("vm-stopped", "leave", ["no_fence"])]
    assert planned(scene, powered_off=True) == [("vm-running", "restart", []), ("vm-stopped", "restart", [])]
    assert declare(scene, powered_off=True).state == "succeeded"
    told = [envelope.body["node"] for envelope in scene.world.messages if envelope.verb == "disk.fence"]
    assert told == [scene.node.pk] * 4, "or it would start them at its next boot"
    assert places() == {"vm-running": ("n2", "running"), "vm-stopped": ("n2", "stopped")}


def test_what_nothing_keeps_the_node_from_starting_at_its_next_boot_stays(scene: Scene, other: Node) -> None:
    both = Pool.objects.get(name="both")
    Pool.objects.filter(pk=both.pk).update(facts={**both.facts, "fences": False, "holds_back": True})
    scene.stopped.disks.all().delete()
    Node.objects.filter(pk=scene.node.pk).update(verbs={"domain.start": []})  # an older agent
    stay = [("vm-running", "leave", ["cannot_be_held_back"]), ("vm-stopped", "leave", ["cannot_be_held_back"])]
    assert planned(scene, powered_off=True) == stay


def test_an_address_that_is_another_nodes_too_is_never_shut_out(scene: Scene, other: Node) -> None:
    PoolOnNode.objects.filter(pool__name="both", node=scene.node).update(client_address="10.99.0.12")
    assert {code for _name, _then, codes in planned(scene) for code in codes} == {"fence_hits_others"}


def test_the_address_that_the_storage_sees_is_the_one_that_is_shut_out(scene: Scene, other: Node) -> None:
    PoolOnNode.objects.filter(pool__name="both", node=scene.node).update(client_address="10.1.0.11")
    declare(scene)
    assert PoolOnNode.objects.get(pool__name="both", node=scene.node).fenced == ["10.1.0.11"]


def test_an_inventory_tells_it_of_each_node_and_the_pool_stays_as_it_was(scene: Scene) -> None:
    facts = PoolFacts(
        kind="directory",
        identity="identity-1",
        path=scene.pool.path,
        capacity_bytes=100 * GIB,
        free_bytes=80 * GIB,
        granules={"raw": 512},
        client_address="10.1.0.11",
    )
    reconcile._pools(scene.node, [facts])
    version = Pool.objects.get(pk=scene.pool.pk).version
    reconcile._pools(scene.node, [facts.model_copy(update={"client_address": "10.1.0.12"})])
    assert PoolOnNode.objects.get(pool=scene.pool, node=scene.node).client_address == "10.1.0.12"
    assert Pool.objects.get(pk=scene.pool.pk).version == version


def test_a_vm_that_a_waiting_job_holds_is_left_with_the_job_named(scene: Scene, other: Node) -> None:
    holder = start(scene.actor, "node.inspect", {}, other.pk).job
    Lock.objects.create(name=f"vm:{scene.running.pk}", job=holder, exclusive=True, held=True)
    Vm.objects.filter(pk=scene.stopped.pk).update(state="starting")
    assert planned(scene) == [("vm-running", "leave", ["job_holds_it"]), ("vm-stopped", "leave", ["job_holds_it"])]


def test_a_fence_that_is_denied_leaves_the_vm_where_it_was_and_can_be_asked_again(scene: Scene, other: Node) -> None:
    job = declare(scene, {"fault": lambda n, envelope: "refused" if envelope.verb == "disk.fence" else None})
    assert (job.state, job.error["code"]) == ("failed", "children_failed")
    assert places() == {"vm-running": ("n1", "unknown"), "vm-stopped": ("n1", "unknown")}
    assert not LeftGuest.objects.exists()
    assert Node.objects.get(pk=other.pk).memory_allocated_bytes == 0
    fenced = PoolOnNode.objects.get(pool__name="both", node=scene.node).fenced
    assert fenced == ["10.99.0.11"], "it may have been shut out: it is let in when it is back"
    assert declare(scene).state == "succeeded"
    assert places() == {"vm-running": ("n2", "running"), "vm-stopped": ("n2", "stopped")}


def test_a_target_that_falls_silent_past_the_point_of_no_return_keeps_the_vm(scene: Scene, other: Node) -> None:
    def silent(n: int, envelope: Any) -> None:
        if envelope.verb == "domain.start":
            Node.objects.filter(pk=other.pk).update(state="offline")

    declare(
        scene,
        {
            "before_answer": silent,
            "fault": lambda n, envelope: "uncertain_for_long" if envelope.verb == "domain.start" else None,
        },
    )
    vm = Vm.objects.get(pk=scene.running.pk)
    job = Job.objects.get(operation="vm.restart_elsewhere", subject=f"vm:{vm.pk}")
    assert (vm.node_id, job.past_pivot) == (other.pk, True)
    job = job_words.resolve(scene.actor, job, "undone", "it burnt, too", node="n2")
    job = Executor(world=scene.world).run(job)
    assert job.resolution["state"] == "refused", "silence is no evidence that it does not run there"
    assert Vm.objects.get(pk=vm.pk).node_id == other.pk


def test_a_cancel_before_anything_was_started_leaves_the_node_as_it_was(scene: Scene, other: Node) -> None:
    job = start(scene.actor, "node.declare_dead", {"confirm": "n1"}, scene.node.pk).job
    job_words.cancel(scene.actor, job)
    assert Executor(world=scene.world).run(Job.objects.get(pk=job.pk)).state == "cancelled"
    node = Node.objects.get(pk=scene.node.pk)
    assert (node.declared_dead, node.in_maintenance) == (None, False)


def come_back(scene: Scene) -> None:
    with transaction.atomic():
        reconcile.node_online(Node.objects.get(pk=scene.node.pk))


def test_back_again_its_guests_end_before_the_storage_lets_it_in_and_it_stays_closed(scene: Scene, other: Node) -> None:
    declare(scene)
    come_back(scene)
    scene.world.messages.clear()
    returning.take_back_due()
    returning.take_back_due()
    job = Executor(world=scene.world).run(Job.objects.get(operation="node.take_back"))
    assert job.state == "succeeded"
    verbs = [envelope.verb for envelope in scene.world.messages]
    assert verbs == ["domain.stop"] * 2 + ["domain.undefine"] * 2 + ["nic.unplug"] * 2 + ["pool.unfence"]
    asked = job.steps.get(name="let_in").node
    assert asked is not None
    assert (asked.name, job.user) == ("n2", scene.actor.user)
    left = {name for node, name in scene.world.objects if node == scene.node.pk}
    assert not {name for name in left if name.startswith(("domain:", "nic:", "definition:"))}
    node = Node.objects.get(pk=scene.node.pk)
    assert (node.state, node.declared_dead) == ("maintenance", None)
    assert not LeftGuest.objects.exists()
    assert not PoolOnNode.objects.exclude(fenced=[]).exists()
    assert places() == {"vm-running": ("n2", "running"), "vm-stopped": ("n2", "stopped")}


def test_one_that_could_not_be_started_elsewhere_is_off_when_its_node_is_back(scene: Scene, other: Node) -> None:
    declare(scene, {"fault": lambda n, envelope: "refused" if envelope.verb == "domain.define" else None})
    come_back(scene)
    returning.take_back_due()
    assert Executor(world=scene.world).run(Job.objects.get(operation="node.take_back")).state == "succeeded"
    assert places()["vm-running"] == ("n1", "stopped")
    assert (scene.node.pk, f"definition:{scene.running.pk}") in scene.world.objects


def test_storage_that_does_not_let_it_in_leaves_it_declared_dead_until_it_is_asked_again(scene: Scene) -> None:
    node, _params = returned(scene)
    fault = {"fault": lambda n, envelope: "refused" if envelope.verb == "pool.unfence" else None}
    job = Executor(world=scene.world, **fault).run(start(scene.actor, "node.take_back", {}, node).job)
    assert (job.state, job.error["code"]) == ("failed", "refused_by_test")
    assert LeftGuest.objects.filter(node=node).exists()
    assert Node.objects.get(pk=node).declared_dead is not None
    returning.take_back_due()
    assert Job.objects.filter(operation="node.take_back").count() == 1, "it is a person's turn now"
    again = Executor(world=scene.world).run(start(scene.actor, "node.take_back", {}, node).job)
    assert again.state == "succeeded"
    assert Node.objects.get(pk=node).declared_dead is None


def test_until_it_was_taken_back_it_cannot_be_opened(scene: Scene) -> None:
    node, _params = returned(scene)
    assert refused(scene.actor, "node.maintenance", {"on": False}, node) == ["declared_dead"]
    assert "declared_dead" in refused(scene.actor, "node.put_back", {}, node)
    for code, params in (("node.take_back", {}), ("node.maintenance", {"on": False})):
        job = start(scene.actor, code, params, node).job
        assert Executor(world=scene.world).run(job).state == "succeeded"


def test_it_is_not_taken_back_while_vms_are_still_being_started_elsewhere(scene: Scene, other: Node) -> None:
    start(scene.actor, "node.declare_dead", {"confirm": "n1"}, scene.node.pk)
    Node.objects.filter(pk=scene.node.pk).update(declared_dead="2026-01-01T00:00:00Z", state="maintenance")
    returning.take_back_due()
    assert not Job.objects.filter(operation="node.take_back").exists()


def test_only_who_answers_for_the_whole_says_in_which_order_they_start(scene: Scene, people: dict[str, Person]) -> None:
    with pytest.raises(Forbidden):
        services.vm_edit(people["owner"].actor, scene.running, restart_priority=100)
    assert services.vm_edit(scene.actor, scene.running, restart_priority=7).restart_priority == 7
