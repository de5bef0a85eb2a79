"""Balancing: how full the nodes are, what a balance would move, what earlier ones have moved, and the clock."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_POST

from cluster import balance, balancing, operations, selectors
from cluster.models import Balancing
from cluster.operations import node_moves
from cluster.refusals import BadShape, NotKnown, Refused

from .answers import reasons_of
from .dialogs import Dialog, answer, ask
from .fields import Field, read
from .http import PageRequest, page, show
from .lines import actions_of

LAST = 5
OFTEN = {
    "": gettext_lazy("only when asked"),
    "60": gettext_lazy("each hour"),
    "360": gettext_lazy("every 6 hours"),
    "1440": gettext_lazy("once a day"),
}


@page
def balance_page(request: PageRequest) -> HttpResponse:
    actor = request.actor
    if not actor.may("see.nodes"):
        raise NotKnown("balances")
    prospect = balance.plan(balance.Options())
    nodes = [
        {"node": node, "before": points // 10, "after": prospect.after[node] // 10}
        for node, points in sorted(prospect.before.items(), key=lambda row: (-row[1], row[0].name))
    ]
    last = selectors.balances(actor)[:LAST]
    context = {
        "nodes": nodes,
        "moves": [move.said() for move in prospect.moves],
        "stays": node_moves.stays(move.intended for move in prospect.moves),
        "before": prospect.spread_before // 10,
        "after": prospect.spread_after // 10,
        "last": [{"balance": row, "actions": actions_of(actor, row, "balances")} for row in last],
        "wished": balancing.settings(),
    }
    return show(request, "balance/list.html", context)


@page
@require_POST
def balance_apply(request: PageRequest) -> HttpResponse:
    try:
        job = operations.start(request.actor, "balance.apply", {}).job
    except (Refused, BadShape) as refused:
        messages.error(request, reasons_of(refused))
        return redirect("balance")
    return redirect("job", job.pk)


@page
def balancing_edit(request: PageRequest) -> HttpResponse:
    request.actor.require("balance.apply")
    fields = _fields(balancing.settings())
    if request.method != "POST":
        hint = _("the panel looks by itself, and moves VMs only where it is worth it and nothing flaps")
        return ask(request, Dialog(_("Balancing by the clock"), hint), fields, reverse("balance"))

    def edit() -> None:
        typed = read(fields, request.POST)
        often = typed.pop("every_minutes", None)
        percent = typed.pop("threshold_percent")
        balancing.edit(
            request.actor,
            every_minutes=int(often) if often in OFTEN and often else None,
            threshold_points=percent * 10,
            **typed,
        )

    return answer(request, edit, reverse("balance"), "balance")


def _fields(wished: Balancing) -> list[Field]:
    often = str(wished.every_minutes or "")
    return [
        Field(
            "every_minutes",
            _("The panel balances"),
            "select",
            value=often,
            choices=[(k, str(v)) for k, v in OFTEN.items()],
        ),
        Field(
            "threshold_percent",
            _("Only from a difference of, %"),
            "number",
            value=str(wished.threshold_points // 10),
            required=True,
        ),
        Field("hold_minutes", _("That has lasted for, min"), "number", value=str(wished.hold_minutes), required=True),
        Field(
            "cooldown_minutes",
            _("A VM that has moved rests for, min"),
            "number",
            value=str(wished.cooldown_minutes),
            required=True,
        ),
        Field("most_moves", _("Moves at once, at most"), "number", value=str(wished.most_moves), required=True),
        Field(
            "copy_disks", _("VMs whose disks must be copied move too"), "check", value="1" if wished.copy_disks else ""
        ),
    ]
