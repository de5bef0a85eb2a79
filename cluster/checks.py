"""A node's preflight in people's words: each line's text and what to do, by its code and level."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.translation import get_language
from django.utils.translation import gettext as _

from nodes.contract.sizes import format_size

from .models import Node

Facts = Mapping[str, Any]
WORST_FIRST = ("error", "warning", "ok")


@dataclass(frozen=True)
class Line:
    code: str
    level: str
    title: str
    text: str
    advice: str


def lines_of(node: Node) -> list[Line]:
    """The lines in the order in which the node tells them."""
    return [_line(check) for check in node.checks]


def worst_of(node: Node) -> str:
    """The level that a list shows for a whole node; empty before the first check."""
    levels = {check["level"] for check in node.checks}
    return next((level for level in WORST_FIRST if level in levels), "")


def said(check: Mapping[str, Any]) -> str:
    """One check in one breath: what it is, what was found, what to do."""
    return in_one_breath(_line(check))


def in_one_breath(line: Line) -> str:
    return ". ".join(part.rstrip(".") for part in (f"{line.title}: {line.text}", line.advice) if part)


def _line(check: Mapping[str, Any]) -> Line:
    code, level, facts = check["code"], check["level"], check.get("facts") or {}
    try:
        title, text, advice = SAY[code](facts, level == "ok")
    except (LookupError, TypeError, ValueError, ArithmeticError):
        # Of another version, or a node that lies: one odd line must not break the list of all nodes.
        plain = ", ".join(f"{name}: {value}" for name, value in facts.items())
        return Line(code, level, code, plain, "")
    return Line(code, level, title, text, "" if level == "ok" else advice)


def _size(value: Any) -> str:
    return format_size(int(value or 0), "en" if (get_language() or "ru").startswith("en") else "ru")


Said = tuple[str, str, str]


def _cpu(facts: Facts, ok: bool) -> Said:
    return (
        _("CPU virtualisation instructions"),
        _("found: %(flags)s") % {"flags": facts.get("flags")} if ok else _("neither VT-x (vmx) nor AMD-V (svm)"),
        _("Switch virtualisation on in the machine's firmware (BIOS/UEFI); guests run slowly without it."),
    )


def _kvm(facts: Facts, ok: bool) -> Said:
    if facts.get("type") == "test":
        return _("KVM"), _("simulated: libvirt's test driver has no guests"), ""
    return (
        _("KVM"),
        _("a probe guest boots under KVM")
        if ok
        else _("guests run under software emulation (TCG): %(reason)s") % {"reason": facts.get("reason") or "—"},
        _("Load the modules kvm and kvm_intel or kvm_amd and look at /dev/kvm; guests are many times slower without."),
    )


def _memory(facts: Facts, ok: bool) -> Said:
    return (
        _("Memory"),
        _size(facts.get("bytes")),
        _("At least %(least)s is needed to be of use: add memory.") % {"least": _size(facts.get("least_bytes"))},
    )


def _pool(facts: Facts, ok: bool) -> Said:
    return (
        _("Image folder"),
        _("%(path)s is fit for disks") % facts if ok else str(facts.get("cause") or ""),
        _("Mount a file system with user xattrs (ext4, xfs) there, and give the folder to root."),
    )


def _space(facts: Facts, ok: bool) -> Said:
    return (
        _("Disk space"),
        _("%(free)s free in %(path)s") % {"free": _size(facts.get("free_bytes")), "path": facts.get("path")},
        _("Free some space or mount a larger disk: less than %(least)s is left.")
        % {"least": _size(facts.get("least_bytes"))},
    )


def _ssd(facts: Facts, ok: bool) -> Said:
    rotational = facts.get("rotational")
    return (
        _("SSD"),
        _("a spinning disk") if rotational else _("not spinning") if rotational is False else _("the node cannot tell"),
        _("Guests wait for spinning disks: put the image folder on an SSD."),
    )


def _version(title: str) -> Callable[[Facts, bool], Said]:
    def say(facts: Facts, ok: bool) -> Said:
        return (
            title,
            str(facts.get("version") or _("not found")),
            _("Version %(oldest)s or newer is needed: update the packages of the node.")
            % {"oldest": facts.get("oldest")},
        )

    return say


def _bridges(facts: Facts, ok: bool) -> Said:
    return (
        _("Bridges"),
        str(facts.get("bridges") or _("none")),
        _("Make a bridge (for example br0) with the uplink in it: guests have no network without one."),
    )


def _host_uuid(facts: Facts, ok: bool) -> Said:
    return (
        _("Unique host UUID"),
        str(facts.get("uuid") or "—"),
        _("Set host_uuid in /etc/libvirt/libvirtd.conf to the output of uuidgen: migration needs different ones."),
    )


def _names(facts: Facts, ok: bool) -> Said:
    return (
        _("Names of the other nodes"),
        _("all resolve") if ok else _("do not resolve: %(names)s") % facts,
        _("Add them to /etc/hosts or to DNS: a migration hangs on a name that nobody knows."),
    )


def _clock(facts: Facts, ok: bool) -> Said:
    return (
        _("Clock"),
        _("differs from the panel's by %(seconds)s s") % {"seconds": facts.get("skew_s", facts.get("seconds", "?"))},
        _("Switch on time synchronisation (systemd-timesyncd or chrony) on the node."),
    )


def _unknown_guests(facts: Facts, ok: bool) -> Said:
    return (
        _("Guests that the panel does not know"),
        _("%(count)s: %(names)s") % facts,
        _(
            "Made since the backup from which the panel was put back, or left behind. They stay as they are, and "
            "nobody else gets their addresses. Look at them on the node."
        ),
    )


def _ports(facts: Facts, ok: bool) -> Said:
    if ok:
        text = _("libvirt listens, the ports are free")
    elif not facts.get("libvirt_tls"):
        text = _("libvirt does not listen on port 16514")
    else:
        text = _("taken: %(taken)s") % facts
    return (
        _("Migration ports"),
        text,
        _("Start libvirtd-tls.socket and keep the ports 49152 to 49215 free; migration needs both."),
    )


def _guestfs(facts: Facts, ok: bool) -> Said:
    lacks = _("no kernel in /boot") if facts.get("lacks") == "kernel" else _("python3-guestfs is missing")
    return (
        _("Generalising images"),
        _("libguestfs is there") if ok else lacks,
        _("Install python3-guestfs and a kernel, or make images on this node without generalising them."),
    )


def _self_fenced(facts: Facts, ok: bool) -> Said:
    return (
        _("Self-fencing"),
        _("the node did not hear the panel and ended its guests itself: %(names)s") % {"names": facts.get("names")},
        _("Look at what cut it off, then start them, or stop them for good."),
    )


SAY: dict[str, Callable[[Facts, bool], Said]] = {
    "cpu_virtualisation": _cpu,
    "kvm": _kvm,
    "memory": _memory,
    "pool_xattr": _pool,
    "disk_space": _space,
    "ssd": _ssd,
    "libvirt_version": _version("libvirt"),
    "qemu_version": _version("QEMU"),
    "bridges": _bridges,
    "host_uuid": _host_uuid,
    "names_resolve": _names,
    "clock": _clock,
    "clock_skew": _clock,
    "migration_ports": _ports,
    "unknown_guests": _unknown_guests,
    "guestfs": _guestfs,
    "self_fenced": _self_fenced,
}
