"""NICs: the lease and the filter chain, which stand before the tap exists."""

from nodes.contract.messages import NicPlug, NicUnplug, Nothing
from nodes.node import Node
from nodes.verbs import handles
from nodes.verbs.run import Run


@handles(NicPlug)
def plug(node: Node, message: NicPlug, run: Run) -> Nothing:
    node.network.plug(message.nic)
    return Nothing()


@handles(NicUnplug)
def unplug(node: Node, message: NicUnplug, run: Run) -> Nothing:
    node.network.unplug(message.id)
    return Nothing()
