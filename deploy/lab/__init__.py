"""Several hypervisor nodes on one machine, the demo on top of them, and the tools that look at both."""
