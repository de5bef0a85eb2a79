"""The library as people use it: an upload that is cut and goes on, its way to the nodes, and its end."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Route, expect

from tests.browser.conftest import Open, Site

CONTENT = bytes(32769) + b"CD001" + bytes(range(256)) * (80 << 10)
"""Three chunks."""


@pytest.fixture
def iso(tmp_path: Path, site: Site) -> Iterator[Path]:
    path = tmp_path / "browser-library.iso"
    path.write_bytes(CONTENT)
    yield path
    for row in site.api.all(f"isos/?name={path.name}"):
        site.api.follow(site.api.post(f"isos/{row['id']}/delete/", {})["job"]["id"])


def test_an_upload_goes_on_after_a_cut_and_a_stop_and_comes_to_the_nodes(visit: Open, iso: Path, site: Site) -> None:
    one = visit().sign_in()
    one.allow("Failed to load resource")
    page = one.go("/isos/")
    sent: list[int] = []

    def cut(route: Route) -> None:
        offset = int(re.search(r"offset=(\d+)", route.request.url)[1])  # type: ignore[index]
        sent.append(offset)
        if len(sent) == 2:
            route.abort()
        elif len(sent) == 4:
            page.get_by_role("button", name="Остановить").click(no_wait_after=True)
            route.abort()
        else:
            route.continue_()

    page.route("**/api/v1/uploads/*/?offset=*", cut)
    page.get_by_label("Файл ISO").set_input_files(iso)
    page.get_by_label("Контрольная сумма").fill(hashlib.sha256(CONTENT).hexdigest())
    page.get_by_label("Тип и версия ОС").select_option("debian-12")
    page.get_by_role("button", name="Загрузить").click()
    expect(page.locator("[data-upload-error]")).to_contain_text("остановлена")
    expect(page.locator("#library")).to_contain_text("16 МиБ из")
    assert sent == [0, 8 << 20, 8 << 20, 16 << 20]
    page.unroute_all()

    page.reload()
    page.get_by_label("Файл ISO").set_input_files(iso)
    page.get_by_role("button", name="Загрузить").click()
    row = page.locator("#library tr", has_text=iso.name)
    expect(row).to_contain_text("только на панели")
    (found,) = site.api.all(f"isos/?name={iso.name}")
    assert found["checksum"] == "sha256:" + hashlib.sha256(CONTENT).hexdigest()
    assert found["os"] == "debian-12"

    row.get_by_role("link", name="Разослать по узлам").click()
    page.get_by_role("dialog").get_by_role("button", name="Разослать по узлам").click()
    for node in site.api.all("nodes/"):
        if node["state"] == "online":
            expect(row).to_contain_text(node["name"])
    row.get_by_role("link", name="Удалить").click()
    page.get_by_role("dialog").get_by_role("button", name="Удалить").click()
    expect(page).to_have_url(re.compile("/jobs/"))
    expect(page.locator("#job .strip-state")).to_contain_text("успешно")


def test_a_file_that_is_no_iso_is_refused_beside_the_form(visit: Open, tmp_path: Path) -> None:
    one = visit().sign_in()
    one.allow("Failed to load resource")
    page = one.go("/isos/")
    path = tmp_path / "browser-words.iso"
    path.write_text("only words")
    page.get_by_label("Файл ISO").set_input_files(path)
    page.get_by_role("button", name="Загрузить").click()
    expect(page.locator("[data-upload-error]")).to_contain_text("нет ни файловой системы ISO 9660")
    expect(page.locator("#library")).not_to_contain_text("browser-words.iso")
