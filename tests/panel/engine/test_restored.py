"""Jobs out of a backup, on nodes that went on without the panel: nothing is done again, and nothing is undone."""

from datetime import UTC, datetime

import pytest
from django.contrib.sessions.models import Session
from django.utils import timezone

from cluster import job_words
from cluster.models import AuditEvent, Job, JoinToken, Lock, Node, StreamCursor, Vm
from cluster.operations import start
from cluster.panel_backup import aftermath
from nodes.contract.messages import Envelope
from tests.panel.engine.scenarios import OF_CHILDREN, SCENARIOS, Scene
from tests.panel.engine.world import Executor, Fault

pytestmark = pytest.mark.django_db

# What is asked of a node as a whole sends nothing itself.
ON_THE_PANEL_ALONE = {"node.remove", "node.maintenance", "node.evacuate", "node.put_back", "node.declare_dead"}
SENDING = sorted(SCENARIOS.keys() - ON_THE_PANEL_ALONE - OF_CHILDREN)
THEN = datetime(2026, 11, 20, 2, 0, tzinfo=UTC)


def come_back(scene: Scene) -> None:
    """Out of a backup, and every node has spoken since."""
    aftermath.settle(THEN, "0.1.0")
    Node.objects.update(state="online")
    for vm, state in ((scene.running, "running"), (scene.stopped, "stopped")):
        Vm.objects.filter(pk=vm.pk, state="unknown").update(state=state)


class Interrupted(Exception):
    pass


def interrupt(scene: Scene, code: str, verb: str) -> Job:
    """A job whose message is on its way when the backup is made."""

    def stop(n: int, envelope: Envelope) -> None:
        if envelope.verb == verb:
            raise Interrupted

    job = scene.start(code).job
    with pytest.raises(Interrupted):
        Executor(world=scene.world, before_answer=stop).run(job)
    return Job.objects.get(pk=job.pk)


@pytest.mark.parametrize("code", SENDING)
def test_a_job_that_was_open_is_stuck_and_nothing_is_sent_of_it(scene: Scene, code: str) -> None:
    job = scene.start(code).job
    executor = Executor(world=scene.world)
    executor.advance(job.pk)
    before = Job.objects.get(pk=job.pk)
    come_back(scene)
    executor.run(before)
    job = Job.objects.get(pk=job.pk)
    assert (job.state, job.error["code"], job.error["facts"]) == ("stuck", "restored", {"when": "2026-11-20 02:00 UTC"})
    assert scene.world.messages == []
    assert job.locks.count() == Lock.objects.count() > 0
    assert AuditEvent.objects.filter(job=job, outcome="stuck").exists()


@pytest.mark.parametrize("code", [code for code in SENDING if code != "demo.wait"])  # that one waits for a click
def test_tried_again_it_goes_on_where_it_was(scene: Scene, code: str) -> None:
    job = scene.start(code).job
    executor = Executor(world=scene.world)
    executor.advance(job.pk)
    come_back(scene)
    job_words.retry(scene.actor, Job.objects.get(pk=job.pk))
    job = executor.run(job)
    assert job.state == "succeeded"
    assert not Lock.objects.exists()


def test_one_that_waited_its_turn_waits_for_it_again(scene: Scene) -> None:
    first = interrupt(scene, "vm.stop", "domain.stop")
    second = start(scene.actor, "vm.delete", {"disks": True}, scene.running.pk).job
    come_back(scene)
    job_words.retry(scene.actor, Job.objects.get(pk=second.pk))
    executor = Executor(world=scene.world)
    assert executor.run(second).state == "waiting"
    job_words.retry(scene.actor, Job.objects.get(pk=first.pk))
    assert executor.run(first).state == "succeeded"
    assert executor.run(second).state == "succeeded"


def test_a_guest_that_people_use_since_is_not_undone_with_the_job_that_made_it(scene: Scene) -> None:
    """The backup was made in the middle of the create; the lost panel finished it, and people stopped and started."""
    job = interrupt(scene, "vm.create", "domain.define")
    vm = Vm.objects.get(pk=job.subject.partition(":")[2])
    domain = (scene.node.pk, f"domain:{vm.pk}")
    scene.world.objects[domain], scene.world.ledger[domain] = "running", 4
    seen = dict(scene.world.objects)
    come_back(scene)
    executor = Executor(world=scene.world)
    for _ in range(3):
        job_words.retry(scene.actor, Job.objects.get(pk=job.pk))
        job = executor.run(job)
        assert (job.state, job.error["code"]) == ("stuck", "overtaken")
    assert scene.world.objects == seen
    job_words.resolve(scene.actor, job, "done", "it runs, I have looked")
    job = executor.run(job)
    assert job.state == "succeeded"
    assert scene.world.objects == seen
    assert Vm.objects.get(pk=vm.pk).state == "running"


def test_what_was_deleted_since_is_not_made_again_by_the_job_that_made_it(scene: Scene) -> None:
    job = interrupt(scene, "vm.create", "domain.define")
    vm = Vm.objects.get(pk=job.subject.partition(":")[2])
    kept = {name: state for name, state in scene.world.objects.items() if scene.world.ledger.get(name) is None}
    for name in list(scene.world.ledger):
        scene.world.ledger[name] += 2
    scene.world.ledger[scene.node.pk, f"domain:{vm.pk}"] = 4
    scene.world.objects = dict(kept)
    come_back(scene)
    job_words.retry(scene.actor, Job.objects.get(pk=job.pk))
    executor = Executor(world=scene.world)
    job = executor.run(job)
    assert (job.state, job.error["code"]) == ("stuck", "overtaken")
    job_words.resolve(scene.actor, job, "undone", "it was deleted since")
    assert executor.run(job).state == "failed"
    assert scene.world.objects == kept
    assert not Vm.objects.filter(pk=vm.pk).exists()


def test_an_administrators_word_that_was_not_taken_yet_is_asked_for_again(scene: Scene) -> None:
    job = interrupt(scene, "vm.stop", "domain.stop")
    Job.objects.filter(pk=job.pk).update(state="stuck", resolution={"state": "asked", "outcome": "done"})
    come_back(scene)
    assert Job.objects.get(pk=job.pk).resolution is None


def test_nobody_has_spoken_yet_and_nobody_is_signed_in(scene: Scene) -> None:
    Session.objects.create(session_key="s", session_data="x", expire_date=timezone.now())
    JoinToken.objects.create(node=scene.node, sha256="a" * 64, expires=timezone.now())
    StreamCursor.objects.create(node=scene.node, run_id="run", last="5-0")
    away = Node.objects.create(name="n2", address="10.99.0.12", state="maintenance")
    Vm.objects.filter(pk=scene.stopped.pk).update(state="deleting")
    assert aftermath.settle(THEN, "0.1.0") == 0
    assert dict(Node.objects.values_list("name", "state")) == {"n1": "offline", away.name: "offline"}
    assert dict(Vm.objects.values_list("name", "state")) == {"vm-running": "unknown", "vm-stopped": "deleting"}
    assert StreamCursor.objects.values_list("run_id", "last").get() == ("", "0-0")
    assert not Session.objects.exists()
    assert not JoinToken.objects.exists()
    assert AuditEvent.objects.get(action="panel.restore").detail["made"] == THEN.isoformat()


def test_what_is_asked_after_the_restore_is_done_at_once_above_the_numbers_that_the_node_has_seen(scene: Scene) -> None:
    come_back(scene)
    for disk in scene.running.disks.all():
        scene.world.ledger[scene.node.pk, f"disk:{disk.pk}"] = 7
    scene.world.ledger[scene.node.pk, f"domain:{scene.running.pk}"] = 41
    job = Executor(world=scene.world).run(scene.start("vm.delete").job)
    assert (job.state, job.error) == ("succeeded", None)
    assert scene.world.ledger[scene.node.pk, f"domain:{scene.running.pk}"] == 43
    assert (scene.node.pk, f"domain:{scene.running.pk}") not in scene.world.objects


def test_an_undo_goes_above_the_numbers_too(scene: Scene) -> None:
    come_back(scene)
    domain = (scene.node.pk, f"domain:{scene.running.pk}")
    before = scene.fingerprint()

    def later(n: int, envelope: Envelope) -> None:
        if envelope.verb == "domain.undefine":
            scene.world.ledger[domain] = 50

    def fault(n: int, envelope: Envelope) -> Fault | None:
        return "refused" if envelope.verb == "domain.undefine" else None

    executor = Executor(world=scene.world, fault=fault, before_answer=later)
    job = executor.run(start(scene.actor, "vm.delete", {"disks": True}, scene.running.pk).job)
    assert (job.state, job.error["code"]) == ("failed", "refused_by_test")
    assert scene.fingerprint() == before
    assert scene.world.ledger[domain] == 52


def test_a_node_that_calls_every_number_too_low_is_not_believed_for_ever(scene: Scene) -> None:
    come_back(scene)
    domain = (scene.node.pk, f"domain:{scene.running.pk}")

    class Liar(Executor):
        def take(self, node: str, envelope: Envelope, *, cancelled: bool = False) -> None:
            self.world.ledger[domain] = (envelope.dispatch or 0) + 1
            super().take(node, envelope, cancelled=cancelled)

    job = Liar(world=scene.world).run(scene.start("vm.reset").job)
    assert (job.state, job.error["code"]) == ("failed", "superseded")
