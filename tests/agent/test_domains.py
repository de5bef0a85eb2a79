"""Lifecycle verbs over libvirt's test driver."""

import json

import pytest

from nodes.contract import messages as m
from nodes.contract.specs import DomainDisk, DomainSpec
from tests.agent.panel import code

VM, UUID = "v" * 13, "11111111-2222-3333-4444-555555555555"
ONE = {"vm": VM, "uuid": UUID}


@pytest.fixture
def agent(shared_agent):
    yield shared_agent
    shared_agent.panel.done(m.DomainStop(**ONE))
    shared_agent.panel.done(m.DomainUndefine(**ONE))
    for file in shared_agent.isos.iterdir():
        file.unlink()


@pytest.fixture
def panel(agent):
    return agent.panel


def define(**changes):
    values = {"id": VM, "uuid": UUID, "name": "web", "vcpus": 1, "memory_bytes": 1 << 27}
    return m.DomainDefine(domain=DomainSpec(**{**values, **changes}))


@pytest.fixture
def defined(agent, panel):
    assert panel.done(define())["state"] == "shutoff"
    return agent


def test_a_whole_life(defined, panel):
    for verb, state in [
        (m.DomainStart, "running"),
        (m.DomainSuspend, "paused"),
        (m.DomainResume, "running"),
        (m.DomainReboot, "running"),
        (m.DomainReset, "running"),
        (m.DomainShutdown, "shutoff"),
        (m.DomainStart, "running"),
        (m.DomainStop, "shutoff"),
        (m.DomainUndefine, "absent"),
    ]:
        assert panel.done(verb(**ONE))["state"] == state


@pytest.mark.parametrize("verb", [m.DomainStart, m.DomainStop, m.DomainUndefine], ids=lambda verb: verb.verb)
def test_made_so_twice_is_done_twice(verb, defined, panel):
    assert panel.done(verb(**ONE)) == panel.done(verb(**ONE))


def test_a_definition_is_read_and_told_of_when_it_changes(defined, panel):
    outline = panel.done(m.DomainRead(**ONE))["outline"]
    assert (outline["vcpus"], outline["memory_bytes"], outline["autostart"]) == (1, 1 << 27, False)
    panel.done(define(vcpus=3))
    told = panel.next(m.DomainChanged, lambda entry: any(d.outline and d.outline.vcpus == 3 for d in entry.domains))
    assert told.domains[0].uuid == UUID
    assert panel.done(m.DomainRead(**ONE))["outline"]["vcpus"] == 3
    panel.done(m.DomainUndefine(**ONE))
    assert panel.done(m.DomainRead(**ONE))["outline"] is None


def test_defining_again_changes_the_definition(defined, panel):
    panel.done(define(title="now with a title", vcpus=2))
    assert panel.done(m.DomainLook(**ONE))["defined"]


def test_an_active_domain_is_not_undefined(defined, panel):
    panel.done(m.DomainStart(**ONE))
    assert code(panel.call(m.DomainUndefine(**ONE))) == "domain_active"


@pytest.mark.parametrize("verb", [m.DomainStart, m.DomainSuspend, m.DomainResume, m.DomainReboot, m.DomainReset])
def test_an_absent_domain_is_said_to_be_absent(verb, agent, panel):
    assert code(panel.call(verb(**ONE))) == "domain_absent"


@pytest.mark.parametrize("verb", [m.DomainStop, m.DomainShutdown, m.DomainUndefine, m.DomainLook])
def test_an_absent_domain_is_off_and_undefined(verb, agent, panel):
    assert panel.done(verb(**ONE))["state"] == "absent"


def test_a_stopped_domain_cannot_be_suspended(defined, panel):
    assert code(panel.call(m.DomainSuspend(**ONE))) == "domain_not_active"


def test_a_foreign_domain_with_our_uuid_is_never_touched(agent, panel):
    foreign = "6695eb01-f6a4-8304-79aa-97f2502e193f"  # the test driver's own
    assert code(panel.call(define(uuid=foreign))) == "exists_not_ours"
    for verb in (m.DomainStop, m.DomainUndefine, m.DomainStart, m.DomainLook):
        assert code(panel.call(verb(vm=VM, uuid=foreign))) == "exists_not_ours"


def test_a_domain_of_our_name_with_another_uuid_is_not_redefined(defined, panel):
    assert code(panel.call(define(uuid="99999999-2222-3333-4444-555555555555"))) == "exists_not_ours"


@pytest.mark.parametrize("name", ["../secret.iso", "/etc/passwd", "..", "link.iso"])
def test_an_iso_outside_its_folder_is_refused(name, agent, panel):
    (agent.isos / "link.iso").symlink_to("/etc/passwd")
    disk = DomainDisk(id="c" * 13, device="cdrom", bus="ide", iso=name)
    assert code(panel.call(define(disks=(disk,)))) == "iso_outside_folder"


def test_a_missing_iso_and_a_missing_disk_are_named(agent, panel):
    cdrom = DomainDisk(id="c" * 13, device="cdrom", bus="ide", iso="no.iso")
    assert code(panel.call(define(disks=(cdrom,)))) == "iso_absent"
    disk = DomainDisk(id="d" * 13, bus="virtio", pool=agent.pool, format="qcow2")
    assert code(panel.call(define(disks=(disk,)))) == "disk_absent"


def test_each_change_is_told_at_once(defined, panel):
    panel.done(m.DomainStart(**ONE))
    panel.next(m.DomainChanged, lambda e: [d.state for d in e.domains if d.vm == VM] == ["running"])
    panel.done(m.DomainStop(**ONE))
    panel.next(m.DomainChanged, lambda e: [d.state for d in e.domains if d.vm == VM] == ["shutoff"])
    panel.done(m.DomainUndefine(**ONE))
    panel.next(m.DomainChanged, lambda e: [d.state for d in e.domains if d.vm == VM] == ["absent"])


def test_a_report_carries_the_counter_from_before_it_was_read(defined, panel):
    answer = panel.call(m.DomainStart(**ONE))
    panel.done(m.NodeInspect())
    seen = panel.newest(m.Inventory)
    assert seen.counter >= answer.counter


def wanted(agent):
    return json.loads(agent.run("audit", "--json"))["wanted"]


def test_what_should_run_is_kept_for_the_next_boot(defined, panel):
    panel.done(m.DomainStart(**ONE))
    assert wanted(defined) == {UUID: True}
    panel.done(m.DomainStop(**ONE))
    assert wanted(defined) == {UUID: False}
    panel.done(m.DomainUndefine(**ONE))
    assert wanted(defined) == {}
