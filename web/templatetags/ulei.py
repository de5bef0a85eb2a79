"""Words and small pictures that templates share: sizes, times, states, icons."""

from datetime import datetime, timedelta
from functools import cache
from typing import Any

from django import template
from django.conf import settings
from django.templatetags.static import static
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import get_language, gettext, pgettext

from cluster import drift
from cluster.models import BackupState, JobState, NodeState, PoolState, Role, SnapshotState, StepState, VmState
from cluster.os_catalogue import CATALOGUE
from cluster.permissions import Actor
from cluster.refusals import Refusal
from nodes.contract.sizes import GIB, KIB, MIB, format_exact, format_size
from web.pages import addresses
from web.pages.lines import Action
from web.pages.words import lock_name, said_in_english

register = template.Library()
register.filter("drift", drift.line_of)

LOOKS: dict[str, tuple[str, str]] = {
    # state -> colour and icon; the word beside them says the same
    VmState.RUNNING: ("green", "player-play"),
    VmState.STOPPED: ("secondary", "power"),
    VmState.PAUSED: ("yellow", "player-pause"),
    VmState.CREATING: ("blue", "loader-2"),
    VmState.STARTING: ("blue", "loader-2"),
    VmState.STOPPING: ("blue", "loader-2"),
    VmState.MIGRATING: ("blue", "loader-2"),
    VmState.DELETING: ("blue", "loader-2"),
    VmState.ERROR: ("red", "alert-triangle"),
    VmState.UNKNOWN: ("orange", "help-circle"),
    NodeState.ONLINE: ("green", "circle-check"),
    NodeState.OFFLINE: ("red", "plug-connected-x"),
    NodeState.MAINTENANCE: ("yellow", "tool"),
    PoolState.ACTIVE: ("green", "circle-check"),
    PoolState.ADDING: ("blue", "loader-2"),
    PoolState.OUT_OF_SERVICE: ("yellow", "player-pause"),
    PoolState.REMOVING: ("blue", "loader-2"),
    JobState.WAITING: ("secondary", "clock"),
    JobState.UNDOING: ("orange", "arrow-back-up"),
    JobState.CANCELLING: ("orange", "arrow-back-up"),
    JobState.SUCCEEDED: ("green", "circle-check"),
    JobState.FAILED: ("red", "circle-x"),
    JobState.CANCELLED: ("secondary", "ban"),
    JobState.STUCK: ("red", "alert-triangle"),
    StepState.PENDING: ("secondary", "circle-dashed"),
    StepState.DONE: ("green", "circle-check"),
    StepState.UNDONE: ("secondary", "arrow-back-up"),
    StepState.KEPT: ("secondary", "pin"),
    "started": ("blue", "player-play"),
    "refused": ("orange", "hand-stop"),
    "resolved": ("green", "circle-check"),
    "ok": ("green", "circle-check"),
    "warning": ("yellow", "alert-triangle"),
    "error": ("red", "circle-x"),
}
JOB_RUNNING = ("blue", "loader-2")
CHOICES = {
    "vm": VmState,
    "node": NodeState,
    "pool": PoolState,
    "job": JobState,
    "step": StepState,
    "snapshot": SnapshotState,
    "backup": BackupState,
}


@register.simple_tag
@cache
def icon(name: str, extra: str = "") -> SafeString:
    """A picture from the sprite; always beside a word, so hidden from screen readers."""
    return format_html(
        '<svg class="icon {}" aria-hidden="true" focusable="false"><use href="{}#{}"/></svg>',
        extra,
        static("vendor/icons.svg"),
        name,
    )


@register.simple_tag
def simulated() -> bool:
    """Whether this panel's nodes have no hypervisor."""
    return settings.INSTALLATION.simulated


def word_of(kind: str, state: str) -> str:
    """A state in the reader's language."""
    if kind in ("job", "step") and state == JobState.RUNNING:
        return pgettext("job", "running")
    choices = CHOICES.get(kind)
    if choices is not None and state in choices.values:
        return str(choices(state).label)
    return {
        "started": pgettext("journal", "started"),
        "refused": pgettext("journal", "refused"),
        "succeeded": pgettext("journal", "succeeded"),
        "failed": pgettext("journal", "failed"),
        "cancelled": pgettext("journal", "cancelled"),
        "stuck": pgettext("journal", "stuck"),
        "resolved": pgettext("journal", "resolved"),
        "done": pgettext("journal", "done"),
        "ok": gettext("in order"),
        "warning": gettext("warning"),
        "error": gettext("failure"),
    }.get(state, state)


@register.simple_tag
def word(value: str, kind: str = "journal") -> str:
    return word_of(kind, value)


@register.simple_tag
def remark(text: str) -> str:
    return said_in_english(text)


@register.simple_tag
def problem(kept: dict[str, Any], actor: Actor) -> str:
    """A refusal of a row in words, without what this person may not know of."""
    said = actor.may_hear([Refusal.from_kept(kept)])[0].said()
    return sentence(said["cause"])


@register.simple_tag
def lock(wait: dict[str, Any], job: dict[str, Any]) -> str:
    return lock_name(wait["lock"], job["subject"], job["subject_name"])


@register.simple_tag
def pool_kind(kind: str) -> str:
    """A kind of storage, as people call it."""
    return {
        "directory": gettext("folder"),
        "lvm": gettext("LVM"),
        "lvmthin": gettext("thin LVM"),
        "rbd": gettext("Ceph RBD"),
    }.get(kind, kind)


@register.simple_tag
def role_name(role: str) -> str:
    return str(Role(role).label) if role in Role.values else role


@register.simple_tag
def state(value: str, kind: str = "vm") -> SafeString:
    """Colour, picture and word of a state: never the colour alone."""
    return _state(value, kind, get_language() or "ru")


@cache
def _state(value: str, kind: str, language: str) -> SafeString:
    working = kind in ("job", "step") and value in (JobState.RUNNING, StepState.UNDOING)
    colour, picture = JOB_RUNNING if working else LOOKS.get(value, ("secondary", "info-circle"))
    turning = "turning" if picture == "loader-2" else ""
    return format_html(
        '<span class="state text-{}" data-state="{}">{}<span class="state-word">{}</span></span>',
        colour,
        value,
        icon(picture, turning),
        word_of(kind, value),
    )


@register.simple_tag
def address(route: str, pk: str) -> str:
    """As ``url``, for a page of one thing in a list of many."""
    return addresses.address(route, pk)


@register.simple_tag
def action(action: Action, noun: str, pk: str, name: str, look: str, wide: bool = False) -> SafeString:
    """One button: an operation that can be asked of this thing now, or why not.

    ``wide``: with its word; otherwise a picture, with the word for screen readers and as a tooltip. In Python, because
    a list has hundreds. A button stands in a form, or belongs to one.
    """
    word = format_html("<span>{}</span>", action.label) if wide else SafeString("")
    inside = icon(action.icon) + word
    label = named(action.label, name)
    if not action.allowed:
        return format_html(
            '<button type="button" class="{}" aria-disabled="true" data-why="{}" title="{}" aria-label="{}">'
            "{}</button>",
            look,
            action.why,
            f"{action.label}: {action.why}",
            label,
            inside,
        )
    title = f"{action.label}: {action.hint}" if action.hint else action.label
    path = addresses.address("operate", pk, noun=noun, name=action.code)
    if action.danger or action.asks:
        return format_html(
            '<a class="{}" href="{}" data-dialog title="{}" aria-label="{}">{}</a>',
            f"{look} is-danger" if action.danger else look,
            path,
            title,
            label,
            inside,
        )
    return format_html(
        '<button class="{}" formaction="{}" hx-post="{}" hx-swap="none" title="{}" aria-label="{}">{}</button>',
        f"{look} is-start" if action.code == "start" else look,
        path,
        path,
        title,
        label,
        inside,
    )


@register.filter
def path(value: str) -> SafeString:
    """A path, which breaks after its slashes rather than within a name."""
    return format_html_join(SafeString("/<wbr>"), "{}", ((part,) for part in value.split("/")))


@register.filter
def size(value: int | None) -> str:
    """``20 ГиБ``; a dash for nothing."""
    if value is None:
        return "—"
    return format_size(value, "en" if (get_language() or "ru").startswith("en") else "ru").replace(" ", "\u00a0")


@register.filter
def exact_size(value: int) -> str:
    """As it can be typed again, to the byte: ``1028 МиБ``."""
    return format_exact(value, "en" if (get_language() or "ru").startswith("en") else "ru")


@register.filter
def size2(value: int) -> str:
    """With two decimals at least, so that a rounded size can be told from the asked one: ``20,00 ГиБ``."""
    text = str(size(value))
    number, _, unit = text.partition("\u00a0")
    mark = "," if "," in number or not (get_language() or "ru").startswith("en") else "."
    whole, _, decimals = number.partition(mark)
    return f"{whole}{mark}{decimals.ljust(2, '0')}\u00a0{unit}"


@register.filter
def share(part: int, whole: int) -> int:
    """Percent, for a bar."""
    return min(100, max(0, part * 100 // whole)) if whole else 0


@register.simple_tag
def moment(value: datetime | None) -> SafeString | str:
    """A time; the browser shows it in its own zone."""
    if value is None:
        return "—"
    utc = value.astimezone(timezone.get_default_timezone())
    return format_html('<time datetime="{}" data-local>{}</time>', utc.isoformat(), utc.strftime("%d.%m.%Y %H:%M UTC"))


@register.simple_tag
def lasted(started: datetime | None, finished: datetime | None) -> str:
    """How long it took, or takes by now."""
    if started is None:
        return ""
    return duration((finished or timezone.now()) - started)


def duration(span: timedelta) -> str:
    exact_s = max(0.0, span.total_seconds())
    seconds = int(exact_s)
    if seconds < 10:
        return gettext("%(s)s s") % {"s": number_format(exact_s, decimal_pos=1)}
    if seconds < 60:
        return gettext("%(s)d s") % {"s": seconds}
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return gettext("%(m)d min %(s)d s") % {"m": minutes, "s": seconds}
    hours, minutes = divmod(minutes, 60)
    return gettext("%(h)d h %(m)d min") % {"h": hours, "m": minutes}


@register.filter
def os_name(code: str) -> str:
    known = CATALOGUE.get(code)
    return known.name(get_language() or "ru") if known else code


@register.filter
def sentence(text: Any) -> str:
    """With a capital letter, except where it begins with a name: ``node-1`` is not ``Node-1``."""
    words = str(text)
    first = words.split(" ", 1)[0]
    return words[:1].upper() + words[1:] if first.rstrip(",.:;").isalpha() else words


@register.filter
def may(actor: Actor | None, action: str) -> bool:
    """For links to pages that a role does not have; the rule itself is asked again behind the link."""
    return actor is not None and actor.may(action)


@register.filter
def named(label: Any, name: str) -> str:
    """An accessible name of a button in a row: what it does and to whom."""
    return f"{label}: {name}"


@register.simple_tag(takes_context=True)
def slot(context: Any, form: Any, *parts: str) -> SafeString:
    """Where a field's errors stand. In the answer to a check each is sent again, to be put into its place."""
    name = "-".join(parts)
    return format_html(
        '<p class="field-error" id="e-{}"{}>{}</p>',
        name,
        SafeString(' hx-swap-oob="true"') if context.get("answer") else "",
        " ".join(form.errors.get(name, ())),
    )


@register.simple_tag(takes_context=True)
def query(context: Any, **changes: Any) -> str:
    """The query string of this page with some parameters changed; an empty one goes away."""
    parameters = context["request"].GET.copy()
    for name, value in changes.items():
        parameters.pop(name, None)
        if value not in ("", None):
            parameters[name] = value
    return "?" + parameters.urlencode() if parameters else context["request"].path


@register.simple_tag
def move_facts(facts: dict[str, int]) -> str:
    """How far a move is, in words: what is left, how fast it goes, how fast the guest changes its memory."""
    left = [
        (facts.get("memory_left_bytes"), gettext("%(size)s of memory left")),
        (facts.get("disk_left_bytes"), gettext("%(size)s of disks left")),
        (facts.get("speed_bytes"), gettext("%(size)s a second")),
        (facts.get("dirty_bytes"), gettext("the guest changes %(size)s a second")),
    ]
    words = [text % {"size": size(value)} for value, text in left if value]
    if "left_s" in facts:
        words.append(gettext("about %(seconds)s s more") % {"seconds": facts["left_s"]})
    return " · ".join(words)


def _about(value: int) -> str:
    """In whole units, of what is measured and not counted."""
    unit = next((unit for unit in (GIB, MIB, KIB) if value >= 10 * unit), 1)
    return size(value // unit * unit)


@register.simple_tag
def forecast_facts(seen: dict[str, Any]) -> str:
    """What a forecast was made from, in words."""
    words = [gettext("%(size)s of memory") % {"size": _about(seen["memory_bytes"])}]
    if seen["disk_bytes"]:
        words.append(gettext("%(size)s of disks") % {"size": _about(seen["disk_bytes"])})
    if seen["dirty_bytes"]:
        words.append(gettext("the guest changes %(size)s a second") % {"size": _about(seen["dirty_bytes"])})
    words.append(gettext("the link takes %(size)s a second") % {"size": _about(seen["bandwidth_bytes"])})
    return " · ".join(words)


@register.simple_tag
def way_of_move(way: str) -> str:
    return {
        "live": gettext("As it runs"),
        "auto_converge": gettext("Slowed down"),
        "post_copy": gettext("Post-copy"),
        "paused": gettext("Paused"),
    }[way]


@register.simple_tag
def about_s(milliseconds: int) -> str:
    """About how long: nobody wants to know it to the millisecond."""
    if milliseconds < 950:
        return gettext("%(ms)d ms") % {"ms": round(milliseconds, -1)}
    return duration(timedelta(milliseconds=milliseconds))


@register.simple_tag
def about(seconds: int) -> str:
    return gettext("about %(time)s") % {"time": duration(timedelta(seconds=seconds))}
