"""The agent: runs on a hypervisor and does single verbs there. It knows nothing of jobs, users or Django."""

__version__ = "0.1.0"
