"""Ways in: the session with its CSRF token and its grant in force, and the token."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone

from cluster.models import Grant, Role, Token
from tests.panel.client import Api
from tests.panel.engine.scenarios import Scene
from tests.people import Person
from web.actor import GRANT_KEY

pytestmark = pytest.mark.django_db
People = dict[str, Person]
JSON = "application/json"


@pytest.fixture
def browser(people: People) -> Client:
    """The owner's browser; like a real one it is asked for the CSRF token."""
    client = Client(enforce_csrf_checks=True)
    client.force_login(people["owner"].user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def test_a_session_needs_the_csrf_token_for_what_changes_something(browser: Client, scene: Scene) -> None:
    path = f"/api/v1/vms/{scene.stopped.pk}/start/"
    assert browser.get("/api/v1/vms/").status_code == 200
    refused = browser.post(path, content_type=JSON)
    assert (refused.status_code, refused.json()["code"]) == (403, "csrf_failed")
    secret = "a" * 32
    browser.cookies[settings.CSRF_COOKIE_NAME] = secret
    assert browser.post(path, content_type=JSON, headers={"X-CSRFToken": secret}).status_code == 202


def test_a_token_needs_none_and_wins_over_a_session(browser: Client, people: People, scene: Scene) -> None:
    bearer = {"Authorization": f"Bearer {people['administrator'].token}"}
    assert browser.get("/api/v1/session/", headers=bearer).json()["user"]["username"] == "administrator"
    assert browser.post(f"/api/v1/vms/{scene.stopped.pk}/start/", content_type=JSON, headers=bearer).status_code == 202
    assert browser.get("/api/v1/session/", headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_a_token_that_expired_or_of_a_person_who_was_shut_out_is_refused(people: People) -> None:
    owner = people["owner"]
    api = Api(owner.token)
    assert api.get("session/").status_code == 200
    Token.objects.filter(grant=owner.actor.grant).update(expires=timezone.now() - timedelta(seconds=1))
    assert api.get("session/").status_code == 401
    Token.objects.filter(grant=owner.actor.grant).update(expires=timezone.now() + timedelta(hours=1))
    assert api.get("session/").status_code == 200
    type(owner.user).objects.filter(pk=owner.user.pk).update(is_active=False)
    assert api.get("session/").status_code == 401


def test_one_grant_is_in_force_and_the_session_remembers_which(browser: Client, people: People, scene: Scene) -> None:
    second = Grant.objects.create(user=people["owner"].user, role=Role.READ_ONLY)
    first = browser.get("/api/v1/session/").json()
    assert first["grant"]["role"] == "self_service"
    assert [grant["role"] for grant in first["grants"]] == ["self_service", "read_only"]
    assert "vm.start" in first["actions"]
    session = browser.session
    session[GRANT_KEY] = second.pk
    session.save()
    now = browser.get("/api/v1/session/").json()
    assert now["grant"]["id"] == second.pk
    assert "vm.start" not in now["actions"]
    assert browser.get("/api/v1/nodes/").status_code == 200


def test_nobody_takes_a_grant_that_is_not_theirs(browser: Client, people: People) -> None:
    session = browser.session
    session[GRANT_KEY] = people["administrator"].actor.grant.pk
    session.save()
    assert browser.get("/api/v1/session/").json()["grant"]["role"] == "self_service"


def test_a_person_without_any_grant_is_nobody(browser: Client, people: People) -> None:
    Grant.objects.filter(user=people["owner"].user).delete()
    assert browser.get("/api/v1/session/").status_code == 401


def test_the_table_of_roles_is_the_table_of_rights(api: Callable[[str], Any]) -> None:
    rows = {row["code"]: row for row in api("member").get("roles/").json()["results"]}
    assert rows.keys() == set(Role.values)
    assert "job.resolve" in rows["administrator"]["actions"]
    assert not [action for action in rows["read_only"]["actions"] if not action.startswith("see.")]
