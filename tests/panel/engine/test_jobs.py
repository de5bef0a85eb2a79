"""Jobs in line, jobs that are stuck, jobs that meet a world that has changed."""

import pytest

from cluster import services
from cluster.models import Job, Node, Step
from cluster.operations import start
from cluster.refusals import Refused
from cluster.saga import dispatch, engine, locks
from cluster.saga.locks import waits_for
from tests.panel.engine.scenarios import Scene
from tests.panel.engine.world import Executor

pytestmark = pytest.mark.django_db


def refusal_of(call: object, *args: object, **kwargs: object) -> Refused:
    with pytest.raises(Refused) as refused:
        call(*args, **kwargs)  # type: ignore[operator]
    return refused.value


def test_a_job_waits_for_the_lock_of_another_and_says_for_what_and_its_place(scene: Scene) -> None:
    first = scene.start("vm.reboot").job
    engine.advance(first.pk)
    second = start(scene.actor, "vm.stop", {}, scene.running.pk).job
    third = start(scene.actor, "vm.delete", {"disks": True}, scene.running.pk).job
    engine.advance(second.pk)
    engine.advance(third.pk)
    lock = "vm:" + scene.running.pk
    assert waits_for(second) == [{"lock": lock, "job": first.pk, "place": 1}]
    assert waits_for(third) == [{"lock": lock, "job": first.pk, "place": 2}]
    services.set_priority(scene.actor, third, 5)
    third.refresh_from_db()
    assert waits_for(third) == [{"lock": lock, "job": first.pk, "place": 1}]
    executor = Executor(world=scene.world)
    assert executor.run(third).state == "succeeded"
    second.refresh_from_db()
    assert second.state in ("waiting", "failed")
    assert executor.run(second).state == "failed"


def test_a_job_that_got_its_turn_too_late_fails_with_the_state_that_it_met(scene: Scene) -> None:
    scene.start("vm.stop")
    reboot = scene.start("vm.reboot").job
    job = Executor(world=scene.world).run(reboot)
    assert (job.state, job.error["code"]) == ("failed", "state")
    assert job.error["facts"]["state"] == "stopped"


def test_the_same_operation_on_the_same_thing_is_refused_with_its_job(scene: Scene) -> None:
    first = scene.start("vm.stop").job
    refused = refusal_of(scene.start, "vm.stop")
    assert (refused.status, refused.refusals[0].code, refused.job) == (409, "already_running", first.pk)


def test_who_does_not_want_to_wait_is_told_whose_job_holds_the_lock(scene: Scene) -> None:
    first = scene.start("vm.stop").job
    refused = refusal_of(start, scene.actor, "vm.reboot", {}, scene.running.pk, wait=False)
    assert (refused.status, refused.refusals[0].code, refused.job) == (409, "locked", first.pk)


def test_shared_locks_do_not_wait_for_each_other_and_an_exclusive_one_waits_for_all(scene: Scene) -> None:
    demo, inspect = scene.start("demo.wait").job, scene.start("node.inspect").job
    assert locks.acquire(demo)
    assert locks.acquire(inspect)
    remove = Job.objects.create(operation="node.remove", subject="node:" + scene.node.pk, root="x")
    locks.ask(remove, [locks.LockName("node:" + scene.node.pk)])
    assert not locks.acquire(remove)


def test_a_waiting_job_is_cancelled_at_once_and_gives_back_what_it_reserved(scene: Scene) -> None:
    before = scene.fingerprint()
    job = scene.start("vm.create").job
    services.cancel(scene.actor, job)
    job = Executor(world=scene.world).run(job)
    assert job.state == "cancelled"
    assert scene.fingerprint() == before
    assert scene.world.messages == []


def test_a_version_with_other_steps_leaves_the_job_stuck_and_touches_nothing(scene: Scene) -> None:
    job = scene.start("vm.delete").job
    job.steps.filter(name="stop").update(name="stop_gently")
    job = Executor(world=scene.world).run(job)
    assert (job.state, job.error["code"], job.error["facts"]["steps"]) == ("stuck", "steps_changed", "stop_gently")
    assert scene.world.messages == []


def test_a_word_that_contradicts_what_the_node_shows_is_refused(scene: Scene) -> None:
    executor = Executor(world=scene.world)
    job = scene.start("vm.delete").job
    engine.advance(job.pk)
    job.refresh_from_db()
    Job.objects.filter(pk=job.pk).update(state="stuck")
    job.refresh_from_db()
    services.resolve(scene.actor, job, "done", "I looked")
    job = executor.run(job)
    assert job.state == "stuck"
    assert job.resolution["state"] == "refused"
    assert job.resolution["contradictions"][0]["node"] == "n1"
    services.resolve(scene.actor, job, "undone", "it still runs")
    job = executor.run(job)
    assert (job.state, job.resolution["state"]) == ("failed", "applied")
    scene.running.refresh_from_db()
    assert scene.running.state == "running"


def test_an_agent_that_is_too_old_is_asked_nothing_that_it_cannot_know(scene: Scene) -> None:
    verbs = dict(scene.node.verbs)
    del verbs["domain.reset"]
    Node.objects.filter(pk=scene.node.pk).update(verbs=verbs, agent_version="0.0.9")
    job = Executor(world=scene.world).run(scene.start("vm.reset").job)
    assert job.state == "failed"
    assert job.error["facts"] == {"node": "n1", "verb": "domain.reset", "version": "0.0.9"}
    assert Executor(world=scene.world).run(scene.start("vm.reboot").job).state == "succeeded"


def test_beside_sixteen_long_verbs_a_stop_still_starts_at_once_and_a_long_one_waits(scene: Scene) -> None:
    waiting = Job.objects.create(operation="vm.shutdown", subject="vm:other", root="x")
    Step.objects.bulk_create(
        Step(job=waiting, position=n, name="shut_down", state="running", node=scene.node, dispatch=1, long=True)
        for n in range(dispatch.MAX_LONG_VERBS)
    )
    shutdown = scene.start("vm.shutdown").job
    engine.advance(shutdown.pk)
    shutdown.refresh_from_db()
    assert (shutdown.state, shutdown.waiting_reason["code"]) == ("running", "node_busy")
    services.cancel(scene.actor, shutdown)
    engine.advance(shutdown.pk)
    stop = scene.start("vm.stop").job
    assert len(engine.advance(stop.pk).send) == 1
    Step.objects.filter(job=waiting).delete()


def test_an_old_message_after_a_kill_is_superseded_on_the_node(scene: Scene) -> None:
    executor = Executor(world=scene.world)
    job = executor.run(scene.start("vm.stop").job)
    old = scene.world.messages[0]
    Executor(world=scene.world).run(start(scene.actor, "vm.start", {}, scene.running.pk).job)
    executor.take(scene.node.pk, old)
    assert executor.replies[-1][1].outcome == "superseded"
    assert scene.world.objects[scene.node.pk, "domain:" + scene.running.pk] == "running"
    assert Job.objects.get(pk=job.pk).state == "succeeded"
