"""A node that does not hear the panel ends the guests that could be started elsewhere, and says so afterwards."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nodes import self_fencing
from nodes.dispatcher import Dispatcher
from nodes.drain import Sampler
from nodes.hypervisor import Domain
from nodes.hypervisor.domains import _has_no_local_disk
from nodes.ledger import Answer, Ledger, Wanted, WantedChange
from nodes.self_fencing import SelfFencing, check_of

VM, UUID = "v" * 13, "11111111-2222-3333-4444-555555555555"
NAME = f"domain:{VM}"
RBD = "<disk device='disk'><source protocol='rbd' name='p/d'/></disk>"
FILE = "<disk device='disk'><source file='/d'/></disk>"
CD = "<disk device='cdrom'><source file='/i.iso'/></disk>"


class Node:
    """With one guest that could be started elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.now, self.ended = 1000.0, list[str]()
        self.ledger = Ledger(folder / "ledger.sqlite")
        wanted = WantedChange(VM, defined=Wanted(VM, UUID, "web", local_only=False, running=False), running=True)
        self.ledger.finish(NAME, 1, Answer("done", {}), wanted)
        guest = Domain(UUID, f"web.{VM}", "running", active=True, defined=True, shut_itself_down=False)
        self.hypervisor: Any = SimpleNamespace(
            guests_without_local_disks=lambda: [] if self.ended else [guest],
            may_be_moving=lambda uuid: False,
            destroy=self.ended.append,
        )
        sampler = Sampler(lambda holder: True, lambda name: None)
        self.dispatcher = Dispatcher(None, self.ledger, None, sampler, 1)  # type: ignore[arg-type]
        self.stream: Any = SimpleNamespace(taken_at=self.now)
        self.run_dir = folder / "run"
        self.begin()

    def begin(self) -> None:
        self.fencing = SelfFencing(self.ledger, self.dispatcher, self.hypervisor, self.stream, self.run_dir)

    def after(self, seconds: float) -> list[str]:
        """What it has ended when so much time has gone by."""
        self.now += seconds
        self.fencing.look()
        return self.ended


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    node = Node(tmp_path)
    monkeypatch.setattr(self_fencing, "uptime_s", lambda: node.now)
    yield node
    node.ledger.close()


def test_it_is_off_unless_somebody_wanted_it(node: Node) -> None:
    assert node.after(3600) == []
    node.ledger.set_self_fencing(60)
    node.ledger.set_self_fencing(None)
    assert node.after(3600) == []


def test_a_guest_is_ended_when_the_panel_was_silent_for_so_long_and_not_before(node: Node) -> None:
    node.ledger.set_self_fencing(60)
    assert node.after(59) == []
    node.stream.taken_at = node.now  # heard again
    assert node.after(60) == []
    assert node.after(1) == [UUID]
    assert node.after(60) == [UUID]


def test_it_is_not_started_at_a_boot_and_is_told_of_until_a_person_says_what_becomes_of_it(node: Node) -> None:
    node.ledger.set_self_fencing(60)
    assert check_of(node.ledger) == ()
    counter = node.ledger.counter
    node.after(61)
    assert node.ledger.counter > counter
    node.ledger.node_has_booted()
    assert [(wanted.running, wanted.boot) for wanted in node.ledger.wanted()] == [(False, False)]
    [check] = check_of(node.ledger)
    assert (check.code, check.level, check.facts) == ("self_fenced", "warning", {"count": 1, "names": f"web.{VM}"})
    node.ledger.finish(NAME, 2, Answer("done", {}), WantedChange(VM, running=True))
    assert check_of(node.ledger) == ()


def test_an_agent_that_is_restarted_meanwhile_does_not_begin_to_count_anew(node: Node) -> None:
    node.ledger.set_self_fencing(60)
    node.after(50)
    node.stream.taken_at = node.now
    node.begin()
    assert node.after(11) == [UUID]


def test_a_guest_about_which_a_message_is_at_work_is_looked_at_again(node: Node) -> None:
    node.ledger.set_self_fencing(60)
    with node.dispatcher.claim(NAME):
        assert node.after(61) == []
    assert node.after(1) == [UUID]


def test_a_guest_on_its_way_to_another_node_is_left_to_that_move(node: Node) -> None:
    node.ledger.set_self_fencing(60)
    node.hypervisor.may_be_moving = lambda uuid: True
    assert node.after(61) == []


@pytest.mark.parametrize(
    ("disks", "elsewhere"), [(RBD, True), (RBD + CD, True), (RBD + RBD, True), (RBD + FILE, False), (CD, False)]
)
def test_only_a_guest_whose_disks_are_all_in_ceph_could_be_started_elsewhere(disks: str, elsewhere: bool) -> None:
    assert _has_no_local_disk(f"<domain><devices>{disks}</devices></domain>") is elsewhere
