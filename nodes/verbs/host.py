"""The node itself."""

from nodes import peers
from nodes.contract.messages import NodeInspect, NodeSelfFencing, Nothing
from nodes.node import Node
from nodes.verbs import handles
from nodes.verbs.run import Run


@handles(NodeInspect)
def inspect(node: Node, message: NodeInspect, run: Run) -> Nothing:
    """The inventory is on the stream before the reply."""
    if message.peers is not None:
        peers.learn(node.paths.state_dir, message.peers)
    node.inspect(volumes=message.volumes)
    return Nothing()


@handles(NodeSelfFencing)
def self_fencing(node: Node, message: NodeSelfFencing, run: Run) -> Nothing:
    node.set_self_fencing(message.after_s)
    return Nothing()
