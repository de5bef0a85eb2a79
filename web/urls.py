"""Every address of the panel. What Django itself refuses is said as JSON to clients of the API."""

import logging
import sys
from typing import Any

from django.core.exceptions import SuspiciousOperation
from django.http import Http404, HttpRequest, HttpResponse
from django.template import loader
from django.urls import include, path
from django.views import defaults

from web.api import health
from web.api.errors import DATABASE_AWAY, django_problem

log = logging.getLogger(__name__)

urlpatterns = [
    path("api/v1/", include("web.api.urls")),
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    path("metrics", health.metrics),
    path("", include("web.pages.urls")),
]


def _is_api(request: HttpRequest) -> bool:
    return request.path.startswith("/api/")


def handler400(request: HttpRequest, exception: Exception) -> HttpResponse:
    if _is_api(request):
        return django_problem(request, SuspiciousOperation())
    return defaults.bad_request(request, exception)


def handler404(request: HttpRequest, exception: Exception) -> HttpResponse:
    if _is_api(request):
        return django_problem(request, Http404())
    return defaults.page_not_found(request, exception)


def handler500(request: HttpRequest, *args: Any) -> HttpResponse:
    # Django calls this while it handles the exception, and passes nothing of it. Of a database that is away the
    # middleware hears first: the session and the token are in it.
    cause = sys.exc_info()[1]
    if isinstance(cause, DATABASE_AWAY):
        return _database_away(request, cause)
    if _is_api(request):
        return django_problem(request, Exception())
    return defaults.server_error(request)


def _database_away(request: HttpRequest, cause: Exception) -> HttpResponse:
    if _is_api(request):
        response = django_problem(request, cause)
    else:
        log.warning("the database does not answer: %s", cause)
        response = HttpResponse(loader.render_to_string("503.html"), status=503, headers={"Retry-After": "5"})
    # Django would write an ERROR with a traceback for every request of this time.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response
