"""Settings of a pool: who changes them, what they change for new disks, and what is refused."""

from collections.abc import Callable

import pytest

from cluster.models import AuditEvent, Node, Pool, PoolOnNode
from cluster.operations import start
from nodes.contract.sizes import GIB, MIB
from tests.panel.browser import Browser, text_of
from tests.panel.client import Api
from tests.panel.engine.scenarios import SCENARIOS, Scene
from tests.panel.engine.world import Executor
from tests.people import Person

People = Callable[[str], Api]
BLANK = {"name": "shop", "vcpus": 1, "memory_bytes": 128 * MIB, "nics": []}


@pytest.fixture
def fast(scene: Scene) -> Pool:
    about = {"name": "fast", "kind": "lvm", "identity": "vg-1", "path": "vg0", "attached": True}
    pool = Pool.objects.create(
        **about,
        capacity_bytes=100 * GIB,
        free_bytes=80 * GIB,
        granules={"raw": 4 * MIB},
        facts={"extent_bytes": 4 * MIB},
    )
    PoolOnNode.objects.create(pool=pool, node=scene.node)
    return pool


def test_settings_are_changed_and_written_into_the_journal(fast: Pool, api: People) -> None:
    asked = {"name": "quick", "exact": True, "warning_percent": 70}
    row = api("fabric").patch(f"pools/{fast.pk}/", asked).json()
    assert row.items() >= asked.items()
    assert row["version"] == fast.version + 1
    event = AuditEvent.objects.get(action="pool.edit")
    assert (event.subject_name, event.detail["fields"]) == ("quick", ["exact", "name", "warning_percent"])


@pytest.mark.parametrize("name", ["vm_administrator", "read_only"])
def test_who_may_only_see_a_pool_changes_nothing(name: str, fast: Pool, api: People) -> None:
    assert api(name).patch(f"pools/{fast.pk}/", {"exact": True}).status_code == 403
    assert not Pool.objects.get(pk=fast.pk).exact


@pytest.mark.parametrize(
    "asked",
    [{"warning_percent": 0}, {"warning_percent": 101}, {"name": "Быстрое"}, {"state": "removing"}, {"kind": "lvm"}],
)
def test_what_is_no_setting_or_no_value_of_it_is_malformed(asked: dict[str, object], fast: Pool, api: People) -> None:
    answer = api("administrator").patch(f"pools/{fast.pk}/", asked)
    assert answer.status_code == 400
    assert list(answer.json()["errors"]) == list(asked)


def test_a_taken_name_is_refused(fast: Pool, api: People) -> None:
    answer = api("administrator").patch(f"pools/{fast.pk}/", {"name": "p1"})
    assert (answer.status_code, answer.json()["code"]) == (409, "pool_name_taken")


# --- sizes


def test_a_size_off_the_grid_is_rounded_up_unless_the_pool_is_exact(fast: Pool, api: People) -> None:
    body = {**BLANK, "disks": [{"size_bytes": GIB + 1, "pool": fast.pk}]}
    dry = api("administrator").post("vms/?dry_run=true", body).json()
    assert (dry["refusals"], dry["quote"]["disks"][0]["size_bytes"]) == ([], GIB + 4 * MIB)
    api("administrator").patch(f"pools/{fast.pk}/", {"exact": True})
    [refusal] = api("administrator").post("vms/?dry_run=true", body).json()["refusals"]
    assert (refusal["code"], refusal["field"]) == ("size_off_grid", "disks.0.size_bytes")
    assert refusal["hint"] == "choose 1 GiB or 1028 MiB"
    assert api("administrator").post("vms/", body).status_code == 422
    body["disks"][0]["size_bytes"] = 1028 * MIB  # type: ignore[index]
    assert api("administrator").post("vms/", body).status_code == 202


def test_below_the_first_extent_only_one_size_is_near(fast: Pool, api: People) -> None:
    Pool.objects.filter(pk=fast.pk).update(exact=True)
    body = {**BLANK, "disks": [{"size_bytes": 1, "pool": fast.pk}]}
    [refusal] = api("administrator").post("vms/?dry_run=true", body).json()["refusals"]
    assert (refusal["code"], refusal["hint"]) == ("size_below_grid", "choose 4 MiB")


def test_an_exact_pool_refuses_to_grow_a_disk_to_a_size_off_the_grid(scene: Scene, api: People) -> None:
    disk = scene.running.disks.all()[0]
    asked = {"size_bytes": 2 * GIB + 1}
    assert api("administrator").post(f"disks/{disk.pk}/resize/?dry_run=true", asked).json()["refusals"] == []
    Pool.objects.filter(pk=scene.pool.pk).update(exact=True)
    [refusal] = api("administrator").post(f"disks/{disk.pk}/resize/?dry_run=true", asked).json()["refusals"]
    assert refusal["hint"] == f"choose 2 GiB or {2 * GIB // 1024 + 64} KiB"


def test_a_tenant_hears_the_nearest_sizes_and_no_name_of_a_pool(scene: Scene, api: People) -> None:
    Pool.objects.filter(pk=scene.pool.pk).update(exact=True)
    body = {**BLANK, "disks": [{"size_bytes": GIB + 1}]}
    [refusal] = api("tenant_administrator").post("vms/?dry_run=true", body).json()["refusals"]
    assert "p1" not in refusal["cause"]
    assert refusal["hint"].startswith("choose 1 GiB or ")


# --- in and out of service


def test_a_pool_out_of_service_takes_no_new_disks_and_comes_back(fast: Pool, api: People) -> None:
    body = {**BLANK, "disks": [{"size_bytes": GIB, "pool": fast.pk}]}
    administrator = api("administrator")
    assert administrator.patch(f"pools/{fast.pk}/", {"state": "out_of_service"}).json()["state"] == "out_of_service"
    answer = administrator.post("vms/", body)
    assert (answer.status_code, [r["code"] for r in answer.json()["refusals"]]) == (422, ["pool_out_of_service"])
    administrator.patch(f"pools/{fast.pk}/", {"state": "active"})
    assert administrator.post("vms/", body).status_code == 202


def test_a_default_pool_out_of_service_is_not_used_either(scene: Scene, api: People) -> None:
    api("administrator").patch(f"pools/{scene.pool.pk}/", {"state": "out_of_service"})
    answer = api("administrator").post("vms/", {**BLANK, "disks": [{"size_bytes": GIB}]})
    assert "pool_out_of_service" in {refusal["code"] for refusal in answer.json()["refusals"]}
    disk = scene.running.disks.all()[0]
    assert api("administrator").post(f"disks/{disk.pk}/resize/", {"size_bytes": 2 * GIB}).status_code == 202


def test_a_pool_that_is_being_removed_is_not_put_back_beside_its_job(fast: Pool, api: People) -> None:
    Pool.objects.filter(pk=fast.pk).update(state="removing")
    answer = api("administrator").patch(f"pools/{fast.pk}/", {"state": "active"})
    assert (answer.status_code, answer.json()["code"]) == (409, "pool_in_work")


def test_a_removal_that_fails_leaves_a_pool_out_of_service_as_it_was(scene: Scene) -> None:
    pk, _ = SCENARIOS["pool.remove"](scene)
    Pool.objects.filter(pk=pk).update(state="out_of_service")
    job = start(scene.actor, "pool.remove", {}, pk).job
    refuses = Executor(world=scene.world, fault=lambda n, sent: "refused" if sent.verb == "pool.detach" else None)
    job = refuses.run(job)
    assert job.state == "failed"
    assert Pool.objects.get(pk=pk).state == "out_of_service"


def test_neither_a_disk_alone_nor_a_backup_goes_into_a_pool_out_of_service(
    scene: Scene, fast: Pool, api: People
) -> None:
    Pool.objects.filter(pk=fast.pk).update(state="out_of_service")
    disk = api("administrator").post("disks/?dry_run=true", {"size_bytes": GIB, "pool": fast.pk})
    backup = api("administrator").post(f"vms/{scene.stopped.pk}/backup/?dry_run=true", {"pool": fast.pk})
    for answer in (disk, backup):
        assert "pool_out_of_service" in {refusal["code"] for refusal in answer.json()["refusals"]}


def test_a_disk_alone_is_refused_off_the_grid_of_an_exact_pool(fast: Pool, api: People) -> None:
    Pool.objects.filter(pk=fast.pk).update(exact=True)
    [refusal] = api("administrator").post("disks/?dry_run=true", {"size_bytes": 1, "pool": fast.pk}).json()["refusals"]
    assert (refusal["code"], refusal["field"]) == ("size_below_grid", "size_bytes")


# --- the default


def test_a_pool_becomes_the_default_of_a_node_and_takes_its_new_disks(fast: Pool, scene: Scene, api: People) -> None:
    row = api("administrator").patch(f"pools/{fast.pk}/", {"default_of": [scene.node.pk]}).json()
    assert row["default_of"] == [scene.node.pk]
    assert api("administrator").get(f"pools/{scene.pool.pk}/").json()["default_of"] == []
    quote = api("administrator").post("vms/?dry_run=true", {**BLANK, "disks": [{"size_bytes": GIB}]}).json()["quote"]
    assert quote["disks"][0]["pool"] == fast.pk


def test_a_node_is_not_left_without_a_default_and_gets_none_that_it_does_not_see(
    fast: Pool, scene: Scene, api: People
) -> None:
    other = Node.objects.create(name="n2", address="10.99.0.12")
    asked = {"default_of": [other.pk, "nobody"]}
    answer = api("administrator").patch(f"pools/{scene.pool.pk}/", asked).json()
    assert [refusal["code"] for refusal in answer["refusals"]] == ["default_needed", "pool_elsewhere", "node_unknown"]
    Pool.objects.filter(pk=fast.pk).update(state="out_of_service")
    answer = api("administrator").patch(f"pools/{fast.pk}/", {"default_of": [scene.node.pk]}).json()
    assert answer["code"] == "pool_out_of_service"


# --- warnings


def test_a_full_pool_is_among_the_checks_of_each_node_that_sees_it(fast: Pool, scene: Scene, api: People) -> None:
    assert api("administrator").get(f"nodes/{scene.node.pk}/").json()["checks"] == []
    api("administrator").patch(f"pools/{fast.pk}/", {"warning_percent": 10})
    [check] = api("administrator").get(f"nodes/{scene.node.pk}/").json()["checks"]
    assert (check["code"], check["level"]) == ("pool_space", "warning")
    assert check["text"].startswith("fast: Space: 20 % is in use; the warning level is 10 %")


# --- the page


def test_the_page_changes_settings_and_says_what_is_wrong(fast: Pool, scene: Scene, people: dict[str, Person]) -> None:
    browser = Browser(people["administrator"])
    edit = f"/pools/{fast.pk}/edit/"
    assert "Saved" in browser.press(edit, {"name": "fast", "warning_percent": "70", "exact": "1"})["HX-Trigger"]
    words = text_of(browser.get(f"/pools/{fast.pk}/"))
    assert "Warning level 70 % Sizes off the grid refused" in words
    assert browser.press(edit, {"name": "quick"})["HX-Refresh"] == "true"
    assert "exists" in browser.press(edit, {"name": "p1"})["HX-Trigger"]
    assert "Warning level" in browser.press(edit, {"warning_percent": "much"})["HX-Trigger"]
    browser.press(edit, {"default": scene.node.pk})
    assert "puts new disks here unless told otherwise" in text_of(browser.get(f"/pools/{fast.pk}/"))
    browser.press(edit, {"state": "out_of_service"})
    assert "It is still the default of a node" in text_of(browser.get(f"/pools/{fast.pk}/"))


def test_who_may_not_change_a_pool_sees_why(fast: Pool, people: dict[str, Person]) -> None:
    page = Browser(people["vm_administrator"]).get(f"/pools/{fast.pk}/").content.decode()
    assert "Your role may not change storage." in page
    assert 'name="warning_percent"' not in page
    assert Browser(people["vm_administrator"]).press(f"/pools/{fast.pk}/edit/", {"exact": "1"}).status_code == 403
