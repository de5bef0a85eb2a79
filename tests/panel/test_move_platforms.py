"""Where a guest may go for its CPU, its machine and the age of the agents.

The CPUs are as libvirt 9 describes those of three servers, shortened to what tells them apart.
"""

from typing import Any

import pytest

from cluster import reconcile
from cluster.models import Node, Vm
from cluster.operations import dry_run, start
from nodes.contract.messages import DomainExpect, Hello
from tests.panel.engine.scenarios import Scene, second_node
from tests.panel.engine.world import Executor

pytestmark = pytest.mark.django_db

AVX512 = ["avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"]
SKYLAKE = {"vendor": "Intel", "model": "Skylake-Server-IBRS", "features": ["aes", "avx", "avx2", *AVX512, "pcid"]}
CASCADE_LAKE = {"vendor": "Intel", "model": "Cascadelake-Server", "features": [*SKYLAKE["features"], "avx512vnni"]}
BROADWELL = {"vendor": "Intel", "model": "Broadwell-IBRS", "features": ["aes", "avx", "avx2", "pcid"]}
EPYC = {"vendor": "AMD", "model": "EPYC", "features": ["aes", "avx", "avx2", "svm"]}
OLD, NEW = "pc-i440fx-7.2", "pc-i440fx-9.0"


def has(node: Node, cpu: dict[str, Any] | None, machine: str = OLD, machines: list[str] | None = None) -> None:
    platform = {"cpu": cpu, "machine": machine, "machines": machines or [OLD]}
    Node.objects.filter(pk=node.pk).update(platform=platform)


@pytest.fixture
def there(scene: Scene) -> Node:
    return second_node(scene)[0]


def reasons(scene: Scene, vm: Vm) -> list[str]:
    plan = dry_run(scene.actor, "vm.migrate", {}, vm.pk)
    assert plan.targets is not None
    [target] = [row for row in plan.targets if row["name"] == "n2"]
    return [reason["code"] for reason in target["reasons"]]


def test_a_guest_goes_where_every_feature_of_its_cpu_is_whatever_the_models_name(scene: Scene, there: Node) -> None:
    has(scene.node, SKYLAKE)
    has(there, CASCADE_LAKE)
    assert reasons(scene, scene.running) == []
    has(there, {**SKYLAKE, "model": "Icelake-Server"})
    assert reasons(scene, scene.running) == []
    has(there, {**SKYLAKE, "features": SKYLAKE["features"][:-1]})
    assert reasons(scene, scene.running) == ["cpu_differs"]


def test_the_missing_features_are_named_the_first_of_many(scene: Scene, there: Node) -> None:
    has(scene.node, CASCADE_LAKE)
    has(there, BROADWELL)
    [refusal] = dry_run(scene.actor, "vm.migrate", {"target": there.pk}, scene.running.pk).refusals
    assert (refusal.code, refusal.status, refusal.field) == ("cpu_differs", 422, "target")
    assert refusal.facts.items() >= {"features": ", ".join(AVX512), "count": 6, "source": "n1", "node": "n2"}.items()


def test_a_cpu_of_another_vendor_is_no_place_for_a_guest_that_runs(scene: Scene, there: Node) -> None:
    has(scene.node, BROADWELL)
    has(there, EPYC)
    assert reasons(scene, scene.running) == ["cpu_vendor_differs"]


def test_one_that_is_off_goes_to_any_cpu_but_not_without_its_machine(scene: Scene, there: Node) -> None:
    has(scene.node, CASCADE_LAKE)
    has(there, EPYC)
    assert reasons(scene, scene.stopped) == []
    has(there, EPYC, NEW, [NEW])
    assert reasons(scene, scene.stopped) == ["machine_absent"]


def test_a_machine_that_the_other_qemu_does_not_know_hinders(scene: Scene, there: Node) -> None:
    has(scene.node, None)
    has(there, None, NEW, [OLD, NEW])
    assert reasons(scene, scene.running) == []
    has(there, None, NEW, [NEW])
    assert reasons(scene, scene.running) == ["machine_absent"]


def test_a_node_that_did_not_say_is_given_the_chance(scene: Scene, there: Node) -> None:
    has(scene.node, SKYLAKE)
    assert reasons(scene, scene.running) == []
    has(there, None)
    assert reasons(scene, scene.running) == []


def test_a_guest_keeps_the_cpu_that_it_was_started_on_until_it_is_off(scene: Scene, there: Node) -> None:
    """So that one which was moved to a newer node can return."""
    has(scene.node, BROADWELL)
    has(there, CASCADE_LAKE, NEW, [OLD, NEW])
    scene.running.snapshots.all().delete()
    job = start(scene.actor, "vm.migrate", {"target": there.pk}, scene.running.pk).job
    assert Executor(world=scene.world).run(job).state == "succeeded"
    vm = Vm.objects.get(pk=scene.running.pk)
    assert (vm.node, vm.started_on) == (there, scene.node)
    back = {"target": scene.node.pk}
    assert dry_run(scene.actor, "vm.migrate", back, vm.pk).refusals == []
    for code in ("vm.stop", "vm.start"):
        assert Executor(world=scene.world).run(start(scene.actor, code, {}, vm.pk).job).state == "succeeded"
    assert Vm.objects.get(pk=vm.pk).started_on is None
    codes = {refusal.code for refusal in dry_run(scene.actor, "vm.migrate", back, vm.pk).refusals}
    assert codes == {"machine_absent", "cpu_differs"}


def test_one_that_is_moved_while_it_is_off_has_no_other_nodes_cpu(scene: Scene, there: Node) -> None:
    job = start(scene.actor, "vm.migrate", {"target": there.pk}, scene.stopped.pk).job
    assert Executor(world=scene.world).run(job).state == "succeeded"
    assert Vm.objects.get(pk=scene.stopped.pk).started_on is None


def test_an_agent_that_does_not_know_of_moves_is_a_reason_against_its_node(scene: Scene, there: Node) -> None:
    Node.objects.filter(pk=there.pk).update(verbs={"domain.start": []}, agent_version="0.0.9")
    [refusal] = dry_run(scene.actor, "vm.migrate", {"target": there.pk}, scene.running.pk).refusals
    expected = {"node": "n2", "verb": DomainExpect.verb, "version": "0.0.9"}
    assert (refusal.code, refusal.facts) == ("node_too_old", expected)


def test_a_platform_is_kept_beside_the_facts_also_when_a_later_report_is_silent_of_it(scene: Scene) -> None:
    platform = {"cpu": SKYLAKE, "machine": OLD, "machines": [OLD]}
    facts = {"hostname": "n1", "cpus": 8, "memory_bytes": 16 << 30, "cpu_model": "x", "virt_type": "kvm"}
    facts |= {"libvirt_version": "9.0.0", "qemu_version": "7.2.0", "host_uuid": "u"}
    said = {"incarnation": 1, "counter": 0, "protocol": 1, "version": "1", "verbs": {}}
    for report in ({**facts, "platform": platform}, facts):
        reconcile.hello(scene.node, Hello.model_validate({**said, "facts": report}))
        node = Node.objects.get(pk=scene.node.pk)
        assert (node.platform, "platform" in node.facts) == (platform, False)
