"""How a page says what came of a click: a short notice, and which parts of the page to fetch again."""

import json

from django.http import HttpResponse
from django.utils.translation import gettext as _

from cluster.refusals import BadShape, Refused


def told(text: str = "", *, level: str = "info", link: str = "", refresh: str = "", status: int = 200) -> HttpResponse:
    """An answer to htmx that swaps nothing: the script shows the notice and refetches what is about ``refresh``."""
    response = HttpResponse(status=status)
    response["HX-Reswap"] = "none"
    events: dict[str, object] = {}
    if text:
        events["ulei:notice"] = {"text": text, "level": level, "link": link}
    if refresh:
        events["ulei:refresh"] = {"about": refresh}
    response["HX-Trigger"] = json.dumps(events)
    return response


def reasons_of(refused: Refused | BadShape) -> str:
    """Every reason and what to do about it, as sentences."""
    if isinstance(refused, BadShape):
        return _("The panel did not understand this: %(fields)s.") % {"fields": ", ".join(refused.errors)}
    sentences = []
    for refusal in refused.refusals:
        said = refusal.said()
        sentences += [said["cause"], said["hint"]]
    return " ".join(s[:1].upper() + s[1:] + "." for s in sentences if s)
