"""Storage as people use it: a pool is added, disks grow, snapshots are gone back to, the trash is emptied."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import PHONE, Open, Site

FOLDER = "/var/lib/libvirt/browser"
NAME = "browser-storage"


@pytest.fixture(scope="module")
def vm(site: Site) -> dict[str, Any]:
    return site.create_vm(NAME, start=False)


@pytest.fixture
def folder(request: pytest.FixtureRequest, site: Site, vm: dict[str, Any]) -> Iterator[str]:
    """A further folder on the VM's node; the pool that a test made of it goes with all that it has left there."""
    if os.environ.get("ULEI_CREDENTIALS"):
        pytest.skip("nobody can make a folder on the nodes of a panel that runs elsewhere")
    (name,) = (row["name"] for row in site.api.all("nodes/") if row["id"] == vm["node"])
    node = request.getfixturevalue("running_lab").nodes[name]
    node.run("mkdir", "-p", FOLDER)
    yield FOLDER
    for pool in site.api.all("pools/"):
        if pool["name"].startswith("browser-"):
            for disk in site.api.all(f"disks/?pool={pool['id']}"):
                site.api.do(f"disks/{disk['id']}/delete/")
            site.api.do(f"pools/{pool['id']}/remove/")
    node.run("rm", "-r", FOLDER)


def ended(page: Page) -> None:
    expect(page).to_have_url(re.compile("/jobs/"))
    expect(page.locator("#job .strip-state")).to_contain_text("успешно")


def answer(page: Page, link: str, button: str, *, danger: bool = False, **typed: str) -> None:
    """A dialog is opened, filled in and sent; its job ends well."""
    page.get_by_role("link", name=link).click()
    dialog = page.get_by_role("dialog")
    for label, text in typed.items():
        dialog.get_by_label(label).fill(text)
    send(page, button, danger=danger)


def send(page: Page, button: str, *, danger: bool = False) -> None:
    """What cannot be taken back leads to its job; of all else a note tells, with the way there."""
    page.get_by_role("dialog").get_by_role("button", name=button).click()
    if not danger:
        page.locator("#toasts").get_by_role("link").click()
    ended(page)


def test_a_folder_becomes_a_pool_whose_card_tells_of_it_and_changes_it(
    visit: Open, site: Site, vm: dict[str, Any], folder: str
) -> None:
    page = visit().sign_in().go("/pools/")
    page.get_by_role("link", name="Добавить хранилище").click()
    check = page.locator("#check")
    expect(check).to_contain_text("Выберите, из чего сделать хранилище")
    page.locator("#node").select_option(vm["node"])
    expect(page.locator("#path")).to_be_hidden()
    page.get_by_label("Папка").check()
    page.get_by_label("Путь").fill(folder)
    expect(check).to_contain_text("Осталось ввести имя")
    page.get_by_label("Имя").fill("browser-second")
    expect(check).to_contain_text("Можно добавить")
    page.get_by_role("button", name="Добавить").last.click()
    ended(page)

    page.get_by_role("link", name="К browser-second").click()
    card = page.locator("#main")
    expect(card).to_contain_text(folder)
    expect(card).to_contain_text("в работе")
    page.get_by_label("Предупреждать выше").fill("77")
    page.get_by_role("button", name="Сохранить").click()
    expect(card).to_contain_text("77 %")
    page.get_by_role("button", name="Вывести").click()
    expect(card).to_contain_text("выведено из работы")
    # It has the focus still, and means the opposite now.
    page.get_by_role("button", name="Вернуть").click()
    expect(page.get_by_role("button", name="Вывести")).to_be_focused()
    page.get_by_role("button", name="Вывести").click()
    expect(card).to_contain_text("выведено из работы")
    page.goto(site.url + "/pools/")
    expect(page.locator("tr", has_text="browser-second")).to_contain_text("выведено из работы")


@pytest.mark.parametrize("path", ["/pools/new/", "/vms/new/"])
def test_a_form_that_nobody_touches_is_checked_once_and_then_left_alone(path: str, visit: Open) -> None:
    page = visit().sign_in().go(path)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/check/") else None)
    with page.expect_response(re.compile("/check/$")):
        page.locator("#name").fill("browser-check")
    page.wait_for_load_state("networkidle")
    before = len(asked)
    page.wait_for_timeout(1500)
    assert len(asked) == before


@pytest.mark.parametrize(
    ("language", "add", "label", "asks", "rounds"),
    [
        ("ru", f"Добавить диск: {NAME}", "Размер", "Добавьте единицу", "округлено вверх до кратного 64 КиБ"),
        ("en", f"Add a disk: {NAME}", "Size", "Add the unit", "rounded up to a multiple of 64 KiB"),
    ],
)
def test_the_size_field_says_while_one_types_what_a_disk_will_have(
    language: str, add: str, label: str, asks: str, rounds: str, visit: Open, vm: dict[str, Any]
) -> None:
    page = visit(viewport=PHONE).sign_in(language).go(f"/vms/{vm['id']}/")
    page.get_by_role("link", name=add).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label(label).fill("100")
    expect(dialog).to_contain_text(asks)
    dialog.get_by_label(label).fill("100000000 B" if language == "en" else "100000000 Б")
    expect(dialog).to_contain_text(rounds)
    dialog.get_by_label(label).fill("64 MiB")
    expect(dialog).not_to_contain_text(rounds)


def test_a_disk_is_added_grows_and_goes_and_snapshots_make_a_tree(visit: Open, vm: dict[str, Any]) -> None:
    one = visit().sign_in()
    card = f"/vms/{vm['id']}/"
    answer(one.go(card), f"Добавить диск: {NAME}", "Создать диск", Размер="64 МиБ")
    answer(one.go(card), f"Увеличить диск: {NAME}/2", "Увеличить диск", Размер="100 МБ")
    page = one.go(card)
    disks = page.locator("section", has=page.get_by_role("heading", name="Диски"))
    expect(disks.locator("tbody tr").nth(1)).to_contain_text("100 МиБ")

    for name in ("browser-first", "browser-second"):
        answer(one.go(card), f"Сделать снимок: {NAME}", "Сделать снимок", Имя=name)
    page = one.go(card)
    snapshots = page.locator("section", has=page.get_by_role("heading", name="Снимки"))
    first, second = snapshots.locator("tbody tr").nth(0), snapshots.locator("tbody tr").nth(1)
    expect(second).to_contain_text("browser-second диски на нём")
    assert (first.locator(".tree-step").count(), second.locator(".tree-step").count()) == (0, 1)
    answer(page, "Вернуться к снимку: browser-first", "Вернуться к снимку", danger=True)
    expect(one.go(card).locator("tr", has_text="browser-first")).to_contain_text("диски на нём")
    for name in ("browser-first", "browser-second"):
        answer(one.go(card), f"Удалить снимок: {name}", "Удалить снимок", danger=True)

    page = one.go(card)
    last = disks.locator("tbody tr").nth(1)
    title = last.locator(".mono").inner_text()
    answer(page, f"Отключить: {NAME}/2", "Отключить")
    page = one.go("/disks/")
    answer(page, f"Удалить диск: {NAME}/2", "Удалить диск", danger=True)
    expect(one.go("/disks/").locator("#disk-list")).not_to_contain_text(title)


def test_what_a_moved_disk_leaves_behind_rests_in_the_trash_until_somebody_empties_it(
    visit: Open, site: Site, vm: dict[str, Any], folder: str
) -> None:
    body = {"name": "browser-trash", "kind": "directory", "path": folder, "nodes": [vm["node"]]}
    target = site.api.do("pools/", body)["subject"].removeprefix("pool:")
    home = vm["disks"][0]["pool"]
    disk = site.api.do("disks/", {"pool": home, "size_bytes": 64 << 20})["subject"].removeprefix("disk:")
    page = visit().sign_in().go("/disks/")
    page.get_by_role("link", name=f"Перенести в другое хранилище: {disk}").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Хранилище").select_option(target)
    expect(dialog).to_contain_text("browser-trash свободно")
    send(page, "Перенести в другое хранилище")

    page.goto(site.url + "/disks/")
    moved = page.locator("tr", has=page.get_by_role("link", name=f"Перенести в другое хранилище: {disk}"))
    expect(moved).to_contain_text("browser-trash")
    left = page.locator("tr", has_text="в корзине до")
    title = left.locator(".mono").inner_text()
    left.get_by_role("link", name="Удалить диск").click()
    send(page, "Удалить диск", danger=True)
    page.goto(site.url + "/disks/")
    expect(page.locator("#disk-list")).not_to_contain_text(title)
    answer(page, f"Удалить диск: {disk}", "Удалить диск", danger=True)


def test_an_image_that_was_uploaded_and_sent_to_the_nodes_can_be_chosen_for_a_vm(
    visit: Open, site: Site, tmp_path: Path
) -> None:
    path = tmp_path / "browser-image.raw"
    path.write_bytes(os.urandom(1 << 20))
    page = visit().sign_in().go("/images/")
    page.get_by_label("Файл образа").set_input_files(path)
    page.get_by_label("Тип и версия ОС").select_option("debian-12")
    page.get_by_role("button", name="Загрузить").click()
    row = page.locator("#library tr", has_text=path.name)
    expect(row).to_contain_text("только на панели")
    expect(row).to_contain_text("1 МиБ")
    row.get_by_role("link", name="Разослать по узлам").click()
    page.get_by_role("dialog").get_by_role("button", name="Разослать по узлам").click()
    for node in site.api.all("nodes/"):
        if node["state"] == "online":
            expect(row).to_contain_text(node["name"])
    page.goto(site.url + "/vms/new/")
    expect(page.locator("option", has_text=path.name)).to_have_count(1)
    page.goto(site.url + "/images/")
    row.get_by_role("link", name="Удалить").click()
    send(page, "Удалить", danger=True)
