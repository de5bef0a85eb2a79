"""Sign-in: by password, with a role chosen where there are several, in the language that was chosen."""

import pytest
from django.conf import settings
from django.test import Client

from cluster.models import Grant, Role, Tenant, User
from tests.panel.browser import text_of

PASSWORD = "a password of these tests"


@pytest.fixture
def olga(db: None) -> User:
    return User.objects.create_user("olga", PASSWORD, language="en")


def grant(user: User, role: Role = Role.ADMINISTRATOR, tenant: Tenant | None = None) -> Grant:
    return Grant.objects.create(user=user, role=role, tenant=tenant)


def sign_in(client: Client, name: str = "olga", password: str = PASSWORD, **typed: str) -> str:
    answer = client.post("/sign-in/", {"username": name, "password": password, **typed})
    return answer.headers.get("Location", str(answer.status_code))


def test_the_first_page_leads_to_sign_in_and_back_to_where_one_wanted_to_go(olga: User) -> None:
    grant(olga)
    client = Client()
    asked = client.get("/jobs/?state=stuck")
    assert asked.headers["Location"] == "/sign-in/?next=%2Fjobs%2F%3Fstate%3Dstuck"
    assert sign_in(client, next="/jobs/?state=stuck") == "/jobs/?state=stuck"
    assert client.get("/jobs/").status_code == 200


@pytest.mark.parametrize("elsewhere", ["https://evil.example/", "//evil.example", "javascript:alert(1)"])
def test_sign_in_never_leads_to_another_site(elsewhere: str, olga: User) -> None:
    grant(olga)
    assert sign_in(Client(), next=elsewhere) == "/"


def test_a_wrong_password_keeps_the_name_and_says_so(olga: User) -> None:
    answer = Client().post("/sign-in/", {"username": "olga", "password": "wrong"})
    assert answer.status_code == 422
    assert 'value="olga"' in answer.content.decode()


def test_too_many_wrong_passwords_are_answered_in_words(olga: User) -> None:
    grant(olga)
    client = Client()
    for _ in range(settings.AXES_FAILURE_LIMIT):
        last = client.post("/sign-in/", {"username": "olga", "password": "wrong"})
    assert last.status_code == 429
    client.post("/language/", {"language": "en"})
    answer = client.post("/sign-in/", {"username": "olga", "password": PASSWORD})
    assert answer.status_code == 429
    assert "Too many wrong passwords. Wait 15 minutes" in text_of(answer)


def test_who_has_no_role_is_told_to_ask_for_one(olga: User) -> None:
    assert sign_in(Client()) == "403"


def test_of_several_roles_one_is_chosen_before_anything_else(olga: User) -> None:
    grant(olga)
    tenant = grant(olga, Role.TENANT_ADMINISTRATOR, Tenant.objects.create(name="acme"))
    client = Client()
    assert sign_in(client, next="/jobs/") == "/role/"
    assert client.get("/").headers["Location"] == "/role/"
    assert client.post("/role/", {"grant": tenant.pk}).headers["Location"] == "/jobs/"
    assert "Tenant administrator" in text_of(client.get("/"))
    assert client.get("/nodes/").status_code == 404


def test_a_chosen_role_can_be_remembered_and_changed(olga: User) -> None:
    administrator, reader = grant(olga), grant(olga, Role.READ_ONLY)
    client = Client()
    sign_in(client)
    client.post("/role/", {"grant": reader.pk, "always": "1"})
    client.post("/sign-out/")
    assert sign_in(client) == "/"
    assert "Read-only administrator" in text_of(client.get("/"))
    client.post("/role/", {"grant": administrator.pk})
    client.post("/sign-out/")
    assert sign_in(client) == "/role/"


def test_somebody_else_s_grant_is_not_taken(olga: User) -> None:
    grant(olga)
    grant(olga, Role.READ_ONLY)
    other = grant(User.objects.create_user("petr", PASSWORD))
    client = Client()
    sign_in(client)
    assert client.post("/role/", {"grant": other.pk}).status_code == 200
    assert client.get("/").headers["Location"] == "/role/"


def test_sign_out_is_a_post_and_ends_the_session(olga: User) -> None:
    grant(olga)
    client = Client()
    sign_in(client)
    assert client.get("/sign-out/").status_code == 405
    client.post("/sign-out/")
    assert client.get("/").headers["Location"] == "/sign-in/"


def test_the_panel_speaks_russian_unless_somebody_chose_english(db: None) -> None:
    client = Client(headers={"Accept-Language": "en-US,en"})
    assert 'lang="ru"' in client.get("/sign-in/").content.decode()
    client.post("/language/", {"language": "en"})
    assert 'lang="en"' in client.get("/sign-in/").content.decode()


def test_the_language_chosen_before_sign_in_is_kept_on_the_person(olga: User) -> None:
    grant(olga)
    client = Client()
    client.post("/language/", {"language": "ru"})
    sign_in(client)
    olga.refresh_from_db()
    assert olga.language == "ru"
    client.post("/language/", {"language": "en", "next": "/jobs/"})
    olga.refresh_from_db()
    assert olga.language == "en"
    assert 'lang="en"' in Client().get("/sign-in/").content.decode() or 'lang="en"' in client.get("/").content.decode()


def test_a_session_lasts_past_the_browser_only_when_it_is_to_be_remembered(olga: User) -> None:
    grant(olga)
    client = Client()
    sign_in(client)
    assert client.session.get_expire_at_browser_close()
    sign_in(client, remember="1")
    assert not client.session.get_expire_at_browser_close()


def test_a_form_without_its_key_is_refused_in_words(olga: User) -> None:
    answer = Client(enforce_csrf_checks=True).post("/sign-in/", {"username": "olga", "password": PASSWORD})
    assert answer.status_code == 403
    assert "text/html" in answer["Content-Type"]
