"""The lab's network: one namespace with a bridge, and one namespace per node with its cable in that bridge.

    root namespace (untouched)      <tag>-lab: lab0 10.99.0.1/24 ── veth ── <tag>-n1: eth0 in br0 10.99.0.11/24
                                                                ├─ veth ── <tag>-n2: eth0 in br0 10.99.0.12/24
                                                                └─ tap ── n3's own kernel: vec0 in br0 10.99.0.13/24

Guests of all nodes share one segment, as on real machines. The root namespace gets no interface, so two demos
use the same addresses side by side.
"""

from pathlib import Path

from deploy.lab import channel
from deploy.lab.processes import run
from deploy.lab.state import ENROL_PORT, LAB_ADDRESS, PREFIX_LENGTH, REDIS_PORT, State

BRIDGE = "lab0"
NODE_BRIDGE = "br0"


def namespace(state: State, name: str = "lab") -> str:
    return f"{state.tag}-{name}"


def exists(state: State, name: str = "lab") -> bool:
    return Path("/run/netns", namespace(state, name)).exists()


def up(state: State) -> None:
    """Makes what is missing; what is there stays as it is."""
    lab = namespace(state)
    if not exists(state):
        run("ip", "netns", "add", lab)
    if run("ip", "-n", lab, "link", "show", BRIDGE, check=False).returncode:
        _ip(lab, "link set lo up")
        _ip(lab, f"link add {BRIDGE} type bridge")
        _ip(lab, f"addr add {LAB_ADDRESS}/{PREFIX_LENGTH} dev {BRIDGE}")
        _ip(lab, f"link set {BRIDGE} up")
    for name in state.nodes:
        _node_up(state, name)


def _node_up(state: State, name: str) -> None:
    lab, node = namespace(state), namespace(state, name)
    if not exists(state, name):
        run("ip", "netns", "add", node)
    if run("ip", "-n", node, "link", "show", NODE_BRIDGE, check=False).returncode == 0:
        return
    run("ip", "netns", "exec", lab, *f"ip link add {name} type veth peer name eth0 netns {node}".split())
    _ip(lab, f"link set {name} master {BRIDGE} up")
    _ip(node, "link set lo up")
    _ip(node, f"link add {NODE_BRIDGE} type bridge")
    _ip(node, f"link set eth0 master {NODE_BRIDGE} up")
    _ip(node, f"addr add {state.nodes[name]}/{PREFIX_LENGTH} dev {NODE_BRIDGE}")
    _ip(node, f"link set {NODE_BRIDGE} up")


def uml_up(state: State, name: str) -> None:
    """The two cables of a user-mode Linux node, which runs in the lab's namespace: into the bridge, and its channel."""
    lab = namespace(state)
    if run("ip", "-n", lab, "link", "show", f"{name}-ops", check=False).returncode:
        _ip(lab, f"tuntap add {name} mode tap")
        _ip(lab, f"tuntap add {name}-ops mode tap")
        _ip(lab, f"addr add {channel.LAB_ADDRESS} dev {name}-ops")
    _ip(lab, f"link set {name} master {BRIDGE} up")
    _ip(lab, f"link set {name}-ops up")


def reset_node(state: State, name: str) -> None:
    """A node that boots starts with nothing but its cable: no taps and no filters of its former life."""
    # The kernel takes a namespace apart in its own time, so the cable is pulled first: its name is free at once.
    run("ip", "-n", namespace(state), "link", "del", name, check=False)
    run("ip", "netns", "del", namespace(state, name))
    _node_up(state, name)


def down(state: State) -> None:
    for name in [*state.nodes, "lab"]:
        if exists(state, name):
            run("ip", "netns", "del", namespace(state, name))


def cable(state: State, name: str, plugged: bool) -> None:
    if name in state.nodes:
        _ip(namespace(state), f"link set {name} {'up' if plugged else 'down'}")
    else:  # user-mode Linux would not use its tap again after it was down
        _ip(namespace(state), f"link set {name} {f'master {BRIDGE}' if plugged else 'nomaster'}")


def slow(state: State, name: str, megabits: int | None) -> None:
    """What this node sends leaves it at this rate; None: as fast as it can."""
    node = namespace(state, name)
    run("ip", "netns", "exec", node, "tc", "qdisc", "del", "dev", "eth0", "root", check=False)
    if megabits is not None:
        limit = f"tc qdisc add dev eth0 root tbf rate {megabits}mbit burst 64k latency 100ms"
        run("ip", "netns", "exec", node, *limit.split())


def refuse_broker(state: State, name: str, verdict: str, *, all_ports: bool = True) -> None:
    """From now on Redis ``reject``s or ``drop``s what this node sends, open connections included.

    :param all_ports: False: Ceph, which is at the same address, still hears it.
    """
    lab = namespace(state)
    action = "reject with tcp reset" if verdict == "reject" else "drop"
    ports = "" if all_ports else f"tcp dport {{ {REDIS_PORT}, {ENROL_PORT} }}"
    rules = f"""
        table inet fault_{name} {{
            chain input {{
                type filter hook input priority 0;
                ip saddr {state.addresses[name]} meta l4proto tcp {ports} {action}
            }}
        }}
    """
    run("ip", "netns", "exec", lab, "nft", "-f", "-", input=rules)


def heal_broker(state: State, name: str) -> None:
    run("ip", "netns", "exec", namespace(state), "nft", "delete", "table", "inet", f"fault_{name}", check=False)


def _ip(where: str, command: str) -> None:
    run("ip", "-n", where, *command.split())
