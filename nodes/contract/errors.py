"""Failures that cross the wire."""

from pydantic import BaseModel, ConfigDict


class ErrorInfo(BaseModel):
    """What went wrong, for machines (``code``) and people (``cause``: the thing and the place, ``hint``: the way out).

    ``certain`` is the most important field of the contract: only a node that *knows* that the verb did not
    happen (and will not happen later) says True. Everything else is doubt, and doubt is never failure.
    """

    model_config = ConfigDict(frozen=True)

    code: str
    cause: str
    hint: str = ""
    retryable: bool = False
    certain: bool = True
    facts: dict[str, str | int | float] = {}
    """Values for the panel's text of this code in the reader's language; ``cause`` is the English fallback."""


class NodeError(Exception):
    """Raised by a verb; travels as :class:`ErrorInfo` in the reply."""

    def __init__(
        self,
        code: str,
        cause: str,
        hint: str = "",
        *,
        retryable: bool = False,
        certain: bool = True,
        **facts: str | int | float,
    ) -> None:
        super().__init__(f"{code}: {cause}")
        self.info = ErrorInfo(code=code, cause=cause, hint=hint, retryable=retryable, certain=certain, facts=facts)
