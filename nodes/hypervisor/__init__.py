"""The only package that knows libvirt's binding."""

from nodes.hypervisor.connections import LifecycleEvent
from nodes.hypervisor.domains import Domain, Hypervisor

__all__ = ["Domain", "Hypervisor", "LifecycleEvent"]
