"""Filter chains: nftables, family bridge, table ``ulei``: one chain for each NIC, reached by its tap's name.

Rules name a tap that need not exist yet, so they stand before the guest does. Every change is one transaction of
``nft -f -``; all that goes into its text is a tap's name, a MAC and an address, each checked by its shape.
Source: nft(8), https://wiki.nftables.org/wiki-nftables/index.php/Bridge_filtering.
"""

import ipaddress
import json
from collections.abc import Iterable, Sequence

from nodes.contract.errors import NodeError
from nodes.contract.specs import NicSpec
from nodes.log import Log
from nodes.shell import Shell

log = Log("ulei.filters")

NFT_TIMEOUT_S = 15.0


class Filters:
    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._uplinks: list[str] | None = None
        """For which the chains at the hooks stand; None: not known."""

    def load(self, nics: Iterable[NicSpec], uplinks: Sequence[str]) -> None:
        """Replace the whole table of the guests' chains, in one transaction."""
        lines = ["table bridge ulei", "delete table bridge ulei", *_base(uplinks)]
        for nic in nics:
            lines += _chain(nic)
        self._nft(lines)
        self._uplinks = list(uplinks)

    def close_ports(self, but_for: Iterable[str] = ()) -> None:
        """
        :param but_for: addresses of nodes from which guests are about to come.
        :raises NodeError: ``command_failed`` where the kernel has no such tables; libvirtd must not listen there.
        """
        self._nft(_closed_ports(but_for))

    def add(self, nic: NicSpec, uplinks: Sequence[str]) -> None:
        if list(uplinks) == self._uplinks:
            # Emptying the chains at the hooks makes the kernel wait for every packet on its way: 12 ms.
            try:
                self._nft(_chain(nic))
                return
            except NodeError as error:
                log.warning("the table of filters is made anew", cause=error.info.cause)
        self._nft([*_base(uplinks), *_chain(nic)])
        self._uplinks = list(uplinks)

    def remove(self, tap: str) -> None:
        """Also where there is nothing to remove: what is added first can always be deleted."""
        self._nft(
            [
                *_TABLE,
                f"add chain bridge ulei {tap}",
                f'add element bridge ulei taps {{ "{tap}" : jump {tap} }}',
                f'delete element bridge ulei taps {{ "{tap}" }}',
                f"flush chain bridge ulei {tap}",
                f"delete chain bridge ulei {tap}",
            ]
        )

    def taps(self) -> list[str]:
        """Names of the taps that have a chain."""
        listed = self._shell.run(["nft", "-j", "list", "ruleset", "bridge"], timeout_s=NFT_TIMEOUT_S).stdout
        chains = [entry["chain"] for entry in json.loads(listed)["nftables"] if "chain" in entry]
        return sorted(c["name"] for c in chains if c["table"] == "ulei" and c["name"].startswith("ul"))

    def _nft(self, lines: Iterable[str]) -> None:
        self._shell.run(["nft", "-f", "-"], timeout_s=NFT_TIMEOUT_S, stdin="\n".join(lines) + "\n")


FAMILIES = {4: "ip", 6: "ip6"}
MIGRATION_PORTS = "tcp dport { 16514, 49152-49215 }"


def _closed_ports(but_for: Iterable[str]) -> list[str]:
    """libvirtd's TLS port gives whoever has a node's certificate the whole of this node, and QEMU's ports take a
    guest's memory: nobody may connect to them but this machine itself and, while a guest comes from there, a node.

    Only a connection's beginning is dropped: the ports are also among those from which this machine connects to
    others (net.ipv4.ip_local_port_range).
    """
    addresses = sorted({ipaddress.ip_address(text) for text in but_for}, key=str)
    return [
        "table inet ulei",
        "delete table inet ulei",
        "add table inet ulei",
        "add chain inet ulei input { type filter hook input priority 0; policy accept; }",
        *(
            f"add rule inet ulei input {FAMILIES[address.version]} saddr {address} {MIGRATION_PORTS} accept"
            for address in addresses
        ),
        f'add rule inet ulei input iifname != "lo" {MIGRATION_PORTS} tcp flags & (syn | ack) == syn drop',
    ]


_TABLE = ("add table bridge ulei", "add map bridge ulei taps { type ifname : verdict; }")


def _base(uplinks: Iterable[str]) -> list[str]:
    """Table, map, and the chains at the hooks. A node serves DHCP to its own taps alone: nothing of DHCP crosses the
    uplink, except what makes the node itself a client there."""
    lines = [*_TABLE]
    for hook in ("forward", "input", "output"):
        lines += [
            f"add chain bridge ulei {hook} {{ type filter hook {hook} priority 0; policy accept; }}",
            f"flush chain bridge ulei {hook}",
        ]
    ports = ", ".join(f'"{port}"' for port in uplinks)
    if ports:
        lines += [
            f"add rule bridge ulei forward iifname {{ {ports} }} udp dport {{ 67, 68 }} drop",
            f"add rule bridge ulei forward oifname {{ {ports} }} udp dport {{ 67, 68 }} drop",
            f"add rule bridge ulei input iifname {{ {ports} }} udp dport 67 drop",
            f"add rule bridge ulei output oifname {{ {ports} }} udp sport 67 drop",
        ]
    return [
        *lines,
        "add rule bridge ulei forward iifname vmap @taps",
        "add rule bridge ulei input iifname vmap @taps",
    ]


def _chain(nic: NicSpec) -> list[str]:
    """A guest speaks with its own MAC and address, and is neither a DHCP server nor a router."""
    rules = [
        f"ether saddr != {nic.mac} drop",
        "udp sport 67 drop",
        "udp sport 547 drop",
        "icmpv6 type nd-router-advert drop",
    ]
    if nic.address is not None:
        address = _ipv4(nic.address)
        rules += [
            f"ether type arp arp saddr ether != {nic.mac} drop",
            f"ether type arp arp saddr ip != {{ 0.0.0.0, {address} }} drop",
            f"ether type ip ip saddr != {{ 0.0.0.0, {address} }} drop",
            "ether type ip6 ip6 saddr != { ::, fe80::/10 } drop",
        ]
    return [
        f"add chain bridge ulei {nic.tap}",
        f"flush chain bridge ulei {nic.tap}",
        *(f"add rule bridge ulei {nic.tap} {rule}" for rule in rules),
        f'add element bridge ulei taps {{ "{nic.tap}" : jump {nic.tap} }}',
    ]


def _ipv4(text: str) -> ipaddress.IPv4Address:
    try:
        return ipaddress.IPv4Address(text)
    except ValueError:
        raise NodeError("bad_message", f"{text!r} is not an IPv4 address") from None
