"""Dialogs that are no operation: they ask a few things, and a service takes the answer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render

from cluster.refusals import BadShape, Refused

from .answers import reasons_of, told
from .fields import Field
from .http import PageRequest, is_fragment


@dataclass(frozen=True)
class Dialog:
    """What it calls itself."""

    label: Any
    hint: Any = ""
    icon: str = "check"
    danger: bool = False
    code: str = ""


def ask(request: PageRequest, dialog: Dialog, fields: list[Field], home: str, target: Any = None) -> HttpResponse:
    context = {"operation": dialog, "target": target, "fields": fields, "home": home}
    return render(request, "parts/_confirm.html" if is_fragment(request) else "parts/confirm.html", context)


def answer(request: PageRequest, call: Callable[[], object], home: str, about: str, done: str = "") -> HttpResponse:
    """Do it, and fetch anew what is about that; or say why not.

    :param home: where one goes whose browser runs no scripts.
    :param done: what is said of a success that shows nothing of itself.
    """
    try:
        call()
    except (Refused, BadShape) as refused:
        if is_fragment(request):
            return told(reasons_of(refused), level="error", refresh=about)
        messages.error(request, reasons_of(refused))
        return redirect(home)
    return told(done, refresh=about) if is_fragment(request) else redirect(home)
