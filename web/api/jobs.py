"""Words of people to a job: they start no job, and are answered with the job itself."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from rest_framework.request import Request
from rest_framework.response import Response

from cluster import job_words, selectors
from cluster.job_views import job_view
from cluster.models import Job
from cluster.permissions import Actor
from cluster.refusals import BadShape, Refused

from . import bodies, queries, serializers
from .operations import JOB_ADDRESS
from .schema import Described, body_of
from .views import ApiView


class Nothing(bodies.Shape):
    pass


class Resolve(bodies.Shape):
    outcome: Literal["done", "undone"]
    note: Annotated[str, Field(min_length=1, max_length=2000)]
    node: Annotated[str, Field(max_length=63)] | None = None
    """The name of a silent node, typed to confirm."""


class Priority(bodies.Shape):
    priority: Annotated[int, Field(ge=-100, le=100)]


@dataclass(frozen=True)
class Word:
    code: str
    summary: str
    shape: type[bodies.Shape]
    say: Callable[[Actor, Job, Any], Job]


WORDS = [
    Word("cancel", "Put everything back", Nothing, lambda actor, job, _: job_words.cancel(actor, job)),
    Word("proceed", "The click that a step waits for", Nothing, lambda actor, job, _: job_words.proceed(actor, job)),
    Word("retry", "Let a stuck job try again", Nothing, lambda actor, job, _: job_words.retry(actor, job)),
    Word(
        "resolve",
        "An administrator's word for a job that cannot go on",
        Resolve,
        lambda actor, job, said: job_words.resolve(actor, job, said.outcome, said.note, said.node),
    ),
    Word(
        "priority",
        "Change the place in the line",
        Priority,
        lambda actor, job, said: job_words.set_priority(actor, job, said.priority),
    ),
]


class JobWordView(ApiView):
    """``POST /api/v1/jobs/<id>/<word>/``"""

    word: Word = WORDS[0]

    def post(self, request: Request, pk: str) -> Response:
        job = selectors.get(selectors.jobs(self.actor).prefetch_related(None), pk)
        try:
            queries.only(request.query_params)
            said = bodies.parse(self.word.shape, bodies.read(request))
        except BadShape:
            self._require_right(job)
            raise
        told = self.word.say(self.actor, job, said)
        told = selectors.get(selectors.jobs(self.actor), told.pk)
        return Response(job_view(self.actor, told), 202, headers={"Location": JOB_ADDRESS.format(told.pk)})

    def _require_right(self, job: Job) -> None:
        """403 comes before 400, but what else is in the way comes after it."""
        with contextlib.suppress(Refused):
            job_words.JOB_CHECKS[self.word.code](self.actor, job)

    def describe(self, method: str) -> Described:
        return Described(
            f"job_{self.word.code}",
            self.word.summary,
            serializers.JobSerializer,
            status=202,
            body=body_of(self.word.shape, f"job.{self.word.code}"),
        )
