"""How an operation is declared: parameters, locks, refusals and a table of steps with undo."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints

from cluster.refusals import Refusal
from nodes.contract.messages import Message

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise

    from cluster.models import Job
    from cluster.permissions import Actor

    Text = str | _StrPromise


class Params(BaseModel):
    """Parameters of an operation. Unknown ones are refused, and so is text where a number belongs."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Id = Annotated[str, StringConstraints(min_length=1, max_length=40)]
"""Of a thing that a parameter names; whether there is such a thing is asked later."""


class NoParams(Params):
    """Of an operation that asks for nothing."""


P = TypeVar("P", bound=Params)


@dataclass(frozen=True)
class Call:
    """A verb to be sent to a node."""

    node: str
    message: Message


class WaitForClick:
    """The step goes on when a person says so (``POST jobs/<id>/proceed/``)."""


@dataclass(frozen=True)
class Children:
    """The step ends when these jobs have ended (``cluster.operations.start_child`` makes them).

    Each child keeps its own undo and shares its ancestors' locks; a cancel of the parent passes down.
    """

    jobs: Sequence[str]


@dataclass(frozen=True)
class NoUndo:
    """Instead of an undo: the written reason why none is needed."""

    reason: "Text"


@dataclass(frozen=True)
class LockName:
    name: str
    exclusive: bool = True


Verdict = Literal["done", "not_done", "wait", "unclear"]


@dataclass(frozen=True)
class Settle:
    """How a step in doubt is looked at: the read-only questions, and what their answers say.

    ``ask(context, key)`` returns the questions in the order in which they must be asked; ``verdict(context, results)``
    gets as many results as there were questions, None for a node that is silent.
    """

    ask: "Callable[[Context[Any], str], Sequence[Call]]"
    verdict: "Callable[[Context[Any], Sequence[Any]], Verdict]"
    bears_out: "Callable[[Context[Any], str, Sequence[Any]], bool] | None" = None
    """Where silence is no evidence: whether what answers proves an administrator's ``done`` or ``undone``."""


Do = Callable[["Context[Any]", str], "Call | WaitForClick | Children | None"]


@dataclass(frozen=True)
class Step:
    """One line of the table.

    ``do`` and ``undo`` get the context and the key; they act in the panel's transaction or return a :class:`Call`
    (``do`` also a :class:`WaitForClick` or :class:`Children`).
    Both may be run again at any time and must not mind. ``after`` stores a reply's result in the same transaction.
    An undo is run for the failed step too, which may have half happened.
    """

    name: str
    label: "Text"
    do: Do
    undo: Do | NoUndo
    each: "Callable[[Context[Any]], Sequence[str]] | None" = None
    after: "Callable[[Context[Any], str, Any], None] | None" = None
    pivot: bool = False
    """After it a failure no longer unwinds: the job retries forward."""
    settle: Settle | None = None
    beside: bool = False
    """May be under way together with the step before it, of whose outcome it needs nothing."""
    tolerant: bool = False
    """Of a step with children: it is done when they have ended, however they did."""
    without: "Callable[[Context[Any], str, Refusal], bool] | None" = None
    """Past the pivot: whether the job goes on without what a node certainly refused. The step is done then, and keeps
    the words of the refusal."""
    undone_by: tuple[str, ...] = ()
    """Codes of a node's refusals of the undo that say: what stands there is not ours, so nothing is to be undone."""

    def __post_init__(self) -> None:
        if self.pivot and self.settle is None:
            raise ValueError(f"the pivot {self.name} must say how doubt about it is settled")
        if self.pivot and self.beside:
            raise ValueError(f"the pivot {self.name} must wait for all that may still fail")


@dataclass
class Context(Generic[P]):
    """What step functions get. ``data`` is the only way from one step to a later one; it is a row, so JSON."""

    job: "Job"
    params: P
    data: dict[str, Any]

    @property
    def subject_id(self) -> str:
        return self.job.subject.split(":", 1)[1]


@dataclass
class Plan:
    """What would be done, computed before the transaction: the answer to a dry run."""

    refusals: list[Refusal] = field(default_factory=list)
    quote: dict[str, Any] = field(default_factory=lambda: {"disks": [], "price": None})
    placement: dict[str, Any] | None = None
    moves: list[dict[str, Any]] | None = None
    """Of an operation on many VMs: what would be done with each."""
    targets: list[dict[str, Any]] | None = None
    """Of a move: every node, and what is against it."""
    stays: list[dict[str, Any]] | None = None
    """Of what copies disks: the room that their old volumes keep for a while (``cluster.operations.trash.stays``)."""
    data: dict[str, Any] = field(default_factory=dict)
    """Becomes the job's data."""
    choose: Callable[[], dict[str, Any]] | None = None
    """Asked in the transaction that reserves: what of the data is otherwise by now. Raises :class:`Lost`."""


class Lost(Exception):
    """A conditional UPDATE of ``begin`` changed no row: plan again."""


class Operation(Generic[P]):
    """Base of every operation: one subclass, one file in ``cluster/operations``.

    The class body is read from top to bottom: what it is called, its parameters, ``plan`` (refusals, placement,
    quote), ``begin`` (rows and reservations, in the transaction that makes the job), ``locks``, ``steps``.
    """

    code: ClassVar[str]
    """``vm.start``; the part after the dot is the name in the URL and in the CLI."""
    noun: ClassVar[str]
    """What it is asked of: ``vms``; the endpoint is ``POST /api/v1/<noun>/<id>/<name>/``."""
    label: ClassVar["Text"]
    hint: ClassVar["Text"] = ""
    icon: ClassVar[str] = "player-play"
    danger: ClassVar[bool] = False
    dialog: ClassVar[bool] = False
    """Its button asks first, although nothing must be said."""
    button: ClassVar[bool] = True
    """False: another one's dialog offers it."""
    creates: ClassVar[bool] = False
    """Asked of the collection (``POST /api/v1/<noun>/``), not of a thing that exists."""
    makes: ClassVar[str] = ""
    """The noun of what ``begin`` returns, where that is not its own."""
    secret: ClassVar[tuple[str, ...]] = ()
    """Dotted paths of parameters that are encrypted in the row and never shown."""
    Params: ClassVar[type[Params]]
    steps: ClassVar[tuple[Step, ...]]

    registry: ClassVar[dict[str, type["Operation[Any]"]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "code" in cls.__dict__:
            Operation.registry[cls.code] = cls

    @classmethod
    def name(cls) -> str:
        return cls.code.split(".", 1)[1]

    @classmethod
    def obstacles(cls, target: Any) -> list[Refusal]:
        """State rules that need no parameters: why a button of this target is disabled now."""
        return []

    @classmethod
    def plan(cls, actor: "Actor", target: Any, params: P) -> Plan:
        """Refusals as a whole list, quote and placement. Reads only."""
        return Plan()

    @classmethod
    def begin(cls, actor: "Actor", target: Any, params: P, plan: Plan) -> Any:
        """Make rows and reservations, in the transaction of the job; returns the subject.

        Raises :class:`Lost` when a reservation no longer fits, :class:`cluster.refusals.Refused` when it never will.
        """
        return target

    @classmethod
    def locks(cls, context: Context[P]) -> Sequence[LockName]:
        raise NotImplementedError

    @classmethod
    def recheck(cls, context: Context[P]) -> list[Refusal]:
        """State rules, asked again when the job gets its locks: the world may have changed since it was planned."""
        raise NotImplementedError

    @classmethod
    def step(cls, name: str) -> Step | None:
        return next((s for s in cls.steps if s.name == name), None)


def done(context: Context[Any], key: str) -> None:
    """A ``do`` whose work was done by ``begin``, in the transaction that made the job."""
