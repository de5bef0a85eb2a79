"""What happens at once: on SQLite and on PostgreSQL alike, by real threads on real connections."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections, transaction

from cluster import job_words, services
from cluster.models import Address, AffinityGroup, Job, Network, Node, Pool, PoolOnNode, Step, Vm
from cluster.operations import start
from cluster.operations.vm_create import VmCreate
from cluster.refusals import Refused
from cluster.saga import engine
from tests.panel.engine.scenarios import Scene, make_scene

pytestmark = pytest.mark.django_db(transaction=True)

MIB = 1 << 20


@pytest.fixture
def scene(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr("cluster.wake.conductor", lambda job="": None)
    monkeypatch.setattr("cluster.events._send", lambda frames: None)
    return make_scene()


def at_once(count: int, call: Callable[[int], Any]) -> Counter[str]:
    """Run ``call(n)`` in as many threads, released together; counts the outcomes."""
    outcomes: list[str] = []
    barrier = threading.Barrier(count)

    def one(n: int) -> None:
        barrier.wait()
        try:
            call(n)
            outcomes.append("started")
        except Refused as refused:
            outcomes.append(refused.refusals[0].code)
        except engine.Stale:
            outcomes.append("stale")
        except Exception as error:  # noqa: BLE001 the test must say what it was
            outcomes.append(repr(error))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=one, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Counter(outcomes)


def test_twenty_creates_at_once_never_overshoot_a_node(scene: Scene) -> None:
    room_for = 7
    Node.objects.filter(pk=scene.node.pk).update(
        memory_bytes=scene.node.memory_allocated_bytes + 512 * MIB + room_for * 1024 * MIB
    )
    outcomes = at_once(
        20,
        lambda n: start(
            scene.actor,
            "vm.create",
            {
                "name": f"vm{n}",
                "vcpus": 1,
                "memory_bytes": 1024 * MIB,
                "disks": [{"size_bytes": MIB}],
                "nics": [{"network": scene.network.pk}],
            },
        ),
    )
    assert outcomes["started"] == room_for, outcomes
    assert set(outcomes) == {"started", "no_memory"}
    node = Node.objects.get(pk=scene.node.pk)
    assert node.memory_allocated_bytes <= node.memory_limit_bytes == node.memory_bytes - 512 * MIB
    assert Address.objects.count() == room_for


def _more_nodes(scene: Scene, count: int, **limits: Any) -> list[str]:
    """So many nodes like the scene's, and that one, each with room for nothing but new VMs."""
    Node.objects.filter(pk=scene.node.pk).update(**limits)
    like, pools = Node.objects.get(pk=scene.node.pk), list(scene.node.pools.all())
    for number in range(2, count + 1):
        node = Node.objects.get(pk=scene.node.pk)
        node.pk, node.name, node.address = f"{number:013}", f"n{number}", f"10.99.0.{10 + number}"
        node.memory_bytes -= node.memory_allocated_bytes
        node.memory_allocated_bytes = node.cpus_allocated = 0
        node.save(force_insert=True)
        PoolOnNode.objects.bulk_create(PoolOnNode(pool=pool, node=node) for pool in pools)
    return [like.pk, *Node.objects.exclude(pk=like.pk).values_list("pk", flat=True)]


def _create(scene: Scene, n: int, **more: Any) -> None:
    start(scene.actor, "vm.create", {"name": f"vm{n}", "vcpus": 1, "memory_bytes": 1024 * MIB, "disks": []} | more)


def test_fifty_creates_at_once_fill_all_nodes_to_their_limits_and_are_refused_only_when_all_are_full(
    scene: Scene,
) -> None:
    """Whoever plans for a node that others fill meanwhile plans again, in the end alone: room is not left over."""
    room_for = 11  # on each of four nodes
    used = scene.node.memory_allocated_bytes
    _more_nodes(scene, 4, memory_bytes=used + 512 * MIB + room_for * 1024 * MIB)
    outcomes = at_once(50, lambda n: _create(scene, n))
    assert outcomes == {"started": 4 * room_for, "no_node": 50 - 4 * room_for}
    for node in Node.objects.all():
        assert node.memory_allocated_bytes == node.memory_limit_bytes, node.name
        assert node.cpus_allocated == sum(node.vms.values_list("vcpus", flat=True)), node.name


def test_twenty_creates_at_once_are_spread_as_if_they_came_one_after_the_other(scene: Scene) -> None:
    Node.objects.update(memory_allocated_bytes=0, cpus_allocated=0)
    _more_nodes(scene, 4)
    assert at_once(20, lambda n: _create(scene, n, memory_bytes=64 * MIB)) == {"started": 20}
    new = Vm.objects.exclude(pk__in=(scene.running.pk, scene.stopped.pk))
    assert sorted(Counter(new.values_list("node", flat=True)).values()) == [5, 5, 5, 5]


def test_who_is_overtaken_takes_the_node_that_is_the_best_by_then_with_its_own_pool(scene: Scene) -> None:
    """Planned before the others, begun behind them: with one query more and no plan more."""
    names = _more_nodes(scene, 40)
    pools = {}
    for name in names:
        pools[name] = Pool.objects.create(
            name=f"own-{name}", kind="directory", identity=name, path="/", granules={"qcow2": 65536}, free_bytes=1 << 40
        )
        Node.objects.filter(pk=name).update(default_pool=pools[name])
    params = VmCreate.Params(name="late", vcpus=1, memory_bytes=64 * MIB, disks=[{"size_bytes": 1 << 30}], start=False)
    plan = VmCreate.plan(scene.actor, None, params)
    for n in range(37):
        _create(scene, n, memory_bytes=64 * MIB)
    left = {node.pk for node in Node.objects.all() if not Vm.objects.filter(node=node).exists()}
    assert plan.data["node"] not in left
    assert len(left) == 2
    with transaction.atomic():
        vm = VmCreate.begin(scene.actor, None, params, plan)
    assert vm.node_id == min(left, key=lambda pk: Node.objects.get(pk=pk).name)
    assert vm.disks.get().pool == pools[vm.node_id]
    assert plan.data["node"] == vm.node_id


def test_creates_at_once_leave_a_node_alone_that_was_busy(scene: Scene) -> None:
    names = _more_nodes(scene, 4)
    Node.objects.filter(pk=names[-1]).update(busy_percent=95)
    assert at_once(6, lambda n: _create(scene, n, memory_bytes=64 * MIB)) == {"started": 6}
    assert not Vm.objects.filter(node=names[-1]).exists()


def test_vcpus_asked_by_many_at_once_never_overshoot_a_node(scene: Scene) -> None:
    _more_nodes(scene, 2, cpu_overcommit_percent=100)
    outcomes = at_once(20, lambda n: _create(scene, n, memory_bytes=16 * MIB))
    assert outcomes == {"started": 14, "no_node": 6}  # two of the scene's own are there already
    assert {(node.cpus_allocated, node.cpus_limit) for node in Node.objects.all()} == {(8, 8)}


def test_creates_at_once_in_a_strict_group_are_kept_apart(scene: Scene) -> None:
    _more_nodes(scene, 3)
    group = AffinityGroup.objects.create(name="web", tenant=scene.running.tenant, policy="apart", hard=True)
    outcomes = at_once(8, lambda n: _create(scene, n, affinity_groups=[group.pk]))
    assert outcomes == {"started": 3, "no_node": 5}
    assert len(set(group.vms.values_list("node", flat=True))) == 3


def test_one_name_asked_by_many_at_once_is_given_once(scene: Scene) -> None:
    outcomes = at_once(
        8,
        lambda n: start(scene.actor, "vm.create", {"name": "same", "vcpus": 1, "memory_bytes": 128 * MIB, "disks": []}),
    )
    assert outcomes == {"started": 1, "name_taken": 7}
    assert Vm.objects.filter(name="same").count() == 1


def test_the_same_stop_asked_by_many_at_once_is_one_job(scene: Scene) -> None:
    outcomes = at_once(8, lambda n: start(scene.actor, "vm.stop", {}, scene.running.pk))
    assert outcomes == {"started": 1, "already_running": 7}


def test_conductors_at_once_take_each_step_once(scene: Scene) -> None:
    job = scene.start("vm.create").job
    outcomes = at_once(6, lambda n: engine.advance(job.pk))
    assert set(outcomes) <= {"started", "stale"}, outcomes
    begun = Step.objects.filter(job=job, attempt__gt=0)
    assert {step.verb for step in begun} == {"disk.create", "nic.plug"}
    assert {(step.attempt, step.dispatch) for step in begun} == {(1, 1)}
    assert Job.objects.get(pk=job.pk).state == "running"


def test_words_to_a_job_at_once_are_all_heard(scene: Scene) -> None:
    """A person's click is not lost because the conductor, or another person, wrote the job in the same moment."""
    start(scene.actor, "vm.start", {}, scene.stopped.pk)
    job = start(scene.actor, "vm.stop", {}, scene.stopped.pk).job
    outcomes = at_once(8, lambda n: job_words.set_priority(scene.actor, job, n))
    assert outcomes == {"started": 8}


def test_one_node_and_one_network_asked_by_many_at_once_are_made_once(scene: Scene, authority: None) -> None:
    outcomes = at_once(8, lambda n: services.node_add(scene.actor, "same", f"10.99.1.{n}"))
    assert outcomes == {"started": 1, "node_name_taken": 7}
    span = {"first": "10.98.0.1", "last": "10.98.0.9", "prefix_length": 24}
    outcomes = at_once(8, lambda n: services.network_add(scene.actor, f"net{n}", "br0", [span]))
    assert outcomes == {"started": 1, "range_overlaps": 7}
    assert Network.objects.filter(ranges__first="10.98.0.1").count() == 1
