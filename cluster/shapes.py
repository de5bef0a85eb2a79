"""What is wrong with the shape of a value, in the reader's language: pydantic's own words are English only."""

from collections.abc import Mapping, Sequence
from typing import Any

from django.utils.translation import gettext as _
from pydantic import TypeAdapter, ValidationError

from .refusals import BadShape

WHOLE = "__all__"
"""The key of an error that belongs to no single field."""


def must_be(kind: Any, value: Any, path: str) -> Any:
    """The value as one of this kind. Raises :class:`BadShape`."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise BadShape({path: errors_of(error)[WHOLE]}) from None


def errors_of(error: ValidationError) -> dict[str, list[str]]:
    """field -> messages; a field inside another is named by its path with dots."""
    fields: dict[str, list[str]] = {}
    for one in error.errors(include_url=False, include_input=False):
        path = one["loc"]
        name = ".".join(str(part) for part in path) or WHOLE
        fields.setdefault(name, []).append(_say(one["type"], one.get("ctx") or {}, path) or one["msg"])
    return fields


def _say(kind: str, facts: Mapping[str, Any], path: Sequence[int | str]) -> str:
    """Empty where there is nothing better than pydantic's own words."""
    words = {
        "missing": _("is missing"),
        "extra_forbidden": _("is not known here"),
        "int_type": _("must be a whole number"),
        "int_parsing": _("must be a whole number"),
        "int_from_float": _("must be a whole number"),
        "decimal_type": _("must be a number"),
        "decimal_parsing": _("must be a number"),
        "decimal_max_places": _("must have at most %(decimal_places)s decimal places"),
        "string_type": _("must be text"),
        "bool_type": _("must be true or false"),
        "list_type": _("must be a list"),
        "dict_type": _("must be an object"),
        "model_type": _("must be an object"),
        "model_attributes_type": _("must be an object"),
        "greater_than_equal": _("must be at least %(ge)s"),
        "greater_than": _("must be greater than %(gt)s"),
        "less_than_equal": _("must be at most %(le)s"),
        "string_too_long": _("must have at most %(max_length)s characters"),
        "string_too_short": _("must have at least %(min_length)s characters"),
        "too_long": _("must have at most %(max_length)s entries"),
        "literal_error": _("must be one of %(expected)s"),
        "string_pattern_mismatch": _pattern(path[-1] if path else ""),
    }
    return words.get(kind, "") % facts


def _pattern(field: int | str) -> str:
    return {
        "name": _("must have 1 to 63 characters of a to z, 0 to 9 and -, with no - at its ends"),
        "hostname": _("must have 1 to 63 characters of a to z, 0 to 9 and -, with no - at its ends"),
        "mac": _("must be a MAC address in lower case, such as 52:54:00:12:34:56"),
        "address": _("must be an IPv4 address, such as 10.0.0.10"),
    }.get(str(field), _("has a character that is not possible here"))
