"""The page stays true: changes of others appear by themselves, also after the connection was lost."""

import re
from typing import Any

import pytest
from playwright.sync_api import WebSocketRoute, expect

from tests.browser.conftest import Open, Site


@pytest.fixture(scope="module")
def vm(site: Site) -> dict[str, Any]:
    return site.create_vm("browser-live")


def test_what_somebody_else_does_appears_without_a_reload(visit: Open, vm: dict[str, Any], site: Site) -> None:
    one = visit().sign_in()
    one.allow("404")  # a row that is asked for when its VM has just gone
    page = one.page
    row = page.locator(f"#vm-{vm['id']}")
    expect(row.locator(".rows-state")).to_contain_text("работает")
    page.evaluate("window.stillTheSamePage = true")
    site.api.do(f"vms/{vm['id']}/suspend/")
    expect(row.locator(".rows-state")).to_contain_text("приостановлена")
    site.api.do(f"vms/{vm['id']}/resume/")
    expect(row.locator(".rows-state")).to_contain_text("работает")
    other = site.create_vm("browser-live-2", start=False)
    expect(page.locator(f"#vm-{other['id']} .rows-state")).to_contain_text("выключена")
    site.api.do(f"vms/{other['id']}/delete/", {"disks": True})
    expect(page.locator(f"#vm-{other['id']}")).to_have_count(0)
    assert page.evaluate("window.stillTheSamePage")


def test_a_lost_connection_is_said_quietly_and_what_was_missed_is_fetched(
    visit: Open, vm: dict[str, Any], site: Site
) -> None:
    one = visit()
    one.allow("WebSocket")
    sockets: list[WebSocketRoute] = []
    cut = False

    def pass_on(socket: WebSocketRoute) -> None:
        if cut:
            socket.close()
            return
        sockets.append(socket)
        socket.connect_to_server()

    one.page.route_web_socket(re.compile("/ws/"), pass_on)
    page = one.sign_in().page
    row = page.locator(f"#vm-{vm['id']}")
    line = page.locator("#connection")
    expect(line).to_be_empty()
    cut = True
    for socket in sockets:
        socket.close()
    expect(line).to_have_text(re.compile(r"^Связь потеряна, показано состояние на \d\d:\d\d$"))
    site.api.do(f"vms/{vm['id']}/suspend/")
    expect(row.locator(".rows-state")).to_contain_text("работает")
    cut = False
    expect(row.locator(".rows-state")).to_contain_text("приостановлена")
    expect(line).to_be_empty()
    site.api.do(f"vms/{vm['id']}/resume/")
    expect(row.locator(".rows-state")).to_contain_text("работает")


def test_an_old_answer_never_overwrites_a_newer_state(visit: Open, vm: dict[str, Any], site: Site) -> None:
    """The first answer for the row is held back until the row has changed again."""
    one = visit().sign_in()
    page, row = one.page, one.page.locator(f"#vm-{vm['id']}")
    expect(row.locator(".rows-state")).to_contain_text("работает")
    old = page.request.get(f"{site.url}/vms/{vm['id']}/row/", headers={"HX-Request": "true"}).text()
    answers = iter([old, old])

    def answer(route: Any) -> None:
        stale = next(answers, None)
        if stale is None:
            route.continue_()
        else:
            route.fulfill(status=200, content_type="text/html", body=stale)

    page.route(re.compile(f"/vms/{vm['id']}/row/"), answer)
    site.api.do(f"vms/{vm['id']}/suspend/")
    expect(row.locator(".rows-state")).to_contain_text("приостановлена")
    site.api.do(f"vms/{vm['id']}/resume/")
    expect(row.locator(".rows-state")).to_contain_text("работает")


def test_a_part_that_could_not_be_fetched_is_fetched_again(visit: Open, vm: dict[str, Any], site: Site) -> None:
    """The database was away for a moment, while the socket stayed: no other word of the change will come."""
    one = visit().sign_in()
    one.allow("503")
    page, row = one.page, one.page.locator(f"#vm-{vm['id']}")
    expect(row.locator(".rows-state")).to_contain_text("работает")
    refused = []

    def answer(route: Any) -> None:
        if len(refused) < 2:
            refused.append(route.request.url)
            route.fulfill(status=503, content_type="text/html", body="")
        else:
            route.continue_()

    page.route(re.compile(f"/vms/{vm['id']}/row/"), answer)
    site.api.do(f"vms/{vm['id']}/suspend/")
    expect(row.locator(".rows-state")).to_contain_text("приостановлена")
    assert len(refused) == 2
    page.unroute(re.compile(f"/vms/{vm['id']}/row/"))
    site.api.do(f"vms/{vm['id']}/resume/")
    expect(row.locator(".rows-state")).to_contain_text("работает")


def test_a_deleted_vm_s_card_says_that_it_is_gone(visit: Open, site: Site) -> None:
    vm = site.create_vm("browser-gone", start=False)
    one = visit().sign_in()
    one.allow("404")
    page = one.go(f"/vms/{vm['id']}/")
    expect(page.locator(".strip-state")).to_contain_text("выключена")
    site.api.do(f"vms/{vm['id']}/delete/", {"disks": True})
    expect(page.locator("#main")).to_contain_text("ВМ browser-gone удалена")


def test_what_is_typed_in_a_form_survives_live_changes(visit: Open, vm: dict[str, Any], site: Site) -> None:
    one = visit().sign_in()
    page = one.page
    page.locator("[data-search]").press_sequentially("browser-li", delay=20)
    expect(page.locator("#vm-list tbody tr")).to_have_count(1)
    site.api.do(f"vms/{vm['id']}/suspend/")
    site.api.do(f"vms/{vm['id']}/resume/")
    expect(page.locator("[data-search]")).to_have_value("browser-li")
    expect(page).to_have_url(re.compile(r"\?.*q=browser-li"))


def test_what_is_typed_inside_a_live_part_is_not_taken_away(visit: Open, vm: dict[str, Any], site: Site) -> None:
    """As the note of a resolve; here a field is put into the card of a VM, since a stuck job is hard to come by."""

    def with_a_field(route: Any) -> None:
        if "hx-request" not in route.request.headers:
            route.continue_()
            return
        html = route.fetch().text()
        last = html.rindex("</div>")
        body = f'{html[:last]}<textarea id="note"></textarea>{html[last:]}'
        route.fulfill(status=200, content_type="text/html; charset=utf-8", body=body)

    one = visit().sign_in()
    one.page.route(re.compile(f"/vms/{vm['id']}/$"), with_a_field)
    page = one.go(f"/vms/{vm['id']}/")
    expect(page.locator(".strip-state")).to_contain_text("работает")
    page.locator("#note").fill("начато")
    page.locator("#note").blur()
    site.api.do(f"vms/{vm['id']}/suspend/")
    expect(page.locator(".strip-state")).to_contain_text("приостановлена")
    expect(page.locator("#note")).to_have_value("начато")
    site.api.do(f"vms/{vm['id']}/resume/")
    expect(page.locator(".strip-state")).to_contain_text("работает")
