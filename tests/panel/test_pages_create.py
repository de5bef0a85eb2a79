"""The create form: sizes as people type them, the check beside it, and nothing typed is ever lost."""

import html
from typing import Any

import pytest

from cluster.models import Job, Pool, Tenant, Vm
from nodes.contract.sizes import GIB, MIB
from tests.panel.browser import Browser, text_of
from tests.panel.client import vm_like
from tests.panel.engine.scenarios import Scene
from tests.people import Person


@pytest.fixture
def browser(scene: Scene, people: dict[str, Person]) -> Browser:
    return Browser(people["administrator"])


@pytest.fixture
def typed(scene: Scene) -> dict[str, str]:
    vm_like(scene.running, name="taken", tenant=Tenant.objects.get(name="default"))
    return {
        "name": "shop",
        "title": "Магазин «Ромашка» <b>",
        "source": "image",
        "image": scene.image.pk,
        "os": "other-linux",
        "filled": "other-linux",
        "vcpus": "1",
        "memory": "128 МБ",
        "disk-0-size": "1 GB",
        "disk-0-pool": "",
        "disk-0-bus": "virtio",
        "nic-0-network": scene.network.pk,
        "nic-0-address": "",
        "nic-0-model": "virtio",
        "nic-0-mac": "",
        "start": "1",
    }


def slot(response: Any, name: str) -> str:
    page = response.content.decode()
    at = page.index(f'id="e-{name}"')
    return html.unescape(page[page.index(">", at) + 1 : page.index("</p>", at)])


def test_a_vm_is_created_from_what_people_type_and_leads_to_its_job(browser: Browser, typed: dict[str, str]) -> None:
    answer = browser.post(
        "/vms/new/", {**typed, "memory": "0,5 ГБ", "disk-0-size": "20,5ГиБ", "nic-0-mac": "52-54-00-AA-BB-CC"}
    )
    vm, job = Vm.objects.get(name="shop"), Job.objects.get()
    assert (answer.status_code, answer["Location"]) == (302, f"/jobs/{job.pk}/")
    assert (vm.memory_bytes, vm.disks.get().size_bytes) == (512 * MIB, 20 * GIB + GIB // 2)
    assert vm.nics.get().mac == "52:54:00:aa:bb:cc"
    assert vm.title == "Магазин «Ромашка» <b>"


def test_the_first_form_lacks_only_a_name(browser: Browser) -> None:
    page = text_of(browser.get("/vms/new/"))
    assert "All that is missing is a name" in page
    assert "n1 is the only node that can take it" in page


def test_the_check_says_rounded_sizes_the_node_and_that_it_can_be_created(
    browser: Browser, typed: dict[str, str], scene: Scene
) -> None:
    Pool.objects.update(granules={"qcow2": 4 * MIB})
    words = text_of(browser.press("/vms/new/check/", {**typed, "disk-0-size": "20481 MB"}))
    assert "Can be created" in words
    assert "20.00 GiB → 20.004 GiB · p1" in words.replace("\u00a0", " ").replace("20.001 GiB", "20.00 GiB")
    assert "rounded up to a multiple of 4 MiB" in words.replace("\u00a0", " ")


def test_a_check_makes_nothing(browser: Browser, typed: dict[str, str]) -> None:
    browser.press("/vms/new/check/", typed)
    assert not Job.objects.exists()
    assert not Vm.objects.filter(name="shop").exists()


@pytest.mark.parametrize(
    ("changed", "field", "words"),
    [
        ({"name": "taken"}, "name", "already a VM named taken"),
        ({"name": "Плохое имя"}, "name", "a to z, digits and hyphens"),
        ({"name": "x" * 200}, "name", "a to z, digits and hyphens"),
        ({"name": "a;$(id)"}, "name", "a to z, digits and hyphens"),
        ({"vcpus": "many"}, "vcpus", "A whole number"),
        ({"vcpus": "0"}, "vcpus", "from 1 to 512"),
        ({"vcpus": "-1"}, "vcpus", "from 1 to 512"),
        ({"memory": "64"}, "memory", "Add the unit: 64 GB or 64 MB?"),
        ({"memory": "plenty"}, "memory", "This is not a size"),
        ({"memory": "1 B"}, "memory", "At least 16 MB"),
        ({"memory": "900 GB"}, "memory", "no memory on node n1"),
        ({"disk-0-size": "-20 GB"}, "disk-0-size", "This is not a size"),
        ({"disk-0-size": "0 GB"}, "disk-0-size", "A size greater than zero"),
        ({"disk-0-size": "1 MB"}, "disk-0-size", "smaller than the image"),
        ({"disk-0-size": "10000000 TB"}, "disk-0-size", "This is not a size"),
        ({"nic-0-address": "10.1.1.1"}, "nic-0-address", "is in no range"),
        ({"nic-0-address": "10.99.0.150"}, "nic-0-address", "is taken"),
        ({"nic-0-address": "ten"}, "nic-0-address", "An IPv4 address"),
        ({"nic-0-mac": "53:54:00:00:00:01"}, "nic-0-mac", "not a unicast MAC"),
        ({"nic-0-mac": "mac"}, "nic-0-mac", "Six pairs"),
        ({"nic-0-network": "nothing"}, "nics", "no such network"),
        ({"node": "nothing"}, "node", "no such node"),
        ({"os": "beos"}, "os", "has no “beos”"),
    ],
)
def test_a_refusal_stands_beside_its_field_in_the_check_and_after_a_try(
    changed: dict[str, str], field: str, words: str, browser: Browser, typed: dict[str, str]
) -> None:
    for path, status in (("/vms/new/check/", (200,)), ("/vms/new/", (409, 422, 507))):
        answer = browser.post(path, typed | changed)
        assert answer.status_code in status
        assert words.lower() in slot(answer, field).lower()
    assert Vm.objects.count() == 3


def test_nothing_typed_is_lost_when_it_is_refused(browser: Browser, typed: dict[str, str]) -> None:
    odd = typed | {"name": "taken", "memory": " 1,5 гб", "disk-1-size": "7 GB", "disk-1-bus": "sata", "start": ""}
    page = html.unescape(browser.post("/vms/new/", odd).content.decode())
    for value in ("taken", "Магазин «Ромашка» <b>", "1,5 гб", "7 GB"):
        assert f'value="{value}"' in page
    assert "<option selected>sata</option>" in page
    assert '<input class="form-check-input" type="checkbox" name="start" value="1">' in page


def test_empty_fields_are_errors_only_after_a_try(browser: Browser, typed: dict[str, str]) -> None:
    blank = typed | {"name": "", "memory": ""}
    assert slot(browser.press("/vms/new/check/", blank), "memory") == ""
    tried = browser.post("/vms/new/", blank)
    assert (slot(tried, "name"), slot(tried, "memory")) == ("Fill this in.", "Fill this in.")


def test_choosing_an_os_fills_in_what_nobody_typed(browser: Browser, typed: dict[str, str]) -> None:
    untouched = typed | {"os": "", "filled": "", "vcpus": "", "memory": "", "disk-0-size": "", "disk-0-bus": ""}
    chosen = browser.client.post(
        "/vms/new/", untouched | {"os": "redos-8"}, headers={"HX-Request": "true", "HX-Trigger-Name": "os"}
    ).content.decode()
    assert 'id="disk-0-size" name="disk-0-size" value="15 GiB"' in chosen
    assert 'name="memory" value="4 GiB"' in chosen
    kept = browser.client.post(
        "/vms/new/",
        typed | {"filled": "redos-8", "os": "windows-11", "memory": "7 GB", "disk-0-size": "15 GiB"},
        headers={"HX-Request": "true", "HX-Trigger-Name": "os"},
    ).content.decode()
    assert 'name="memory" value="7 GB"' in kept
    assert 'name="disk-0-size" value="100 GiB"' in kept


def test_disks_and_interfaces_are_added_and_removed_without_losing_the_rest(
    browser: Browser, typed: dict[str, str]
) -> None:
    more = browser.press("/vms/new/", typed | {"add": "disk"}).content.decode()
    assert 'id="disk-1-size"' in more
    assert 'value="shop"' in more
    fewer = browser.press("/vms/new/", typed | {"remove": "nic-0"}).content.decode()
    assert 'id="nic-0-network"' not in fewer
    assert not Vm.objects.filter(name="shop").exists()


def test_a_tenant_is_offered_no_nodes_and_no_pools(typed: dict[str, str], people: dict[str, Person]) -> None:
    browser = Browser(people["owner"])
    page = browser.get("/vms/new/").content.decode()
    assert 'name="node"' not in page
    assert "disk-0-pool" not in page.replace("e-disk-0-pool", "")
    assert "The panel chooses where it runs" in text_of(browser.press("/vms/new/check/", typed))
