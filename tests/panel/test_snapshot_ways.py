"""Ways to take a snapshot and to go back to it: what a guest finds on its disks, its memory, and a snapshot before."""

from typing import Any

import pytest

from cluster import operations
from cluster.models import Backup, Disk, Node, Pool, Snapshot, Vm
from cluster.refusals import Refused
from tests.panel.browser import Browser, text_of
from tests.panel.engine.scenarios import Scene
from tests.panel.engine.world import Executor
from tests.people import Person

pytestmark = pytest.mark.django_db


def run(scene: Scene, code: str, target: str, executor: Executor | None = None, **params: Any) -> Any:
    executor = executor or Executor()
    executor.world = scene.world
    return executor.run(operations.start(scene.actor, code, params, target).job)


def verbs(scene: Scene) -> list[str]:
    return [envelope.verb for envelope in scene.world.messages]


def codes(scene: Scene, code: str, target: str, **params: Any) -> list[str]:
    return [reason.code for reason in operations.dry_run(scene.actor, code, params, target).refusals]


@pytest.fixture
def able(scene: Scene) -> Scene:
    """Its pool keeps memory."""
    Pool.objects.update(facts={**scene.pool.facts, "memory_formats": ["qcow2"]})
    return scene


def test_a_running_guest_is_frozen_before_it_is_paused_and_thawed_after_it_goes_on(scene: Scene) -> None:
    assert run(scene, "vm.snapshot", scene.running.pk).state == "succeeded"
    order = ["domain.freeze", "domain.suspend", "disk.snapshot", "disk.snapshot", "domain.resume", "domain.thaw"]
    assert verbs(scene) == order
    assert Snapshot.objects.get().consistency == "quiesced"


def test_a_snapshot_says_what_a_guest_finds_on_its_disks(scene: Scene) -> None:
    for target, params, found in (
        (scene.stopped, {}, "off"),
        (scene.stopped, {"quiesce": "required"}, "off"),
        (scene.running, {"quiesce": "no"}, "crash"),
    ):
        run(scene, "vm.snapshot", target.pk, **params)
        assert Snapshot.objects.order_by("-created")[0].consistency == found
    assert "domain.freeze" not in verbs(scene)


def test_only_who_insists_hears_that_a_node_is_too_old_to_ask_guests(scene: Scene) -> None:
    known = {verb: fields for verb, fields in scene.node.verbs.items() if verb != "domain.freeze"}
    Node.objects.filter(pk=scene.node.pk).update(verbs=known)
    assert run(scene, "vm.snapshot", scene.running.pk).state == "succeeded"
    assert Snapshot.objects.get().consistency == "crash"
    job = run(scene, "vm.snapshot", scene.running.pk, quiesce="required")
    assert (job.state, job.error["code"]) == ("failed", "node_too_old")


def test_a_guest_that_is_paused_cannot_be_asked(scene: Scene) -> None:
    Vm.objects.filter(pk=scene.running.pk).update(state="paused")
    for code in ("vm.snapshot", "vm.backup"):
        assert codes(scene, code, scene.running.pk, quiesce="required") == ["quiesce_needs_running"]
        assert codes(scene, code, scene.running.pk) == []


def test_a_snapshot_that_fails_thaws_its_guest(scene: Scene) -> None:
    executor = Executor(fault=lambda n, envelope: "refused" if envelope.verb == "disk.snapshot" else None)
    assert run(scene, "vm.snapshot", scene.running.pk, executor).state == "failed"
    assert verbs(scene)[-1] == "domain.thaw"
    assert not any(name.startswith("frozen:") for _node, name in scene.world.objects)


def test_a_backup_says_it_too(scene: Scene) -> None:
    run(scene, "vm.backup", scene.running.pk)
    run(scene, "vm.backup", scene.running.pk, quiesce="no")
    run(scene, "vm.backup", scene.stopped.pk)
    said = list(Backup.objects.order_by("created").values_list("consistency", flat=True))
    assert said == ["quiesced", "crash", "off"]
    asked = [envelope.body.get("quiesce") for envelope in scene.world.messages if envelope.verb == "domain.backup"]
    assert asked == ["auto", None]


# --- memory -----------------------------------------------------------------------------------------------


def test_with_the_memory_the_qemu_keeps_all_at_once_and_the_guest_goes_on_from_there(able: Scene) -> None:
    vm = able.running
    assert run(able, "vm.snapshot", vm.pk, memory=True).state == "succeeded"
    assert verbs(able) == ["domain.save"]
    snapshot = Snapshot.objects.get()
    assert (snapshot.memory, snapshot.consistency) == (True, "memory")
    job = run(able, "snapshot.revert", snapshot.pk, stop=True)
    assert job.state == "succeeded"
    assert verbs(able)[1:] == ["domain.stop", "disk.revert", "disk.revert", "domain.load"]
    assert Vm.objects.get(pk=vm.pk).state == "running"


def test_a_guest_whose_memory_is_not_to_be_had_begins_anew_from_its_disks_and_the_job_says_so(
    able: Scene, people: dict[str, Person]
) -> None:
    vm = able.running
    run(able, "vm.snapshot", vm.pk, memory=True)
    snapshot = Snapshot.objects.get()
    able.world.objects.pop((able.node.pk, f"memory:{snapshot.pk}"))
    job = run(able, "snapshot.revert", snapshot.pk, stop=True)
    assert (job.state, job.error) == ("succeeded", None)
    assert verbs(able)[-2:] == ["domain.load", "domain.start"]
    assert Vm.objects.get(pk=vm.pk).state == "running"
    page = text_of(Browser(people["administrator"]).get(f"/jobs/{job.pk}/"))
    assert "it began anew from its disks" in page


def test_memory_that_cannot_be_loaded_for_another_reason_is_tried_again(
    able: Scene,
) -> None:
    run(able, "vm.snapshot", able.running.pk, memory=True)
    executor = Executor(fault=lambda n, envelope: "refused" if envelope.verb == "domain.load" else None)
    job = run(able, "snapshot.revert", Snapshot.objects.get().pk, executor, stop=True)
    assert "domain.start" not in verbs(able)
    assert job.past_pivot
    assert job.state != "failed"


def test_the_disks_alone_can_go_back_and_the_vm_is_off_then(able: Scene) -> None:
    run(able, "vm.snapshot", able.running.pk, memory=True)
    run(able, "snapshot.revert", Snapshot.objects.get().pk, stop=True, memory=False)
    assert Vm.objects.get(pk=able.running.pk).state == "stopped"
    assert "domain.load" not in verbs(able)


def test_what_keeps_no_memory_is_said(scene: Scene) -> None:
    assert codes(scene, "vm.snapshot", scene.running.pk, memory=True) == ["memory_unsupported"] * 2
    Pool.objects.update(facts={**scene.pool.facts, "memory_formats": ["qcow2"]})
    assert codes(scene, "vm.snapshot", scene.stopped.pk, memory=True) == ["memory_needs_running"]
    Pool.objects.update(free_bytes=1 << 20)
    assert codes(scene, "vm.snapshot", scene.running.pk, memory=True) == ["no_room"]


def test_a_guest_does_not_go_on_on_another_machine(able: Scene) -> None:
    run(able, "vm.snapshot", able.running.pk, memory=True)
    snapshot = Snapshot.objects.get().pk
    Vm.objects.filter(pk=able.running.pk).update(vcpus=2)
    assert codes(able, "snapshot.revert", snapshot, stop=True) == ["hardware_changed"]
    assert codes(able, "snapshot.revert", snapshot, stop=True, memory=False) == []


# --- a snapshot before ------------------------------------------------------------------------------------


def test_a_disk_grows_after_a_snapshot_where_that_was_asked_for(scene: Scene) -> None:
    disk = scene.running.disks.all()[0]
    job = run(scene, "disk.resize", disk.pk, size_bytes=2 << 30, snapshot_first=True)
    assert job.state == "succeeded"
    assert [child.operation for child in job.children.all()] == ["vm.snapshot"]
    assert Snapshot.objects.get().state == "ready"
    assert verbs(scene).index("disk.resize") > verbs(scene).index("disk.snapshot")
    assert Disk.objects.get(pk=disk.pk).size_bytes == 2 << 30


def test_what_a_snapshot_cannot_be_taken_of_is_refused_at_once(scene: Scene, settings: Any) -> None:
    Pool.objects.update(facts={**scene.pool.facts, "snapshot_formats": []})
    disk = scene.running.disks.all()[0]
    with pytest.raises(Refused) as refused:
        operations.start(scene.actor, "disk.resize", {"size_bytes": 2 << 30, "snapshot_first": True}, disk.pk)
    assert {(one.code, one.field) for one in refused.value.refusals} == {("snapshots_unsupported", "snapshot_first")}


def test_nothing_follows_a_snapshot_that_failed(scene: Scene) -> None:
    executor = Executor(fault=lambda n, envelope: "refused" if envelope.verb == "disk.snapshot" else None)
    disk = scene.running.disks.all()[0]
    job = run(scene, "disk.resize", disk.pk, executor, size_bytes=2 << 30, snapshot_first=True)
    assert (job.state, job.error["code"]) == ("failed", "children_failed")
    assert "disk.resize" not in verbs(scene)
    assert Pool.objects.get(pk=scene.pool.pk).reserved_bytes == 0


def test_a_vm_goes_back_to_a_snapshot_after_another_one(scene: Scene) -> None:
    run(scene, "vm.snapshot", scene.running.pk, name="then")
    then = Snapshot.objects.get()
    assert run(scene, "snapshot.revert", then.pk, stop=True, snapshot_first=True).state == "succeeded"
    assert Snapshot.objects.exclude(pk=then.pk).get().parent == then
    assert Vm.objects.get(pk=scene.running.pk).snapshot == then
