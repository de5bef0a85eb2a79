"""A node at the verb boundary: it keeps every message, has effects like a real one, and answers as the test wants.

The fake stands where a libvirtd would be too slow: every operation is broken at every step here, in every way.
The same faults on real parts are in tests/lab.
"""

import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from cluster import library
from cluster.models import FINAL, Job, Look, Node, Step
from cluster.saga import dispatch, engine
from nodes.contract.errors import ErrorInfo
from nodes.contract.messages import VERBS, Envelope, Message, Reply
from nodes.contract.specs import DomainSpec

Fault = Literal["refused", "half", "uncertain_done", "uncertain_not_done", "uncertain_for_long", "retryable"]
MAX_TURNS = 400
SCENE_POOL = "/var/lib/libvirt/images"


@dataclass
class World:
    """What exists on the nodes: (node, object) -> state."""

    objects: dict[tuple[str, str], str] = field(default_factory=dict)
    ledger: dict[tuple[str, str], int] = field(default_factory=dict)
    messages: list[Envelope] = field(default_factory=list)
    outlines: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    """What definitions say beside that, where a test looks at it."""
    kept: dict[tuple[str, str], tuple[tuple[str, str], str | None]] = field(default_factory=dict)
    """Domain that was taken over -> its name before, and its definition."""
    counter: int = 0

    def effect(self, node: str, message: Message) -> dict[str, Any]:
        """Make it so; returns the result."""
        name = (node, message.object + (other_pool(message) if message.object.startswith("disk:") else ""))
        state = self.objects.get(name)
        match message.verb:
            case "domain.backup":
                if message.disks and state not in ("running", "paused"):  # type: ignore[attr-defined]
                    raise Refusal("domain_not_active")
                return {**self.whereabouts(name), "quiesced": getattr(message, "quiesce", "no") != "no"}
            case "domain.freeze":
                self.objects[node, "frozen:" + message.vm] = "frozen"  # type: ignore[attr-defined]
                return {**self.whereabouts(name), "frozen": True}
            case "domain.thaw":
                frozen = self.objects.pop((node, "frozen:" + message.vm), None)  # type: ignore[attr-defined]
                return {**self.whereabouts(name), "frozen": frozen is not None}
            case "domain.save":
                for disk in message.disks:  # type: ignore[attr-defined]
                    self.objects[node, f"disk:{disk}/{message.snapshot}"] = "kept"  # type: ignore[attr-defined]
                self.objects[node, f"memory:{message.snapshot}"] = "kept"  # type: ignore[attr-defined]
            case "domain.load":
                kept = (node, f"memory:{message.snapshot}") in self.objects  # type: ignore[attr-defined]
                self.objects[name] = "running" if kept else "shutoff"
                if not kept:
                    raise Refusal("memory_not_loaded")
            case "disk.create" | "disk.clone":
                self.objects[name] = "disk"
                return {"size_bytes": message.disk.size_bytes}  # type: ignore[attr-defined]
            case "nic.plug" | "demo.mark":
                self.objects[name] = "there"
            case "disk.delete" | "nic.unplug" | "demo.unmark":
                self.objects.pop(name, None)
            case "disk.rename":
                if state is not None:
                    new = f"disk:{message.new}{other_pool(message)}"  # type: ignore[attr-defined]
                    self.objects[node, new] = self.objects.pop(name)
            case "pool.find":
                if (node, f"volume:{message.name}") not in self.objects:  # type: ignore[attr-defined]
                    raise Refusal("volume_absent")
                return {"format": "qcow2", "size_bytes": 1 << 30}
            case "disk.take":
                theirs = (node, f"volume:{message.name}")  # type: ignore[attr-defined]
                if theirs in self.objects:
                    self.objects[name] = self.objects.pop(theirs)
                return {"size_bytes": 1 << 30}
            case "disk.give_back":
                if state is not None:
                    self.objects[node, f"volume:{message.name}"] = self.objects.pop(name)  # type: ignore[attr-defined]
            case "domain.mirror":
                mirror = (node, f"mirror:{message.disk}")  # type: ignore[attr-defined]
                self.objects.pop(mirror, None)
                if message.target:  # type: ignore[attr-defined]
                    if state not in ("running", "paused"):
                        raise Refusal("domain_not_active")
                    self.objects[mirror] = other_pool(message)
            case "domain.pivot":
                mirror = (node, f"mirror:{message.disk}")  # type: ignore[attr-defined]
                guest = (node, f"guest:{message.vm} {message.disk}")  # type: ignore[attr-defined]
                if self.objects[guest] != "has" + other_pool(message):
                    if self.objects.pop(mirror, None) != other_pool(message):
                        raise Refusal("mirror_lost")
                    self.objects[guest] = "has" + other_pool(message)
                    defined = (node, f"definition:{message.vm}")  # type: ignore[attr-defined]
                    words = self.objects[defined].split()
                    old, new = message.disk, message.disk + other_pool(message)  # type: ignore[attr-defined]
                    self.objects[defined] = " ".join(new if word == old else word for word in words)
            case "disk.unused" | "disk.fence" | "pool.unfence":
                pass
            case "disk.flatten":
                self.objects[node, "independent:" + message.id] = "yes"  # type: ignore[attr-defined]
            case "node.self_fencing":
                self.objects[name] = f"after {message.after_s}"  # type: ignore[attr-defined]
                if message.after_s is None:  # type: ignore[attr-defined]
                    self.objects.pop(name)
            case "domain.define":
                self.objects.setdefault(name, "shutoff")
                self.objects[node, "definition:" + message.domain.id] = definition(message.domain)  # type: ignore[attr-defined]
            case "domain.undefine":
                if state not in (None, "shutoff"):
                    raise Refusal("domain_active")
                self.objects.pop(name, None)
                self.objects.pop((node, name[1].replace("domain:", "definition:")), None)
            case "domain.plug" | "domain.medium":
                if state in ("running", "paused"):
                    self.objects[node, f"guest:{message.vm} {message.disk.id}"] = (
                        message.disk.iso or "has" + other_pool(message)
                    )  # type: ignore[attr-defined]
                return {**self.whereabouts(name), "has": True if state in ("running", "paused") else None}
            case "domain.unplug":
                self.objects.pop((node, f"guest:{message.vm} {message.disk}"), None)  # type: ignore[attr-defined]
                return {**self.whereabouts(name), "has": False if state in ("running", "paused") else None}
            case "domain.start" | "domain.resume" | "domain.reboot" | "domain.reset":
                if state is None:
                    raise Refusal("no_domain")
                self.objects[name] = "paused" if getattr(message, "paused", False) else "running"
            case "domain.suspend":
                self.objects[name] = "paused"
            case "domain.stop" | "domain.shutdown":
                if state is not None:
                    self.objects[name] = "shutoff"
            case "disk.resize":
                self.objects[name] = f"disk {message.size_bytes}"  # type: ignore[attr-defined]
                return {"size_bytes": message.size_bytes}  # type: ignore[attr-defined]
            case "disk.look":
                size = int((state or "").partition(" ")[2] or 0)
                kept = [
                    key.partition("/")[2] for at, key in self.objects if at == node and key.startswith(name[1] + "/")
                ]
                seen = {"exists": state is not None, "ours": state is not None, "size_bytes": size, "snapshots": kept}
                seen["independent"] = (node, "independent:" + message.id) in self.objects  # type: ignore[attr-defined]
                return {**seen, "used_by": self.users(node, message.id, other_pool(message))}  # type: ignore[attr-defined]
            case "disk.snapshot":
                self.objects[node, f"{message.object}/{message.snapshot}"] = "kept"  # type: ignore[attr-defined]
                return {"quiesced": message.quiesce != "no"}  # type: ignore[attr-defined]
            case "disk.snapshot_delete":
                self.objects.pop((node, f"{message.object}/{message.snapshot}"), None)  # type: ignore[attr-defined]
            case "disk.revert":
                if (node, f"{message.object}/{message.snapshot}") not in self.objects:  # type: ignore[attr-defined]
                    raise Refusal("snapshot_absent")
                return {"size_bytes": 1 << 30}
            case "pool.attach":
                self.objects[name] = "attached"
                facts = {"kind": message.pool.kind, "identity": "found", "path": message.pool.path}  # type: ignore[attr-defined]
                return {"facts": {**facts, "capacity_bytes": 1 << 40, "free_bytes": 1 << 40, "granules": {"raw": 4096}}}
            case "file.fetch":
                self.objects[name] = "copy"
            case "file.download" | "file.make":
                self.objects[name] = "copy"
                content = content_of(message.kind)  # type: ignore[attr-defined]
                facts = {"size_bytes": len(content), "virtual_size_bytes": 1 << 20}
                about = {"format": "iso" if message.kind == "iso" else "qcow2", "checksum": "sha256:" + "1" * 64}  # type: ignore[attr-defined]
                return facts | about
            case "file.send":
                library.folder().mkdir(parents=True, exist_ok=True)
                library.file_of(message.id).write_bytes(content_of(message.kind))  # type: ignore[attr-defined]
            case "file.delete":
                self.objects.pop(name, None)
            case "file.look":
                used_by = [state.partition(" used by ")[2]] if state and " used by " in state else []
                return {"exists": state is not None, "ours": state is not None, "used_by": used_by}
            case "pool.detach":
                self.objects.pop(name, None)
            case "domain.expect":
                if state is not None:
                    raise Refusal("domain_here")
                self.objects[node, "arrival:" + message.domain.id] = "expected"  # type: ignore[attr-defined]
                disks = [{"id": disk.id, "format": disk.format} for disk in message.domain.disks]  # type: ignore[attr-defined]
                return {**self.whereabouts(name), "disks": disks}
            case "domain.dismiss":
                if self.objects.pop((node, "arrival:" + message.vm), None) and state is not None:  # type: ignore[attr-defined]
                    raise Refusal("domain_here")
            case "domain.move":
                self.move(node, message)
            case "domain.keep":
                if state is None:
                    raise Refusal("domain_absent")
                self.objects[name] = "paused" if message.paused else "running"  # type: ignore[attr-defined]
            case "domain.adopt":
                if state is None:
                    raise Refusal("domain_absent")
                self.objects[name] = message.state  # type: ignore[attr-defined]
                self.objects[node, "definition:" + message.domain.id] = definition(message.domain)  # type: ignore[attr-defined]
                self.objects.pop((node, "arrival:" + message.domain.id), None)  # type: ignore[attr-defined]
            case "domain.leave":
                if state == "running":
                    raise Refusal("domain_active")
                self.objects.pop(name, None)
                self.objects.pop((node, "definition:" + message.vm), None)  # type: ignore[attr-defined]
            case "domain.measure":
                return {"memory_bytes": 100 << 20, "dirty_bytes": 1 << 20, "allocated": {}}
            case "domain.open_path":
                self.objects[node, "arrival:" + message.vm] = "expected"  # type: ignore[attr-defined]
                return {"port": 49215}
            case "domain.measure_path":
                return {"bandwidth_bytes": 100 << 20, "round_trip_us": 200}
            case "domain.read":
                theirs = (node, f"foreign:{message.name}")  # type: ignore[attr-defined]
                name = theirs if theirs in self.objects else name
                return {**self.whereabouts(name), "outline": self.outlines.get(name)}
            case "domain.take":
                theirs, defined = (node, f"foreign:{message.name}"), (node, "definition:" + message.domain.id)  # type: ignore[attr-defined]
                was = theirs if theirs in self.objects else name
                if self.objects.get(was) != "shutoff":
                    raise Refusal("domain_active")
                self.kept.setdefault(name, (was, self.objects.get(defined)))
                self.objects[name] = self.objects.pop(was)
                self.objects[defined] = definition(message.domain)  # type: ignore[attr-defined]
            case "domain.give_back":
                if name in self.kept:
                    was, before = self.kept.pop(name)
                    self.objects[was] = self.objects.pop(name)
                    self.objects.pop((node, "definition:" + message.vm))  # type: ignore[attr-defined]
                    self.objects |= {(node, "definition:" + message.vm): before} if before else {}  # type: ignore[attr-defined]
            case "node.inspect" | "domain.look":
                pass
            case other:
                raise AssertionError(f"the fake node does not know {other}")
        return self.whereabouts(name) if message.object.startswith("domain:") else {}

    def move(self, node: str, message: Any) -> None:
        """All that is of the guest: its domain, its definition, the disks that it has."""
        target = Node.objects.get(name=message.target).pk
        if self.objects.get((node, message.object)) not in ("running", "paused"):
            raise Refusal("domain_state")
        for at, name in list(self.objects):
            if at == node and message.vm in name:
                self.objects[target, name] = self.objects.pop((at, name))

    def users(self, node: str, disk: str, pool: str) -> list[str]:
        """Definitions and guests that have the disk in that pool."""
        return [
            name
            for (at, name), state in self.objects.items()
            if at == node
            and (
                (name.startswith("definition:") and disk + pool in state.split())
                or (name.startswith("guest:") and name.endswith(" " + disk) and state == "has" + pool)
            )
        ]

    def whereabouts(self, name: tuple[str, str]) -> dict[str, Any]:
        state = self.objects.get(name)
        return {"state": state or "absent", "defined": state is not None}


def definition(domain: DomainSpec) -> str:
    """What tests compare of one: its disks, and what lies in its drives."""
    return " ".join(disk.iso or disk.id + _beside(disk.pool) for disk in domain.disks)


def other_pool(message: Any) -> str:
    """Behind the name of a volume: nothing in the scene's own pool."""
    target = getattr(message, "target", None) or getattr(message, "disk", None)
    return _beside(getattr(message, "pool", None) or getattr(target, "pool", None))


def _beside(pool: Any) -> str:
    return "" if pool is None or pool.path == SCENE_POOL else "@" + pool.path


@cache
def content_of(kind: str) -> bytes:
    """A small image or ISO that is one."""
    if kind == "iso":
        return bytes(32769) + b"CD001"
    with tempfile.NamedTemporaryFile() as file:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", file.name, "1M"], check=True)
        return Path(file.name).read_bytes()


class Refusal(Exception):
    pass


def snapshots() -> list[Any]:
    return [list(model.objects.order_by("pk").values()) for model in (Job, Step, Look)]


@dataclass
class Executor:
    """Plays the conductor and the nodes, one message after the other.

    ``fault(n, envelope)`` says what happens to the n-th *new* message (a resend of a number is not new).
    """

    world: World = field(default_factory=World)
    fault: Callable[[int, Envelope], Fault | None] = lambda n, envelope: None
    twice: bool = False
    """Every message and every reply is delivered twice."""
    before_answer: Callable[[int, Envelope], None] = lambda n, envelope: None
    """Runs when a message is on its way, before its answer."""
    numbers: dict[tuple[str, str, int | None, str], int] = field(default_factory=dict)
    doubts: dict[int, int] = field(default_factory=dict)
    replies: list[tuple[str, Reply]] = field(default_factory=list)

    def run(self, job: Job) -> Job:
        """Until the job has ended, is stuck, or waits for something that no message brings.

        Like a restarted conductor at every moment: it goes by the rows alone and ignores what ``advance`` returns.
        """
        for _ in range(MAX_TURNS):
            before = snapshots()
            for other in engine.open_jobs():
                self.advance(other)
            self.deliver()
            job = Job.objects.get(pk=job.pk)
            if job.state in (*FINAL, "stuck") and (job.resolution or {}).get("state") != "asked":
                return job
            if snapshots() == before and not self.to_send():
                return job
        raise AssertionError(f"job {job.pk} ({job.operation}) does not settle: {job.state} {job.waiting_reason}")

    def advance(self, job_id: str) -> None:
        engine.advance(job_id)

    def to_send(self) -> list[Step]:
        return list(dispatch.outbox().select_related("job", "node").exclude(node__state="offline"))

    def deliver(self) -> None:
        for step in self.to_send():
            cancel = dispatch.cancel_of(step)
            for _ in range(1 + self.twice):
                self.take(step.node_id or "", dispatch.envelope(step), cancelled=cancel is not None)
        for look in list(Look.objects.filter(answer__isnull=True).exclude(node__state="offline").order_by("id")):
            self.take(look.node_id, dispatch.question(look))

    def take(self, node: str, envelope: Envelope, *, cancelled: bool = False) -> None:
        """One delivery: the ledger's rule, the fault, the effect, the answer."""
        name = (node, envelope.object)
        if envelope.dispatch is not None and envelope.dispatch < self.world.ledger.get(name, 0):
            self.answer(node, envelope, "superseded", {"number": self.world.ledger[name]})
            return
        if envelope.dispatch is not None:
            self.world.ledger[name] = envelope.dispatch
        key = (node, envelope.object, envelope.dispatch, envelope.step)
        n = self.numbers.setdefault(key, len(self.numbers))
        self.world.messages.append(envelope)
        self.before_answer(n, envelope)
        if cancelled:
            self.answer(node, envelope, "cancelled")
            return
        message = VERBS[envelope.verb].model_validate(envelope.body)
        self.perform(node, envelope, message, self.fault(n, envelope) if envelope.phase != "settle" else None, n)

    def perform(self, node: str, envelope: Envelope, message: Message, fault: Fault | None, n: int) -> None:
        if fault == "refused":
            self.answer(node, envelope, "failed", error=ErrorInfo(code="refused_by_test", cause="refused"))
            return
        if fault == "retryable":
            error = ErrorInfo(code="libvirt_unreachable", cause="down", retryable=True)
            self.answer(node, envelope, "failed", error=error)
            return
        self.doubts[n] = self.doubts.get(n, 0) + 1
        if fault == "uncertain_not_done" or (fault == "half" and message.verb.startswith("domain.start")):
            self.doubt(node, envelope, n, long=False, effect=None)
            return
        if fault in ("half", "uncertain_done", "uncertain_for_long"):
            self.doubt(node, envelope, n, long=fault == "uncertain_for_long", effect=message)
            return
        try:
            self.answer(node, envelope, "done", self.world.effect(node, message))
        except Refusal as refusal:
            self.answer(node, envelope, "failed", error=ErrorInfo(code=str(refusal), cause=str(refusal)))

    def doubt(self, node: str, envelope: Envelope, n: int, *, long: bool, effect: Message | None) -> None:
        """Uncertain once; asked again with the same number it is done. ``long``: uncertain for ever."""
        if VERBS[envelope.verb].move and self.doubts[n] > 1:
            effect, long = None, True  # run again it only looks
        elif effect is not None or self.doubts[n] > 1:
            message = effect or VERBS[envelope.verb].model_validate(envelope.body)
            result = self.world.effect(node, message)
            if self.doubts[n] > 1 and not long:
                self.answer(node, envelope, "done", result)
                return
        error = ErrorInfo(code="uncertain", cause="the connection broke", certain=False)
        self.answer(node, envelope, "uncertain", error=error)

    def answer(
        self,
        node: str,
        envelope: Envelope,
        outcome: Any,
        result: dict[str, Any] | None = None,
        error: ErrorInfo | None = None,
    ) -> None:
        self.world.counter += 1
        reply = Reply(
            incarnation=1,
            counter=self.world.counter,
            verb=envelope.verb,
            object=envelope.object,
            dispatch=envelope.dispatch,
            job=envelope.job,
            step=envelope.step,
            phase=envelope.phase,
            attempt=envelope.attempt,
            outcome=outcome,
            result=result or {},
            error=error,
        )
        self.replies.append((node, reply))
        for _ in range(1 + self.twice):
            dispatch.record(node, reply)
