"""Locks as rows, taken all at once, by most jobs as they are made; a lock never refuses, it only makes a job wait."""

from collections.abc import Iterable, Sequence
from typing import Any

from django.db import connection
from django.db.models import Q, QuerySet

from cluster.models import Job, JobState, Lock

from .steps import LockName

_ADVISORY_LOCK = 0x756C6569  # "ulei"


def serialise() -> None:
    """Let one transaction at a time look at the lock rows and change them; ends with the transaction.

    On SQLite every writing transaction is IMMEDIATE and so alone anyway.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_ADVISORY_LOCK])


def ask(job: Job, names: Iterable[LockName], *, held: bool = False) -> None:
    """Write down what the job will need: its place in the line. Children share what their ancestors hold."""
    ordered = sorted(set(names), key=lambda n: n.name)
    Lock.objects.bulk_create(Lock(name=n.name, exclusive=n.exclusive, job=job, held=held) for n in ordered)


def are_free(job: Job, names: Sequence[LockName]) -> bool:
    """Whether a job that has no rows yet may have these at once: nobody holds or awaits one of them in its way."""
    others = Lock.objects.filter(name__in=[n.name for n in names])
    return not (others.exists() and in_the_way(job, names).exists())


def in_the_way(job: Job, names: Iterable[LockName] | None = None) -> QuerySet[Lock]:
    """Rows of other jobs that come before ``job``: held, or awaited with a higher priority or from an earlier time.

    With ``names`` (for a job that has no rows yet): everything that holds or awaits one of them.
    """
    wanted = [(n.name, n.exclusive) for n in names] if names is not None else list(
        job.locks.values_list("name", "exclusive")
    )  # fmt: skip
    exclusive = [name for name, alone in wanted if alone]
    shared = [name for name, alone in wanted if not alone]
    conflict = Q(name__in=exclusive) | Q(name__in=shared, exclusive=True)
    others = Lock.objects.filter(conflict).exclude(job_id__in=_families([job])[job.pk])
    if names is None:
        earlier = Q(job__priority__gt=job.priority) | Q(job__priority=job.priority) & (
            Q(job__created__lt=job.created) | Q(job__created=job.created, job_id__lt=job.pk)
        )
        others = others.filter(Q(held=True) | earlier)
    return others.order_by("-held", "-job__priority", "job__created", "job_id")


def _families(jobs: Iterable[Job]) -> dict[str, list[str]]:
    """Job's id -> itself and its ancestors, in one query for a generation of all of them.

    What ancestors hold is shared with their children; two children of one parent still wait for each other.
    """
    found = {job.pk: [job.pk] for job in jobs}
    parents = {job.pk: job.parent_id for job in jobs}
    while unread := {parent for parent in parents.values() if parent and parent not in parents}:
        parents |= dict.fromkeys(unread) | dict(Job.objects.filter(pk__in=unread).values_list("pk", "parent_id"))
    for family in found.values():
        while parent := parents[family[-1]]:
            family.append(parent)
    return found


def acquire(job: Job) -> bool:
    """Take all locks of a waiting job, or none. Call inside a transaction."""
    serialise()
    if in_the_way(job).exists():
        return False
    job.locks.update(held=True)
    return True


def release(job: Job) -> tuple[list[str], list[str]]:
    """Let go; returns the names, and the ids of jobs that may now have got their turn."""
    mine = Lock.objects.filter(job=job)
    lines = Lock.objects.filter(name__in=mine.values("name")).order_by("-job__priority", "job__created", "job_id")
    rows = list(lines.values_list("name", "job_id", "job__state"))
    mine.delete()
    waiting = dict.fromkeys(pk for _name, pk, state in rows if state == JobState.WAITING)
    return [name for name, pk, _state in rows if pk == job.pk], list(waiting)


def waits_for(jobs: Iterable[Job]) -> dict[str, list[dict[str, Any]]]:
    """Job's id -> for each lock that it misses: whose job is in the way, and its place in the line (1 = next).

    One query for any number of jobs, and one for each generation of their ancestors.
    """
    waiting = [job for job in jobs if job.state == JobState.WAITING]
    asked = Lock.objects.filter(job__in=waiting)
    others = list(Lock.objects.filter(name__in=asked.values("name")).select_related("job")) if waiting else []
    others.sort(key=lambda lock: (not lock.held, *_turn(lock.job)))
    found: dict[str, list[dict[str, Any]]] = {job.pk: [] for job in waiting}
    families = _families(waiting)
    for job in waiting:
        related = families[job.pk]
        for mine in (lock for lock in others if lock.job_id == job.pk):
            ahead = [
                lock
                for lock in others
                if lock.name == mine.name
                and lock.job_id not in related
                and (lock.exclusive or mine.exclusive)
                and (lock.held or _turn(lock.job) < _turn(job))
            ]
            if ahead:
                place = 1 + sum(not lock.held for lock in ahead)
                found[job.pk].append({"lock": mine.name, "job": ahead[0].job_id, "place": place})
    return found


def _turn(job: Job) -> tuple[Any, ...]:
    """Jobs in the order in which they get what they wait for."""
    return -job.priority, job.created, job.pk
