"""How much of a node its VMs may have together: limits, what is reserved, and who changes them."""

from collections.abc import Callable
from typing import Any

import pytest

from cluster.models import AuditEvent, Node
from cluster.operations import start
from nodes.contract.sizes import GIB, MIB
from tests.panel.client import Api
from tests.panel.engine.scenarios import Scene, moving
from tests.panel.engine.world import Executor

People = Callable[[str], Api]
BLANK = {"name": "shop", "vcpus": 1, "memory_bytes": 128 * MIB, "disks": [], "nics": []}


def taken(node: Node) -> tuple[int, int]:
    return Node.objects.values_list("cpus_allocated", "memory_allocated_bytes").get(pk=node.pk)


def test_a_node_has_limits_from_the_start(scene: Scene, api: People) -> None:
    row = api("read_only").get(f"nodes/{scene.node.pk}/").json()
    assert (row["cpu_overcommit"], row["cpus_limit"], row["cpus_allocated"]) == (8, 64, 2)
    assert (row["memory_overcommit"], row["memory_limit_bytes"]) == (1, 16 * GIB - 512 * MIB)
    assert row["memory_reserve_bytes"] == 512 * MIB


@pytest.mark.parametrize(("memory_gib", "kept_bytes"), [(0, 512 * MIB), (1, 512 * MIB), (256, 256 * GIB // 50)])
def test_a_host_keeps_a_fiftieth_of_its_memory_and_512_mib_at_least(
    scene: Scene, memory_gib: int, kept_bytes: int
) -> None:
    Node.objects.filter(pk=scene.node.pk).update(memory_bytes=memory_gib * GIB)
    node = Node.objects.get(pk=scene.node.pk)
    assert (node.memory_kept_bytes, node.memory_limit_bytes) == (kept_bytes, max(0, memory_gib * GIB - kept_bytes))


def test_limits_are_set_and_written_into_the_journal(scene: Scene, api: People) -> None:
    asked = {"cpu_overcommit": 1.5, "memory_overcommit": 1.25, "memory_reserve_bytes": 4 * GIB}
    row = api("fabric").patch(f"nodes/{scene.node.pk}/", asked).json()
    assert (row["cpus_limit"], row["memory_limit_bytes"]) == (12, 15 * GIB)
    assert row.items() >= asked.items()
    assert row["version"] == scene.node.version + 1
    event = AuditEvent.objects.get(action="node.edit")
    assert event.detail["fields"] == ["cpu_overcommit_percent", "memory_overcommit_percent", "memory_reserve_bytes"]
    row = api("fabric").patch(f"nodes/{scene.node.pk}/", {"memory_reserve_bytes": None}).json()
    assert row["memory_reserve_bytes"] == 512 * MIB


@pytest.mark.parametrize(
    "asked",
    [
        {"cpu_overcommit": 0.5},
        {"cpu_overcommit": 65},
        {"cpu_overcommit": 1.005},
        {"cpu_overcommit": "much"},
        {"cpu_overcommit": None},
        {"memory_overcommit": 2.5},
        {"memory_reserve_bytes": 1},
        {"memory_reserve_bytes": 1.5},
        {"cpus": 64},
    ],
)
def test_what_is_no_limit_is_malformed(asked: dict[str, Any], scene: Scene, api: People) -> None:
    answer = api("administrator").patch(f"nodes/{scene.node.pk}/", asked)
    assert (answer.status_code, list(answer.json()["errors"])) == (400, list(asked))


def test_a_host_does_not_keep_more_than_it_has(scene: Scene, api: People) -> None:
    answer = api("administrator").patch(f"nodes/{scene.node.pk}/", {"memory_reserve_bytes": 17 * GIB})
    assert (answer.status_code, answer.json()["code"]) == (422, "reserve_too_large")


def test_who_only_moves_vms_changes_no_limit(scene: Scene, api: People) -> None:
    assert api("vm_administrator").patch(f"nodes/{scene.node.pk}/", {"cpu_overcommit": 2}).status_code == 403


def test_a_create_beyond_a_limit_is_refused_with_the_numbers(scene: Scene, api: People) -> None:
    administrator = api("administrator")
    administrator.patch(f"nodes/{scene.node.pk}/", {"cpu_overcommit": 1})
    answer = administrator.post("vms/", BLANK | {"vcpus": 7}).json()
    assert (answer["status"], answer["code"]) == (507, "no_cpus")
    assert answer["detail"] == "no room for 7 vCPUs on node n1: CPUs there: 8, vCPUs free: 6 of 8"
    assert administrator.post("vms/", BLANK | {"vcpus": 6}).status_code == 202
    answer = administrator.post("vms/", BLANK | {"name": "big", "memory_bytes": 16 * GIB}).json()
    [no_memory] = [reason for reason in answer["refusals"] if reason["code"] == "no_memory"]
    assert "15.125 GiB free of 15.5 GiB for VMs, 16 GiB needed" in no_memory["cause"]


def test_memory_can_be_promised_more_than_once_where_that_was_allowed(scene: Scene, api: People) -> None:
    Node.objects.filter(pk=scene.node.pk).update(memory_overcommit_percent=200)
    assert api("administrator").post("vms/", BLANK | {"memory_bytes": 20 * GIB}).status_code == 202


def test_what_a_vm_takes_is_given_back_when_it_is_deleted(scene: Scene) -> None:
    before = taken(scene.node)
    executor = Executor(world=scene.world)
    started = start(scene.actor, "vm.create", BLANK | {"vcpus": 3})
    assert taken(scene.node) == (before[0] + 3, before[1] + 128 * MIB)
    executor.run(started.job)
    executor.run(start(scene.actor, "vm.delete", {"disks": True}, started.subject.pk).job)
    assert taken(scene.node) == before


def test_a_move_takes_there_and_gives_back_here(scene: Scene) -> None:
    pk, params = moving(scene)
    there = Node.objects.get(name="n2")
    before = taken(scene.node), taken(there)
    job = start(scene.actor, "vm.migrate", params, pk).job
    assert (taken(scene.node), taken(there)) == ((before[0][0] + 1, before[0][1] + 128 * MIB), before[1])
    assert Executor(world=scene.world).run(job).state == "succeeded"
    assert taken(there) == (0, 0)
    assert taken(scene.node) == (before[0][0] + 1, before[0][1] + 128 * MIB)
