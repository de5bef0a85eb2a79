"""Every page x every person: what may not be known is 404, and what nobody signed in asks for leads to the sign-in."""

from collections.abc import Callable
from typing import Any

import pytest

from cluster.operations import start
from tests.panel.browser import Browser, text_of
from tests.panel.engine.scenarios import Scene
from tests.people import PEOPLE, Person

PAGES = [
    "/",
    "/vms/new/",
    "/vms/{vm}/",
    "/vms/{vm}/row/",
    "/vms/{vm}/menu/",
    "/vms/{vm}/do/delete/",
    "/jobs/",
    "/jobs/{job}/",
    "/nodes/",
    "/nodes/new/",
    "/nodes/{node}/",
    "/nodes/{node}/state/",
    "/groups/",
    "/affinity-groups/new/",
    "/node-groups/new/",
    "/vms/{vm}/groups/",
    "/images/",
    "/isos/",
    "/pools/",
    "/pools/new/",
    "/pools/{pool}/",
    "/journal/",
    "/demo/",
    "/sign-in/",
    "/role/",
    "/nothing/",
    "/vms/nothing/",
    "/vms/{node}/",
    "/jobs/nothing/",
    "/nodes/nothing/",
    "/vms/{vm}/do/nothing/",
]


@pytest.fixture
def ids(scene: Scene, people: dict[str, Person]) -> dict[str, str]:
    """Things of the owner: the member and the stranger must not know of them."""
    job = start(people["owner"].actor, "vm.start", {}, scene.stopped.pk).job
    return {"vm": scene.running.pk, "node": scene.node.pk, "pool": scene.pool.pk, "job": job.pk}


def test_every_page_answers_every_person_as_their_role_says(
    ids: dict[str, str], people: dict[str, Person], golden: Callable[[str, Any], None]
) -> None:
    seen = {}
    for page in PAGES:
        path = page.format(**ids)
        seen[page] = {name: Browser(people.get(name)).get(path).status_code for name in PEOPLE}
    golden("pages-by-person.json", seen)


def test_a_fragment_that_nobody_signed_in_asks_for_sends_the_whole_page_to_the_sign_in(ids: dict[str, str]) -> None:
    answer = Browser().fragment(f"/vms/{ids['vm']}/")
    assert (answer.status_code, answer["HX-Redirect"]) == (401, "/sign-in/")


@pytest.mark.parametrize("name", ["read_only", "member"])
def test_who_may_not_start_a_vm_sees_the_button_disabled_with_its_reason(
    name: str, scene: Scene, people: dict[str, Person]
) -> None:
    vm = scene.stopped
    if name == "member":
        vm.owner = people[name].user
        vm.save()
    page = Browser(people[name]).get(f"/vms/{vm.pk}/").content.decode()
    button = page[page.index('aria-label="Start: vm-stopped"') - 600 : page.index('aria-label="Start: vm-stopped"')]
    assert 'aria-disabled="true"' in button
    assert "may not do this" in button or "is not ticked" in button


def test_a_tenant_reads_nothing_of_nodes_and_pools(ids: dict[str, str], people: dict[str, Person]) -> None:
    for path in ("/", f"/vms/{ids['vm']}/", f"/jobs/{ids['job']}/", "/vms/new/"):
        words = text_of(Browser(people["owner"]).get(path))
        assert " n1 " not in words
        assert " p1 " not in words
        assert "Node" not in words


def test_what_a_person_may_not_do_is_403_with_the_reason_in_words(people: dict[str, Person]) -> None:
    answer = Browser(people["read_only"]).get("/vms/new/")
    assert answer.status_code == 403
    assert "may not do this" in text_of(answer)


def test_errors_have_pages_in_the_reader_s_language(people: dict[str, Person]) -> None:
    assert "There is no such page" in text_of(Browser(people["owner"]).get("/nothing/"))
