"""Which grant is in force is kept in the session; which one a person wants always, in a cookie of this browser."""

from collections.abc import Sequence

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from cluster.models import Grant
from web.actor import GRANT_KEY

CHOOSING = "choosing"
"""Signed in, but which of several grants is not said yet: every page leads to the choice."""
COOKIE = f"ulei_grant_{settings.INSTALLATION.port}"


def choose_grant(request: HttpRequest, grant: Grant) -> None:
    request.session.cycle_key()
    request.session[GRANT_KEY] = grant.pk
    request.session.pop(CHOOSING, None)


def remembered_grant(request: HttpRequest, grants: Sequence[Grant]) -> Grant | None:
    """Only a hint: a grant that this person does not have is not found here."""
    wanted = request.COOKIES.get(COOKIE)
    return next((g for g in grants if g.pk == wanted), None)


def remember_grant(response: HttpResponse, grant: Grant | None) -> None:
    if grant is None:
        response.delete_cookie(COOKIE)
        return
    response.set_cookie(
        COOKIE,
        grant.pk,
        max_age=365 * 24 * 3600,
        httponly=True,
        samesite="Lax",
        secure=settings.SESSION_COOKIE_SECURE,
    )
