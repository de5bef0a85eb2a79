"""Pages, filters, search and order of lists."""

from collections.abc import Callable
from typing import Any

import pytest

from cluster.models import Vm
from tests.panel.client import Api, vm_like
from tests.panel.engine.scenarios import Scene
from web.api.nouns import NOUNS

pytestmark = pytest.mark.django_db
People = Callable[[str], Api]


@pytest.fixture
def many(scene: Scene) -> list[str]:
    """Names of VMs in their order. Several are equal in everything but their id and name."""
    for number in range(7):
        vm_like(scene.running, name=f"x{number}", title=f"Почта {number}", memory_bytes=1 << 27)
    return sorted(Vm.objects.values_list("name", flat=True))


def names(page: Any) -> list[str]:
    return [row["name"] for row in page["results"]]


def walk(api: Api, url: str, direction: str = "next") -> list[Any]:
    pages = []
    next_url: str | None = url
    while next_url:
        page = api.get(next_url).json()
        pages.append(page)
        next_url = page[direction]
    return pages


@pytest.mark.parametrize("ordering", ["name", "-name", "created", "-created", "state", "memory_bytes", "-vcpus"])
def test_walking_forward_and_back_shows_every_row_once(many: list[str], api: People, ordering: str) -> None:
    owner = api("owner")
    forward = walk(owner, f"vms/?page_size=2&ordering={ordering}")
    seen = [name for page in forward for name in names(page)]
    assert sorted(seen) == many
    assert forward[0]["previous"] is None
    backward = walk(owner, forward[-1]["previous"], "previous")
    assert [name for page in reversed(backward) for name in names(page)] == seen[: -len(names(forward[-1]))]


def test_a_row_that_is_made_or_goes_in_between_moves_no_other(many: list[str], scene: Scene, api: People) -> None:
    owner = api("owner")
    first = owner.get("vms/?page_size=3").json()
    Vm.objects.filter(name=names(first)[2]).delete()
    vm_like(scene.running, name="a-new-first-one")
    assert names(owner.get(first["next"]).json()) == many[3:6]


def test_links_keep_filters_and_search(many: list[str], api: People) -> None:
    pages = walk(api("owner"), "vms/?page_size=3&state=stopped&search=x")
    assert [name for page in pages for name in names(page)] == [f"x{n}" for n in range(7)]


def test_filters_take_several_values_and_name_one_row_once(many: list[str], scene: Scene, api: People) -> None:
    owner = api("owner")
    assert names(owner.get("vms/?state=running,stopped").json()) == many
    assert names(owner.get(f"vms/?network={scene.network.pk}").json()) == ["vm-running", "vm-stopped"]
    assert owner.get("vms/?name=nobody").json() == {"results": [], "next": None, "previous": None}
    disks = owner.get(f"disks/?vm={scene.running.pk}").json()["results"]
    assert {row["vm"] for row in disks} == {scene.running.pk}
    assert len(disks) == 2


@pytest.mark.parametrize(
    ("text", "found"),
    [("vm-run", ["vm-running"]), ("10.99.0.150", ["vm-running"]), ("52:54:00:00:00:02", ["vm-stopped"])],
)
def test_search_looks_at_names_addresses_and_macs(many: list[str], api: People, text: str, found: list[str]) -> None:
    assert names(api("owner").get(f"vms/?search={text}").json()) == found


def test_what_tenants_may_not_know_is_no_filter_for_them(many: list[str], scene: Scene, api: People) -> None:
    path = f"vms/?node={scene.node.pk}"
    assert len(api("administrator").get(path).json()["results"]) == len(many)
    refused = api("tenant_administrator").get(path)
    assert refused.status_code == 400
    assert "node" in refused.json()["errors"]


def test_everybody_sees_only_what_is_theirs(many: list[str], scene: Scene, api: People) -> None:
    for name in ("administrator", "read_only", "tenant_administrator", "owner"):
        assert names(api(name).get("vms/").json()) == many, name
    for name in ("member", "stranger"):
        assert names(api(name).get("vms/").json()) == [], name


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("page_size=0", "page_size"),
        ("page_size=-1", "page_size"),
        ("page_size=501", "page_size"),
        ("page_size=1e3", "page_size"),
        ("page_size=%D9%A3", "page_size"),
        ("page_size=99999999999999999999", "page_size"),
        ("ordering=owner__password", "ordering"),
        ("ordering=--name", "ordering"),
        ("ordering=", None),
        ("cursor=zzz", "cursor"),
        ("cursor=", "cursor"),
        ("cursor=bnVsbA", "cursor"),
        ("cursor=WzAsICJuYW1lIiwgIlx1MDAwMCIsICJ4Il0", "cursor"),
        ("cursor=" + "A" * 2000, "cursor"),
        ("cursor=%00", "cursor"),
        ("state=exploded", "state"),
        ("state=running&state=stopped", "state"),
        ("name=a%00b", "name"),
        ("search=a%00b", "search"),
        ("search=" + "x" * 101, "search"),
        ("search='%22;--%25_", None),
        ("owner=%F0%9F%90%9D", None),
        ("password=1", "password"),
        ("a%00b=1", "a\0b"),
        ("format=xml", "format"),
    ],
)
def test_a_bad_query_is_refused_with_the_field_that_is_wrong(
    many: list[str], api: People, query: str, field: str | None
) -> None:
    response = api("owner").get(f"vms/?{query}")
    if field is None:
        assert response.status_code == 200
        return
    assert response.status_code == 400
    assert response["Content-Type"] == "application/problem+json"
    assert list(response.json()["errors"]) == [field]


def test_a_cursor_of_one_order_is_refused_for_another(many: list[str], api: People) -> None:
    cursor = api("owner").get("vms/?page_size=2").json()["next"]
    assert api("owner").get(cursor + "&ordering=created").json()["errors"].keys() == {"cursor"}


def test_a_bad_address_is_no_filter(many: list[str], api: People) -> None:
    assert api("owner").get("addresses/?address=10.99.0.150").json()["results"]
    assert api("owner").get("addresses/?address=10.99.0.999").json()["errors"].keys() == {"address"}


@pytest.mark.parametrize("name", NOUNS)
def test_every_filter_every_order_and_the_search_of_every_list_work(scene: Scene, api: People, name: str) -> None:
    administrator, noun = api("administrator"), NOUNS[name]
    for one, restriction in noun.filters.items():
        value = restriction.choices[0] if restriction.choices else "10.99.0.150"
        assert administrator.get(f"{name}/?{one}={value}").status_code == 200, one
    for one in noun.ordering:
        for order in (one.lstrip("-"), "-" + one.lstrip("-")):
            walk(administrator, f"{name}/?ordering={order}&page_size=1")
    assert administrator.get(f"{name}/?search=10").status_code == (200 if noun.search else 400)
