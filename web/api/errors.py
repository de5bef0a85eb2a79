"""Every error as ``application/problem+json`` (RFC 9457) with ``code``, ``title``, ``detail`` and ``hint``.

Of several reasons for an error the first of 401, 404, 403, 400, 409, 507, 422 is the status.
"""

import logging
from typing import Any

from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.core.exceptions import SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.utils.translation import gettext as _
from rest_framework import exceptions as drf
from rest_framework.response import Response

from cluster.refusals import BadShape, Forbidden, NotKnown, Refusal, Refused

log = logging.getLogger(__name__)

PROBLEM = "application/problem+json"
DATABASE_AWAY = (OperationalError, InterfaceError)
"""What the database's driver raises when it cannot be reached, or has gone in the middle."""
Body = dict[str, Any]
Answer = tuple[int, Body, dict[str, str]]


def problem(exc: Exception, context: Any) -> Response:
    """Django REST framework's exception handler."""
    status, body, headers = answer_to(exc)
    # DRF has put the challenge of the authentication class here, for the exceptions that are its own.
    challenge = getattr(exc, "auth_header", None)
    if challenge:
        headers["WWW-Authenticate"] = challenge
    response = Response(body, status, headers=headers, content_type=PROBLEM)
    if status >= 500 and status != 507:
        if status == 500:
            log.error("%s %s", context["request"].method, context["request"].path, exc_info=exc)
        # Django would write a second line about the same answer.
        response._has_been_logged = True  # type: ignore[attr-defined]
    return response


def answer_to(exc: Exception) -> Answer:
    """``(status, body, headers)``; anything unforeseen is a 500 without particulars."""
    match exc:
        case drf.NotAuthenticated():
            return _say(401, "not_signed_in", _("You are not signed in."), _("Sign in, or send a valid token."))
        case drf.AuthenticationFailed():
            return _say(401, "token_unknown", _("This token is not valid."), _("Use another token, or make a new one."))
        case NotKnown() | Http404() | drf.NotFound():
            return _say(404, "not_found", _("There is no such thing."), _("Check the address."))
        case Forbidden(refusal=refusal):
            return _refused(403, [refusal])
        case drf.PermissionDenied() | DjangoPermissionDenied():
            return _say(
                403, "csrf_failed", _("The CSRF token is missing or wrong."), _("Reload the page and try again.")
            )
        case BadShape(errors=errors):
            return _bad_shape(errors)
        case Refused(status=status, refusals=refusals, job=job):
            return _refused(status, list(refusals), refusals=True, job=job)
        case drf.MethodNotAllowed():
            return _say(405, "method_not_allowed", _("This address does not take that method."), _("See the schema."))
        case drf.UnsupportedMediaType():
            return _say(415, "media_type", _("The body is not JSON."), _("Send Content-Type: application/json."))
        case TooLarge():
            return _say(413, "body_too_large", _("The body is too large."), _("Send less."))
        case drf.Throttled():
            return too_many(int(getattr(exc, "wait", None) or 1))
        case drf.APIException(status_code=status) if status < 500:
            return _say(status, "bad_request", _("The request is malformed."), "")
        case SuspiciousOperation():
            return _say(400, "bad_request", _("The request is malformed."), "")
        case OperationalError() | InterfaceError():
            log.warning("the database does not answer: %s", exc)
            # It may have gone between a commit and its answer.
            hint = _("Try again in a moment; look first whether what you asked for was done.")
            return _say(503, "database_unavailable", _("The database does not answer."), hint, **{"Retry-After": "5"})
        case _:
            return _say(500, "internal", _("An error inside the panel."), _("Its cause is in the panel's log."))


def too_many(seconds: int) -> Answer:
    hint = _("Wait %(seconds)s s.") % {"seconds": seconds}
    return _say(429, "too_many_requests", _("Too many requests."), hint, **{"Retry-After": str(seconds)})


class TooLarge(Exception):
    """The body is larger than anything that makes sense."""


def _say(status: int, code: str, title: str, hint: str, **headers: str) -> Answer:
    return status, {"code": code, "status": status, "title": title, "detail": title, "hint": hint}, headers


def _bad_shape(errors: dict[str, list[str]]) -> Answer:
    status, body, headers = _say(
        400, "bad_request", _("The request is malformed."), _("See “errors”: what is wrong with each field.")
    )
    detail = "; ".join(f"{name}: {' '.join(messages)}" for name, messages in errors.items())
    return status, {**body, "detail": detail, "errors": errors}, headers


def _refused(status: int, reasons: list[Refusal], *, refusals: bool = False, job: str | None = None) -> Answer:
    said = [reason.said() for reason in reasons]
    first = next((words for words, reason in zip(said, reasons, strict=True) if reason.status == status), said[0])
    body: Body = {
        "code": first["code"],
        "status": status,
        "title": first["cause"],
        "detail": "; ".join(words["cause"] for words in said),
        "hint": first["hint"],
    }
    if refusals:
        body["refusals"] = said
        body["job"] = job
    return status, body, {}


def django_problem(request: HttpRequest, exc: Exception) -> HttpResponse:
    """The same answer where the request never reached a view of the API: from Django's own handlers."""
    status, body, headers = answer_to(exc)
    return JsonResponse(body, status=status, headers=headers, content_type=PROBLEM)
