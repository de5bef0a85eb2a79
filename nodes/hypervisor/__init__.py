"""The only package that knows libvirt's binding."""

from nodes.hypervisor.connections import LifecycleEvent
from nodes.hypervisor.domains import Attached, Devices, Domain, Hypervisor

__all__ = ["Attached", "Devices", "Domain", "Hypervisor", "LifecycleEvent"]
