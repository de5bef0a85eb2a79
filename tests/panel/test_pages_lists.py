"""Lists: how they are searched, and pages by cursor."""

from typing import Any

import pytest

from cluster.models import Address, Disk, Nic, Vm
from tests.panel.browser import Browser, text_of
from tests.panel.client import vm_like
from tests.panel.engine.scenarios import Scene
from tests.people import Person
from web.pages.paging import page_of


def more_vms(scene: Scene, count: int) -> list[Vm]:
    vms = []
    for i in range(count):
        vm = vm_like(scene.running, name=f"more-{i:03d}")
        Disk.objects.create(vm=vm, tenant=vm.tenant, pool=scene.pool, size_bytes=1 << 30)
        nic = Nic.objects.create(vm=vm, network=scene.network, mac=f"52:54:00:aa:{i // 256:02x}:{i % 256:02x}")
        if i < 50:
            Address.objects.create(network=scene.network, address=f"10.99.0.{100 + i}", nic=nic)
        vms.append(vm)
    return vms


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("q=vm-run", True),
        ("q=БУХ", True),
        ("q=бухгалтерия", True),
        ("q=10.99.0.15", True),
        ("q=somebody", False),
        ("q=%25", False),
        ("state=running", True),
        ("state=stopped", False),
        ("state=nonsense", True),
        ("node=nonsense", False),
    ],
)
def test_a_vm_is_found_by_name_title_address_and_state(
    asked: str, found: bool, scene: Scene, people: dict[str, Person]
) -> None:
    scene.running.title = "Бухгалтерия"
    scene.running.save()
    assert ("vm-running" in text_of(Browser(people["administrator"]).get(f"/?{asked}"))) is found


def test_pictures_of_buttons_are_pictures_and_names_are_text(scene: Scene, people: dict[str, Person]) -> None:
    scene.running.title = "<b>bold</b>"
    scene.running.save()
    for path in ("/", f"/vms/{scene.running.pk}/menu/", f"/vms/{scene.running.pk}/"):
        html = Browser(people["administrator"]).get(path).content.decode()
        assert "<svg" in html
        assert "&lt;svg" not in html
        assert "<b>bold" not in html


def test_an_empty_list_says_what_to_do_next(people: dict[str, Person]) -> None:
    words = text_of(Browser(people["administrator"]).get("/"))
    assert "First add a node" in words
    assert "appear here by themselves" in text_of(Browser(people["member"]).get("/"))
    assert "Show all" in text_of(Browser(people["administrator"]).get("/?q=nothing"))


def test_a_fragment_is_the_list_alone_with_its_address_and_versions(scene: Scene, people: dict[str, Person]) -> None:
    answer = Browser(people["administrator"]).fragment("/?state=running")
    html = answer.content.decode().strip()
    assert html.startswith('<section id="vm-list"')
    assert 'data-src="/?state=running"' in html
    assert f'data-versions="vm:{scene.running.pk}={scene.running.version}"' in html
    assert "HX-Request" in answer["Vary"]


def pages(order: tuple[str, ...], size: int) -> list[list[str]]:
    """Forwards to the end and backwards to the beginning again."""
    found: list[Any] = [page_of(Vm.objects.all(), order, "", size)]
    while found[-1].next:
        found.append(page_of(Vm.objects.all(), order, found[-1].next, size))
    while found[-1].previous:
        found.append(page_of(Vm.objects.all(), order, found[-1].previous, size))
    return [[vm.name for vm in page.rows] for page in found]


@pytest.mark.parametrize("order", [("name", "pk"), ("-created", "-pk"), ("-vcpus", "-pk")])
def test_pages_by_cursor_show_each_row_once_there_and_back(order: tuple[str, ...], scene: Scene) -> None:
    more_vms(scene, 8)
    whole = list(Vm.objects.order_by(*order).values_list("name", flat=True))
    there_and_back = pages(order, 4)
    assert [name for page in there_and_back[:3] for name in page] == whole
    assert there_and_back[3:] == [there_and_back[1], there_and_back[0]]


@pytest.mark.parametrize(
    "cursor", ["x", "e30", "bnVsbA", "W10", "eyJiYWNrIjpmYWxzZSwidmFsdWVzIjpbIm5vIGRhdGUiLCJ4Il19"]
)
def test_a_spoiled_cursor_is_the_first_page(cursor: str, scene: Scene, people: dict[str, Person]) -> None:
    assert len(page_of(Vm.objects.all(), ("-created", "-pk"), cursor).rows) == 2
    assert Browser(people["administrator"]).get(f"/jobs/?cursor={cursor}").status_code == 200
