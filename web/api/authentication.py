"""The actor that :mod:`web.actor` found, as Django REST framework wants to see it."""

from typing import TYPE_CHECKING

from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication, CSRFCheck
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from cluster.models import User
from cluster.permissions import Actor
from web.actor import bearer

if TYPE_CHECKING:
    from rest_framework.views import APIView


class ActorAuthentication(BaseAuthentication):
    """``request.auth`` is the actor. A session needs the CSRF token for unsafe methods, a Bearer token does not."""

    def authenticate(self, request: Request) -> tuple[User, Actor] | None:
        actor: Actor | None = request._request.actor  # type: ignore[attr-defined]
        with_token = bearer(request.headers) is not None
        if actor is None:
            if with_token:
                raise AuthenticationFailed(code="token_unknown")
            return None
        if not with_token:
            _require_csrf(request._request)
        return actor.user, actor

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="ulei"'


def _require_csrf(request: HttpRequest) -> None:
    check = CSRFCheck(lambda _: None)  # type: ignore[arg-type]
    check.process_request(request)
    reason = check.process_view(request, None, (), {})  # type: ignore[arg-type]
    if reason:
        raise PermissionDenied(str(reason), code="csrf_failed")


class IsSignedIn(BasePermission):
    def has_permission(self, request: Request, view: "APIView") -> bool:
        return request.auth is not None
