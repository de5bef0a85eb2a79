"""What every page shares: who may open it, in which language, whole or as a fragment."""

from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import translation
from django.utils.cache import add_never_cache_headers, patch_vary_headers
from django.utils.http import url_has_allowed_host_and_scheme

from cluster.permissions import Actor
from cluster.refusals import Forbidden, NotKnown

from .session import CHOOSING

View = Callable[..., HttpResponse]


class PageRequest(HttpRequest):
    """What a view gets: the middleware has added the person and htmx's headers."""

    actor: Actor
    htmx: Any


def page(view: View) -> View:
    """A page for people who are signed in. What they may not know is 404, what they may not do is said as 403."""

    @wraps(view)
    def wrapped(request: PageRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        speak(request)
        if request.actor is None:
            return to_sign_in(request)
        if CHOOSING in request.session:
            return redirect("role")
        try:
            response = view(request, *args, **kwargs)
        except NotKnown as unknown:
            raise Http404(str(unknown)) from None
        except Forbidden as forbidden:
            response = render(request, "403.html", {"reason": forbidden.refusal.said()}, status=403)
        add_never_cache_headers(response)
        return response

    return wrapped


def public(view: View) -> View:
    """A page that needs nobody: sign-in and what belongs to it."""

    @wraps(view)
    def wrapped(request: PageRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        speak(request)
        response = view(request, *args, **kwargs)
        add_never_cache_headers(response)
        return response

    return wrapped


def speak(request: HttpRequest) -> None:
    """The person's own language, else the one chosen in this browser, else the installation's.

    The browser's Accept-Language is not asked: the panel speaks Russian unless somebody chose otherwise.
    """
    known = dict(settings.LANGUAGES)
    actor = getattr(request, "actor", None)
    chosen = actor.user.language if actor else request.COOKIES.get(settings.LANGUAGE_COOKIE_NAME, "")
    language = chosen if chosen in known else settings.LANGUAGE_CODE
    translation.activate(language)
    request.LANGUAGE_CODE = language


def is_fragment(request: PageRequest) -> bool:
    return bool(request.htmx) and not request.htmx.history_restore_request and not request.htmx.boosted


def show(
    request: PageRequest, template: str, context: dict[str, Any], *, status: int = 200, fragment: str = ""
) -> HttpResponse:
    """``vms/list.html`` whole, or for htmx only its changing part, ``vms/_list.html``."""
    if is_fragment(request):
        folder, _, name = template.rpartition("/")
        template = fragment or f"{folder}/_{name}"
    response = render(request, template, context, status=status)
    patch_vary_headers(response, ["HX-Request"])
    return response


def to_sign_in(request: PageRequest) -> HttpResponse:
    """A fragment cannot be redirected: its page is told to go there as a whole."""
    if is_fragment(request):
        response = HttpResponse(status=401)
        response["HX-Redirect"] = reverse("sign-in")
        return response
    path = request.get_full_path()
    query = "" if request.method != "GET" or path == "/" else "?" + urlencode({"next": path})
    return redirect(reverse("sign-in") + query)


def next_of(request: HttpRequest) -> str:
    """Where to go after sign-in: only to this panel."""
    asked = request.POST.get("next") or request.GET.get("next") or ""
    safe = url_has_allowed_host_and_scheme(asked, allowed_hosts={request.get_host()}, require_https=request.is_secure())
    return asked if safe else reverse("vms")
