"""Every registered operation, broken in every way at every step. A new operation is tested here by being registered."""

import copy
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from django.db import transaction

from cluster import job_words, services
from cluster.models import AuditEvent, Grant, Job, Lock, Node, Role, Step, User
from cluster.permissions import TABLE, Actor, action_of
from cluster.refusals import Forbidden, NotKnown, Refused
from cluster.saga import dispatch, engine
from cluster.saga.steps import NoUndo, Operation
from tests.panel.engine.scenarios import OF_CHILDREN, SCENARIOS, Scene
from tests.panel.engine.world import Executor, Fault

pytestmark = pytest.mark.django_db

OPERATIONS = sorted(set(Operation.registry) - OF_CHILDREN)
FAULTS: list[Fault] = list(get_args(Fault))
MOST_MESSAGES = 9
"""More than any operation sends in its scenario; a number that is not reached is checked to be the end."""
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


def run(scene: Scene, code: str, executor: Executor | None = None) -> Job:
    """Ask, click where a click is waited for, and let it come to its end."""
    executor = executor or Executor()
    executor.world = scene.world
    return finish(executor, scene.start(code).job)


def finish(executor: Executor, job: Job) -> Job:
    job = executor.run(job)
    if job.steps.filter(waits_for_click=True).exists() and not job.is_final:
        job_words.proceed(Actor(job.user, job.grant), job)  # type: ignore[arg-type]
        job = executor.run(job)
    return job


def nothing_is_left_over() -> None:
    assert not Lock.objects.exists()
    assert not dispatch.outbox().exists()


def refusal_of(call: Callable[..., object], *args: object, **kwargs: object) -> str:
    with pytest.raises(Refused) as refused:
        call(*args, **kwargs)
    return refused.value.refusals[0].code


def cannot_be_undone(job: Job) -> bool:
    """Where a step before the point of no return, or that one itself, has no undo: what it did stays, and is shown."""
    asked = set(job.steps.values_list("name", flat=True))
    steps = [s for s in Operation.registry[job.operation].steps if s.name in asked and s.name != "finish"]
    pivot = next((n for n, s in enumerate(steps, 1) if s.pivot), len(steps))
    return any(isinstance(s.undo, NoUndo) for s in steps[:pivot])


def test_every_operation_has_a_scenario_and_a_row_in_the_table_of_rights() -> None:
    assert set(SCENARIOS) == set(Operation.registry)
    assert {action_of(code) for code in SCENARIOS} <= set(TABLE)


@pytest.mark.parametrize("code", OPERATIONS)
def test_it_succeeds_and_leaves_no_lock_and_no_message(scene: Scene, code: str) -> None:
    job = run(scene, code)
    assert job.state == "succeeded", (job.error, job.waiting_reason)
    assert {s.state for s in job.steps.all()} == {"done"}
    assert job.finished
    assert job.secrets == ""
    nothing_is_left_over()
    assert AuditEvent.objects.filter(action=code, outcome="started", job=job).exists()
    assert AuditEvent.objects.filter(action=code, outcome="succeeded", job=job).exists()


def rehearse(scene: Scene, code: str) -> Executor:
    """Run the operation without faults and take it all back: what it sends and what it leaves when all goes well."""
    there = dict(scene.world.objects)
    with transaction.atomic():
        started = scene.start(code)  # which may put into the world what it is asked of
        executor = Executor(world=copy.deepcopy(scene.world))
        job = finish(executor, started.job)
        assert job.state == "succeeded"
        transaction.set_rollback(True)
    scene.world.objects = there
    return executor


def what_is_there(run: Scene | Executor) -> list[str]:
    """Without definitions, which name new disks by ids that no two runs share."""
    return sorted(value for (_node, name), value in run.world.objects.items() if not name.startswith("definition:"))


@pytest.mark.parametrize("code", OPERATIONS)
def test_each_message_and_each_reply_twice_changes_nothing(scene: Scene, code: str) -> None:
    once = rehearse(scene, code)
    job = run(scene, code, Executor(twice=True))
    assert job.state == "succeeded"
    assert [m.verb for m in scene.world.messages][::2] == [m.verb for m in once.world.messages]
    assert what_is_there(scene) == what_is_there(once)
    nothing_is_left_over()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("n", range(MOST_MESSAGES))
@pytest.mark.parametrize("code", OPERATIONS)
def test_a_fault_at_any_message_ends_done_or_as_before(scene: Scene, code: str, n: int, fault: Fault) -> None:
    executor = Executor(fault=lambda k, envelope: fault if k == n else None, world=scene.world)
    started = scene.start(code)
    before = without_job(scene, code)
    job = finish(executor, started.job)
    reached = len(executor.numbers) > n
    if not reached:
        assert job.state == "succeeded"
        return
    assert job.state in ("succeeded", "failed"), (job.state, job.error, job.waiting_reason)
    nothing_is_left_over()
    if job.state == "failed":
        assert job.error["code"] in ("refused_by_test", "uncertain", "libvirt_unreachable")
        assert not job.past_pivot
        if not cannot_be_undone(job):
            assert scene.fingerprint() == before


def without_job(scene: Scene, code: str) -> dict[str, Any]:
    """The fingerprint of a scene of which nothing was asked: what an undone job must come back to."""
    before = scene.fingerprint()
    before["locks"] = []
    before["room"] = [{**row, "reserved_bytes": 0} for row in before["room"] if row["state"] != "adding"]
    before["snapshots"] = [row for row in before["snapshots"] if row["state"] != "creating"]
    before["backups"] = [row for row in before["backups"] if row["state"] != "creating"]
    before["files"] = [row for row in before["files"] if row["state"] != "adding"]
    if code in ("disk.create", "disk.import", "vm.backup"):
        before["disks"] = [row for row in before["disks"] if row["state"] != "creating"]
    if code in ("vm.migrate", "vm.restart_elsewhere"):
        target = {"pk": scene.node.pk, "memory_allocated_bytes": 128 << 20, "cpus_allocated": 1}
        before["memory"] = [target if row["pk"] == target["pk"] else row for row in before["memory"]]
    if code in ("vm.create", "vm.clone", "backup.restore", "node.adopt_domain"):
        new = {row["pk"] for row in before["vms"] if row["name"] == "new"}
        before["vms"] = [row for row in before["vms"] if row["pk"] not in new]
        before["disks"] = [row for row in before["disks"] if row["vm_id"] not in new]
        before["nics"] = [row for row in before["nics"] if row["vm_id"] not in new]
        for row in before["memory"]:
            row["memory_allocated_bytes"] -= 128 << 20
            row["cpus_allocated"] -= 1
    return before


@pytest.mark.parametrize("k", range(12))
@pytest.mark.parametrize("code", OPERATIONS)
def test_the_conductor_may_die_before_any_commit(
    scene: Scene, code: str, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it wrote is rolled back; the next conductor goes on from the rows (and nothing is done twice)."""
    commits = 0

    def die_once(name: str, detail: str = "") -> None:
        nonlocal commits
        if name == "engine.before-commit":
            commits += 1
            if commits == k + 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(engine, "point", die_once)

    class Mortal(Executor):
        def advance(self, job_id: str) -> None:
            try:
                super().advance(job_id)
            except KeyboardInterrupt:
                super().advance(job_id)

    job = run(scene, code, Mortal())
    assert job.state == "succeeded", (job.error, job.waiting_reason)
    nothing_is_left_over()


@pytest.mark.parametrize("n", range(MOST_MESSAGES))
@pytest.mark.parametrize("code", OPERATIONS)
def test_a_cancel_at_any_message_puts_everything_back_or_is_refused_after_the_pivot(
    scene: Scene, code: str, n: int
) -> None:
    refused: list[str] = []

    def cancel(k: int, envelope: Any) -> None:
        if k == n and envelope.phase == "do" and not refused:
            job = Job.objects.get(pk=envelope.job)
            if job.cancel_requested:
                return
            try:
                job_words.cancel(scene.actor, job)
            except services.Refused as error:
                refused.append(error.refusals[0].code)

    executor = Executor(world=scene.world, before_answer=cancel)
    started = scene.start(code)
    before = without_job(scene, code)
    job = finish(executor, started.job)
    nothing_is_left_over()
    if refused:
        assert refused == ["past_pivot"]
        assert job.state == "succeeded"
    elif job.state == "cancelled":
        assert job.error is None
        if not cannot_be_undone(job):
            assert scene.fingerprint() == before
    else:
        assert job.state == "succeeded", (job.state, job.error)


@pytest.mark.parametrize("code", OPERATIONS)
def test_an_undo_that_keeps_failing_makes_the_job_stuck_and_a_retry_frees_it(scene: Scene, code: str) -> None:
    broken = True

    def fault(n: int, envelope: Any) -> Fault | None:
        if envelope.phase == "undo":
            return "refused" if broken else None
        verbs = [s for s in Operation.registry[code].steps if not isinstance(s.undo, NoUndo)]
        return "uncertain_for_long" if envelope.phase == "do" and verbs and n == last else None

    last = len(rehearse(scene, code).numbers) - 1
    executor = Executor(world=scene.world, fault=fault)
    started = scene.start(code)
    before = without_job(scene, code)
    job = finish(executor, started.job)
    if job.state != "stuck":
        # It has no undo that a node must do, or the doubt was settled.
        assert job.state in ("succeeded", "failed")
        return
    assert Lock.objects.filter(job=job).exists()
    assert job.error["code"] == "refused_by_test"
    broken = False
    job_words.retry(scene.actor, job)
    job = finish(executor, Job.objects.get(pk=job.pk))
    assert job.state == "failed", (job.state, job.error)
    assert scene.fingerprint() == before
    nothing_is_left_over()


@pytest.mark.parametrize("code", OPERATIONS)
def test_who_may_not_is_refused_and_the_journal_says_so(scene: Scene, code: str) -> None:
    user = User.objects.create(username="reader")
    reader = Actor(user, Grant.objects.create(user=user, role=Role.READ_ONLY))
    with pytest.raises((Forbidden, NotKnown)):
        scene.start(code, reader)
    line = AuditEvent.objects.get(actor=user)
    assert (line.action, line.outcome, line.detail) == (code, "refused", {"codes": ["role_may_not"]})
    assert not Job.objects.exists()


@pytest.mark.parametrize("code", OPERATIONS)
def test_a_node_that_is_away_is_waited_for_and_an_administrator_may_resolve(scene: Scene, code: str) -> None:
    job = scene.start(code).job
    engine.advance(job.pk)
    if not dispatch.outbox().exists():
        return
    Node.objects.filter(pk=scene.node.pk).update(state="offline")
    executor = Executor(world=scene.world)
    job = executor.run(job)
    assert job.waiting_reason == {"code": "node_offline", "facts": {"node": "n1"}}
    assert refusal_of(job_words.resolve, scene.actor, job, "undone", "the machine burnt") == "type_node_name"
    job_words.resolve(scene.actor, job, "undone", "the machine burnt", node="n1")
    job = executor.run(job)
    assert job.state == "failed"
    assert job.resolution["state"] == "applied"
    assert {row["node"] for row in job.leftovers} == {"n1"}
    assert scene.node.raised.exists()
    nothing_is_left_over()


@pytest.mark.parametrize("code", OPERATIONS)
def test_a_message_that_an_online_node_holds_is_said_and_an_administrator_may_resolve(scene: Scene, code: str) -> None:
    job = scene.start(code).job
    engine.advance(job.pk)
    step = dispatch.outbox().select_related("job", "node").first()
    if step is None:
        return
    asked = step.node.name
    under_way = {one.node.name for one in dispatch.outbox().select_related("node")}
    assert refusal_of(job_words.resolve, scene.actor, job, "undone", "its QEMU hangs", node=asked) == "job_not_stuck"
    Step.objects.filter(pk=step.pk).update(heard=LONG_AGO)
    engine.advance(job.pk)
    job.refresh_from_db()
    assert job.waiting_reason == {"code": "no_answer", "facts": {"node": asked, "verb": step.verb}}
    assert refusal_of(job_words.resolve, scene.actor, job, "undone", "its QEMU hangs") == "type_node_name"
    job = job_words.resolve(scene.actor, job, "undone", "its QEMU hangs", node=asked)
    job.resolution["asked_at"] = LONG_AGO.isoformat()
    job.save()
    raised = engine.advance(job.pk).cancel
    job.refresh_from_db()
    assert (job.state, job.resolution["state"]) == ("failed", "applied")
    assert {row["node"] for row in job.leftovers} == under_way
    assert (step.node_id, step.object) in {(node, cancel.object) for node, cancel in raised}
    nothing_is_left_over()
    executor = Executor(world=scene.world)
    executor.take(step.node_id, dispatch.envelope(step))
    assert dispatch.record(*executor.replies[-1]) is None, "what it says in the end changes nothing any more"


@pytest.mark.parametrize("code", OPERATIONS)
def test_an_answer_that_nobody_waits_for_is_dropped(scene: Scene, code: str) -> None:
    """Late, doubled, of another number, or from a node that was not asked."""
    executor = Executor(world=scene.world)
    job = finish(executor, scene.start(code).job)
    other = Node.objects.create(name="n9", address="10.99.0.19", redis_password_sha256="9" * 64)
    for node, reply in executor.replies:
        assert dispatch.record(node, reply) is None
        assert dispatch.record(other.pk, reply) is None
    assert Job.objects.get(pk=job.pk).state == "succeeded"
