"""Chromium against a real panel: the lab's own, or the one that ``ULEI_CREDENTIALS`` (a credentials.json) names."""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from deploy.lab.client import Api
from deploy.lab.processes import wait
from tests.lab.conftest import MIB, running_lab

__all__ = ["running_lab"]

CHROMIUM = os.environ.get("ULEI_CHROMIUM", "/usr/bin/chromium")
PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 800}
PATIENCE_MS = 20_000
expect.set_options(timeout=PATIENCE_MS)


@dataclass(frozen=True)
class Site:
    url: str
    username: str
    password: str
    api: Api

    def create_vm(self, name: str, *, start: bool = True) -> dict[str, Any]:
        """A micro guest, made through the API; its row."""
        job = self.api.do("vms/", self.vm_body(name, start=start))
        return self.api.get(f"vms/{job['subject'].partition(':')[2]}/")

    def vm_body(self, name: str, **changes: Any) -> dict[str, Any]:
        def micro() -> str | None:
            return next((i["id"] for i in self.api.all("images/") if i["name"].startswith("micro")), None)

        network = self.api.all("networks/")[0]["id"]
        body = {"name": name, "vcpus": 1, "memory_bytes": 128 * MIB, "image": wait(micro, 30, "the micro image")}
        return body | {"disks": [{"size_bytes": 128 * MIB}], "nics": [{"network": network}], "start": True} | changes

    def delete_vms(self, prefix: str = "") -> None:
        for vm in self.api.all("vms/"):
            if vm["name"].startswith(prefix):
                job = self.api.post(f"vms/{vm['id']}/delete/", {"disks": True})["job"]["id"]
                self.api.follow(job)


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    path = os.environ.get("ULEI_CREDENTIALS")
    lab = None if path else request.getfixturevalue("running_lab")
    given = json.loads(Path(path).read_text() if path else lab.demo.state.credentials.read_text())
    site = Site(given["url"], given["username"], given["password"], Api(given["url"], given["token"]))
    yield site
    site.delete_vms("browser-")
    if lab:
        assert lab.audit() == []


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page in a browser of its own; whatever the browser complained of fails the test at its end."""

    page: Page
    site: Site
    context: BrowserContext
    complaints: list[str]
    allowed: str = r"$^"

    def allow(self, pattern: str) -> None:
        """This test makes the browser complain on purpose."""
        self.allowed = pattern

    def go(self, path: str) -> Page:
        self.page.goto(self.site.url + path)
        return self.page

    def sign_in(self, language: str = "ru") -> "Visit":
        page = self.go("/sign-in/")
        page.locator(f"button[name=language][value={language}]").click()
        page.locator("#username").fill(self.site.username)
        page.locator("#password").fill(self.site.password)
        page.locator("#password").press("Enter")
        expect(page.locator("#vm-list")).to_be_visible()
        return self


Open = Callable[..., Visit]


@pytest.fixture
def visit(site: Site, chromium: Browser) -> Iterator[Open]:
    """``visit()`` is at a desk; ``visit(viewport=PHONE, color_scheme="dark")``."""
    visits: list[Visit] = []

    def open_(*, viewport: dict[str, int] = DESK, **options: Any) -> Visit:
        context = chromium.new_context(viewport=viewport, locale="en-US", **options)  # type: ignore[arg-type]
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        one = Visit(page, site, context, [])
        page.on("console", lambda m: one.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: one.complaints.append(str(error)))
        visits.append(one)
        return one

    yield open_
    complaints = [text for one in visits for text in one.complaints if not re.search(one.allowed, text)]
    for one in visits:
        one.page.unroute_all(behavior="ignoreErrors")
        one.context.close()
    assert complaints == []
