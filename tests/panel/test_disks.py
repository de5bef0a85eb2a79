"""Disks come to VMs and go from them; one without a VM waits, and is deleted only when nobody anywhere uses it."""

from collections.abc import Callable
from typing import Any

import pytest

from cluster import states
from cluster.models import Disk, Iso, IsoCopy, Job, Node, Pool, PoolOnNode, Snapshot, SnapshotDisk, Vm
from nodes.contract.sizes import GIB, MIB
from tests.panel.browser import Browser, text_of
from tests.panel.client import Api
from tests.panel.engine.scenarios import Scene, loose_disk
from tests.panel.engine.world import Executor
from tests.people import Person

pytestmark = pytest.mark.django_db
People = Callable[[str], Api]
Ask = Callable[..., Job]


@pytest.fixture
def ask(scene: Scene, api: People) -> Ask:
    """``ask(path, body)``: posts it, plays the nodes until the job ends, and answers the job."""

    def ask(path: str, body: dict[str, Any] | None = None, who: str = "administrator") -> Job:
        answer = api(who).post(path, body or {})
        assert answer.status_code == 202, answer.json()
        return Executor(world=scene.world).run(Job.objects.get(pk=answer.json()["job"]["id"]))

    return ask


def in_the_guest(scene: Scene, vm: Vm, disk: str) -> bool:
    return (scene.node.pk, f"guest:{vm.pk} {disk}") in scene.world.objects


def in_the_definition(scene: Scene, vm: Vm, disk: str) -> bool:
    return disk in scene.world.objects[scene.node.pk, f"definition:{vm.pk}"].split()


def test_a_disk_for_a_vm_that_runs_is_made_and_given_to_its_guest(scene: Scene, api: People, ask: Ask) -> None:
    vm = scene.running
    asked = {"vm": vm.pk, "size_bytes": GIB - 1, "title": "database"}
    plan = api("administrator").post("disks/?dry_run=true", asked).json()
    assert plan["refusals"] == []
    assert plan["quote"]["disks"][0]["size_bytes"] == GIB
    job = ask("disks/", asked)
    assert job.state == "succeeded"
    pk = job.subject.removeprefix("disk:")
    row = api("administrator").get(f"disks/{pk}/").json()
    assert (row["vm"], row["size_bytes"], row["state"], row["pending"]) == (vm.pk, GIB, "ready", None)
    assert [message.verb for message in scene.world.messages] == ["disk.create", "domain.define", "domain.plug"]
    assert in_the_guest(scene, vm, pk)
    assert in_the_definition(scene, vm, pk)
    assert Pool.objects.get(pk=scene.pool.pk).reserved_bytes == 0


def test_a_detached_disk_keeps_its_name_and_can_come_to_another_vm(scene: Scene, api: People, ask: Ask) -> None:
    disk = scene.running.disks.all()[1]
    assert ask(f"disks/{disk.pk}/detach/").state == "succeeded"
    row = api("administrator").get(f"disks/{disk.pk}/").json()
    assert (row["vm"], row["title"]) == (None, "vm-running/2")
    assert not in_the_guest(scene, scene.running, disk.pk)
    assert not in_the_definition(scene, scene.running, disk.pk)
    assert ask(f"disks/{disk.pk}/attach/", {"vm": scene.stopped.pk, "bus": "scsi"}).state == "succeeded"
    disk.refresh_from_db()
    assert (disk.vm, disk.bus, disk.position) == (scene.stopped, "scsi", 2)
    assert in_the_definition(scene, scene.stopped, disk.pk)


class Keeps(Executor):
    """Its guests let go of nothing, and take nothing."""

    def answer(self, node: str, envelope: Any, outcome: Any, result: Any = None, error: Any = None) -> None:
        if envelope.verb in ("domain.plug", "domain.unplug"):
            result = {**result, "has": envelope.verb == "domain.unplug"}
        super().answer(node, envelope, outcome, result, error)


def test_what_a_guest_keeps_is_free_when_it_is_off(scene: Scene, api: People) -> None:
    vm, disk = scene.running, scene.running.disks.all()[1]
    answer = api("administrator").post(f"disks/{disk.pk}/detach/", {})
    job = Keeps(world=scene.world).run(Job.objects.get(pk=answer.json()["job"]["id"]))
    assert job.state == "succeeded"
    row = api("administrator").get(f"disks/{disk.pk}/").json()
    assert (row["vm"], row["pending"]) == (vm.pk, "detach")
    assert not in_the_definition(scene, vm, disk.pk)
    for kept in ("snapshot", "backup"):
        assert api("administrator").post(f"vms/{vm.pk}/{kept}/", {}).json()["code"] == "disks_pending"
    refused = api("administrator").post(f"disks/{disk.pk}/delete/", {})
    assert (refused.status_code, refused.json()["code"]) == (409, "disk_attached")
    states.move(vm, states.S.STOPPED)
    row = api("administrator").get(f"disks/{disk.pk}/").json()
    assert (row["vm"], row["pending"], row["title"]) == (None, None, "vm-running/2")


def test_a_disk_that_was_detached_survives_its_vm_although_the_guest_still_held_it(
    scene: Scene, api: People, ask: Ask
) -> None:
    vm, disk = scene.running, scene.running.disks.all()[1]
    answer = api("administrator").post(f"disks/{disk.pk}/detach/", {})
    Keeps(world=scene.world).run(Job.objects.get(pk=answer.json()["job"]["id"]))
    assert ask(f"vms/{vm.pk}/delete/", {"disks": True}).state == "succeeded"
    row = api("administrator").get(f"disks/{disk.pk}/").json()
    assert (row["vm"], row["state"], row["title"]) == (None, "ready", "vm-running/2")
    assert (scene.node.pk, "disk:" + disk.pk) in scene.world.objects


@pytest.mark.parametrize(("path", "body"), [("delete", {"disks": True}), ("snapshot", {}), ("backup", {})])
def test_what_waited_while_a_further_disk_came_is_refused_and_nothing_is_left_over(
    path: str, body: dict[str, Any], scene: Scene, api: People
) -> None:
    vm = scene.running
    first = api("administrator").post("disks/", {"vm": vm.pk, "size_bytes": GIB}).json()["job"]["id"]
    second = api("administrator").post(f"vms/{vm.pk}/{path}/", body).json()["job"]["id"]
    executor = Executor(world=scene.world)
    assert executor.run(Job.objects.get(pk=first)).state == "succeeded"
    job = executor.run(Job.objects.get(pk=second))
    assert (job.state, job.error["code"]) == ("failed", "disks_changed")
    assert Vm.objects.get(pk=vm.pk).disks.count() == 3
    assert Pool.objects.get(pk=scene.pool.pk).reserved_bytes == 0


def test_what_a_guest_cannot_take_now_it_has_from_its_next_start_on(scene: Scene, api: People) -> None:
    disk = loose_disk(scene)
    answer = api("administrator").post(f"disks/{disk}/attach/", {"vm": scene.running.pk, "bus": "sata"})
    assert Keeps(world=scene.world).run(Job.objects.get(pk=answer.json()["job"]["id"])).state == "succeeded"
    assert api("administrator").get(f"disks/{disk}/").json()["pending"] == "attach"
    states.move(scene.running, states.S.STOPPED)
    assert api("administrator").get(f"disks/{disk}/").json()["pending"] is None


@pytest.fixture
def two_more_nodes(scene: Scene) -> None:
    """The pool of the scene is on three."""
    for number in (2, 3):
        node = Node.objects.create(
            name=f"n{number}", address=f"10.99.0.1{number}", state="online", redis_password_sha256=str(number) * 64
        )
        PoolOnNode.objects.create(pool=scene.pool, node=node)


@pytest.mark.usefixtures("two_more_nodes")
def test_before_a_disk_is_deleted_every_other_node_of_its_pool_is_asked(scene: Scene, ask: Ask) -> None:
    disk = loose_disk(scene)
    job = ask(f"disks/{disk}/delete/")
    assert job.state == "succeeded"
    assert [message.verb for message in scene.world.messages] == ["disk.unused", "disk.unused", "disk.delete"]
    # The third asks its own domains as it deletes.
    assert job.steps.exclude(node=None).values("node").distinct().count() == 3
    assert not Disk.objects.filter(pk=disk).exists()


@pytest.mark.usefixtures("two_more_nodes")
@pytest.mark.parametrize("number", range(3))
def test_one_node_that_knows_a_user_keeps_the_disk(scene: Scene, api: People, number: int) -> None:
    disk = loose_disk(scene)
    answer = api("administrator").post(f"disks/{disk}/delete/", {})
    refuses = Executor(world=scene.world, fault=lambda n, envelope: "refused" if n == number else None)
    assert refuses.run(Job.objects.get(pk=answer.json()["job"]["id"])).state == "failed"
    deleted = [message for message in scene.world.messages if message.verb == "disk.delete"]
    assert len(deleted) == (number == 2)  # that one is refused
    assert Disk.objects.filter(pk=disk, state="ready").exists()


def test_a_disk_in_snapshots_is_not_detached(scene: Scene, api: People) -> None:
    disk = scene.stopped.disks.all()[0]
    kept = Snapshot.objects.create(vm=scene.stopped, name="old", state="ready")
    SnapshotDisk.objects.create(snapshot=kept, disk=disk, size_bytes=GIB)
    answer = api("administrator").post(f"disks/{disk.pk}/detach/", {})
    assert (answer.status_code, answer.json()["code"]) == (422, "disk_has_snapshots")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"size_bytes": GIB}, 422, "pool_needed"),
        ({"size_bytes": GIB, "vm": "nobody"}, 422, "vm_unknown"),
        ({"size_bytes": GIB, "pool": "nowhere"}, 422, "pool_unknown"),
        ({"size_bytes": 1 << 50, "vm": "running"}, 507, "no_room"),
    ],
)
def test_what_cannot_be_made_is_refused(
    body: dict[str, Any], status: int, code: str, scene: Scene, api: People
) -> None:
    if body.get("vm") == "running":
        body = {**body, "vm": scene.running.pk}
    answer = api("administrator").post("disks/", body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert Disk.objects.count() == 4


@pytest.mark.parametrize("vm", ["nobody", ""])
def test_a_disk_is_attached_to_nobody(vm: str, scene: Scene, api: People) -> None:
    answer = api("administrator").post(f"disks/{loose_disk(scene)}/attach/", {"vm": vm})
    assert answer.status_code == (422 if vm else 400)


def test_a_format_that_the_pool_does_not_hold_is_refused_and_the_others_are_named(scene: Scene, api: People) -> None:
    Pool.objects.filter(pk=scene.pool.pk).update(granules={"raw": 4 * MIB})
    answer = api("administrator").post("disks/", {"size_bytes": GIB, "pool": scene.pool.pk, "format": "qcow2"})
    assert (answer.status_code, answer.json()["code"]) == (422, "format_unsupported")
    assert "raw" in answer.json()["hint"]


def test_a_disks_settings_change_while_its_vm_is_off_and_its_title_at_any_time(
    scene: Scene, api: People, ask: Ask
) -> None:
    first, second = scene.stopped.disks.all()
    Disk.objects.filter(pk=first.pk).update(boot_order=1)
    changes = {"bus": "scsi", "cache": "writethrough", "boot_first": True}
    assert ask(f"disks/{second.pk}/change/", changes).state == "succeeded"
    sent = scene.world.messages[-1].body["domain"]["disks"]
    assert [(disk["id"], disk["bus"], disk["boot_order"]) for disk in sent] == [
        (first.pk, "virtio", 2),
        (second.pk, "scsi", 1),
    ]
    assert sent[1]["cache"] == "writethrough"
    runs = scene.running.disks.all()[0]
    answer = api("administrator").post(f"disks/{runs.pk}/change/", changes)
    assert (answer.status_code, answer.json()["code"]) == (409, "state")
    ask(f"disks/{runs.pk}/change/", {"title": "system"})
    assert api("administrator").get(f"disks/{runs.pk}/").json()["title"] == "system"


def test_an_iso_is_put_in_changed_and_taken_out(scene: Scene, ask: Ask) -> None:
    vm = scene.running
    isos = [Iso.objects.create(name=name, size_bytes=MIB) for name in ("one.iso", "two.iso")]
    for iso in isos:
        IsoCopy.objects.create(iso=iso, node=scene.node)
        assert ask(f"vms/{vm.pk}/iso/", {"iso": iso.pk}).state == "succeeded"
        assert scene.world.objects[scene.node.pk, f"definition:{vm.pk}"].endswith(iso.name)
    drive = vm.disks.get(device="cdrom")
    assert drive.iso == isos[1]
    assert ask(f"vms/{vm.pk}/iso/", {"iso": None}).state == "succeeded"
    drive.refresh_from_db()
    assert drive.iso is None


def test_an_iso_that_is_not_on_the_node_and_an_empty_drive_are_said(scene: Scene, api: People) -> None:
    iso = Iso.objects.create(name="far.iso", size_bytes=MIB)
    for body, code in (
        ({"iso": iso.pk}, "image_absent"),
        ({"iso": "none"}, "iso_unknown"),
        ({"iso": None}, "drive_empty"),
    ):
        answer = api("administrator").post(f"vms/{scene.running.pk}/iso/", body)
        assert (answer.status_code, answer.json()["code"]) == (422, code)


def test_a_tenant_sees_its_own_disks_without_a_vm_and_no_others(scene: Scene, api: People) -> None:
    disk = loose_disk(scene)
    assert api("tenant_administrator").get(f"disks/{disk}/").status_code == 200
    assert api("stranger").get(f"disks/{disk}/").status_code == 404
    answer = api("tenant_administrator").post("disks/", {"size_bytes": GIB})
    assert (answer.status_code, answer.json()["code"]) == (422, "vm_needed")
    made = api("tenant_administrator").post("disks/", {"size_bytes": GIB, "vm": scene.stopped.pk})
    assert made.status_code == 202


def test_disks_that_outlive_their_vm_are_listed(scene: Scene, people: dict[str, Person], ask: Ask) -> None:
    browser = Browser(people["administrator"])
    assert "Every disk has its VM" in text_of(browser.get("/disks/"))
    ask(f"vms/{scene.stopped.pk}/delete/", {"disks": False})
    shown = text_of(browser.get("/disks/"))
    assert "vm-stopped/1" in shown
    assert "vm-running" not in shown
    assert "vm-running" in text_of(browser.get("/disks/?which=all"))


def test_the_card_offers_a_disk_and_an_iso(scene: Scene, people: dict[str, Person]) -> None:
    iso = Iso.objects.create(name="rescue.iso", size_bytes=MIB)
    IsoCopy.objects.create(iso=iso, node=scene.node)
    browser = Browser(people["administrator"])
    card = text_of(browser.get(f"/vms/{scene.running.pk}/"))
    assert "Add a disk" in card
    assert "Change the CD-ROM" in card
    dialog = text_of(browser.get(f"/disks/new/?vm={scene.running.pk}"))
    assert "Create a disk: vm-running" in dialog
    browser.post(f"/disks/new/?vm={scene.running.pk}", {"size_bytes": "2 GB", "bus": "virtio", "title": "логи"})
    assert Disk.objects.get(title="логи").size_bytes == 2 * GIB
    assert "rescue.iso" in text_of(browser.get(f"/vms/{scene.running.pk}/do/iso/"))
    browser.post(f"/vms/{scene.running.pk}/do/iso/", {"iso": iso.pk})
    assert Job.objects.filter(operation="vm.iso").exists()
