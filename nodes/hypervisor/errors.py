"""libvirtError -> NodeError."""

from typing import Any

import libvirt

from nodes.contract.errors import NodeError
from nodes.drain import CallLost

REFUSALS = {
    libvirt.VIR_ERR_OPERATION_INVALID: "domain_state",
    libvirt.VIR_ERR_NO_DOMAIN: "domain_absent",
    libvirt.VIR_ERR_DOM_EXIST: "exists_not_ours",
    libvirt.VIR_ERR_XML_ERROR: "domain_invalid",
    libvirt.VIR_ERR_XML_DETAIL: "domain_invalid",
    libvirt.VIR_ERR_XML_INVALID_SCHEMA: "domain_invalid",
    libvirt.VIR_ERR_INVALID_ARG: "domain_invalid",
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: "unsupported",
    libvirt.VIR_ERR_NO_SUPPORT: "unsupported",
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: "unsupported",
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED: "unsupported",
    libvirt.VIR_ERR_OPERATION_DENIED: "denied",
    libvirt.VIR_ERR_ACCESS_DENIED: "denied",
    libvirt.VIR_ERR_AUTH_FAILED: "denied",
}
"""Errors by which libvirt says that it did not even begin."""


def unreachable(cause: str) -> NodeError:
    """Never certain: a verb that repeats an earlier attempt, or has called before, does not know what came of that."""
    hint = "Look at libvirtd on this node: systemctl status libvirtd."
    return NodeError("libvirt_unreachable", f"libvirtd: {cause}", hint, retryable=True, certain=False)


def node_error(error: libvirt.libvirtError, connection: Any) -> NodeError:
    """Certain only where libvirtd itself said no over a connection that still stands."""
    message = error.get_error_message() or str(error)
    if error.get_error_domain() in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE) or not connection.isAlive():
        return CallLost("libvirt_lost", f"the connection to libvirtd was lost before the answer: {message}")
    if error.get_error_code() == libvirt.VIR_ERR_OPERATION_TIMEOUT:
        hint = "The guest's QEMU may hang: look at it on the node, or stop the VM by force."
        return NodeError("domain_busy", f"libvirt: {message}", hint, retryable=True, certain=False)
    refusal = REFUSALS.get(error.get_error_code())
    if refusal:
        return NodeError(refusal, f"libvirt: {message}")
    return NodeError("libvirt_error", f"libvirt: {message}", certain=False, retryable=True)
