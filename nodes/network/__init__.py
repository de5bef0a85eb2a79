"""Leases and filter chains of this node's guests."""

from nodes.network.network import Network

__all__ = ["Network"]
