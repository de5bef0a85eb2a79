"""What a forecast of a move is made from: the guest's load, and the path to the other node."""

from nodes.contract.messages import DomainMeasure, GuestLoad, PathFacts, PathMeasure, PathOpen, PathPort
from nodes.network import path
from nodes.node import Node
from nodes.verbs import handles
from nodes.verbs.domains import required
from nodes.verbs.run import Run


@handles(DomainMeasure)
def measure_domain(node: Node, message: DomainMeasure, run: Run) -> GuestLoad:
    required(node, message.vm, message.uuid)
    names = node.hypervisor.devices(message.uuid).disk_names
    return node.hypervisor.load(message.uuid, {disk: names[disk] for disk in message.disks if disk in names})


@handles(PathOpen)
def open_path(node: Node, message: PathOpen, run: Run) -> PathPort:
    node.network.arrivals.expect(message.vm, message.source_address)
    return PathPort(port=path.listen(node.paths))


@handles(PathMeasure)
def measure_path(node: Node, message: PathMeasure, run: Run) -> PathFacts:
    measured = path.measure(node.paths, message.target, message.target_address, message.port)
    return PathFacts(bandwidth_bytes=measured.bandwidth_bytes, round_trip_us=measured.round_trip_us)
