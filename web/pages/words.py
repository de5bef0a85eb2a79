"""Words for what is no operation of its own: the journal's small actions."""

from django.utils.translation import gettext as _


def word_of_action(action: str) -> str:
    """A journal line's action for people; one that is not known here is shown by its code."""
    return {
        "vm.edit": _("Change a VM"),
        "node.add": _("Add a node"),
        "node.token": _("New join command"),
        "node.enrol": _("A node joined"),
        "network.add": _("Add a network"),
        "image.edit": _("Change an image"),
        "job.cancel": _("Cancel a job"),
        "job.proceed": _("Let a job proceed"),
        "job.retry": _("Try a job again"),
        "job.resolve": _("Resolve a job"),
        "job.priority": _("Change a job's priority"),
    }.get(action, action)
