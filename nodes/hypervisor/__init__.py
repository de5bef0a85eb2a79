"""The only package that knows libvirt's binding."""

from nodes.hypervisor.connections import LifecycleEvent
from nodes.hypervisor.domains import Attached, Domain, Hypervisor

__all__ = ["Attached", "Domain", "Hypervisor", "LifecycleEvent"]
