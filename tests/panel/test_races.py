"""What happens at once: on SQLite and on PostgreSQL alike, by real threads on real connections."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections

from cluster import services
from cluster.models import Address, Job, Network, Node, Step, Vm
from cluster.operations import start
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
    assert set(outcomes) <= {"started", "no_memory", "placement_lost"}
    node = Node.objects.get(pk=scene.node.pk)
    assert node.memory_allocated_bytes + 512 * MIB <= node.memory_bytes
    assert Address.objects.count() == room_for


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
    job = scene.start("vm.create").job
    outcomes = at_once(8, lambda n: services.set_priority(scene.actor, job, n))
    assert outcomes == {"started": 8}


def test_one_node_and_one_network_asked_by_many_at_once_are_made_once(scene: Scene, authority: None) -> None:
    outcomes = at_once(8, lambda n: services.node_add(scene.actor, "same", f"10.99.1.{n}"))
    assert outcomes == {"started": 1, "node_name_taken": 7}
    span = {"first": "10.98.0.1", "last": "10.98.0.9", "prefix_length": 24}
    outcomes = at_once(8, lambda n: services.network_add(scene.actor, f"net{n}", "br0", [span]))
    assert outcomes == {"started": 1, "range_overlaps": 7}
    assert Network.objects.filter(ranges__first="10.98.0.1").count() == 1
