"""Nodes without hypervisors: the same agents over libvirt's test driver, many to one process.

What a real node has beside libvirt (volumes, leases, filter chains) is only written down here. Whatever the test
driver cannot do, it refuses with that reason.
"""
