"""Why something is not done: a code and facts, said in the reader's language when it is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from . import texts

_PLACES = frozenset({"node", "there", "node_group", "pool", "bridge", "best", "clones"})
"""Also names of other VMs, of which not everybody may know."""


@dataclass(frozen=True)
class Refusal:
    """One reason. ``status`` is the HTTP status it leads to: 409 state, 507 no room, 422 the rest.

    ``cause`` and ``hint`` are a node's own English words, used where :mod:`cluster.texts` has none for the code.
    """

    code: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    field: str | None = None
    status: int = 422
    cause: str = ""
    hint: str = ""

    def said(self) -> dict[str, str]:
        """``{"code", "cause", "hint", "field"?}`` in the active language."""
        cause, hint = texts.say(self.code, self.facts)
        if cause and self.cause and not self.facts:
            cause = f"{cause} ({self.cause})"
        words = {"code": self.code, "cause": cause or self.cause or self.code, "hint": hint or self.hint}
        if self.field:
            words["field"] = self.field
        return words

    def without_places(self) -> "Refusal":
        """As a tenant may hear it, who knows of no nodes and pools; a node's own words are full of both."""
        facts = {name: "—" if name in _PLACES else value for name, value in self.facts.items()}
        return replace(self, facts=facts, cause="", hint="")

    def kept(self) -> dict[str, Any]:
        """For a row: language-free."""
        return {"code": self.code, "facts": dict(self.facts), "cause": self.cause, "hint": self.hint}

    @classmethod
    def from_kept(cls, kept: Mapping[str, Any]) -> "Refusal":
        return cls(kept["code"], kept.get("facts") or {}, cause=kept.get("cause") or "", hint=kept.get("hint") or "")


class Refused(Exception):
    """Carries the whole list, never only the first."""

    def __init__(self, *refusals: Refusal, job: str | None = None) -> None:
        super().__init__(", ".join(r.code for r in refusals))
        self.refusals = refusals
        self.job = job
        """The job in the way, where there is one."""

    def in_words(self) -> str:
        """Every reason with its code and what to do, for a command line."""
        said = [refusal.said() for refusal in self.refusals]
        return "\n".join(f"{one['code']}: {one['cause']}\n  {one['hint']}" for one in said)

    @property
    def status(self) -> int:
        """409 before 507 before 422 (design 8: one status, in this order)."""
        statuses = {r.status for r in self.refusals}
        return next(s for s in (409, 507, 422) if s in statuses)


class NotKnown(Exception):
    """There is no such thing, or the actor may not know of it: the two look alike."""


class Forbidden(Exception):
    """The actor sees the thing but may not do this."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


class BadShape(Exception):
    """The request itself is malformed: field -> messages."""

    def __init__(self, errors: dict[str, list[str]]) -> None:
        super().__init__(str(errors))
        self.errors = errors
