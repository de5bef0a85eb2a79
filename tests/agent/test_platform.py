"""What an agent says of CPUs and machines, beside what libvirt itself says: a real libvirtd, no guest that executes.

CPUs of this kind only are to be had on one machine; others are made of its own by a feature more or less.
"""

from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest
from lxml import etree

from nodes import domain_xml
from nodes.contract.specs import DomainSpec, HostCpu, Platform
from nodes.hypervisor import Hypervisor
from tests.agent.conftest import a_folder
from tests.libvirtd import PATIENCE_S, a_libvirtd

UUID, VM = "11111111-2222-3333-4444-555555555555", "v" * 13
SPEC = DomainSpec(id=VM, uuid=UUID, name="web", vcpus=1, memory_bytes=64 << 20)
VIRT_TYPES = ["qemu", "kvm"] if Path("/dev/kvm").exists() else ["qemu"]
OF_OTHERS = ("svm", "vmx")
"""Of two vendors: no host has both."""


@pytest.fixture(scope="module")
def uri() -> Iterator[str]:
    with a_folder() as folder, a_libvirtd(folder) as uri:
        yield uri


@pytest.fixture(scope="module")
def hypervisor(uri: str) -> Hypervisor:
    hypervisor = Hypervisor(uri)
    hypervisor.start()
    assert hypervisor.await_ok(PATIENCE_S)
    return hypervisor


@pytest.fixture(scope="module")
def platform(hypervisor: Hypervisor) -> Platform:
    return hypervisor.platform("kvm")


def taken_by_libvirt(uri: str, cpu: HostCpu) -> bool:
    """Whether this host could give a guest that CPU, says libvirt."""
    xml = etree.Element("cpu", mode="custom", match="exact")
    etree.SubElement(xml, "model", fallback="forbid").text = cpu.model
    etree.SubElement(xml, "vendor").text = cpu.vendor
    for feature in cpu.features:
        etree.SubElement(xml, "feature", policy="require", name=feature)
    # What the model has and this host's CPU has not is not asked for.
    connection = libvirt.open(uri)
    try:
        place = (None, domain_xml.ARCHITECTURE, domain_xml.MACHINE, "kvm")
        whole = f"<cpu mode='custom'><model>{cpu.model}</model></cpu>"
        expand = libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES
        for feature in etree.fromstring(connection.baselineHypervisorCPU(*place, [whole], expand)).iter("feature"):
            if feature.get("name") not in cpu.features:
                etree.SubElement(xml, "feature", policy="disable", name=feature.get("name"))
        said = connection.compareHypervisorCPU(*place, etree.tostring(xml, encoding="unicode"))
    finally:
        connection.close()
    return said in (libvirt.VIR_CPU_COMPARE_IDENTICAL, libvirt.VIR_CPU_COMPARE_SUPERSET)


def test_libvirt_takes_the_cpu_that_the_agent_reports_and_less_but_no_feature_more(
    uri: str, platform: Platform
) -> None:
    cpu = platform.cpu
    assert cpu
    assert taken_by_libvirt(uri, cpu)
    assert taken_by_libvirt(uri, cpu.model_copy(update={"features": cpu.features[1:]}))
    impossible = next(feature for feature in OF_OTHERS if feature not in cpu.features)
    assert not taken_by_libvirt(uri, cpu.model_copy(update={"features": (*cpu.features, impossible)}))
    other = "Intel" if cpu.vendor == "AMD" else "AMD"
    assert not taken_by_libvirt(uri, cpu.model_copy(update={"vendor": other}))


def test_the_machine_of_new_guests_is_one_that_is_known(hypervisor: Hypervisor, platform: Platform) -> None:
    assert platform.machine in platform.machines
    assert platform.machine != domain_xml.MACHINE
    assert hypervisor.platform("qemu").cpu is None
    hypervisor.define(domain_xml.build(SPEC, "qemu", {}, Path("/nonexistent")))
    try:
        [(_name, xml)] = hypervisor.definitions()
        assert etree.fromstring(xml).find("os/type").get("machine") == platform.machine
    finally:
        hypervisor.undefine(UUID)


@pytest.mark.parametrize("virt_type", VIRT_TYPES)
def test_a_guest_started_for_a_move_has_a_common_cpu_and_keeps_its_definition(
    hypervisor: Hypervisor, uri: str, tmp_path: Path, virt_type: str
) -> None:
    hypervisor.define(domain_xml.build(SPEC, virt_type, {}, tmp_path))
    connection = libvirt.open(uri)
    try:
        domain = connection.lookupByUUIDString(UUID)
        defined = domain.XMLDesc()
        hypervisor.create_for_move(UUID)
        assert hypervisor.whereabouts(UUID).state == "paused"
        assert etree.fromstring(domain.XMLDesc()).findtext("cpu/model") == domain_xml.COMMON_CPU
        assert domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) == defined
        hypervisor.destroy(UUID)
        assert domain.isPersistent()
        assert domain.XMLDesc() == defined
    finally:
        connection.close()
        if hypervisor.whereabouts(UUID).state != "shutoff":
            hypervisor.destroy(UUID)
        hypervisor.undefine(UUID)
