"""Repeated, doubled, late and lost messages; an agent killed at every named point."""

import json
import shutil
import subprocess

import pytest

from nodes.contract import messages as m
from nodes.contract import wire
from nodes.contract.specs import DiskSpec, DomainSpec
from tests.agent.panel import NODE

MARK = m.DemoMark(id="m" * 13)
UNMARK = m.DemoUnmark(id="m" * 13)


def marked(agent):
    return (agent.state / "demo" / MARK.id).exists()


def test_a_message_is_done_and_answered(agent, panel):
    reply = panel.call(MARK)
    assert (reply.outcome, reply.verb, reply.job, reply.phase) == ("done", "demo.mark", "job", "do")
    assert marked(agent)


def test_a_repeated_message_is_answered_again_and_not_run_again(agent, panel):
    panel.done(MARK)
    (agent.state / "demo" / MARK.id).unlink()
    panel.send(MARK, 1, attempt=2)
    assert panel.reply(MARK, 1).attempt == 2
    assert not marked(agent)


def test_a_lower_number_is_never_run(agent, panel):
    panel.done(MARK)
    panel.done(UNMARK)
    panel.send(MARK, 1)
    assert panel.reply(MARK, 1).outcome == "superseded"
    assert not marked(agent)


def test_a_doubled_message_runs_once(agent, panel):
    agent.arm("agent.started-written:demo.mark", "hold")
    panel.send(MARK, 1)
    panel.send(MARK, 1)
    # Another object's answer shows that both have been taken: one thread waits at the point, the other is done.
    panel.done(m.DemoUnmark(id="o" * 13))
    agent.await_point("agent.started-written:demo.mark")
    agent.let_go("agent.started-written:demo.mark")
    assert panel.reply(MARK, 1).outcome == "done"
    panel.done(m.DemoMark(id="q" * 13))
    assert panel.replies_so_far(MARK) == []


def test_a_higher_number_waits_for_the_running_one(agent, panel):
    agent.arm("agent.effect-done:demo.mark", "hold")
    panel.send(MARK, 1)
    # Of two messages in the queue another thread could take the second one first, which would supersede the first.
    agent.await_point("agent.effect-done:demo.mark")
    panel.send(UNMARK, 2)
    panel.done(m.DemoUnmark(id="o" * 13))
    assert marked(agent)
    agent.let_go("agent.effect-done:demo.mark")
    assert panel.reply(MARK, 1).outcome == "done"
    assert panel.reply(UNMARK, 2).outcome == "done"
    assert not marked(agent)


def test_an_early_cancel_is_remembered(agent, panel):
    panel.cancel(MARK, 1)
    assert panel.reply(MARK, 1).outcome == "cancelled"
    panel.send(MARK, 1)
    assert panel.reply(MARK, 1).outcome == "cancelled"
    assert not marked(agent)


def test_a_cancel_of_a_finished_verb_changes_nothing_and_says_so(agent, panel):
    panel.done(MARK)
    panel.cancel(MARK, 1)
    assert panel.reply(MARK, 1).outcome == "done"
    assert marked(agent)


POINTS = ["agent.taken", "agent.started-written", "agent.effect-done", "agent.reply-written", "agent.reply-sent"]


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_point_the_next_agent_does_it_and_the_old_number_is_harmless(point, agent, panel):
    agent.arm(f"{point}:demo.mark")
    panel.send(MARK, 1)
    agent.await_death()
    agent.up()
    panel.send(MARK, 1, attempt=2)
    assert panel.next(m.Reply, lambda reply: reply.attempt == 2).outcome == "done"
    assert marked(agent)
    panel.send(UNMARK, 2)
    assert panel.reply(UNMARK, 2).outcome == "done"
    panel.send(MARK, 1, attempt=3)
    assert panel.next(m.Reply, lambda reply: reply.attempt == 3).outcome == "superseded"
    assert not marked(agent)


DISK_POINTS = ["disk.marked", "disk.part-made", "disk.linked", "disk.unlinked"]


@pytest.mark.parametrize("point", DISK_POINTS)
def test_killed_while_a_volume_is_made_the_repetition_finishes_it(point, agent, panel):
    create = m.DiskCreate(disk=DiskSpec(id="d" * 13, pool=agent.pool, format="qcow2", size_bytes=1 << 20))
    agent.arm(point)
    panel.send(create, 1)
    agent.await_death()
    agent.up()
    panel.send(create, 1)
    reply = panel.reply(create, 1)
    assert (reply.outcome, reply.result) == ("done", {"size_bytes": 1 << 20})
    assert sorted(file.name for file in agent.images.iterdir()) == [".ulei-pool", "d" * 13 + ".qcow2"]


@pytest.mark.parametrize("point", DISK_POINTS)
def test_killed_while_a_volume_is_made_the_undo_leaves_nothing(point, agent, panel):
    create = m.DiskCreate(disk=DiskSpec(id="d" * 13, pool=agent.pool, format="qcow2", size_bytes=1 << 20))
    agent.arm(point)
    panel.send(create, 1)
    agent.await_death()
    agent.up()
    delete = m.DiskDelete(id="d" * 13, pool=agent.pool, format="qcow2")
    panel.send(delete, 2)
    assert panel.reply(delete, 2).outcome == "done"
    assert [file.name for file in agent.images.iterdir()] == [".ulei-pool"]


def test_an_agent_killed_before_its_welcome_says_hello_as_the_next_incarnation(node, panel):
    node.arm("agent.hello")
    node.start()
    node.await_death()
    assert node.up().incarnation == 2


def test_nothing_runs_before_the_welcome_and_what_it_raises_never_does(node, panel):
    panel.send(MARK, 4)
    node.start()
    hello = panel.next(m.Hello)
    assert panel.replies_so_far(MARK) == []
    welcome = m.Welcome(incarnation=hello.incarnation, raises={MARK.object: 5})
    panel.redis.lpush(wire.welcome_list(NODE), welcome.model_dump_json())
    assert panel.reply(MARK, 4).outcome == "superseded"
    assert not marked(node)
    panel.send(MARK, 5)
    assert panel.reply(MARK, 5).outcome == "done"


def test_a_welcome_for_another_incarnation_is_not_ours(node, panel):
    panel.redis.lpush(wire.welcome_list(NODE), m.Welcome(incarnation=99).model_dump_json())
    panel.send(MARK, 1)
    node.start()
    panel.next(m.Hello)
    panel.next(m.Heartbeat)
    panel.next(m.Heartbeat)
    assert panel.replies_so_far(MARK) == []


def test_a_field_that_this_agent_does_not_know_is_a_certain_too_old(agent, panel):
    panel.send(MARK, 1, invented_later=True)
    reply = panel.reply(MARK, 1)
    assert (reply.outcome, reply.error.code, reply.error.certain) == ("failed", "too_old", True)


def test_a_verb_that_this_agent_does_not_know_is_a_certain_too_old(agent, panel):
    envelope = {"verb": "disk.polish", "object": "disk:x", "dispatch": 1, "job": "j", "step": "s", "phase": "do"}
    panel.task("disk.polish", envelope={**envelope, "attempt": 1, "body": {}})
    assert panel.next(m.Reply, lambda reply: reply.object == "disk:x").error.code == "too_old"


def test_a_message_about_another_object_than_it_says_is_refused(agent, panel):
    envelope = {
        "verb": "demo.mark",
        "object": "demo:" + "x" * 13,
        "dispatch": 1,
        "job": "j",
        "step": "s",
        "phase": "do",
    }
    panel.task("demo.mark", envelope={**envelope, "attempt": 1, "body": {"id": MARK.id}})
    assert panel.next(m.Reply).error.code == "bad_message"
    assert not marked(agent)


def test_redis_restarted_empty_is_no_reason_to_forget(agent, panel, redis_server):
    panel.done(MARK)
    redis_server.stop()
    redis_server.start()
    panel.begin_anew()
    panel.send(MARK, 1, attempt=2)
    # The first answer may come once more: Redis may have ended between taking it and saying so.
    assert panel.next(m.Reply, lambda reply: reply.attempt == 2).outcome == "done"
    panel.next(m.Inventory)


def test_a_reply_waits_for_redis(agent, panel, redis_server):
    agent.arm("agent.reply-written:demo.mark", "hold")
    panel.send(MARK, 1)
    agent.await_point("agent.reply-written:demo.mark")
    redis_server.stop()
    agent.let_go("agent.reply-written:demo.mark")
    redis_server.start()
    panel.begin_anew()
    assert panel.reply(MARK, 1).outcome == "done"


def test_the_queue_leaves_nothing_behind_in_redis(agent, panel):
    panel.done(MARK)
    keys = {key for key in panel.redis.scan_iter() if key.startswith(wire.key_prefix(NODE))}
    assert keys == {wire.events_stream(NODE)}


def test_sigterm_ends_it_soon(agent, panel):
    panel.done(MARK)
    assert agent.terminate() == 0


def test_a_second_agent_on_the_same_node_refuses_to_start(agent, panel):
    with pytest.raises(subprocess.CalledProcessError) as refused:
        agent.run("run")
    assert "agent_running" in refused.value.stderr


def test_the_ledger_and_the_audit_can_be_read_beside_the_agent(agent, panel):
    panel.done(MARK)
    (row,) = json.loads(agent.run("ledger", "--json", MARK.object))
    assert (row["dispatch"], row["outcome"], row["answered"]) == (1, "done", True)
    assert MARK.object in agent.run("ledger")


def test_a_guest_whose_domain_is_gone_is_no_reason_to_stand_still_after_a_boot(agent, panel):
    vm = {"vm": "v" * 13, "uuid": "11111111-2222-3333-4444-555555555555"}
    spec = DomainSpec(id=vm["vm"], uuid=vm["uuid"], name="web", vcpus=1, memory_bytes=1 << 27)
    panel.done(m.DomainDefine(domain=spec))
    panel.done(m.DomainStart(**vm))
    agent.kill()  # the test driver's domains go with it, and so does run_dir at a boot
    shutil.rmtree(agent.folder / "run")
    agent.up()
    assert panel.done(m.DomainLook(**vm))["state"] == "absent"


def test_sixteen_long_verbs_leave_a_thread_for_a_short_one(agent, panel):
    disks = [f"d{letter * 12}" for letter in "abcdefghijklmnop"]
    for disk in disks:
        agent.arm(f"disk.marked:{disk}", "hold")
        spec = DiskSpec(id=disk, pool=agent.pool, format="raw", size_bytes=512)
        panel.send(m.DiskCreate(disk=spec), 1)
    panel.done(MARK)
    for disk in disks:
        agent.await_point(f"disk.marked:{disk}")
        agent.let_go(f"disk.marked:{disk}")
    for disk in disks:
        assert panel.next(m.Reply, lambda reply, disk=disk: reply.object == f"disk:{disk}").outcome == "done"
