"""Who is asking: one answer for pages, API and sockets."""

from collections.abc import Callable, Mapping
from importlib import import_module

from django.conf import settings
from django.contrib.auth import get_user
from django.http import HttpRequest, HttpResponse, parse_cookie
from django.utils import timezone, translation

from cluster.models import Grant, Token, User
from cluster.permissions import Actor

GRANT_KEY = "grant"
"""Where a session keeps the id of the grant that its person chose."""

_LONGEST_TOKEN = 200


class ActorMiddleware:
    """Sets ``request.actor`` (None: anonymous) and answers in the actor's language.

    The API follows ``Accept-Language`` where a client sends one: it may speak for somebody else.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request.actor = actor = actor_of(request)  # type: ignore[attr-defined]
        chosen = request.path.startswith("/api/") and "Accept-Language" in request.headers
        if actor and not chosen:
            translation.activate(actor.user.language)
            request.LANGUAGE_CODE = translation.get_language()
        return self.get_response(request)


def actor_of(request: HttpRequest) -> Actor | None:
    """From the Bearer token, and only from it where there is one; otherwise from the session."""
    secret = bearer(request.headers)
    if secret is not None:
        return actor_of_token(secret)
    user = request.user
    return actor_of_user(user, request.session.get(GRANT_KEY)) if isinstance(user, User) else None


def actor_of_headers(headers: Mapping[str, str]) -> Actor | None:
    """The same for a connection that has passed no middleware: a socket. Names of ``headers`` are lower case."""
    secret = bearer(headers)
    if secret is not None:
        return actor_of_token(secret)
    request = HttpRequest()
    key = parse_cookie(headers.get("cookie", "")).get(settings.SESSION_COOKIE_NAME)
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(key)
    user = get_user(request)
    return actor_of_user(user, request.session.get(GRANT_KEY)) if isinstance(user, User) else None


def bearer(headers: Mapping[str, str]) -> str | None:
    """The secret of ``Authorization: Bearer <secret>``; None where there is no such header."""
    scheme, _, secret = (headers.get("authorization") or "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None


def actor_of_token(secret: str) -> Actor | None:
    if not secret or len(secret) > _LONGEST_TOKEN:
        return None
    # One by its unique hash, its expiry looked at here: what every call of a program begins with is to be short.
    tokens = Token.objects.select_related("grant__user", "grant__tenant").filter(sha256=Token.hash_of(secret))
    token = next(iter(tokens), None)
    if token is None or not token.grant.user.is_active or (token.expires and token.expires <= timezone.now()):
        return None
    return Actor(token.grant.user, token.grant)


def actor_of_user(user: User, grant_id: str | None) -> Actor | None:
    """With the chosen grant, or the first one; None for a person who has none."""
    grants = list(Grant.objects.select_related("tenant").filter(user=user).order_by("created", "pk"))
    chosen = [grant for grant in grants if grant.pk == grant_id] or grants
    return Actor(user, chosen[0]) if chosen else None
