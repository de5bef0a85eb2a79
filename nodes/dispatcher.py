"""Takes messages, decides by the ledger (nodes.rules), runs verbs, and answers.

A thread that brings a message either runs it or puts it down; none ever waits for another. What was put down is
run by the thread that ends the obstacle.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from pydantic import ValidationError

from nodes.contract.errors import ErrorInfo, NodeError
from nodes.contract.faults import point
from nodes.contract.messages import VERBS, Cancel, Envelope, Message, Progress, Reply
from nodes.drain import CallLost, Sampler, libvirtd_process
from nodes.ledger import Answer, Ledger
from nodes.log import Log
from nodes.node import Node
from nodes.rules import Decision, Known, on_cancel, on_look, on_message
from nodes.shell import Cancelled
from nodes.stream import Stream
from nodes.verbs import HANDLERS
from nodes.verbs.run import Run

log = Log("ulei.dispatcher")

Waiting = Envelope | Cancel
CANCELLED = Answer("cancelled", {})


class Dispatcher:
    def __init__(self, node: Node, ledger: Ledger, stream: Stream, sampler: Sampler, incarnation: int) -> None:
        self.node = node
        self.ledger = ledger
        self.stream = stream
        self.sampler = sampler
        self.incarnation = incarnation
        self._lock = threading.Lock()
        self._running: dict[str, Run] = {}
        self._parked: dict[str, list[Waiting]] = {}

    # --- what comes in ------------------------------------------------------------------------------------

    def message(self, raw: Mapping[str, Any]) -> None:
        """A verb's task. Never raises: whatever happens is an answer, or a line in the log."""
        try:
            envelope = Envelope.model_validate(raw)
        except ValidationError as error:
            log.error("a message that this agent cannot read", cause=_shapes(error))
            return
        point("agent.taken", envelope.verb)
        self._guarded(envelope)

    def cancel(self, raw: Mapping[str, Any]) -> None:
        try:
            cancel = Cancel.model_validate(raw)
        except ValidationError as error:
            log.error("a cancel that this agent cannot read", cause=_shapes(error))
            return
        self._guarded(cancel)
        point("agent.cancel-taken")

    def release(self, name: str) -> None:
        """libvirtd holds no call of ours on this object any more: take what waited for that."""
        threading.Thread(target=self._take_parked, args=(name,), name=f"release {name}", daemon=True).start()

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Work on an object without a message, as at a boot of the node. False: somebody else does."""
        with self._lock:
            free = name not in self._running and not self.sampler.holds(name)
            if free:
                self._running[name] = Run(0, repeats=True, report=_nobody)
        try:
            yield free
        finally:
            if free:
                self._free(name)
                self.release(name)

    # --- deciding -----------------------------------------------------------------------------------------

    def _guarded(self, item: Waiting) -> None:
        try:
            self._take(item)
        except Exception:
            log.exception("a message could not be taken", object=item.object, dispatch=item.dispatch)
        self._take_parked(item.object)

    def _take_parked(self, name: str) -> None:
        while True:
            with self._lock:
                waiting = self._parked.get(name)
                if not waiting or name in self._running or self.sampler.holds(name):
                    return
                item = waiting.pop(0)
                if not waiting:
                    del self._parked[name]
            try:
                self._take(item)
            except Exception:
                log.exception("a message could not be taken", object=item.object, dispatch=item.dispatch)

    def _take(self, item: Waiting) -> None:
        if isinstance(item, Cancel):
            self._take_cancel(item)
        elif item.dispatch is None:
            self._take_look(item)
        else:
            self._take_change(item, item.dispatch)

    def _known(self, name: str, envelope: Envelope | None = None) -> Known:
        row, run = self.ledger.get(name), self._running.get(name)
        return Known(
            same=row is None or row.number != (envelope and envelope.dispatch) or _is_again(row.envelope, envelope),
            number=row.number if row else None,
            outcome=row.answer.outcome if row and row.answer else None,
            running=run.number if run else None,
            repeats=run.repeats if run else False,
            held=self.sampler.holds(name),
        )

    def _park(self, item: Waiting) -> None:
        """Under the lock. Cancels first: what they cancel need not begin."""
        waiting = self._parked.setdefault(item.object, [])
        if item in waiting:
            return
        waiting.append(item)
        waiting.sort(key=lambda each: not isinstance(each, Cancel))

    def _take_look(self, envelope: Envelope) -> None:
        with self._lock:
            if on_look(self._known(envelope.object)) is Decision.HOLD:
                self._park(envelope)
                return
        counter = self.ledger.counter
        run = Run(0, repeats=False, report=_nobody)
        answer, _ = self._perform(envelope, run)
        self._answer(envelope, answer, counter)

    def _take_change(self, envelope: Envelope, dispatch: int) -> None:
        answer = None
        with self._lock:
            decision = on_message(dispatch, self._known(envelope.object, envelope))
            log.debug("message", decision=decision.name, **_fields(envelope))
            match decision:
                case Decision.HOLD | Decision.PARK:
                    self._park(envelope)
                case Decision.ANSWER_SUPERSEDED:
                    # With the number that was here, so that a panel that has forgotten it can go on above it.
                    answer = Answer("superseded", {"number": self.ledger.number_of(envelope.object)})
                case Decision.ANSWER_AGAIN:
                    answer = self._stored(envelope.object)
                case Decision.RUN | Decision.RUN_LOOK_FIRST:
                    run = self._begin(envelope, dispatch, repeats=decision is Decision.RUN_LOOK_FIRST)
        if answer is not None:
            self._answer(envelope, answer, self.ledger.counter)
        elif decision in (Decision.RUN, Decision.RUN_LOOK_FIRST):
            self._run(envelope, run)

    def _take_cancel(self, cancel: Cancel) -> None:
        answer = None
        with self._lock:
            decision = on_cancel(cancel.dispatch, self._known(cancel.object))
            log.info("cancel", decision=decision.name, object=cancel.object, dispatch=cancel.dispatch, job=cancel.job)
            match decision:
                case Decision.HOLD | Decision.PARK:
                    self._park(cancel)
                case Decision.REMEMBER_CANCEL:
                    answer = CANCELLED
                    self.ledger.remember_cancel(cancel.object, cancel.dispatch, answer)
                case Decision.ANSWER_AGAIN:
                    answer = self._stored(cancel.object)
                case Decision.STOP | Decision.NOTE_CANCEL:
                    self.ledger.note_cancel(cancel.object, cancel.dispatch)
                    stopping = self._running.get(cancel.object)
        if answer is not None:
            self._answer(cancel, answer, self.ledger.counter)
        elif decision is Decision.STOP and stopping is not None:
            stopping.cancellation.cancel()

    def _stored(self, name: str) -> Answer:
        row = self.ledger.get(name)
        assert row is not None
        assert row.answer is not None
        return row.answer

    # --- running ------------------------------------------------------------------------------------------

    def _begin(self, envelope: Envelope, dispatch: int, *, repeats: bool) -> Run:
        """Under the lock: from here on, until ``_free``, this object is ours."""
        run = Run(dispatch, repeats=repeats, report=lambda percent, facts: self._progress(envelope, percent, facts))
        run.holder = libvirtd_process()
        self.ledger.start(envelope, self.incarnation, run.holder)
        self._running[envelope.object] = run
        return run

    def _free(self, name: str) -> None:
        with self._lock:
            del self._running[name]

    def _run(self, envelope: Envelope, run: Run) -> None:
        try:
            point("agent.started-written", envelope.verb)
            answer, lost = self._perform(envelope, run)
            point("agent.effect-done", envelope.verb)
            if lost:
                # Before the object is free, so that nothing slips in between; and before the answer is written, for
                # that may fail.
                self.sampler.hold(envelope.object, run.holder)
            wanted = run.wanted if answer.outcome == "done" else None
            counter = self.ledger.finish(envelope.object, run.number, answer, wanted)
            point("agent.reply-written", envelope.verb)
        finally:
            self._free(envelope.object)
        self._answer(envelope, answer, counter)

    def _perform(self, envelope: Envelope, run: Run) -> tuple[Answer, bool]:
        """The effect. Returns the answer, and whether libvirtd may still hold the call."""
        try:
            message = _read(envelope)
            run.cancellation.check()
            result = HANDLERS[envelope.verb](self.node, message, run)
        except Cancelled:
            return CANCELLED, False
        except NodeError as error:
            outcome: Literal["failed", "uncertain"] = "failed" if error.info.certain else "uncertain"
            log.warning(outcome, code=error.info.code, cause=error.info.cause, **_fields(envelope))
            return Answer(outcome, {}, error.info), isinstance(error, CallLost)
        except Exception as error:
            log.exception("unforeseen", **_fields(envelope))
            info = ErrorInfo(code="agent_error", cause=f"{type(error).__name__}: {error}", certain=False)
            return Answer("uncertain", {}, info), False
        log.info("done", **_fields(envelope))
        return Answer("done", result.model_dump(mode="json")), False

    # --- answering ----------------------------------------------------------------------------------------

    def _answer(self, asked: Waiting, answer: Answer, counter: int) -> None:
        envelope = asked if isinstance(asked, Envelope) else None
        reply = Reply(
            incarnation=self.incarnation,
            counter=counter,
            verb=envelope.verb if envelope else "cancel",
            object=asked.object,
            dispatch=asked.dispatch,
            job=asked.job,
            step=asked.step,
            phase=envelope.phase if envelope else "do",
            attempt=envelope.attempt if envelope else 0,
            outcome=answer.outcome,
            result=dict(answer.result),
            error=answer.error,
        )
        self.stream.reply(reply, sent=lambda: point("agent.reply-sent", reply.verb))

    def _progress(self, envelope: Envelope, percent: int, facts: dict[str, int]) -> None:
        self.stream.report(
            Progress(
                incarnation=self.incarnation,
                counter=self.ledger.counter,
                object=envelope.object,
                dispatch=envelope.dispatch,
                job=envelope.job,
                step=envelope.step,
                percent=percent,
                facts=facts,
            )
        )


def _nobody(percent: int, facts: dict[str, int]) -> None:
    """Takes the progress of work of which nobody asked to hear."""


def _read(envelope: Envelope) -> Message:
    """The body as the message that the verb takes. Raises a certain ``too_old`` or ``bad_message``."""
    too_old = NodeError(
        "too_old",
        f"this node's agent does not know all of {envelope.verb}",
        "Update ulei-node on this node.",
    )
    if envelope.verb not in HANDLERS:
        raise too_old
    try:
        message = VERBS[envelope.verb].model_validate(envelope.body)
    except ValidationError as error:
        if any(each["type"] == "extra_forbidden" for each in error.errors()):
            raise too_old from None
        raise NodeError("bad_message", f"{envelope.verb}: {_shapes(error)}") from None
    if message.object != envelope.object:
        raise NodeError("bad_message", f"{envelope.verb} is about {message.object}, not {envelope.object}")
    return message


def _is_again(stored: Mapping[str, Any] | None, envelope: Envelope | None) -> bool:
    """Whether a message is the one that the ledger has; of a number that was only raised or cancelled it has none."""
    if stored is None or envelope is None:
        return True
    return all(stored[part] == getattr(envelope, part) for part in ("job", "step", "phase", "verb"))


def _shapes(error: ValidationError) -> str:
    """What is wrong with which fields; never their values, which may be secret."""
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_input=False))


def _fields(envelope: Envelope) -> dict[str, object]:
    return {
        "verb": envelope.verb,
        "object": envelope.object,
        "dispatch": envelope.dispatch,
        "job": envelope.job,
        "step": envelope.step,
        "phase": envelope.phase,
        "attempt": envelope.attempt,
    }
