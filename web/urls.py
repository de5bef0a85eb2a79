"""Every address of the panel. What Django itself refuses is said as JSON to clients of the API."""

from typing import Any

from django.core.exceptions import SuspiciousOperation
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import include, path
from django.views import defaults

from web.api import health
from web.api.errors import django_problem

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
    if _is_api(request):
        return django_problem(request, Exception())
    return defaults.server_error(request)
