"""A node is emptied and filled again: what is planned, what goes on when a part fails, and what can be taken back."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from cluster import job_words
from cluster.models import Disk, Job, Network, Nic, Node, Pool, PoolOnNode, Vm
from cluster.operations import dry_run, start
from cluster.refusals import Refused
from nodes.contract.sizes import GIB
from tests.panel.browser import Browser, text_of
from tests.panel.client import Api
from tests.panel.engine.scenarios import Scene, second_node
from tests.panel.engine.world import Executor
from tests.people import Person

pytestmark = pytest.mark.django_db


@pytest.fixture
def there(scene: Scene) -> Node:
    return second_node(scene)[0]


def run(scene: Scene, code: str, target: str, params: dict[str, Any] | None = None, **executor: Any) -> Job:
    job = start(scene.actor, code, params or {}, target).job
    return Executor(world=scene.world, **executor).run(job)


def places() -> dict[str, tuple[str, str]]:
    rows = Vm.objects.select_related("node")
    return {vm.name: (vm.node.name, vm.state) for vm in rows}


def test_its_vms_leave_and_are_put_back_as_they_were(scene: Scene, there: Node) -> None:
    before = places()
    assert run(scene, "node.evacuate", scene.node.pk).state == "succeeded"
    assert places() == {"vm-running": ("n2", "running"), "vm-stopped": ("n2", "stopped")}
    scene.node.refresh_from_db()
    assert (scene.node.state, scene.node.in_maintenance, scene.node.memory_allocated_bytes) == ("maintenance", True, 0)
    assert set(Vm.objects.values_list("home__name", flat=True)) == {"n1"}
    assert run(scene, "node.put_back", scene.node.pk).state == "succeeded"
    assert places() == before
    scene.node.refresh_from_db()
    assert (scene.node.state, scene.node.in_maintenance) == ("online", False)
    assert set(Vm.objects.values_list("home", flat=True)) == {None}


def test_the_plan_says_where_each_would_go_and_counts_the_room_that_others_were_promised(
    scene: Scene, there: Node
) -> None:
    Node.objects.filter(pk=there.pk).update(memory_bytes=GIB)
    Vm.objects.update(memory_bytes=400 << 20)
    plan = dry_run(scene.actor, "node.evacuate", {}, scene.node.pk)
    assert plan.moves is not None
    said = [(row["name"], row["then"], row["node_name"], [r["code"] for r in row["reasons"]]) for row in plan.moves]
    assert said == [("vm-running", "move", "n2", []), ("vm-stopped", "leave", None, ["no_memory"])]
    assert [refusal.code for refusal in plan.refusals] == ["cannot_be_emptied", "no_memory"]
    with pytest.raises(Refused):
        start(scene.actor, "node.evacuate", {}, scene.node.pk)
    left = dry_run(scene.actor, "node.evacuate", {"cannot": "leave"}, scene.node.pk)
    assert left.refusals == []
    assert run(scene, "node.evacuate", scene.node.pk, {"cannot": "leave"}).state == "succeeded"
    assert places() == {"vm-running": ("n2", "running"), "vm-stopped": ("n1", "stopped")}


def test_one_that_can_go_nowhere_is_shut_down_and_started_again(scene: Scene, there: Node) -> None:
    Node.objects.filter(pk=there.pk).update(memory_bytes=GIB)
    Vm.objects.filter(state="running").update(memory_bytes=2 * GIB)
    assert run(scene, "node.evacuate", scene.node.pk, {"cannot": "stop"}).state == "succeeded"
    assert places() == {"vm-running": ("n1", "stopped"), "vm-stopped": ("n2", "stopped")}
    assert run(scene, "node.put_back", scene.node.pk).state == "succeeded"
    assert places() == {"vm-running": ("n1", "running"), "vm-stopped": ("n1", "stopped")}
    assert not Vm.objects.filter(starts_at_home=True).exists()


def test_one_failure_does_not_stop_the_rest_and_the_node_stays_closed(scene: Scene, there: Node) -> None:
    doomed = f"domain:{scene.running.pk}"

    def fault(n: int, envelope: Any) -> Any:
        return "refused" if envelope.verb == "domain.move" and envelope.object == doomed else None

    job = run(scene, "node.evacuate", scene.node.pk, fault=fault)
    assert (job.state, job.error["code"]) == ("failed", "children_failed")
    assert places() == {"vm-running": ("n1", "running"), "vm-stopped": ("n2", "stopped")}
    assert Node.objects.get(pk=scene.node.pk).in_maintenance
    again = run(scene, "node.evacuate", scene.node.pk)
    assert again.state == "succeeded"
    assert places()["vm-running"] == ("n2", "running")


def test_one_that_was_on_its_way_to_the_node_when_it_was_closed_is_not_overlooked(scene: Scene, there: Node) -> None:
    whose = {"tenant": scene.running.tenant, "owner": scene.running.owner}
    late = Vm.objects.create(name="late", **whose, node=there, state="stopped", vcpus=1, memory_bytes=GIB)

    def arrive(n: int, envelope: Any) -> None:
        if envelope.verb == "domain.move":
            Vm.objects.filter(pk=late.pk).update(moving_to=scene.node)

    job = run(scene, "node.evacuate", scene.node.pk, before_answer=arrive)
    assert (job.state, job.error["code"]) == ("failed", "came_meanwhile")
    assert job.error["facts"] == {"node": "n1", "count": 1, "names": "late"}
    assert Node.objects.get(pk=scene.node.pk).in_maintenance


def test_a_cancel_opens_the_node_again_and_what_has_moved_can_be_put_back(scene: Scene, there: Node) -> None:
    def cancel(n: int, envelope: Any) -> None:
        parent = Job.objects.get(operation="node.evacuate")
        if envelope.verb == "domain.leave" and not parent.cancel_requested:
            job_words.cancel(scene.actor, parent)

    job = run(scene, "node.evacuate", scene.node.pk, before_answer=cancel)
    assert job.state == "cancelled"
    assert not Node.objects.get(pk=scene.node.pk).in_maintenance
    moved = [name for name, (node, _state) in places().items() if node == "n2"]
    assert moved
    assert run(scene, "node.put_back", scene.node.pk).state == "succeeded"
    assert {node for node, _state in places().values()} == {"n1"}


def test_a_closed_node_gets_no_vm_and_says_so(scene: Scene, there: Node) -> None:
    assert run(scene, "node.maintenance", there.pk).state == "succeeded"
    plan = dry_run(scene.actor, "vm.migrate", {"target": there.pk}, scene.running.pk)
    assert [refusal.code for refusal in plan.refusals] == ["maintenance"]
    assert plan.targets is not None
    assert [(row["name"], row["possible"]) for row in plan.targets] == [("n2", False)]
    assert run(scene, "node.maintenance", there.pk, {"on": False}).state == "succeeded"
    assert dry_run(scene.actor, "vm.migrate", {"target": there.pk}, scene.running.pk).refusals == []


def test_two_nodes_that_are_emptied_towards_each_other_do_not_wait_for_each_other(scene: Scene, there: Node) -> None:
    Vm.objects.filter(pk=scene.stopped.pk).update(node=there)
    for name in [n for node, n in scene.world.objects if scene.stopped.pk in n]:
        scene.world.objects[there.pk, name] = scene.world.objects.pop((scene.node.pk, name))
    jobs = [start(scene.actor, "node.evacuate", {"cannot": "leave"}, node.pk).job for node in (scene.node, there)]
    executor = Executor(world=scene.world)
    ended = [executor.run(job).state for job in jobs]
    assert set(ended) <= {"succeeded", "failed"}
    assert not Job.objects.exclude(state__in=["succeeded", "failed", "cancelled"]).exists()


def test_only_so_many_moves_leave_a_node_at_once(scene: Scene, there: Node) -> None:
    most = 2
    running = scene.running
    for number in range(4):
        Vm.objects.create(
            name=f"more-{number}",
            tenant=running.tenant,
            owner=running.owner,
            node=scene.node,
            state="stopped",
            vcpus=1,
            memory_bytes=64 << 20,
        )
    at_once = set()

    def watch(n: int, envelope: Any) -> None:
        moving = Job.objects.filter(operation="vm.migrate").exclude(state__in=["waiting", "succeeded", "failed"])
        at_once.add(moving.count())

    for vm in Vm.objects.filter(name__startswith="more"):
        scene.world.objects[scene.node.pk, "domain:" + vm.pk] = "shutoff"
    assert run(scene, "node.evacuate", scene.node.pk, before_answer=watch).state == "succeeded"
    assert max(at_once) == most


def test_the_plan_says_how_much_of_which_pool_stays_in_use_and_until_when(
    scene: Scene, there: Node, people: dict[str, Person]
) -> None:
    shared = Pool.objects.get(name="both")
    Disk.objects.filter(vm=scene.stopped).update(pool=shared)
    before = timezone.now()
    answer = Api(people["administrator"].token).post(f"nodes/{scene.node.pk}/evacuate/?dry_run=true", {}).json()
    [row] = answer["stays"]
    copied = sum(move["copied_bytes"] for move in answer["moves"])
    assert (row["pool"], row["pool_name"], row["size_bytes"]) == (scene.pool.pk, scene.pool.name, copied)
    assert copied == sum(Disk.objects.filter(vm=scene.running, device="disk").values_list("size_bytes", flat=True)) > 0
    until = datetime.fromisoformat(row["until"])
    assert timedelta(hours=23.9) < until - before < timedelta(hours=24.1)

    words = text_of(Browser(people["administrator"]).get(f"/nodes/{scene.node.pk}/do/evacuate/"))
    assert f"{scene.pool.name}: up to" in words
    assert "at least until" in words

    # So it is: what stays is what then lies in the trash, and not of the shared pool.
    assert run(scene, "node.evacuate", scene.node.pk).state == "succeeded"
    trash = Disk.objects.filter(state="trash")
    assert {(disk.pool_id, disk.delete_after > until) for disk in trash if disk.delete_after} == {(scene.pool.pk, True)}
    assert sum(disk.size_bytes for disk in trash) == copied


def test_a_plan_in_which_nothing_is_copied_leaves_nothing_behind(scene: Scene, there: Node) -> None:
    Disk.objects.filter(device="disk").update(pool=Pool.objects.get(name="both"))
    assert dry_run(scene.actor, "node.evacuate", {}, scene.node.pk).stays == []


def test_disks_and_interfaces_in_more_than_a_thousand_pools_and_networks_can_be_planned(
    scene: Scene, there: Node
) -> None:
    many = range(1_100)
    pools = Pool.objects.bulk_create(
        Pool(name=f"many-{n}", kind="directory", identity=f"many-{n}", path=f"/many/{n}", granules={"qcow2": 65536})
        for n in many
    )
    PoolOnNode.objects.bulk_create(PoolOnNode(pool=pool, node=node) for pool in pools for node in (scene.node, there))
    networks = Network.objects.bulk_create(Network(name=f"many-{n}", bridge="br0") for n in many)
    vm = scene.stopped
    whose = {"vm": vm, "tenant": vm.tenant, "owner": vm.owner, "state": "ready"}
    Disk.objects.bulk_create(Disk(pool=pool, position=9 + n, **whose) for n, pool in enumerate(pools))
    Nic.objects.bulk_create(
        Nic(vm=vm, network=network, mac=f"52:54:00:aa:{n >> 8:02x}:{n & 255:02x}") for n, network in enumerate(networks)
    )
    plan = dry_run(scene.actor, "node.evacuate", {}, scene.node.pk)
    assert plan.refusals == []
    assert {(row["name"], row["then"]) for row in plan.moves or []} == {(vm.name, "move"), (scene.running.name, "move")}
