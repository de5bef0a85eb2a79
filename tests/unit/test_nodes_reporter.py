"""What a node reports of itself, with everything outside replaced."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import libvirt
import pytest

from nodes import reporter as module
from nodes.contract.specs import DomainFacts, NodeFacts
from nodes.hypervisor import LifecycleEvent
from nodes.hypervisor.domains import state_told
from nodes.reporter import Reporter, Surroundings

UUID = "11111111-2222-3333-4444-555555555555"
FACTS = NodeFacts(
    hostname="n1",
    cpus=1,
    memory_bytes=1,
    cpu_model="",
    virt_type="qemu",
    libvirt_version="9.0.0",
    qemu_version="7.2.0",
    host_uuid=UUID,
)


class Hypervisor:
    state = "shutoff"

    def domains(self) -> list[DomainFacts]:
        return [DomainFacts(uuid=UUID, name="theirs", state=self.state)]

    def facts_of(self, events: list[LifecycleEvent]) -> list[DomainFacts]:
        return self.domains()


@pytest.mark.parametrize("slow", ["facts", "preflight", "images"])
def test_a_change_while_an_inventory_is_read_is_not_taken_back_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    told: list[Any] = []
    hypervisor: Any = Hypervisor()

    def change(part: str) -> None:
        if part == slow:
            hypervisor.state = "running"
            reporter._note(LifecycleEvent(UUID, "theirs"))
            reporter._tell_changes()

    def read() -> NodeFacts:
        change("facts")
        return FACTS

    def scan(*folders: Path) -> tuple[tuple[()], tuple[()]]:
        change("images")
        return (), ()

    monkeypatch.setattr(module.preflight, "run", lambda config, node: change("preflight") or ())
    monkeypatch.setattr(module.storage, "offers", lambda shell: ())
    config: Any = SimpleNamespace(
        images_dir=tmp_path, isos_dir=tmp_path, keys_dir=tmp_path, pools_file=tmp_path / "pools.json"
    )
    ledger: Any = SimpleNamespace(counter=1, wanted=list, self_fenced=dict)
    stream: Any = SimpleNamespace(report=told.append)
    facts: Any = SimpleNamespace(read=read)
    surroundings = Surroundings(config, facts, SimpleNamespace())  # type: ignore[arg-type]
    surroundings._scanner = SimpleNamespace(scan=scan)  # type: ignore[assignment]
    reporter = Reporter(hypervisor, ledger, stream, surroundings, 1)
    reporter.inventory()
    assert [entry.domains[0].state for entry in told] == ["running", "running"]


def test_volumes_are_told_of_at_first_and_then_when_they_are_due_or_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    clock = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    ledger: Any = SimpleNamespace(counter=7, self_fenced=dict)

    def look(*, volumes: bool) -> module.Seen:
        ledger.counter += 1  # something happens while it is looked
        sizes = {"identity": {"d" * 13: 1}} if volumes else None
        return module.Seen(FACTS, (), (), (), (), (), sizes=sizes)

    taken = [False]
    stream: Any = SimpleNamespace(report=lambda entry: told.append(entry) or taken[0])
    hypervisor: Any = Hypervisor()
    surroundings: Any = SimpleNamespace(look=look)
    reporter = Reporter(hypervisor, ledger, stream, surroundings, 1)

    def has_volumes(**asked: bool) -> bool:
        reporter.inventory(**asked)
        return told[-1].volumes is not None

    assert has_volumes()
    assert has_volumes()  # Redis did not take the first one
    assert (told[-1].volumes.counter, told[-1].counter) == (8, 9)
    taken[0] = True
    assert has_volumes()
    assert not has_volumes()
    assert has_volumes(volumes=True)
    clock[0] += module.VOLUMES_EVERY_S
    assert has_volumes()


def test_what_happens_to_a_guest_hides_no_change_of_its_definition() -> None:
    asked: list[Any] = []
    hypervisor: Any = SimpleNamespace(facts_of=lambda events: asked.extend(events) or [])
    ledger: Any = SimpleNamespace(counter=1, wanted=list)
    stream: Any = SimpleNamespace(report=lambda entry: True)
    reporter = Reporter(hypervisor, ledger, stream, SimpleNamespace(), 1)  # type: ignore[arg-type]
    for definition in (False, True, False):
        reporter._note(LifecycleEvent(UUID, "theirs", definition))
    reporter._tell_changes()
    assert [event.definition for event in asked] == [True]


def test_when_storage_stops_a_guest_all_is_told_at_once_and_when_a_person_does_only_that() -> None:
    seen = DomainFacts(uuid=UUID, name="theirs", state="paused")
    hypervisor: Any = SimpleNamespace(facts_of=lambda events: [seen])
    ledger: Any = SimpleNamespace(counter=1, wanted=list)
    stream: Any = SimpleNamespace(report=lambda entry: True)
    reporter = Reporter(hypervisor, ledger, stream, SimpleNamespace(), 1)  # type: ignore[arg-type]
    inventories: list[str] = []
    reporter.ask_for_inventory = lambda: inventories.append("asked for")  # type: ignore[method-assign]
    for reason, wanted in (("", []), ("io_error", ["asked for"])):
        seen = seen.model_copy(update={"reason": reason})
        reporter._note(LifecycleEvent(UUID, "theirs"))
        reporter._tell_changes()
        assert inventories == wanted


def test_a_domain_that_libvirt_is_just_starting_is_not_told_as_paused() -> None:
    assert state_told(libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP) == "running"
    assert state_told(libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER) == "paused"
    assert state_told(libvirt.VIR_DOMAIN_SHUTOFF, 0) == "shutoff"
