"""The conductor: reads every node's stream, advances jobs, sends what the rows say is to be sent.

One thread, one loop. All that it knows beyond the rows are positions and timers, which a restart may lose.
"""

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from django.db import InterfaceError, OperationalError, close_old_connections, connection, transaction
from django.utils import timezone
from pydantic import ValidationError

from nodes.contract import messages
from nodes.contract.faults import point
from nodes.contract.messages import Envelope, Heartbeat, Hello, NodeInspect, Progress, Welcome
from nodes.contract.wire import OFFLINE_AFTER_S, PANEL_WAKE, events_stream, node_of_stream

from . import balancing, events, hearing, reconcile, returning, schedules, services, trash, uploads
from .broker import Broker, Entries, Unreachable
from .busy import Busy
from .domain_specs import inspection, pool_spec
from .hearing import Said
from .models import Job, JobState, Look, Node, NodeState, Step, StreamCursor, Vm
from .operations.node_self_fencing import after_s
from .saga import dispatch, engine

log = logging.getLogger(__name__)

TICK_S = 1.0
SWEEP_S = 5.0
RESEND_FIRST_S, RESEND_MOST_S = 10.0, 60.0
RETRY_AFTER_ERROR_S = 1.0
PROGRESS_EVERY_S = 0.5
FORGET_EVERY_S = 3600.0
GATHER_S, AT_ONCE_S = 0.01, 0.002
CROWDED, FEW = 5, 64
"""Reports alone, a few at a time, in so many turns that each found the next ones there: then those of a moment are
taken together, for a transaction each is a core's work at a thousand a second."""
ANNOUNCE_FOR_S = 60.0
"""How long a new epoch is told again with each sweep: sockets lost their Redis too, and come back in their own time."""


class Conductor:
    def __init__(self, broker: Broker | None = None) -> None:
        self.broker = broker or Broker()
        self.epoch = ""
        self.run_id = ""
        self.nodes: dict[str, Node] = {}
        self.positions: dict[str, str] = {}
        """Where the next XREAD of a stream begins. The cursor in its row may be behind: heartbeats do not move it."""
        self.busy = Busy()
        self.heard: dict[str, float] = {}
        """Monotonic time of the last word of a node. At the start: now."""
        self.skew_s: dict[str, float] = {}
        self.timers: dict[tuple[Any, ...], tuple[float, float]] = {}
        """What was sent -> (when it is sent again, interval)."""
        self.woken: deque[str] = deque()
        self.shown: dict[str, float] = {}
        self.overlooked: dict[str, int] = {}
        """VMs that were shown while their jobs ran -> the agent's counter at that time."""
        self.paused: dict[str, float] = {}
        """Streams whose last batch could not be stored -> when to try again."""
        self._crowded = 0
        self._tick_at = self._sweep_at = self._announce_until = self._forget_at = 0.0

    # --- the loop ---------------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Until told to stop. Redis or the database being away only makes it wait."""
        while not stop.is_set():
            try:
                self.turn()
            except Unreachable as error:
                log.warning("Redis does not answer: %s", error)
                self.run_id = ""
                stop.wait(RETRY_AFTER_ERROR_S)
            except (OperationalError, InterfaceError) as error:
                log.warning("the database does not answer: %s", error)
                close_old_connections()
                stop.wait(RETRY_AFTER_ERROR_S)
            except Exception:
                log.exception("the conductor goes on after an error")
                close_old_connections()
                stop.wait(RETRY_AFTER_ERROR_S)

    def turn(self, block_ms: int | None = None) -> None:
        """One round: connect if needed, wait for entries, store, advance, and the timers."""
        if not self.run_id:
            self.connect()
        wait_s = max(0.0, self._tick_at - time.monotonic())
        positions = {s: p for s, p in self.positions.items() if self.paused.get(s, 0.0) <= time.monotonic()}
        if self._crowded >= CROWDED:
            time.sleep(GATHER_S)
        asked = time.monotonic()
        found = self.broker.read(positions, block_ms if block_ms is not None else max(1, int(wait_s * 1000)))
        at_once = time.monotonic() - asked < AT_ONCE_S
        point("conductor.read")
        self.wake(found.pop(PANEL_WAKE, []))
        if found:
            self._store_safely({node_of_stream(stream): entries for stream, entries in found.items()})
        few_reports = 0 < sum(map(len, found.values())) < FEW and not self.woken
        self._crowded = self._crowded + 1 if at_once and few_reports else 0
        self.advance_woken()
        if time.monotonic() >= self._tick_at:
            self.tick()

    def connect(self) -> None:
        """A new connection to Redis: perhaps another Redis, perhaps an empty one."""
        run_id = self.broker.run_id()
        self.positions = {PANEL_WAKE: self.broker.last_wake()}
        self.nodes, self.timers = {}, {}
        self.refresh_nodes(run_id)
        self.run_id = run_id
        # What was published while Redis was away is lost: every socket must fetch again.
        self.epoch = secrets.token_hex(8)
        self._announce_until = time.monotonic() + ANNOUNCE_FOR_S
        self._sweep_at = self._tick_at = 0.0
        log.info("connected to Redis (run %s), %d nodes, epoch %s", run_id[:8], len(self.nodes), self.epoch)

    def refresh_nodes(self, run_id: str) -> None:
        """Nodes may have been added, joined or removed: users and streams follow the rows."""
        nodes = {n.pk: n for n in Node.objects.exclude(redis_password_sha256="")}
        if {n.pk: n.redis_password_sha256 for n in nodes.values()} != {
            n.pk: n.redis_password_sha256 for n in self.nodes.values()
        } or not self.nodes:
            self.broker.apply_users({n.pk: n.redis_password_sha256 for n in nodes.values()})
        gone = set(self.nodes) - set(nodes)
        self.broker.forget(gone)
        for node_id in gone:
            self.positions.pop(events_stream(node_id), None)
        new = set(nodes) - set(self.nodes)
        for node_id in new:
            self.positions[events_stream(node_id)] = self._cursor(node_id, run_id)
            self.heard[node_id] = time.monotonic()
        known, self.nodes = self.nodes, nodes
        if known and new:
            for node in nodes.values():
                if node.state != NodeState.OFFLINE:
                    self._inspect(node)  # the names of the new ones must resolve there

    def _cursor(self, node_id: str, run_id: str) -> str:
        """Where to go on reading. Another run of Redis, or a stream that ends below the cursor, begins anew."""
        cursor, new = StreamCursor.objects.get_or_create(node_id=node_id)
        begin = "0-0"
        if not new and not cursor.run_id:
            # Put back from a backup. What the node has said was said to the panel of before: to take an old word for a
            # sign of life would be wrong. And what waits to be heard there is of jobs that nobody here knows.
            self.broker.drop_queue(node_id)
            begin = self.broker.end_of(node_id)
        if cursor.run_id != run_id or self.broker.ends_below(node_id, cursor.last):
            StreamCursor.objects.filter(pk=cursor.pk, run_id=cursor.run_id, last=cursor.last).update(
                run_id=run_id, last=begin
            )
            return begin
        return cursor.last

    # --- words from nodes -----------------------------------------------------------------------------------

    def wake(self, entries: Entries) -> None:
        for position, fields in entries:
            self.positions[PANEL_WAKE] = position
            if fields.get("job"):
                self._wake_job(fields["job"])
            else:
                self.refresh_nodes(self.run_id)

    def _store_safely(self, found: dict[str, Entries]) -> None:
        """Everything in one transaction; where that fails, node by node: one's entries must not stop the others'.

        Raises ``OperationalError`` where the database is away: that is no node's fault, and ends the turn.
        """
        try:
            self.store(found)
            return
        except Exception:
            close_old_connections()
            connection.ensure_connection()
            text = "entries of %d nodes could not be stored together: node by node now"
            log.warning(text, len(found), exc_info=True)
        for node_id, entries in found.items():
            try:
                self._store_what_can_be(node_id, entries)
            except Exception:
                log.exception("entries of node %s could not be stored; they are read again", node_id)
                close_old_connections()
                self.paused[events_stream(node_id)] = time.monotonic() + RETRY_AFTER_ERROR_S

    def _store_what_can_be(self, node_id: str, entries: Entries) -> None:
        """An entry that no column holds (a number too large, a NUL) must not stop what the same node says after it.

        Dropping is harmless: a message whose reply was dropped is sent again, a report says the same a minute later.
        """
        try:
            self.store({node_id: entries})
        except (OperationalError, InterfaceError):
            raise  # not the entries' fault
        except Exception:
            if len(entries) == 1:
                log.exception("an entry of node %s cannot be stored: it is dropped", node_id)
                self.positions[events_stream(node_id)] = entries[0][0]
                return
            log.warning("entries of node %s could not be stored together: they are stored one by one", node_id)
            for entry in entries:
                self._store_what_can_be(node_id, [entry])

    def store(self, found: dict[str, Entries]) -> None:
        """Effects of what nodes said (by their ids) and the moves of the cursors: all of it once, or none."""
        said: list[Said] = []
        for node_id, entries in found.items():
            node = self.nodes.get(node_id)
            if node is None:
                continue
            parsed = [(position, _parse(node, fields)) for position, fields in entries]
            self.heard[node_id] = time.monotonic()
            for _position, entry in parsed:
                if isinstance(entry, Heartbeat):
                    self.skew_s[node_id] = entry.wall_clock - time.time()
                    self.busy.hear(node, entry, self.heard[node_id])
            matters = [(p, e) for p, e in parsed if e is not None and not isinstance(e, Heartbeat)]
            if matters or node.state == NodeState.OFFLINE:
                said.append(Said(node, matters, entries[-1][0]))
        if said:
            self._store(said)
        for node_id, entries in found.items():
            if node_id in self.nodes:
                self.positions[events_stream(node_id)] = entries[-1][0]

    def _store(self, said: list[Said]) -> None:
        heard = hearing.store(said, self.run_id, self.skew_s)
        self.overlooked |= heard.overlooked
        for node in heard.back:
            self._came_back(node)
        for node, progress in heard.progress:
            self._progress(node, progress)
        for job in heard.woken:
            self._wake_job(job)
        for node, hello in heard.hellos.values():
            self._welcome(node, hello)

    def _welcome(self, node: Node, hello: Hello) -> None:
        raised = {row.object: row.number for row in node.raised.all()}
        here = Vm.objects.filter(node=node).exclude(state="migrating")
        # Out of the pool of these it is shut: they are started again by a person, when it was taken back.
        shut_out = node.pool_places.exclude(fenced=[]).values("pool")
        placed = here.exclude(disks__pool__in=shut_out).values_list("uuid", flat=True)
        pools = [pool_spec(place.pool) for place in node.pool_places.select_related("pool")]
        self.broker.welcome(
            node.pk,
            Welcome(
                incarnation=hello.incarnation,
                raises=raised,
                placed=tuple(placed),
                pools=tuple(pools),
                self_fencing_after_s=after_s(node.self_fencing),
            ),
        )
        # A new incarnation knows nothing of what was sent to the old one.
        self.timers = {key: due for key, due in self.timers.items() if key[1] != node.pk}
        self._tick_at = 0.0

    def _came_back(self, node: Node) -> None:
        """What it reported before its silence is old: ask for everything."""
        self._inspect(node)
        self.timers = {key: due for key, due in self.timers.items() if key[1] != node.pk}
        self._sweep_at = self._tick_at = 0.0

    def _inspect(self, node: Node) -> None:
        look = Envelope(
            verb=NodeInspect.verb,
            object="node",
            dispatch=None,
            job="",
            step="",
            phase="settle",
            attempt=1,
            body=messages.body_of(inspection(node)),
        )
        self.broker.send(node.pk, look)

    def _progress(self, node: Node, said: Progress) -> None:
        current = Step.objects.filter(
            pk=said.step, job_id=said.job, node=node, object=said.object, dispatch=said.dispatch, answer__isnull=True
        )
        now = time.monotonic()
        if now - self.shown.get(said.job, 0.0) < PROGRESS_EVERY_S or not current.update(
            progress=said.percent, facts=said.facts, heard=timezone.now()
        ):
            return
        self.shown[said.job] = now
        job = Job.objects.get(pk=said.job)
        events.job_progress(job, job.steps.all())

    # --- jobs -----------------------------------------------------------------------------------------------

    def _wake_job(self, job_id: str) -> None:
        if job_id not in self.woken:
            self.woken.append(job_id)

    def advance_woken(self) -> None:
        while self.woken:
            self.advance(self.woken.popleft())

    def advance(self, job_id: str) -> None:
        try:
            left = engine.advance(job_id)
        except (engine.Stale, Job.DoesNotExist):
            return
        except Exception:
            log.exception("job %s could not be advanced; the next sweep tries again", job_id)
            close_old_connections()
            return
        for step in left.send:
            # In doubt: the sweep sends it, so that a libvirtd that is just restarting has a second.
            if step.node and step.doubts == 0 and step.node.state != NodeState.OFFLINE:
                self._send_now(step)
        for look_id in left.ask:
            self._send_look(look_id)
        for other in left.wake:
            self._wake_job(other)
        if left.cancelling:
            self._cancel_of(job_id)
        for node_id in left.drop:
            self.broker.drop_queue(node_id)
        for node_id, cancel in left.cancel:
            self.broker.cancel(node_id, cancel)
        if left.ended:
            self._look_again(left.freed, ended_well=left.ended == JobState.SUCCEEDED)

    def _look_again(self, lock_names: list[str], *, ended_well: bool) -> None:
        """A job has ended: was anything of its VMs seen after the last reply, or is what it left behind unseen?"""
        ids = [name.removeprefix("vm:") for name in lock_names if name.startswith("vm:")]
        seen = {vm: self.overlooked.pop(vm) for vm in ids if vm in self.overlooked}
        if ended_well and not seen:
            return
        online = Vm.objects.filter(pk__in=ids).exclude(node__state=NodeState.OFFLINE).select_related("node")
        for vm in online:
            if not ended_well or seen.get(vm.pk, -1) >= vm.observed_counter:
                self._inspect(vm.node)

    def _send_now(self, step: Step) -> None:
        if step.node_id is not None and self.broker.send(step.node_id, dispatch.envelope(step)):
            self._sent(("step", step.node_id, step.pk, step.dispatch, step.doubts))

    def _send_look(self, look_id: str) -> None:
        look = Look.objects.select_related("node").filter(pk=look_id, answer__isnull=True).first()
        key = ("look", look.node_id, look.pk) if look else ()
        if look is None or look.node.state == NodeState.OFFLINE or not self._is_due(key):
            return
        if self.broker.send(look.node_id, dispatch.question(look)):
            self._sent(key)

    def _cancel_of(self, job_id: str) -> None:
        for step in dispatch.outbox().select_related("job").filter(job_id=job_id, job__cancel_requested=True):
            self._send_cancel(step)

    def _send_cancel(self, step: Step) -> None:
        cancel = dispatch.cancel_of(step)
        key = ("cancel", step.node_id, step.pk, step.dispatch)
        if cancel and step.node_id and self._is_due(key) and self.broker.cancel(step.node_id, cancel):
            self._sent(key)

    # --- timers -----------------------------------------------------------------------------------------------

    def _sent(self, key: tuple[Any, ...]) -> None:
        _due, interval = self.timers.get(key, (0.0, RESEND_FIRST_S / 2))
        interval = min(interval * 2, RESEND_MOST_S)
        self.timers[key] = (time.monotonic() + interval, interval)

    def _is_due(self, key: tuple[Any, ...]) -> bool:
        return time.monotonic() >= self.timers.get(key, (0.0, 0.0))[0]

    def tick(self) -> None:
        """Each second: who fell silent, and what was sent and not answered."""
        now = time.monotonic()
        self._tick_at = now + TICK_S
        for node in self.nodes.values():
            if node.state != NodeState.OFFLINE and now - self.heard[node.pk] > OFFLINE_AFTER_S:
                with transaction.atomic():
                    reconcile.node_offline(node)
        self._resend()
        if now >= self._sweep_at:
            self.sweep()

    def _resend(self) -> None:
        live = set()
        for step in dispatch.outbox().select_related("job", "node").exclude(node__state=NodeState.OFFLINE):
            key = ("step", step.node_id, step.pk, step.dispatch, step.doubts)
            live.add(step.pk)
            if self._is_due(key):
                self._send_now(step)
            if step.job.cancel_requested:
                self._send_cancel(step)
        self.timers = {k: due for k, due in self.timers.items() if k[0] == "look" or k[2] in live}

    def sweep(self) -> None:
        """Covers every lost wake-up; also finds nodes that another process added."""
        self._sweep_at = time.monotonic() + SWEEP_S
        if self.broker.run_id() != self.run_id:
            raise Unreachable("it was restarted")
        self.refresh_nodes(self.run_id)
        self.broker.alive(self.epoch)
        self.busy.store()
        if time.monotonic() < self._announce_until:
            events.new_epoch(self.epoch)
        if time.monotonic() >= self._forget_at:
            self._forget_at = time.monotonic() + FORGET_EVERY_S
            services.forget_old_answers()
            uploads.forget_abandoned()
        schedules.run_due()
        trash.delete_due()
        balancing.run_due()
        returning.take_back_due()
        self._wake_all(engine.open_jobs())
        self.advance_woken()

    def _wake_all(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            self._wake_job(job_id)


def _parse(node: Node, fields: dict[str, str]) -> Any:
    """None for an entry that cannot be read: a node's mistake must not stop the others."""
    try:
        return messages.read_entry(fields["e"])
    except (KeyError, ValidationError) as error:
        log.warning("node %s sent an entry that cannot be read: %s", node.name, str(error)[:300])
        return None
