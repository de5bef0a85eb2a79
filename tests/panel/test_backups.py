"""Backups: full copies at one instant, which outlive their VM, and of which such a VM is made again."""

from collections.abc import Callable
from typing import Any

import pytest

from cluster.models import Backup, Disk, Job, Node, Pool, Vm
from nodes.contract.sizes import GIB
from tests.panel.browser import Browser, text_of
from tests.panel.client import Api
from tests.panel.engine.scenarios import Scene
from tests.panel.engine.world import Executor
from tests.people import Person

pytestmark = pytest.mark.django_db
People = Callable[[str], Api]
Ask = Callable[..., Job]


@pytest.fixture
def ask(scene: Scene, api: People) -> Ask:
    """``ask(path, body)``: posts it, plays the nodes until the job ends, and answers the job."""

    def ask(path: str, body: dict[str, Any] | None = None) -> Job:
        answer = api("administrator").post(path, body or {})
        assert answer.status_code == 202, answer.json()
        return Executor(world=scene.world).run(Job.objects.get(pk=answer.json()["job"]["id"]))

    return ask


def verbs(scene: Scene) -> list[str]:
    return [message.verb for message in scene.world.messages]


def test_a_guest_that_runs_writes_its_copies_itself_and_one_that_is_off_is_copied(scene: Scene, ask: Ask) -> None:
    assert ask(f"vms/{scene.running.pk}/backup/").state == "succeeded"
    assert verbs(scene) == ["disk.create", "disk.create", "domain.backup"]
    targets = [disk["target"]["id"] for disk in scene.world.messages[-1].body["disks"]]
    assert sorted(targets) == sorted(Backup.objects.get().disks.values_list("pk", flat=True))
    scene.world.messages.clear()
    assert ask(f"vms/{scene.stopped.pk}/backup/").state == "succeeded"
    assert verbs(scene) == ["disk.clone", "disk.clone"]
    assert Pool.objects.get(pk=scene.pool.pk).reserved_bytes == 0


def test_a_vm_that_was_deleted_is_made_again_of_its_backup(scene: Scene, api: People, ask: Ask) -> None:
    ask(f"vms/{scene.stopped.pk}/backup/", {"title": "nightly"})
    ask(f"vms/{scene.stopped.pk}/delete/", {"disks": True})
    row = api("administrator").get("backups/").json()["results"][0]
    assert (row["vm"], row["vm_name"], row["title"], row["size_bytes"]) == (None, "vm-stopped", "nightly", 2 * GIB)
    assert row["state"] == "ready"
    scene.world.messages.clear()
    job = ask(f"backups/{row['id']}/restore/", {"name": "again", "start": True})
    assert job.state == "succeeded", job.error
    vm = Vm.objects.get(name="again")
    assert job.subject == f"vm:{vm.pk}"
    assert (vm.state, vm.memory_bytes, vm.disks.count(), vm.nics.count()) == ("running", 128 << 20, 2, 1)
    clones = [message.body for message in scene.world.messages if message.verb == "disk.clone"]
    copies = list(Disk.objects.filter(backup=row["id"]).values_list("pk", flat=True))
    assert [body["source"]["id"] for body in clones] == copies
    assert [body["disk"]["id"] for body in clones] == list(vm.disks.values_list("pk", flat=True))


def test_a_vm_that_is_off_is_cloned_and_one_that_runs_is_not(scene: Scene, api: People, ask: Ask) -> None:
    assert ask(f"vms/{scene.stopped.pk}/clone/", {"name": "twin"}).state == "succeeded"
    twin = Vm.objects.get(name="twin")
    assert (twin.state, twin.disks.count(), twin.nics.count()) == ("stopped", 2, 1)
    assert twin.nics.get().mac != scene.stopped.nics.get().mac
    sources = [m.body["source"]["id"] for m in scene.world.messages if m.verb == "disk.clone"]
    assert sources == list(scene.stopped.disks.values_list("pk", flat=True))
    answer = api("administrator").post(f"vms/{scene.running.pk}/clone/", {"name": "other"})
    assert (answer.status_code, answer.json()["code"]) == (409, "state")


def test_a_deleted_backup_takes_its_copies_with_it_after_their_nodes_were_asked(scene: Scene, ask: Ask) -> None:
    ask(f"vms/{scene.stopped.pk}/backup/")
    scene.world.messages.clear()
    backup = Backup.objects.get()
    assert ask(f"backups/{backup.pk}/delete/").state == "succeeded"
    assert verbs(scene) == ["disk.unused", "disk.unused", "disk.delete", "disk.delete"]
    assert not Disk.objects.filter(vm=None).exists()


def test_copies_are_no_disks_that_anybody_could_attach(scene: Scene, api: People, ask: Ask) -> None:
    ask(f"vms/{scene.stopped.pk}/backup/")
    copy = Disk.objects.filter(backup__isnull=False)[0]
    assert copy.pk not in [row["id"] for row in api("administrator").get("disks/").json()["results"]]
    assert api("administrator").post(f"disks/{copy.pk}/attach/", {"vm": scene.running.pk}).status_code == 404
    answer = api("administrator").post(f"pools/{scene.pool.pk}/remove/", {})
    assert answer.status_code in (409, 422)


def test_a_pool_that_only_takes_copies_of_guests_that_are_off_says_so(scene: Scene, api: People) -> None:
    Pool.objects.filter(pk=scene.pool.pk).update(facts={"snapshot_formats": ["qcow2"]})
    answer = api("administrator").post(f"vms/{scene.running.pk}/backup/", {})
    assert (answer.status_code, answer.json()["code"]) == (409, "backup_needs_stop")
    assert api("administrator").post(f"vms/{scene.stopped.pk}/backup/?dry_run=true", {}).json()["refusals"] == []


def test_room_for_all_copies_is_asked_for_beforehand(scene: Scene, api: People) -> None:
    Pool.objects.filter(pk=scene.pool.pk).update(free_bytes=2 * GIB - 1)
    answer = api("administrator").post(f"vms/{scene.stopped.pk}/backup/", {})
    assert (answer.status_code, answer.json()["code"]) == (507, "no_room")
    assert not Backup.objects.exists()


def test_what_no_node_can_take_or_does_not_exist_is_refused(scene: Scene, api: People, ask: Ask) -> None:
    ask(f"vms/{scene.stopped.pk}/backup/")
    backup = Backup.objects.get()
    Node.objects.update(in_maintenance=True)
    answer = api("administrator").post(f"backups/{backup.pk}/restore/", {"name": "again"})
    assert (answer.status_code, answer.json()["code"]) == (422, "maintenance")
    assert api("administrator").post(f"vms/{scene.stopped.pk}/clone/", {"name": "twin"}).status_code == 422
    answer = api("administrator").post(f"vms/{scene.stopped.pk}/backup/", {"pool": "nowhere"})
    assert (answer.status_code, answer.json()["code"]) == (422, "pool_unknown")


def test_another_tenants_backups_are_not_known(scene: Scene, api: People, ask: Ask) -> None:
    ask(f"vms/{scene.stopped.pk}/backup/")
    backup = Backup.objects.get()
    assert api("tenant_administrator").get(f"backups/{backup.pk}/").status_code == 200
    assert api("stranger").get(f"backups/{backup.pk}/").status_code == 404
    assert api("stranger").post(f"backups/{backup.pk}/restore/", {"name": "mine"}).status_code == 404


def test_pages_show_backups_and_make_a_vm_of_one(scene: Scene, people: dict[str, Person], ask: Ask) -> None:
    browser = Browser(people["administrator"])
    assert "No backups yet" in text_of(browser.get("/backups/"))
    ask(f"vms/{scene.stopped.pk}/backup/", {"title": "перед обновлением"})
    assert "перед обновлением" in text_of(browser.get(f"/vms/{scene.stopped.pk}/"))
    assert "перед обновлением" in text_of(browser.get("/backups/"))
    backup = Backup.objects.get()
    assert "the new VM gets new addresses" in text_of(browser.get(f"/backups/{backup.pk}/do/restore/"))
    browser.post(f"/backups/{backup.pk}/do/restore/", {"name": "again"})
    assert Vm.objects.filter(name="again").exists()
