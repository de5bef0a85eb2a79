"""Changes on their way to browsers: small frames after commit, to groups of people who may see them.

A frame is ``{"topic", "type", "id", "version", ...}``: no HTML, no secrets. ``topic`` is filled in by the socket,
which knows what its person subscribed to.
"""

import logging
import queue
import threading
from collections.abc import Iterable
from typing import Any

import redis
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import transaction

from .models import Job, Node, Pool, Step, Vm

log = logging.getLogger(__name__)

EPOCH_GROUP = "epoch"
MOST_AT_ONCE = 1000
_REDIS_TIMEOUT_S = 2.0


def group(kind: str, scope: str = "all") -> str:
    """Name of a channel group: ``vms.all``, ``vms.tenant-<id>``, ``vms.user-<id>-<tenant>``.

    Whoever wants to hear of one thing alone joins the group of all that they may see, and leaves the rest unsaid: a
    group for each thing would have a message for each, mostly for nobody.
    """
    return f"{kind}.{scope}"


def person(user_id: str, tenant_id: str | None) -> str:
    """Scope of a self-service user: in one tenant, for a person may have grants in several."""
    return f"user-{user_id}-{tenant_id}"


def vm_changed(vm: Vm, kind: str = "changed") -> None:
    vms_changed([(vm.pk, vm.version, vm.state, vm.tenant_id, vm.owner_id)], kind)


def vms_changed(rows: Iterable[tuple[str, int, str, str, str]], kind: str = "changed") -> None:
    """Each (id, version, state, tenant, owner)."""
    frames: list[tuple[str, dict[str, Any]]] = []
    for pk, version, state, tenant, owner in rows:
        frame = {"type": kind, "id": pk, "version": version, "state": state}
        frames += ((group("vms", scope), frame) for scope in ("all", f"tenant-{tenant}", person(owner, tenant)))
    publish(frames)


def node_changed(node: Node, kind: str = "changed") -> None:
    frame = {"type": kind, "id": node.pk, "version": node.version, "state": node.state}
    publish([(group("nodes"), frame)])


def pool_changed(pool: Pool, kind: str = "changed") -> None:
    frame = {"type": kind, "id": pool.pk, "version": pool.version, "state": pool.state}
    publish([(group("pools"), frame)])


def job_changed(job: Job, steps: Iterable[Step] = ()) -> None:
    frame = {
        "type": "changed",
        "id": job.pk,
        "version": job.version,
        "state": job.state,
        "operation": job.operation,
        "subject": job.subject,
        "progress": progress_of(job, steps),
    }
    publish((name, frame) for name in _job_groups(job))


def job_progress(job: Job, steps: Iterable[Step]) -> None:
    frame = {"type": "progress", "id": job.pk, "version": job.version, "progress": progress_of(job, steps)}
    publish((name, frame) for name in _job_groups(job))


def _job_groups(job: Job) -> list[str]:
    """A tenant's people see its jobs; a self-service user their own, and those about their VMs."""
    scopes = {"all"}
    if job.tenant_id:
        kind, _colon, pk = job.subject.partition(":")
        owner = Vm.objects.filter(pk=pk).values_list("owner_id", flat=True).first() if kind == "vm" else None
        scopes |= {f"tenant-{job.tenant_id}"}
        scopes |= {person(user, job.tenant_id) for user in (job.user_id, owner) if user}
    return [group("jobs", scope) for scope in sorted(scopes)]


def progress_of(job: Job, steps: Iterable[Step]) -> int:
    """0 to 100 over the steps, each of the same weight; going back, it shrinks."""
    if job.state == "succeeded":
        return 100
    rows = list(steps)
    return sum(100 if s.state == "done" else s.progress * (s.state == "running") for s in rows) // max(1, len(rows))


def publish(frames: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Send these, each to its group, after the transaction has committed.

    A lost frame is repaired by the next epoch or the next change.
    """
    told = list(frames)
    transaction.on_commit(lambda: _send(told))


def new_epoch(epoch: str) -> None:
    """Each start of a conductor: sockets forget what they know and pages fetch again."""
    _send([(EPOCH_GROUP, {"type": "epoch", "epoch": epoch})])


def _send(frames: list[tuple[str, dict[str, Any]]]) -> None:
    _PUBLISHER.put(frames)


class _Publisher:
    """Sends whatever waits at a moment by one pipeline, a message a group: a thousand VMs may change in a second.

    What the channel layer would send, one awaited command a group. Source of the format: channels_redis.pubsub.
    """

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._clients: dict[str, redis.Redis] = {}

    def put(self, frames: Iterable[tuple[str, dict[str, Any]]]) -> None:
        for frame in frames:
            self._waiting.put(frame)
        with self._lock:
            if self._thread is None or not self._thread.is_alive():  # a fork leaves threads behind
                self._thread = threading.Thread(target=self._run, name="events", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while len(batch) < MOST_AT_ONCE and not self._waiting.empty():
                batch.append(self._waiting.get())
            try:
                self._publish(batch)
            except Exception as error:  # noqa: BLE001 an event is never worth a failed transaction
                log.warning("%d frames were not published: %r", len(batch), error)

    def _publish(self, batch: list[tuple[str, dict[str, Any]]]) -> None:
        layer = get_channel_layer()
        configuration: dict[str, Any] = settings.CHANNEL_LAYERS["default"]["CONFIG"]  # type: ignore[assignment]
        url = configuration["hosts"][0]["address"]
        if url not in self._clients:
            self._clients[url] = redis.Redis.from_url(
                url, socket_timeout=_REDIS_TIMEOUT_S, socket_connect_timeout=_REDIS_TIMEOUT_S
            )
        frames: dict[str, list[dict[str, Any]]] = {}
        for name, frame in batch:
            frames.setdefault(name, []).append(frame)
        client = self._clients[url]
        prefix = f"{configuration['prefix']}__group__"
        # Nobody there: nothing to write. Whoever joins now fetches after that, and the rows are stored.
        sockets = client.pubsub_numsub(*(prefix + name for name in frames))
        heard = [name for name, (_channel, count) in zip(frames, sockets, strict=True) if count]
        with client.pipeline(transaction=False) as pipe:
            for name in heard:
                # The layer does not tell a socket through which of its groups a message came.
                message = {"type": "frames", "group": name, "frames": frames[name]}
                pipe.publish(prefix + name, layer.serialize(message))
            pipe.execute()


_PUBLISHER = _Publisher()
