"""Every page for every reader: both languages and themes, a phone, the keyboard, and axe's rules."""

import re
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.conftest import DESK, PHONE, Open, Site, Visit

PAGES = [
    "/",
    "/vms/new/",
    "/vms/{vm}/",
    "/jobs/",
    "/jobs/{job}/",
    "/nodes/",
    "/nodes/{node}/",
    "/nodes/new/",
    "/nodes/balance/",
    "/nodes/order/",
    "/groups/",
    "/pools/",
    "/pools/{pool}/",
]
PAGES += ["/images/", "/isos/", "/disks/", "/backups/", "/journal/", "/demo/", "/vms/{vm}/do/delete/", "/nothing/"]


@pytest.fixture(scope="module")
def ids(site: Site) -> dict[str, Any]:
    vm = site.create_vm("browser-looks", start=False)
    return {
        "vm": vm["id"],
        "job": site.api.all(f"jobs/?subject=vm:{vm['id']}")[0]["id"],
        "node": vm["node"],
        "pool": vm["disks"][0]["pool"],
    }


def complaints_of_axe(one: Visit) -> list[str]:
    found = Axe().run(one.page)
    return [f"{v['id']}: {n['html'][:120]}" for v in found.response["violations"] for n in v["nodes"]]


def readable(one: Visit, path: str, *, rules: bool) -> None:
    one.go(path)
    one.page.wait_for_load_state("networkidle" if rules else "load")
    width, inner = one.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= inner, f"{path} is {width} px wide on a screen of {inner}"
    if rules:
        assert complaints_of_axe(one) == [], path


@pytest.mark.parametrize(
    ("language", "theme", "viewport"),
    [("ru", "light", DESK), ("ru", "dark", PHONE), ("en", "light", PHONE), ("en", "dark", DESK)],
    ids=["ru-light-desk", "ru-dark-phone", "en-light-phone", "en-dark-desk"],
)
def test_every_page_is_readable(
    language: str, theme: str, viewport: dict[str, int], visit: Open, ids: dict[str, Any]
) -> None:
    one = visit(viewport=viewport, color_scheme=theme, reduced_motion="reduce")
    one.allow("404")
    # The rules are slow: once on light and once on dark, once wide and once narrow.
    rules = language == "ru"
    readable(one, "/sign-in/", rules=rules)
    one.sign_in(language)
    for page in PAGES:
        readable(one, page.format(**ids), rules=rules)
        assert one.page.locator("html").get_attribute("lang") == language
        assert one.page.locator("html").get_attribute("data-bs-theme") == theme


def test_english_pages_have_no_russian_and_the_other_way_round(visit: Open, ids: dict[str, Any]) -> None:
    one = visit().sign_in("en")
    for path in ("/", "/vms/new/", "/jobs/{job}/", "/nodes/{node}/", "/images/", "/demo/"):
        page = one.go(path.format(**ids))
        page.evaluate("document.querySelectorAll('[lang=ru]').forEach((e) => e.remove())")
        assert not re.search("[а-яА-Я]", page.locator("main").inner_text()), path


def test_the_language_is_kept_on_the_person(visit: Open) -> None:
    one = visit().sign_in("en")
    expect(one.page.get_by_role("heading", level=1)).to_have_text("Virtual machines")
    one.page.get_by_role("button", name="Русский").click()
    expect(one.page.get_by_role("heading", level=1)).to_have_text("Виртуальные машины")
    again = visit()
    page = again.go("/sign-in/")
    page.locator("#username").fill(again.site.username)
    page.locator("#password").fill(again.site.password)
    page.locator("#password").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Виртуальные машины")


def test_the_theme_follows_the_system_until_it_is_chosen(visit: Open) -> None:
    one = visit(color_scheme="dark").sign_in()
    html = one.page.locator("html")
    expect(html).to_have_attribute("data-bs-theme", "dark")
    one.page.emulate_media(color_scheme="light")
    expect(html).to_have_attribute("data-bs-theme", "light")
    one.page.get_by_role("button", name="Тёмное").click()
    one.go("/jobs/")
    expect(html).to_have_attribute("data-bs-theme", "dark")
    expect(one.page.get_by_role("button", name="Тёмное")).to_have_attribute("aria-pressed", "true")


def test_the_keyboard_is_enough(visit: Open, ids: dict[str, Any]) -> None:
    page = visit().sign_in().page
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Перейти к содержимому")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.keyboard.press("/")
    expect(page.locator("[data-search]")).to_be_focused()
    page.keyboard.type("browser-looks")
    expect(page.locator("#vm-list tbody tr")).to_have_count(1)
    page.get_by_role("link", name="browser-looks").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("browser-looks")


def test_a_phone_has_the_menu_behind_a_button(visit: Open) -> None:
    one = visit(viewport=PHONE, has_touch=True).sign_in()
    expect(one.page.locator("#nav")).to_be_hidden()
    one.page.get_by_role("button", name="Меню").tap()
    one.page.locator("#nav").get_by_role("link", name="Узлы").tap()
    expect(one.page.get_by_role("heading", level=1)).to_have_text("Узлы")


def test_a_reason_is_reached_by_touch(visit: Open, ids: dict[str, Any]) -> None:
    one = visit(viewport=PHONE, has_touch=True).sign_in()
    page = one.go(f"/vms/{ids['vm']}/")
    page.get_by_role("button", name="Приостановить: browser-looks").tap(force=True)
    expect(page.locator("#why")).to_contain_text("browser-looks")
