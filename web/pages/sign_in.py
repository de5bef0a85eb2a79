"""Sign-in, the choice of a role, sign-out and the language."""

from django.conf import settings
from django.contrib.auth import authenticate, login, logout
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils import translation
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from cluster.models import Grant, User

from .http import PageRequest, next_of, public
from .session import CHOOSING, choose_grant, remember_grant, remembered_grant

REMEMBER_S = 30 * 24 * 3600


@public
@sensitive_post_parameters("password")
def sign_in(request: PageRequest) -> HttpResponse:
    if request.method != "POST":
        if request.actor is not None:
            return redirect(next_of(request))
        return _form(request)
    name = request.POST.get("username", "").strip()
    user = authenticate(request, username=name, password=request.POST.get("password", ""))
    if getattr(request, "axes_locked_out", False):
        # axes would answer with a page of its own, in English; the same is said here in the form's words.
        request.axes_locked_out = False  # type: ignore[attr-defined]
        return _form(request, _locked_out(), status=429)
    if not isinstance(user, User):
        return _form(request, _("The name or the password is wrong."), status=422)
    grants = list(user.grants.select_related("tenant"))
    if not grants:
        return _form(request, _("You have no role yet: ask an administrator to give you one."), status=403)
    switched = request.session.get("language")
    login(request, user)
    request.session.set_expiry(REMEMBER_S if request.POST.get("remember") else 0)
    if switched and switched != user.language:
        User.objects.filter(pk=user.pk).update(language=switched)
        user.language = switched
    known = remembered_grant(request, grants)
    if len(grants) == 1 or known:
        choose_grant(request, known or grants[0])
        return _with_language(redirect(next_of(request)), user.language)
    request.session[CHOOSING] = next_of(request)
    return _with_language(redirect("role"), user.language)


def _form(request: PageRequest, error: str = "", status: int = 200) -> HttpResponse:
    context = {
        "error": error,
        "username": request.POST.get("username", ""),
        "remember": request.method != "POST" or bool(request.POST.get("remember")),
        "next": request.POST.get("next") or request.GET.get("next") or "",
    }
    return render(request, "sign_in/sign_in.html", context, status=status)


def _locked_out() -> str:
    minutes = max(1, round(settings.AXES_COOLOFF_TIME * 60))
    return ngettext(
        "Too many wrong passwords. Wait %(minutes)d minute, then try again.",
        "Too many wrong passwords. Wait %(minutes)d minutes, then try again.",
        minutes,
    ) % {"minutes": minutes}


@public
def role(request: PageRequest) -> HttpResponse:
    """Which of several grants is in force from now on."""
    if not request.user.is_authenticated:
        return redirect("sign-in")
    grants = list(Grant.objects.filter(user=request.user.pk).select_related("tenant").order_by("role", "pk"))
    if request.method == "POST":
        chosen = next((g for g in grants if g.pk == request.POST.get("grant")), None)
        if chosen:
            target = request.session.get(CHOOSING) or "/"
            choose_grant(request, chosen)
            response = redirect(target)
            remember_grant(response, chosen if request.POST.get("always") else None)
            return response
    now = request.actor.grant.pk if request.actor and CHOOSING not in request.session else None
    context = {"grants": grants, "now": now, "always": bool(remembered_grant(request, grants))}
    return render(request, "sign_in/role.html", context)


@public
@require_POST
def sign_out(request: PageRequest) -> HttpResponse:
    logout(request)
    return redirect("sign-in")


@public
@require_POST
def language(request: PageRequest) -> HttpResponse:
    """Kept on the person; before sign-in in the browser, and on the person who signs in next there."""
    chosen = request.POST.get("language", "")
    if chosen not in dict(settings.LANGUAGES):
        return redirect(next_of(request))
    if request.actor is not None:
        User.objects.filter(pk=request.actor.user.pk).update(language=chosen)
    else:
        request.session["language"] = chosen
    return _with_language(redirect(next_of(request)), chosen)


def _with_language(response: HttpResponse, chosen: str) -> HttpResponse:
    translation.activate(chosen)
    response.set_cookie(
        settings.LANGUAGE_COOKIE_NAME,
        chosen,
        max_age=365 * 24 * 3600,
        samesite="Lax",
        secure=settings.SESSION_COOKIE_SECURE,
    )
    return response
