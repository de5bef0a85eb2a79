"""A domain that somebody else defined becomes ours, and as it was again where that does not come to its end."""

import json
from pathlib import Path

from lxml import etree

from nodes.contract.errors import NodeError
from nodes.contract.faults import point
from nodes.contract.messages import DomainGiveBack, DomainTake, DomainWhereabouts
from nodes.contract.specs import DomainSpec
from nodes.files import write_atomically
from nodes.hypervisor import Domain
from nodes.ledger import WantedChange
from nodes.names import vm_of
from nodes.node import Node, check_off
from nodes.verbs import handles
from nodes.verbs.domains import call_libvirt, definition_of, wanted_of
from nodes.verbs.run import Run


@handles(DomainTake)
def take(node: Node, message: DomainTake, run: Run) -> DomainWhereabouts:
    spec = message.domain
    domain = _named(node, spec.uuid, message.name, spec.id)
    if domain is None:
        raise NodeError("domain_absent", f"this node has no domain with the uuid {spec.uuid}")
    check_off(domain)
    xml = definition_of(node, spec)
    if not _has_all(node, domain, spec):
        if node.hypervisor.keeps_state(spec.uuid):
            raise NodeError(
                "domain_keeps_state",
                f"libvirt keeps snapshots or a saved memory of the domain {domain.name}",
                "Delete its snapshots (virsh snapshot-delete), and let it start and shut down once.",
                domain=domain.name,
            )
        namesake = node.hypervisor.find(name=spec.domain_name)
        if namesake is not None and namesake.uuid != spec.uuid:
            raise NodeError("exists_not_ours", f"another domain is named {namesake.name}: it was left untouched")
        _keep(node, spec.uuid)
        point("domain.kept", message.verb)
        if domain.name != spec.domain_name:
            call_libvirt(message.verb, lambda: node.hypervisor.rename(spec.uuid, spec.domain_name))
    call_libvirt(message.verb, lambda: node.hypervisor.define(xml))
    run.wanted = WantedChange(spec.id, defined=wanted_of(spec))
    return node.hypervisor.whereabouts(spec.uuid)


@handles(DomainGiveBack)
def give_back(node: Node, message: DomainGiveBack, run: Run) -> DomainWhereabouts:
    domain, kept = _named(node, message.uuid, message.name, message.vm), _kept(node, message.uuid)
    if domain is not None and kept.exists():
        check_off(domain)
        was = json.loads(kept.read_text())
        if domain.name != message.name:
            call_libvirt(message.verb, lambda: node.hypervisor.rename(message.uuid, message.name))
        xml = _called(was["xml"], message.name)
        call_libvirt(message.verb, lambda: node.hypervisor.define(xml))
        if was["autostart"]:
            node.hypervisor.set_autostart(message.uuid)
        kept.unlink()
    run.wanted = WantedChange(message.vm, forget=True)
    return node.hypervisor.whereabouts(message.uuid)


def _named(node: Node, uuid: str, name: str, vm: str) -> Domain | None:
    """The domain, by the name that it had or by ours. Raises a certain ``exists_not_ours``."""
    domain = node.hypervisor.find(uuid=uuid)
    if domain is not None and domain.name != name and vm_of(domain.name) != vm:
        raise NodeError("exists_not_ours", f"the domain {domain.name} has the uuid {uuid}: it was left untouched")
    return domain


def _has_all(node: Node, domain: Domain, spec: DomainSpec) -> bool:
    """It was defined by us already: by an attempt whose end nobody saw."""
    disks = {disk.id for disk in spec.disks if disk.device == "disk"}
    return domain.name == spec.domain_name and disks == set(node.hypervisor.devices(spec.uuid).disks)


def _keep(node: Node, uuid: str) -> None:
    xml, autostart = node.hypervisor.definition(uuid)
    write_atomically(_kept(node, uuid), json.dumps({"xml": xml, "autostart": autostart}))


def _kept(node: Node, uuid: str) -> Path:
    return node.paths.taken_dir / f"{uuid}.json"


def _called(xml: str, name: str) -> str:
    """Kept between its renaming and its definition, it would have our name."""
    domain = etree.fromstring(xml, etree.XMLParser(resolve_entities=False))
    [element] = domain.iterfind("name")
    element.text = name
    return etree.tostring(domain, encoding="unicode")
