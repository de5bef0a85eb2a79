"""Words for what comes as a code or as plain English: the journal's small actions, a node's own remarks."""

import re

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from cluster.models import AffinityGroup


def word_of_action(action: str) -> str:
    """A journal line's action for people; one that is not known here is shown by its code."""
    return {
        "vm.edit": _("Change a VM"),
        "vm.moved_by_hand": _("A VM was moved by hand"),
        "vm.restart_priority": _("Change the priority of a VM"),
        "node.add": _("Add a node"),
        "node.token": _("New join command"),
        "node.enrol": _("A node joined"),
        "panel.restore": _("The panel was put back from a backup"),
        "network.add": _("Add a network"),
        "image.add": _("Upload an image or an ISO"),
        "node.edit": _("Change a node"),
        "balancing.edit": _("Change balancing by the clock"),
        "node_group.add": _("Add a group of nodes"),
        "node_group.edit": _("Change a group of nodes"),
        "node_group.remove": _("Remove a group of nodes"),
        "affinity_group.add": _("Add a group of VMs"),
        "affinity_group.edit": _("Change a group of VMs"),
        "affinity_group.remove": _("Remove a group of VMs"),
        "pool.edit": _("Change a pool"),
        "image.edit": _("Change an image"),
        "job.cancel": _("Cancel a job"),
        "job.proceed": _("Let a job proceed"),
        "job.retry": _("Try a job again"),
        "job.resolve": _("Resolve a job"),
        "job.priority": _("Change a job's priority"),
    }.get(action, action)


REMARKS = frozenset(
    {
        # nodes/probe.py
        gettext_noop("/dev/kvm is missing: no KVM in this kernel, or switched off in the firmware"),
        gettext_noop("no kernel in /boot, or no QEMU, to try KVM with"),
    }
)


def said_in_english(text: str) -> str:
    """A remark that a node keeps in English, in the reader's language where it is a known one."""
    booted = re.fullmatch(r"a probe guest booted in ([\d.]+) s", text)
    if booted:
        return _("a probe guest booted in %(seconds)s s") % {"seconds": booted[1]}
    return _(text) if text in REMARKS else text


def lock_name(lock: str, job_subject: str, name: str) -> str:
    """What a job waits for, as people call it: ``vm:<id>`` is the VM's name where the job is about it."""
    kind, _colon, pk = lock.partition(":")
    kinds = {
        "vm": _("VM %(name)s"),
        "node": _("node %(name)s"),
        "disk": _("disk %(name)s"),
        "image": _("image %(name)s"),
        "iso": _("ISO %(name)s"),
        "pool": _("pool %(name)s"),
        "demo": _("the demo on %(name)s"),
        "lane": _("the moves from a node, of which only some run at once"),
        "maintenance": _("the maintenance of node %(name)s"),
        "balancing": _("a balance of the nodes"),
    }
    pk = pk.partition(".")[0]
    known = name if lock == job_subject or pk == job_subject.partition(":")[2] else pk
    return kinds[kind] % {"name": known} if kind in kinds else lock


def rule_of(group: AffinityGroup) -> str:
    """``web: apart, strictly``"""
    how = _("%(policy)s, strictly") if group.hard else _("%(policy)s, as far as it goes")
    return f"{group.name}: {how % {'policy': group.get_policy_display()}}"
