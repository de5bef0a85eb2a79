"""Guests that start again after a boot of the node, and a libvirtd that is lost meanwhile."""

import sqlite3
import threading
from types import SimpleNamespace

import pytest

from nodes import boot
from nodes.agent import Agent
from nodes.contract.messages import Envelope
from nodes.contract.specs import PoolPlace
from nodes.dispatcher import Dispatcher
from nodes.drain import CallLost, Sampler
from nodes.hypervisor import Domain
from nodes.ledger import Answer, Ledger, Wanted, WantedChange
from nodes.shell import Shell
from nodes.storage import directory
from nodes.verbs import HANDLERS

VM, UUID = "v" * 13, "11111111-2222-3333-4444-555555555555"
NAME = f"domain:{VM}"


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    wanted = WantedChange(VM, defined=Wanted(VM, UUID, "web", local_only=True, running=False), running=True)
    ledger.finish(NAME, 1, Answer("done", {}), wanted)
    ledger.node_has_booted()
    yield ledger
    ledger.close()


def test_a_start_that_libvirtd_may_still_hold_is_waited_for_before_the_guest_is_touched_again(ledger, monkeypatch):
    monkeypatch.setattr(boot, "AGAIN_S", 0.01)
    ended, asked = threading.Event(), threading.Event()
    state = {"active": False}

    def create(uuid, *, paused):
        assert not asked.is_set(), "asked again while the first call may still be held"
        asked.set()
        raise CallLost("libvirt_lost", "the connection broke")

    hypervisor = SimpleNamespace(
        create=create,
        find=lambda uuid: Domain(UUID, f"web.{VM}", "shutoff", state["active"], defined=True, shut_itself_down=False),
    )
    sampler = Sampler(lambda holder: ended.is_set(), lambda name: dispatcher.release(name))
    dispatcher = Dispatcher(None, ledger, None, sampler, 1)
    thread = threading.Thread(target=boot.start_guests, args=(ledger, dispatcher, hypervisor, [UUID]))
    thread.start()
    assert asked.wait(5)
    thread.join(0.2)
    assert sampler.holds(NAME)
    state["active"] = True  # the orphan call had its effect
    ended.set()
    thread.join(5)
    assert not thread.is_alive()
    assert not ledger.wanted()[0].boot


def test_an_agent_killed_while_it_started_guests_leaves_a_call_that_the_next_one_waits_for(ledger):
    held = []
    agent = SimpleNamespace(
        booted=False,
        hypervisor=SimpleNamespace(simulated=False),
        ledger=ledger,
        sampler=SimpleNamespace(hold=lambda name, holder: held.append(name)),
    )
    Agent._hold_orphans(agent)
    assert held == [NAME]
    held.clear()
    agent.booted = True  # libvirtd began anew with the node
    Agent._hold_orphans(agent)
    assert held == []


def test_a_lost_call_holds_its_object_though_the_answer_cannot_be_written(ledger, monkeypatch):
    """The node's disk is full in the moment in which libvirtd is lost."""

    def lost(node, message, run):
        raise CallLost("libvirt_lost", "the connection broke")

    def full(*ignored):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setitem(HANDLERS, "domain.stop", lost)
    monkeypatch.setattr(ledger, "finish", full)
    sampler = Sampler(lambda holder: False, lambda name: None)
    envelope = {"verb": "domain.stop", "object": NAME, "dispatch": 2, "job": "j", "step": "s", "phase": "do"}
    Dispatcher(None, ledger, None, sampler, 1).message({**envelope, "attempt": 1, "body": {"vm": VM, "uuid": UUID}})
    assert sampler.holds(NAME)


@pytest.mark.parametrize("wanted", ["moved", "shared"])
def test_a_guest_that_may_run_elsewhere_starts_at_a_boot_only_where_the_panel_places_it(ledger, monkeypatch, wanted):
    """One that is on its way to another node is placed nowhere: the job that moves it settles where it runs."""
    monkeypatch.setattr(boot, "AGAIN_S", 0.01)
    ledger.finish(
        NAME, 1, Answer("done", {}), WantedChange(VM, defined=Wanted(VM, UUID, "web", wanted != "shared", False))
    )
    if wanted == "moved":
        envelope = {"verb": "domain.move", "object": NAME, "dispatch": 9, "job": "j", "step": "s", "phase": "do"}
        ledger.start(Envelope(**envelope, attempt=1, body={}), 1, None)
    started = []
    hypervisor = SimpleNamespace(
        create=lambda uuid, *, paused: started.append(uuid),
        find=lambda uuid: Domain(UUID, f"web.{VM}", "shutoff", active=False, defined=True, shut_itself_down=False),
    )
    dispatcher = Dispatcher(None, ledger, None, Sampler(lambda holder: True, lambda name: None), 1)
    boot.start_guests(ledger, dispatcher, hypervisor)
    assert started == []
    boot.start_guests(ledger, dispatcher, hypervisor, placed=[])
    assert started == []
    boot.start_guests(ledger, dispatcher, hypervisor, placed=[UUID])
    assert started == [UUID]


def test_a_guest_in_a_folder_that_says_its_node_was_declared_dead_waits_for_the_panel(ledger, monkeypatch, tmp_path):
    """The folder is shared, which the node does not know: its guest may have been started elsewhere meanwhile."""
    monkeypatch.setattr(boot, "AGAIN_S", 0.01)
    node, volume = "n" * 13, tmp_path / "disk.qcow2"
    folder = directory.DirectoryDriver(PoolPlace(kind="directory", path=str(tmp_path)), Shell(), tmp_path)
    started = []
    hypervisor = SimpleNamespace(
        create=lambda uuid, *, paused: started.append(uuid),
        find=lambda uuid: Domain(UUID, f"web.{VM}", "shutoff", active=False, defined=True, shut_itself_down=False),
    )
    dispatcher = Dispatcher(None, ledger, None, Sampler(lambda holder: True, lambda name: None), 1)

    def boots(placed=None):
        boot.start_guests(
            ledger, dispatcher, hypervisor, placed, held_back=lambda uuid: directory.may_be_shut_out(volume, node)
        )
        return started

    assert boots() == [], "the folder is not mounted yet"
    volume.touch()
    folder.fence("d" * 13, node, ["10.99.0.12"])
    assert boots() == []
    assert boots(placed=[]) == []
    folder.unfence(node, ["10.99.0.12"])
    assert boots() == [UUID]
