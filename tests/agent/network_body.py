"""Runs in a network namespace of its own (see test_network.py): plugs NICs, asks for leases, and prints what it saw.

A guest is a namespace whose end of a cable carries a tap's name on the bridge.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from nodes.contract.errors import NodeError
from nodes.contract.specs import NicSpec
from nodes.network import Network
from nodes.shell import Shell, await_end

FOLDER = Path(sys.argv[1])
SCRIPT = FOLDER / "lease.sh"


def sh(*argv, check=True):
    return subprocess.run(argv, check=check, capture_output=True, text=True)


def cable(name, guest, mac):
    """From port ``name`` of br0 to eth0 of the namespace ``guest``."""
    sh("ip", "netns", "add", guest)
    sh("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", guest)
    sh("ip", "link", "set", name, "master", "br0", "up")
    sh("ip", "-n", guest, "link", "set", "eth0", "address", mac, "up")


def lease(guest):
    """``address router`` that DHCP gives to the guest; empty: nobody answers."""
    argv = ["busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-t", "3", "-T", "1", "-s", str(SCRIPT)]
    said = sh("ip", "netns", "exec", guest, *argv, check=False).stdout
    return next((line.removeprefix("LEASE ").strip() for line in said.splitlines() if line.startswith("LEASE")), "")


def reaches_node(guest, address):
    """Does a ping from this address come back from the node?"""
    sh("ip", "-n", guest, "addr", "flush", "dev", "eth0")
    sh("ip", "-n", guest, "addr", "add", f"{address}/24", "dev", "eth0")
    ping = ["busybox", "ping", "-c", "1", "-W", "1", "10.50.0.1"]
    return sh("ip", "netns", "exec", guest, *ping, check=False).returncode == 0


def nic(letter, mac, address=None, **more):
    return NicSpec(
        id=letter * 13, bridge="br0", mac=mac, address=address, prefix_length=24 if address else None, **more
    )


def servers():
    return sh("pgrep", "-f", "dnsmasq --conf-file", check=False).stdout.split()


def code(call):
    try:
        call()
    except NodeError as error:
        return error.info.code
    return "done"


A = nic("a", "52:54:00:00:00:0a", "10.50.0.10", gateway="10.50.0.1", nameservers=("10.50.0.1",))
B = nic("b", "52:54:00:00:00:0b", "10.50.0.11")
C = nic("c", "52:54:00:00:00:0c", "10.50.0.10")
D = nic("d", "52:54:00:00:00:0d", "10.50.0.12", gateway="10.50.0.1", nameservers=("10.50.0.1",))

sh("mount", "-t", "tmpfs", "tmpfs", "/run")
sh("mount", "-t", "sysfs", "sysfs", "/sys")  # shows the interfaces of the namespace that mounts it
sh("ip", "link", "set", "lo", "up")
sh("ip", "link", "add", "br0", "type", "bridge")
sh("ip", "addr", "add", "10.50.0.1/24", "dev", "br0")
sh("ip", "link", "set", "br0", "up")
SCRIPT.write_text('#!/bin/sh\n[ "$1" = bound ] && echo "LEASE $ip $router"\nexit 0\n')
SCRIPT.chmod(0o755)
for each, guest in ((A, "ga"), (B, "gb"), (C, "gc"), (D, "gd")):
    cable(each.tap, guest, each.mac)
cable("up0", "wire", B.mac)  # somebody outside, with the MAC of one of our guests

network = Network(FOLDER / "state", FOLDER / "run", ("up0",), Shell())
seen = {"lease before plug": lease("ga")}
network.plug(A)
network.plug(A)
seen["lease"] = lease("ga")
network.plug(B)
seen["another lease without a gateway"] = lease("gb")
seen["given"] = [(one.bridge, one.address) for one in network.given()]
first = servers()
network.plug(B)
seen["one server for both, and left alone"] = servers() == first and len(first) == 1
network.plug(D)
seen["a further one by the same server"] = lease("gd") if servers() == first else ""
network.unplug(D.id)
seen["a lease that was taken back"] = lease("gd")
seen["answered across the uplink"] = lease("wire")
seen["own address"] = reaches_node("gb", "10.50.0.11")
seen["stolen address"] = reaches_node("gb", "10.50.0.10")
sh("ip", "-n", "gb", "link", "set", "eth0", "address", "52:54:00:00:00:ff")
seen["stolen mac"] = reaches_node("gb", "10.50.0.11")
sh("ip", "-n", "gb", "link", "set", "eth0", "address", B.mac)
seen["address twice"] = code(lambda: network.plug(C))
network.unplug(A.id)
network.unplug(A.id)
network.plug(C)
seen["freed address"] = lease("gc")
sh("nft", "delete", "table", "bridge", "ulei")
network.plug(C)
seen["chains after somebody deleted the table"] = network.filters.taps()
seen["absent bridge"] = code(lambda: network.plug(C.model_copy(update={"bridge": "br9"})))
seen["bad address"] = code(lambda: network.plug(A.model_copy(update={"address": "10.50.0.10; drop"})))
network.unplug(A.id)

# The node boots: rules and servers are gone, the files are not.
sh("nft", "flush", "ruleset")
for pid in map(int, servers()):
    os.kill(pid, signal.SIGKILL)
    await_end(pid)
again = Network(FOLDER / "state", FOLDER / "run", ("up0",), Shell())
again.restore()
seen["after a boot"] = {
    "chains": again.filters.taps(),
    "leases": again.leases.held(),
    "lease": lease("gc"),
    "stolen address": reaches_node("gb", "10.50.0.10"),
}
again.unplug(B.id)
again.unplug(C.id)
seen["at the end"] = {"chains": again.filters.taps(), "leases": again.leases.held(), "servers": servers()}
print(json.dumps(seen))
