"""Bodies of requests: JSON that nothing behind it can choke on, or a refusal with a path to the fault."""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from rest_framework.exceptions import UnsupportedMediaType
from rest_framework.request import Request

from cluster.refusals import BadShape
from cluster.shapes import WHOLE, errors_of

from .errors import TooLarge

MAX_BODY_BYTES = 1 << 20
MAX_INT = (1 << 63) - 1


class Shape(BaseModel):
    """A body that is not an operation's parameters. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


S = TypeVar("S", bound=Shape)


def read(request: Request) -> Any:
    """The parsed body; ``{}`` for an empty one.

    Raises :class:`BadShape`, :class:`TooLarge`, :class:`UnsupportedMediaType`.
    """
    raw = _bytes_of(request)
    if not raw:
        return {}
    try:
        value = json.loads(raw, parse_constant=_no_constant)
    except RecursionError:
        raise BadShape({WHOLE: ["nested too deeply"]}) from None
    except ValueError as error:
        raise BadShape({WHOLE: [f"not JSON: {error}"]}) from None
    faults: dict[str, list[str]] = {}
    _look_for_faults(value, (), faults)
    if faults:
        raise BadShape(faults)
    return value


def parse(shape: type[S], value: Any) -> S:
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        raise BadShape(errors_of(error)) from None


def _bytes_of(request: Request) -> bytes:
    declared = request.headers.get("Content-Length") or "0"
    if not declared.isdigit():
        raise BadShape({WHOLE: ["bad Content-Length"]})
    if int(declared) > MAX_BODY_BYTES:
        raise TooLarge
    # Before reading: Django may have taken a form's body apart while it looked for a CSRF token.
    media_type = (request.content_type or "").split(";")[0].strip().lower()
    has_body = int(declared) > 0 or "Transfer-Encoding" in request.headers
    if has_body and media_type != "application/json":
        raise UnsupportedMediaType(media_type)
    raw: bytes = request._request.read(MAX_BODY_BYTES + 1)
    if len(raw) > MAX_BODY_BYTES:
        raise TooLarge
    return raw


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON value")


def _look_for_faults(value: Any, path: tuple[Any, ...], faults: dict[str, list[str]]) -> None:
    """What a database cannot store: NUL, half a surrogate pair, a number beyond its columns."""
    match value:
        case dict():
            for name, inner in value.items():
                # A name that cannot be stored cannot be printed either.
                inside = (*path, name.encode("ascii", "backslashreplace").decode())
                _look_for_faults(name, inside, faults)
                _look_for_faults(inner, inside, faults)
        case list():
            for position, inner in enumerate(value):
                _look_for_faults(inner, (*path, position), faults)
        case str() if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
            faults[_dotted(path)] = ["holds a character that cannot be stored"]
        case bool():
            pass
        case int() | float() if abs(value) > MAX_INT:
            faults[_dotted(path)] = [f"larger than {MAX_INT}"]


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in path) or WHOLE
