"""Which names are ours."""

import re

ID = re.compile(r"[a-z2-7]{13}")
_DOMAIN = re.compile(r"[a-z0-9-]{1,63}\.([a-z2-7]{13})")


def vm_of(domain_name: str) -> str | None:
    """The VM's id in the name of one of our domains, ``<name>.<id>``; None: it is not ours."""
    match = _DOMAIN.fullmatch(domain_name)
    return match[1] if match else None
