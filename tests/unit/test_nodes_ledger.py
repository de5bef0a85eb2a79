"""Rule 2 of delivery, sentence by sentence; and that the ledger keeps what it was told."""

import multiprocessing
import sqlite3

import pytest

from nodes.contract.errors import ErrorInfo, NodeError
from nodes.contract.messages import Envelope
from nodes.ledger import Answer, Child, Ledger, Wanted, WantedChange
from nodes.rules import Decision, Known, on_cancel, on_look, on_message

DONE = Answer("done", {"size_bytes": 1})
UNCERTAIN = Answer("uncertain", {}, ErrorInfo(code="libvirt_lost", cause="?", certain=False))


# --- messages -------------------------------------------------------------------------------------------------


def test_a_message_about_an_object_never_heard_of_runs():
    assert on_message(1, Known()) is Decision.RUN


def test_a_lower_number_is_superseded():
    assert on_message(1, Known(number=2, outcome="done")) is Decision.ANSWER_SUPERSEDED


def test_an_equal_number_of_another_message_is_superseded():
    """The panel's database lost a commit, or was put back from a backup: the old answer is not the new one's."""
    assert on_message(2, Known(number=2, outcome="done", same=False)) is Decision.ANSWER_SUPERSEDED
    assert on_message(2, Known(number=2, running=2, same=False)) is Decision.ANSWER_SUPERSEDED


def test_a_lower_number_is_superseded_while_the_higher_one_runs():
    assert on_message(1, Known(number=2, running=2)) is Decision.ANSWER_SUPERSEDED


def test_an_equal_number_is_ignored_while_it_runs():
    assert on_message(2, Known(number=2, running=2)) is Decision.IGNORE


@pytest.mark.parametrize("outcome", ["done", "failed", "cancelled", "superseded"])
def test_an_equal_number_that_has_a_certain_answer_is_answered_again(outcome):
    assert on_message(2, Known(number=2, outcome=outcome)) is Decision.ANSWER_AGAIN


def test_an_equal_number_that_was_answered_uncertainly_runs_again():
    assert on_message(2, Known(number=2, outcome="uncertain")) is Decision.RUN_LOOK_FIRST


def test_an_equal_number_that_a_dead_incarnation_started_runs_again():
    assert on_message(2, Known(number=2)) is Decision.RUN_LOOK_FIRST


def test_a_higher_number_runs_after_an_answer():
    assert on_message(3, Known(number=2, outcome="done")) is Decision.RUN


def test_a_higher_number_runs_after_one_that_nobody_will_answer():
    assert on_message(3, Known(number=2)) is Decision.RUN


def test_a_higher_number_waits_for_the_running_one():
    assert on_message(3, Known(number=2, running=2)) is Decision.PARK


def test_any_number_that_may_run_waits_while_the_boot_starts_the_guest():
    assert on_message(3, Known(number=2, outcome="done", running=0)) is Decision.PARK
    assert on_message(2, Known(number=2, outcome="done", running=0)) is Decision.PARK


@pytest.mark.parametrize("dispatch", [1, 2, 3])
def test_a_held_object_takes_no_number(dispatch):
    assert on_message(dispatch, Known(number=2, held=True)) is Decision.HOLD


# --- looks ----------------------------------------------------------------------------------------------------


def test_a_look_runs_beside_a_verb():
    assert on_look(Known(number=2, running=2)) is Decision.RUN


def test_a_held_object_takes_no_look():
    assert on_look(Known(number=2, held=True)) is Decision.HOLD


# --- cancels --------------------------------------------------------------------------------------------------


def test_an_early_cancel_is_remembered():
    assert on_cancel(1, Known()) is Decision.REMEMBER_CANCEL
    assert on_cancel(3, Known(number=2, outcome="done")) is Decision.REMEMBER_CANCEL


def test_an_early_cancel_waits_while_a_lower_number_runs():
    assert on_cancel(3, Known(number=2, running=2)) is Decision.PARK


def test_a_cancel_stops_the_running_number_that_it_names():
    assert on_cancel(2, Known(number=2, running=2)) is Decision.STOP


def test_a_cancel_never_stops_what_a_dead_incarnation_or_a_doubt_began():
    assert on_cancel(2, Known(number=2, running=2, repeats=True)) is Decision.NOTE_CANCEL
    assert on_cancel(2, Known(number=2)) is Decision.NOTE_CANCEL


def test_a_cancel_of_a_finished_verb_is_told_its_answer():
    assert on_cancel(2, Known(number=2, outcome="done")) is Decision.ANSWER_AGAIN


def test_a_cancel_of_an_older_number_is_ignored():
    assert on_cancel(1, Known(number=2, running=2)) is Decision.IGNORE


def test_a_held_object_takes_no_cancel():
    assert on_cancel(2, Known(number=2, held=True)) is Decision.HOLD


# --- the ledger -----------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite3"


@pytest.fixture
def ledger(path):
    ledger = Ledger(path)
    yield ledger
    ledger.close()


def envelope(dispatch, name="disk:aaaaaaaaaaaaa", verb="disk.create"):
    return Envelope(
        verb=verb, object=name, dispatch=dispatch, job="j", step="s", phase="do", attempt=1, body={"secretless": True}
    )


def again(ledger, path):
    """The same file as the next agent finds it."""
    ledger.close()
    return Ledger(path)


def test_what_was_started_and_never_answered_is_seen_by_the_next_agent(ledger, path):
    ledger.start(envelope(7), ledger.new_incarnation(), "12.34")
    ledger = again(ledger, path)
    row = ledger.get("disk:aaaaaaaaaaaaa")
    assert (row.number, row.verb, row.incarnation, row.libvirtd, row.answer) == (7, "disk.create", 1, "12.34", None)
    assert ledger.new_incarnation() == 2


def test_an_answer_comes_back_as_it_was(ledger, path):
    ledger.start(envelope(1), 1, None)
    ledger.finish("disk:aaaaaaaaaaaaa", 1, UNCERTAIN)
    assert again(ledger, path).get("disk:aaaaaaaaaaaaa").answer == UNCERTAIN


@pytest.mark.parametrize(("answer", "in_doubt"), [(None, True), (UNCERTAIN, True), (DONE, False)])
def test_what_was_not_answered_or_answered_uncertainly_is_in_doubt(answer, in_doubt, ledger):
    ledger.start(envelope(1), 1, None)
    if answer is not None:
        ledger.finish("disk:aaaaaaaaaaaaa", 1, answer)
    assert ledger.get("disk:aaaaaaaaaaaaa").in_doubt is in_doubt


def test_the_counter_grows_with_each_answer_and_never_shrinks(ledger, path):
    ledger.start(envelope(1), 1, None)
    assert ledger.finish("disk:aaaaaaaaaaaaa", 1, DONE) == 1
    ledger.start(envelope(2), 1, None)
    assert ledger.finish("disk:aaaaaaaaaaaaa", 2, DONE) == 2
    assert again(ledger, path).counter == 2


def test_a_new_number_forgets_the_answer_and_the_cancel_of_the_old_one(ledger):
    ledger.start(envelope(1), 1, None)
    ledger.note_cancel("disk:aaaaaaaaaaaaa", 1)
    ledger.finish("disk:aaaaaaaaaaaaa", 1, DONE)
    ledger.start(envelope(2), 1, None)
    row = ledger.get("disk:aaaaaaaaaaaaa")
    assert (row.number, row.answer, row.cancelled) == (2, None, False)


def test_the_same_number_run_again_keeps_the_wish_to_cancel_it(ledger):
    ledger.start(envelope(1), 1, None)
    ledger.note_cancel("disk:aaaaaaaaaaaaa", 1)
    ledger.start(envelope(1), 2, None)
    assert ledger.get("disk:aaaaaaaaaaaaa").cancelled


def test_an_early_cancel_is_the_answer_to_its_number(ledger):
    ledger.remember_cancel("disk:aaaaaaaaaaaaa", 3, Answer("cancelled", {}))
    row = ledger.get("disk:aaaaaaaaaaaaa")
    assert (row.number, row.answer.outcome, row.cancelled) == (3, "cancelled", True)


def test_a_second_agent_is_refused(ledger, path):
    with pytest.raises(NodeError) as refused:
        Ledger(path)
    assert refused.value.info.code == "agent_running"


def test_the_ledger_can_be_read_while_the_agent_runs(ledger, path):
    ledger.start(envelope(1), 1, None)
    assert [row.object for row in Ledger(path, read_only=True).rows()] == ["disk:aaaaaaaaaaaaa"]


def test_a_reader_cannot_write(ledger, path):
    with pytest.raises(sqlite3.OperationalError):
        Ledger(path, read_only=True).new_incarnation()


def test_the_lock_ends_with_its_process(path):
    spawn = multiprocessing.get_context("spawn")
    other = spawn.Process(target=Ledger, args=(path,))
    other.start()
    other.join()
    Ledger(path).close()


def test_children_are_remembered_until_they_ended(ledger, path):
    child = Child(123, 456, "qemu-img create")
    ledger.add_child(child)
    ledger = again(ledger, path)
    assert ledger.children() == [child]
    ledger.drop_child(child)
    assert ledger.children() == []


# --- raising ----------------------------------------------------------------------------------------------------


def decide(ledger, dispatch, name="disk:aaaaaaaaaaaaa"):
    row = ledger.get(name)
    return on_message(dispatch, Known(row.number, row.answer.outcome if row.answer else None))


def test_after_a_raise_lower_numbers_never_run_and_the_lowest_allowed_does(ledger):
    ledger.start(envelope(2), 1, None)
    ledger.raise_to({"disk:aaaaaaaaaaaaa": 5}, placed=())
    assert decide(ledger, 2) is Decision.ANSWER_SUPERSEDED
    assert decide(ledger, 4) is Decision.ANSWER_AGAIN
    assert ledger.get("disk:aaaaaaaaaaaaa").answer.outcome == "superseded"
    assert decide(ledger, 5) is Decision.RUN


def test_a_raise_also_ends_the_number_just_below_if_nobody_answered_it(ledger):
    ledger.start(envelope(4), 1, None)
    ledger.raise_to({"disk:aaaaaaaaaaaaa": 5}, placed=())
    assert decide(ledger, 4) is Decision.ANSWER_AGAIN


def test_a_raise_below_what_is_known_changes_nothing(ledger):
    ledger.start(envelope(4), 1, None)
    ledger.finish("disk:aaaaaaaaaaaaa", 4, DONE)
    ledger.raise_to({"disk:aaaaaaaaaaaaa": 3}, placed=())
    assert ledger.get("disk:aaaaaaaaaaaaa").answer == DONE


# --- law 5 ------------------------------------------------------------------------------------------------------

VM, UUID = "vvvvvvvvvvvvv", "11111111-2222-3333-4444-555555555555"


def run_verb(ledger, change, number):
    ledger.start(envelope(number, f"domain:{VM}", "domain.start"), 1, None)
    ledger.finish(f"domain:{VM}", number, DONE, change)


@pytest.fixture
def running(ledger):
    run_verb(ledger, WantedChange(VM, defined=Wanted(VM, UUID, "web", local_only=True, running=False)), 1)
    run_verb(ledger, WantedChange(VM, running=True), 2)
    return ledger


def test_a_guest_that_was_started_is_wanted_and_starts_after_a_boot(running):
    running.node_has_booted()
    assert running.wanted() == [Wanted(VM, UUID, "web", local_only=True, running=True, boot=True)]
    running.started_at_boot(VM)
    assert not running.wanted()[0].boot


def test_a_new_definition_leaves_the_wish_as_it_was(running):
    run_verb(running, WantedChange(VM, defined=Wanted(VM, UUID, "web", local_only=False, running=False)), 3)
    assert running.wanted() == [Wanted(VM, UUID, "web", local_only=False, running=True)]


def test_a_guest_that_was_stopped_is_not_wanted(running):
    run_verb(running, WantedChange(VM, running=False), 3)
    running.node_has_booted()
    assert running.wanted() == [Wanted(VM, UUID, "web", local_only=True, running=False)]


def test_an_undefined_guest_is_forgotten(running):
    run_verb(running, WantedChange(VM, forget=True), 3)
    assert running.wanted() == []


def test_a_guest_that_shut_itself_down_is_not_wanted(running):
    assert running.shut_itself_down(UUID, running.counter)
    assert not running.wanted()[0].running


def test_a_verb_that_ended_since_the_guest_was_seen_off_is_not_overruled(running):
    seen = running.counter
    run_verb(running, WantedChange(VM, running=True), 3)
    assert not running.shut_itself_down(UUID, seen)
    assert running.wanted()[0].running


def test_a_raised_guest_that_lives_elsewhere_is_not_started_at_a_boot(running):
    running.node_has_booted()
    running.raise_to({f"domain:{VM}": 9}, placed=())
    assert running.wanted() == [Wanted(VM, UUID, "web", local_only=True, running=False, boot=False)]


def test_a_raised_guest_that_lives_here_stays_wanted(running):
    running.raise_to({f"domain:{VM}": 9}, placed=(UUID,))
    assert running.wanted()[0].running
