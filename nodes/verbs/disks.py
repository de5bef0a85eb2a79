"""Volumes. All the care is in the drivers."""

from nodes.contract.messages import DiskCreate, DiskDelete, DiskLook, DiskState, Nothing, VolumeFacts
from nodes.node import Node
from nodes.verbs import handles
from nodes.verbs.run import Run


@handles(DiskCreate)
def create(node: Node, message: DiskCreate, run: Run) -> VolumeFacts:
    return node.driver(message.disk.pool).create(message.disk, run.cancellation)


@handles(DiskDelete)
def delete(node: Node, message: DiskDelete, run: Run) -> Nothing:
    node.driver(message.pool).delete(message.id, message.format, node.users)
    return Nothing()


@handles(DiskLook)
def look(node: Node, message: DiskLook, run: Run) -> DiskState:
    return node.driver(message.pool).look(message.id, message.format, node.users)
