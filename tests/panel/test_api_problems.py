"""Errors: one shape for all of them, and nothing that a client sends is a 500."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client

from cluster import selectors
from tests.panel.client import Api
from tests.panel.engine.scenarios import SCENARIOS, Scene

pytestmark = pytest.mark.django_db
People = Callable[[str], Api]

PROBLEM = "application/problem+json"
DEEP = b'{"name":' + b"[" * 100_000
HUGE = b'{"vcpus": ' + b"9" * 5000 + b"}"


def assert_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status
    assert response["Content-Type"] == PROBLEM
    body: dict[str, Any] = response.json()
    assert body["code"] == code
    assert {"code", "title", "detail", "hint"} <= body.keys()
    assert body["title"]
    return body


BAD_BODIES: list[tuple[str, Any, int, str]] = [
    ("not JSON", b"{", 400, "__all__"),
    ("not an object", [1, 2], 400, "__all__"),
    ("a bare word", b"nothing", 400, "__all__"),
    ("null", b"null", 400, "__all__"),
    ("not UTF-8", b'{"name": "\xff"}', 400, "__all__"),
    ("NaN", b'{"vcpus": NaN}', 400, "__all__"),
    ("too deep", DEEP, 400, "__all__"),
    ("a number of 5000 digits", HUGE, 400, "__all__"),
    ("an infinite number", b'{"vcpus": 1e999}', 400, "vcpus"),
    ("10 EiB", {"memory_bytes": 10 << 60}, 400, "memory_bytes"),
    ("a number beyond the column", {"vcpus": 1 << 70}, 400, "vcpus"),
    ("NUL", {"title": "a\0b"}, 400, "title"),
    ("half a surrogate pair", b'{"title": "\\ud800"}', 400, "title"),
    ("NUL in a name", b'{"a\\u0000": 1}', 400, "a\0"),
    ("a surrogate in a name", b'{"\\ud800": 1}', 400, "\\ud800"),
    ("an unknown field", {"colour": "red"}, 400, "colour"),
    ("Cyrillic in the name", {"name": "почта"}, 400, "name"),
    ("a shell in the name", {"name": "a;$(reboot)"}, 400, "name"),
    ("200 characters in the name", {"name": "a" * 200}, 400, "name"),
    ("a line break in the title", {"title": "a\nb"}, 400, "title"),
    ("a control character in the title", {"title": "a\x0bb"}, 400, "title"),
    ("no character of XML in the title", {"title": "a\uffffb"}, 400, "title"),
    ("201 characters in the title", {"title": "a" * 201}, 400, "title"),
    ("size 0", {"disks": [{"size_bytes": 0}]}, 400, "disks.0.size_bytes"),
    ("a negative size", {"disks": [{"size_bytes": -1}]}, 400, "disks.0.size_bytes"),
    ("a MAC that is none", {"nics": [{"network": "x", "mac": "zz"}]}, 400, "nics.0.mac"),
]


@pytest.mark.parametrize(("what", "body", "status", "field"), BAD_BODIES, ids=[row[0] for row in BAD_BODIES])
def test_a_bad_body_is_refused_by_the_field_that_is_wrong(
    scene: Scene, api: People, what: str, body: Any, status: int, field: str
) -> None:
    if isinstance(body, dict):
        body = {**SCENARIOS["vm.create"](scene)[1], **body}
    problem = assert_problem(api("owner").post("vms/", body), status, "bad_request")
    assert field in problem["errors"]


@pytest.mark.parametrize("title", ["a\nb", "a\x0bb", "a\uffffb"])
def test_a_title_that_libvirt_could_not_take_is_refused(scene: Scene, api: People, title: str) -> None:
    """Else the domain could not be defined again, when the VM's deletion is put back."""
    refused = api("owner").patch(f"vms/{scene.running.pk}/", {"title": title})
    assert (refused.status_code, list(refused.json()["errors"])) == (400, ["title"])


@pytest.mark.parametrize("title", ["Почта «главная»", "<script>&;$()'\"", "🐝", "a" * 200])
def test_free_text_is_harmless_as_a_title(scene: Scene, api: People, title: str) -> None:
    path = f"vms/{scene.running.pk}/"
    assert api("owner").patch(path, {"title": title}).json()["title"] == title
    assert api("owner").get(path).json()["title"] == title


@pytest.mark.parametrize("field", ["image", "iso", "tenant"])
def test_an_unknown_id_in_a_body_is_refused_in_words(scene: Scene, api: People, field: str) -> None:
    body = {**SCENARIOS["vm.create"](scene)[1], "image": None, field: "nobody"}
    problem = api("owner").post("vms/", body).json()
    assert f"{field}_unknown" in {refusal["code"] for refusal in problem["refusals"]}


def test_a_body_that_is_no_json_is_told_so(scene: Scene, api: People) -> None:
    path = f"vms/{scene.stopped.pk}/start/"
    form = "application/x-www-form-urlencoded"
    assert_problem(api("owner").post(path, b"a=b", Content_Type=form), 415, "media_type")
    assert_problem(api("owner").post(path, b"a=b", Content_Type="multipart/form-data; boundary=x"), 415, "media_type")
    assert_problem(api("owner").post(path, b" " * (1 << 20) + b"{}"), 413, "body_too_large")
    assert api("owner").post(path, b"", Content_Type=form).status_code == 202


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "nothing/", 404, "not_found"),
        ("GET", "vms/nobody/", 404, "not_found"),
        ("GET", "vms/" + "a" * 500 + "/", 404, "not_found"),
        ("GET", "vms/a%00b/", 404, "not_found"),
        ("GET", "vms/..%2f..%2fetc/", 404, "not_found"),
        ("GET", "audit/abc/", 404, "not_found"),
        ("GET", "audit/999999999999999999/", 404, "not_found"),
        ("POST", "vms/nobody/start/", 404, "not_found"),
        ("POST", "vms/nobody/explode/", 404, "not_found"),
        ("POST", "jobs/nobody/cancel/", 404, "not_found"),
        ("DELETE", "vms/", 405, "method_not_allowed"),
        ("PUT", "nodes/", 405, "method_not_allowed"),
        ("OPTIONS", "vms/", 405, "method_not_allowed"),
        ("GET", "vms/nobody/start/", 405, "method_not_allowed"),
    ],
)
def test_an_address_or_a_method_that_there_is_not(
    scene: Scene, api: People, method: str, path: str, status: int, code: str
) -> None:
    assert_problem(api("administrator").ask(method, path), status, code)
    assert_problem(api("anonymous").ask(method, path), 401, "not_signed_in")


def test_an_anonymous_request_is_challenged(api: People) -> None:
    assert api("anonymous").get("vms/")["WWW-Authenticate"].startswith("Bearer")
    assert_problem(Api("ulei_wrong").get("vms/"), 401, "token_unknown")
    assert_problem(Api("x" * 100_000).get("vms/"), 401, "token_unknown")


def test_a_browser_that_asks_for_html_gets_json(scene: Scene, api: People) -> None:
    assert api("owner").get("vms/", Accept="text/html")["Content-Type"] == "application/json"
    assert api("owner").get("nothing/", Accept="text/html")["Content-Type"] == PROBLEM


def test_a_foreign_host_is_refused_as_json(api: People) -> None:
    assert_problem(Client(headers={"Host": "evil.example"}).get("/api/v1/vms/"), 400, "bad_request")


def test_an_error_inside_is_logged_once_and_says_nothing_of_itself(
    scene: Scene, api: People, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the secret is 42")

    monkeypatch.setattr(selectors, "allowed_actions", broken)
    response = api("owner").get(f"vms/{scene.running.pk}/actions/")
    assert_problem(response, 500, "internal")
    assert b"42" not in response.content
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert errors[0].exc_info


def test_a_database_that_does_not_answer_is_said_so(scene: Scene, api: People, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> None:
        raise OperationalError("disk I/O error")

    monkeypatch.setattr(selectors, "allowed_actions", away)
    response = api("owner").get(f"vms/{scene.running.pk}/actions/")
    assert_problem(response, 503, "database_unavailable")
    assert response["Retry-After"]


def test_a_database_that_is_away_before_any_view_is_asked_is_said_to_machines_and_to_people(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: Any) -> None:
        raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr("web.actor.actor_of", away)
    asking = Client(raise_request_exception=False)
    assert_problem(asking.get("/api/v1/vms/"), 503, "database_unavailable")
    page = asking.get("/vms/")
    assert (page.status_code, page["Retry-After"]) == (503, "5")
    assert "База данных панели не отвечает" in page.content.decode()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_words_follow_the_reader(scene: Scene, api: People) -> None:
    path = f"vms/{scene.running.pk}/start/"
    english = api("owner").post(path).json()["refusals"][0]
    russian = api("owner").post(path, None, Accept_Language="ru").json()["refusals"][0]
    assert english["code"] == russian["code"] == "state"
    assert english["cause"] == "VM vm-running is running"
    # The fallback is the installation's language, not the first that a browser lists.
    assert api("owner").post(path, None, Accept_Language="ru").wsgi_request.LANGUAGE_CODE == "ru"
    assert api("owner").post(path, None, Accept_Language="de").wsgi_request.LANGUAGE_CODE == "ru"
