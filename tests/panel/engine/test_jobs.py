"""Jobs in line, jobs that are stuck, jobs that meet a world that has changed."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from cluster import job_words, services, states
from cluster.models import AddressRange, AuditEvent, Disk, Job, Node, Vm, VmState
from cluster.models import Step as StepRow
from cluster.operations import start, start_child
from cluster.operations.vm_snapshot import VmSnapshot
from cluster.permissions import Actor
from cluster.refusals import Refused
from cluster.saga import dispatch, engine, locks
from cluster.saga.context import context_of
from cluster.saga.locks import waits_for
from cluster.saga.steps import Children, NoUndo, Operation, Params, Plan, Step
from nodes.contract.errors import ErrorInfo
from nodes.contract.messages import DemoUnmark, Envelope
from tests.panel.engine.scenarios import Scene
from tests.panel.engine.world import Executor, Fault

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
    assert waits_for([second])[second.pk] == [{"lock": lock, "job": first.pk, "place": 1}]
    assert waits_for([third])[third.pk] == [{"lock": lock, "job": first.pk, "place": 2}]
    job_words.set_priority(scene.actor, third, 5)
    third.refresh_from_db()
    assert waits_for([third])[third.pk] == [{"lock": lock, "job": first.pk, "place": 1}]
    executor = Executor(world=scene.world)
    assert executor.run(third).state == "succeeded"
    second.refresh_from_db()
    assert second.state in ("waiting", "failed")
    assert executor.run(second).state == "failed"


def test_a_job_whose_locks_are_free_has_them_at_once_and_the_next_one_waits(scene: Scene) -> None:
    first = scene.start("vm.stop").job
    second = start(scene.actor, "vm.reboot", {}, scene.running.pk).job
    assert [(job.state, job.started is not None) for job in (first, second)] == [("running", True), ("waiting", False)]
    assert all(first.locks.values_list("held", flat=True))
    assert not any(second.locks.values_list("held", flat=True))
    assert Executor(world=scene.world).run(first).state == "succeeded"


def test_what_a_job_that_just_ended_has_changed_since_the_plan_refuses_at_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = VmSnapshot.plan

    def plan_while_a_disk_is_added(actor: Actor, target: Vm, params: Any) -> Plan:
        made = plan(actor, target, params)
        Disk.objects.create(vm=target, tenant=target.tenant, pool=scene.pool, size_bytes=1, position=7, state="ready")
        return made

    monkeypatch.setattr(VmSnapshot, "plan", plan_while_a_disk_is_added)
    refused = refusal_of(start, scene.actor, "vm.snapshot", {"name": "s"}, scene.running.pk)
    assert [r.code for r in refused.refusals] == ["disks_changed"]
    assert not Job.objects.exists()
    monkeypatch.undo()
    assert start(scene.actor, "vm.snapshot", {"name": "s"}, scene.running.pk).job.state == "running"


def test_a_job_that_got_its_turn_too_late_fails_with_the_state_that_it_met(scene: Scene) -> None:
    scene.start("vm.stop")
    reboot = scene.start("vm.reboot").job
    job = Executor(world=scene.world).run(reboot)
    assert (job.state, job.error["code"]) == ("failed", "state")
    assert job.error["facts"]["state"] == "stopped"


def test_a_paused_vm_whose_delete_fails_is_paused_again(scene: Scene) -> None:
    Vm.objects.filter(pk=scene.running.pk).update(state="paused")
    scene.world.objects[scene.node.pk, "domain:" + scene.running.pk] = "paused"
    before = scene.fingerprint()
    job = start(scene.actor, "vm.delete", {"disks": True}, scene.running.pk).job
    refuses = Executor(
        world=scene.world, fault=lambda n, message: "refused" if message.verb == "domain.undefine" else None
    )
    assert refuses.run(job).state == "failed"
    assert scene.fingerprint() == before


def test_what_waiting_cannot_change_is_refused_at_once(scene: Scene) -> None:
    scene.start("vm.stop")
    Vm.objects.filter(pk=scene.running.pk).update(protected=True)
    refused = refusal_of(start, scene.actor, "vm.delete", {}, scene.running.pk)
    assert {r.code for r in refused.refusals} == {"protected", "disks_param"}


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
    remove = Job.objects.create(operation="node.remove", subject="node:" + scene.node.pk)
    locks.ask(remove, [locks.LockName("node:" + scene.node.pk)])
    assert not locks.acquire(remove)


def test_a_job_that_has_not_begun_is_cancelled_at_once_and_gives_back_what_it_reserved(scene: Scene) -> None:
    before = scene.fingerprint()
    job = scene.start("vm.create").job
    job_words.cancel(scene.actor, job)
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
    job_words.resolve(scene.actor, job, "done", "I looked")
    job = executor.run(job)
    assert job.state == "stuck"
    assert job.resolution["state"] == "refused"
    assert job.resolution["contradictions"][0]["node"] == "n1"
    job_words.resolve(scene.actor, job, "undone", "it still runs")
    job = executor.run(job)
    assert (job.state, job.resolution["state"]) == ("failed", "applied")
    scene.running.refresh_from_db()
    assert scene.running.state == "running"


def test_a_node_that_cannot_show_what_it_has_is_named_and_then_believed_unseen(scene: Scene) -> None:
    """Its libvirtd hangs, and the job is stuck already: without its name the resolve would look for ever."""
    job = scene.start("vm.delete").job
    engine.advance(job.pk)
    Job.objects.filter(pk=job.pk).update(state="stuck")
    job = job_words.resolve(scene.actor, Job.objects.get(pk=job.pk), "undone", "it still runs")
    engine.advance(job.pk)
    job.refresh_from_db()
    assert refusal_of(job_words.resolve, scene.actor, job, "undone", "again").refusals[0].code == "being_resolved"
    job.resolution["asked_at"] = "2001-01-01T00:00:00+00:00"
    job.save()
    assert refusal_of(job_words.resolve, scene.actor, job, "undone", "again").refusals[0].code == "type_node_name"
    job_words.resolve(scene.actor, job, "undone", "I was there", node="n1")
    job.refresh_from_db()
    job.resolution["asked_at"] = "2001-01-01T00:00:00+00:00"
    job.save()
    engine.advance(job.pk)
    job.refresh_from_db()
    assert (job.state, job.resolution["state"]) == ("failed", "applied")
    assert {row["node"] for row in job.leftovers} == {"n1"}


def test_what_no_node_was_asked_to_do_is_listed_when_a_job_is_resolved(scene: Scene) -> None:
    def fault(n: int, envelope: Envelope) -> Fault | None:
        return "refused" if envelope.verb == "nic.unplug" else None

    executor = Executor(world=scene.world, fault=fault)
    job = executor.run(scene.start("vm.delete").job)
    assert job.state == "stuck"
    nic = job.steps.get(name="unplug_nic")
    job.steps.filter(pk=nic.pk).update(state="pending", attempt=0)
    job_words.resolve(scene.actor, job, "done", "I looked")
    job = executor.run(job)
    assert (job.state, job.resolution["state"]) == ("succeeded", "applied")
    assert job.leftovers == [{"node": "n1", "object": nic.object}]


def test_an_agent_that_is_too_old_is_asked_nothing_that_it_cannot_know(scene: Scene) -> None:
    verbs = dict(scene.node.verbs)
    del verbs["domain.reset"]
    Node.objects.filter(pk=scene.node.pk).update(verbs=verbs, agent_version="0.0.9")
    job = Executor(world=scene.world).run(scene.start("vm.reset").job)
    assert job.state == "failed"
    assert job.error["facts"] == {"node": "n1", "verb": "domain.reset", "version": "0.0.9"}
    assert Executor(world=scene.world).run(scene.start("vm.reboot").job).state == "succeeded"


def test_beside_sixteen_long_verbs_a_stop_still_starts_at_once_and_a_long_one_waits(scene: Scene) -> None:
    waiting = Job.objects.create(operation="vm.shutdown", subject="vm:other")
    StepRow.objects.bulk_create(
        StepRow(job=waiting, position=n, name="shut_down", state="running", node=scene.node, dispatch=1, long=True)
        for n in range(dispatch.MAX_LONG_VERBS)
    )
    shutdown = scene.start("vm.shutdown").job
    engine.advance(shutdown.pk)
    shutdown.refresh_from_db()
    assert (shutdown.state, shutdown.waiting_reason["code"]) == ("running", "node_busy")
    job_words.cancel(scene.actor, shutdown)
    engine.advance(shutdown.pk)
    stop = scene.start("vm.stop").job
    assert len(engine.advance(stop.pk).send) == 1
    StepRow.objects.filter(job=waiting).delete()


def test_disks_and_interfaces_of_a_new_vm_are_made_beside_each_other(scene: Scene) -> None:
    asked = {step.verb for step in engine.advance(scene.start("vm.create").job.pk).send}
    assert asked == {"disk.create", "nic.plug"}


def test_before_anything_is_undone_the_step_beside_the_failed_one_is_heard(scene: Scene) -> None:
    executor = Executor(world=scene.world, fault=lambda n, e: "refused" if e.verb == "disk.create" else None)
    job = scene.start("vm.create").job
    engine.advance(job.pk)
    under_way = [dispatch.envelope(step) for step in executor.to_send()]
    disks = [envelope for envelope in under_way if envelope.verb == "disk.create"]
    nics = [envelope for envelope in under_way if envelope.verb == "nic.plug"]
    for envelope in disks:
        executor.take(scene.node.pk, envelope)
    engine.advance(job.pk)
    job.refresh_from_db()
    assert job.undoing
    assert [dispatch.envelope(step) for step in executor.to_send()] == nics
    for envelope in nics:
        executor.take(scene.node.pk, envelope)
    assert executor.run(job).state == "failed"
    assert (scene.node.pk, nics[0].object) not in scene.world.objects


@pytest.fixture
def everybody_stops(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Operation[Any]]]:
    """An operation that exists for these tests only: it stops VMs by jobs of its own, and knows a secret."""

    class Asked(Params):
        vms: list[str]
        word: SecretStr | None = None

    class StopMany(Operation[Asked]):
        code = "demo.stop_many"
        noun = "nodes"
        label = "Stop many"
        Params = Asked
        secret = ("word",)
        steps = (
            Step(
                "stop",
                "Stop each",
                do=lambda context, key: Children(
                    [start_child(context.job, "vm.stop", {}, pk) for pk in context.params.vms]
                ),
                undo=NoUndo("each has its own"),
            ),
        )

        @classmethod
        def locks(cls, context: Any) -> list[locks.LockName]:
            return [locks.LockName("node:" + context.subject_id, exclusive=False)]

        @classmethod
        def recheck(cls, context: Any) -> list[Any]:
            return []

    yield StopMany
    del Operation.registry["demo.stop_many"]


def test_a_parent_waits_for_its_children_and_fails_with_the_first_that_failed(
    scene: Scene, everybody_stops: type[Operation[Any]]
) -> None:
    executor = Executor(world=scene.world)
    parent = executor.run(start(scene.actor, "demo.stop_many", {"vms": [scene.running.pk]}, scene.node.pk).job)
    assert parent.state == "succeeded"
    assert [(c.operation, c.state) for c in parent.children.all()] == [("vm.stop", "succeeded")]
    Vm.objects.filter(pk=scene.running.pk).update(state="running")
    executor = Executor(world=scene.world, fault=lambda n, envelope: "refused")
    parent = executor.run(start(scene.actor, "demo.stop_many", {"vms": [scene.running.pk]}, scene.node.pk).job)
    assert (parent.state, parent.error["code"]) == ("failed", "children_failed")
    assert parent.error["facts"]["job"] == parent.children.get().pk


def test_a_cancel_passes_down_to_the_children(scene: Scene, everybody_stops: type[Operation[Any]]) -> None:
    reboot = scene.start("vm.reboot").job
    engine.advance(reboot.pk)
    parent = start(scene.actor, "demo.stop_many", {"vms": [scene.running.pk]}, scene.node.pk).job
    for job in (parent, *Job.objects.exclude(pk__in=[parent.pk, reboot.pk])):
        engine.advance(job.pk)
    parent.refresh_from_db()
    assert parent.children.get().state == "waiting"
    job_words.cancel(scene.actor, parent)
    parent = Executor(world=scene.world).run(parent)
    assert parent.state == "cancelled"
    assert parent.children.get().state == "cancelled"
    assert Job.objects.get(pk=reboot.pk).state == "succeeded"


def test_a_secret_is_sealed_in_its_row_given_to_the_steps_and_wiped_at_the_end(
    scene: Scene, everybody_stops: type[Operation[Any]]
) -> None:
    asked = {"vms": [], "word": "open sesame"}
    job = start(scene.actor, "demo.stop_many", asked, scene.node.pk).job
    assert "word" not in job.params
    assert job.secrets
    assert "sesame" not in job.secrets
    assert context_of(job).params.word.get_secret_value() == "open sesame"
    job = Executor(world=scene.world).run(job)
    assert (job.state, job.secrets) == ("succeeded", "")
    assert "sesame" not in str(list(AuditEvent.objects.values()))


def test_an_old_message_after_a_kill_is_superseded_on_the_node(scene: Scene) -> None:
    executor = Executor(world=scene.world)
    job = executor.run(scene.start("vm.stop").job)
    old = scene.world.messages[0]
    Executor(world=scene.world).run(start(scene.actor, "vm.start", {}, scene.running.pk).job)
    executor.take(scene.node.pk, old)
    assert executor.replies[-1][1].outcome == "superseded"
    assert scene.world.objects[scene.node.pk, "domain:" + scene.running.pk] == "running"
    assert Job.objects.get(pk=job.pk).state == "succeeded"


def test_a_panel_put_back_from_a_backup_goes_on_above_the_numbers_that_the_node_has_seen(scene: Scene) -> None:
    domain = (scene.node.pk, "domain:" + scene.running.pk)
    scene.world.ledger[domain] = 41
    job = Executor(world=scene.world).run(scene.start("vm.stop").job)
    assert (job.state, job.error["code"]) == ("failed", "superseded")
    job = Executor(world=scene.world).run(scene.start("vm.stop").job)
    assert job.state == "succeeded"
    assert scene.world.ledger[domain] == 42


def test_a_cancelled_job_whose_undo_was_stuck_still_ends_as_cancelled(scene: Scene) -> None:
    broken = True

    def fault(n: int, envelope: Envelope) -> Fault | None:
        if envelope.verb == "nic.plug":
            Job.objects.update(cancel_requested=True)
        return "refused" if broken and envelope.phase == "undo" else None

    executor = Executor(world=scene.world, fault=fault)
    job = executor.run(scene.start("vm.create").job)
    assert (job.state, job.error["code"]) == ("stuck", "refused_by_test")
    broken = False
    job_words.retry(scene.actor, job)
    job = executor.run(job)
    assert (job.state, job.error) == ("cancelled", None)


@pytest.mark.parametrize("kind", ["disk", "domain"])
def test_somebody_elses_thing_of_the_wanted_name_stops_a_create_and_not_its_undo(scene: Scene, kind: str) -> None:
    class Meets(Executor):
        def perform(self, node: str, envelope: Envelope, *rest: Any) -> None:
            if envelope.object.startswith(kind):
                error = ErrorInfo(code="exists_not_ours", cause="theirs")
                self.answer(node, envelope, "failed", error=error)
            else:
                super().perform(node, envelope, *rest)

    before = scene.fingerprint()
    job = Meets(world=scene.world).run(scene.start("vm.create").job)
    assert (job.state, job.error["code"]) == ("failed", "exists_not_ours")
    assert scene.fingerprint() == before


def test_a_done_whose_result_cannot_be_read_is_doubt_and_no_job_hangs_on_it(scene: Scene) -> None:
    """An agent of another version, or one that lies: nobody knows what it did."""

    class Odd(Executor):
        def answer(self, node: str, envelope: Envelope, outcome: Any, *rest: Any, **fields: Any) -> None:
            odd = envelope.verb == "domain.start" and envelope.phase == "do"
            super().answer(node, envelope, outcome, *(({"state": "beamed up"},) if odd else rest), **fields)

    job = Odd(world=scene.world).run(scene.start("vm.start").job)
    assert (job.state, job.error["code"]) == ("failed", "agent_error")
    assert Vm.objects.get(pk=scene.stopped.pk).state == "stopped"


def test_a_stop_that_was_settled_by_a_look_shows_what_the_look_saw(scene: Scene) -> None:
    job = Executor(world=scene.world, fault=lambda n, envelope: "uncertain_for_long").run(scene.start("vm.stop").job)
    assert job.state == "succeeded"
    assert Vm.objects.get(pk=scene.running.pk).state == "stopped"


def test_a_create_that_is_resolved_as_done_gives_back_the_room_that_it_reserved(scene: Scene) -> None:
    job = scene.start("vm.create").job
    engine.advance(job.pk)
    Node.objects.filter(pk=scene.node.pk).update(state="offline")
    executor = Executor(world=scene.world)
    job_words.resolve(scene.actor, executor.run(job), "done", "I made it by hand", node="n1")
    assert executor.run(job).state == "succeeded"
    scene.pool.refresh_from_db()
    assert scene.pool.reserved_bytes == 0
    assert set(Vm.objects.get(name="new").disks.values_list("state", flat=True)) == {"ready"}


@pytest.mark.parametrize("outcome", ["done", "undone"])
def test_a_job_whose_step_this_version_does_not_know_can_be_resolved(scene: Scene, outcome: str) -> None:
    job = scene.start("vm.delete").job
    engine.advance(job.pk)
    job.steps.filter(name="stop").update(name="stop_gently")
    executor = Executor(world=scene.world)
    job = executor.run(job)
    assert job.error["code"] == "steps_changed"
    job_words.resolve(scene.actor, job, outcome, "I looked")
    job = executor.run(job)
    assert (job.state, job.resolution["state"]) == ("succeeded" if outcome == "done" else "failed", "applied")
    assert {"node": "n1", "object": "domain:" + scene.running.pk} in job.leftovers


@pytest.mark.parametrize("outcome", ["done", "undone"])
def test_a_job_whose_operation_this_version_does_not_know_can_be_resolved(scene: Scene, outcome: str) -> None:
    job = scene.start("vm.reset").job
    engine.advance(job.pk)
    Job.objects.filter(pk=job.pk).update(operation="vm.spin")
    executor = Executor(world=scene.world)
    job = executor.run(job)
    assert job.error["code"] == "steps_changed"
    job_words.resolve(scene.actor, job, outcome, "I looked")
    assert executor.run(job).resolution["state"] == "applied"


def test_a_state_is_moved_though_somebody_edits_the_vm_at_the_same_moment(scene: Scene) -> None:
    """A title is no reason to leave a VM "creating" for ever: only another state is."""
    vm = Vm.objects.get(pk=scene.running.pk)
    services.vm_edit(scene.actor, scene.running, title="edited in between")
    assert states.move(vm, VmState.STOPPING)
    assert Vm.objects.get(pk=vm.pk).state == "stopping"
    Vm.objects.filter(pk=vm.pk).update(state="error")
    assert not states.move(vm, VmState.STOPPED)
    assert Vm.objects.get(pk=vm.pk).state == "error"


def test_no_guest_gets_the_address_of_its_router_or_of_the_network_itself(scene: Scene) -> None:
    AddressRange.objects.update(
        first="10.99.0.0", last="10.99.0.7", prefix_length=29, gateway="10.99.0.1", nameservers=["10.99.0.3"]
    )
    given = scene.start("vm.create").subject
    assert set(given.nics.values_list("lease__address", flat=True)) == {"10.99.0.2", "10.99.0.4"}
    for address in ("10.99.0.0", "10.99.0.1", "10.99.0.3", "10.99.0.7"):
        nics = [{"network": scene.network.pk, "address": address}]
        params = {"name": "other", "vcpus": 1, "memory_bytes": 128 << 20, "disks": [], "nics": nics}
        refused = refusal_of(start, scene.actor, "vm.create", params)
        assert [r.code for r in refused.refusals] == ["address_taken"]


def test_an_undo_for_which_the_node_has_no_thread_is_done_later_and_not_taken_for_done(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old number must not be sent meanwhile: its stored answer would pass for the undo's."""
    executor = Executor(world=scene.world)
    job = executor.run(scene.start("demo.wait").job)
    monkeypatch.setattr(DemoUnmark, "long", True)
    monkeypatch.setattr(dispatch, "MAX_LONG_VERBS", 0)
    job_words.cancel(scene.actor, job)
    job = executor.run(job)
    assert (job.state, job.waiting_reason["code"]) == ("undoing", "node_busy")
    assert not dispatch.outbox().exists()
    monkeypatch.setattr(dispatch, "MAX_LONG_VERBS", 16)
    assert executor.run(job).state == "cancelled"
    assert (scene.node.pk, "demo:" + job.pk) not in scene.world.objects
