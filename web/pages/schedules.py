"""Schedules of a VM: a dialog to add one, a button to end one."""

from typing import Any

from django.http import HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_POST

from cluster import schedules, selectors
from cluster.models import Repeated, Vm
from cluster.permissions import Actor
from cluster.refusals import NotKnown

from .answers import told
from .dialogs import Dialog, answer, ask
from .fields import Field, pools_of
from .http import PageRequest, is_fragment, page

HOUR, DAY, WEEK = 1, 24, 168


LABELS = {
    Repeated.SNAPSHOT: gettext_lazy("Snapshots by schedule"),
    Repeated.BACKUP: gettext_lazy("Backups by schedule"),
}


@page
def schedule_add(request: PageRequest, pk: str, action: str) -> HttpResponse:
    if action not in Repeated.values:
        raise NotKnown(action)
    vm = selectors.get(selectors.vms(request.actor).select_related("node"), pk)
    request.actor.require(f"vm.{action}")
    fields = _fields(request.actor, vm, action)
    home = reverse("vm", args=[pk])
    if request.method != "POST":
        hint = _("the oldest one goes when there is one more than are kept")
        return ask(request, Dialog(LABELS[Repeated(action)], hint, "calendar-plus"), fields, home, vm)
    typed: dict[str, Any] = {}
    for field in fields:
        typed |= field.read(request.POST)
    pool = selectors.get(selectors.pools(request.actor), typed["pool"]) if typed.get("pool") else None

    def add() -> None:
        every_hours = _whole(typed.get("every_hours"), schedules.MOST_HOURS, DAY)
        keep = _whole(typed.get("keep"), schedules.MOST_KEPT, 7)
        schedules.add(request.actor, vm, Repeated(action), every_hours, keep, pool, None)

    return answer(request, add, home, f"vm:{pk}")


@page
@require_POST
def schedule_remove(request: PageRequest, pk: str) -> HttpResponse:
    schedule = selectors.get(selectors.schedules(request.actor), pk)
    schedules.remove(request.actor, schedule)
    if is_fragment(request):
        return told(refresh=f"vm:{schedule.vm_id}")
    return redirect("vm", schedule.vm_id)


def _fields(actor: Actor, vm: Vm, action: str) -> list[Field]:
    often = [(str(HOUR), _("every hour")), (str(DAY), _("every day")), (str(WEEK), _("every week"))]
    kept = [(str(count), str(count)) for count in (1, 3, 7, 14, 30)]
    fields = [
        Field("every_hours", _("How often"), "select", value=str(DAY), choices=often, required=True),
        Field("keep", _("How many are kept"), "select", value="7", choices=kept, required=True),
    ]
    return [*fields, *pools_of(actor, vm)] if action == Repeated.BACKUP else fields


def _whole(typed: Any, most: int, otherwise: int) -> int:
    return min(most, int(typed)) if str(typed).isdigit() and int(typed) > 0 else otherwise
