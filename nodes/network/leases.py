"""DHCP for this node's guests: one dnsmasq for each bridge, static leases only.

Not authoritative: two such servers on one segment refuse each other's guests and strangers' machines. It outlives
the agent, which only makes sure of it. A further lease is a further file, which the server reads by itself
(``dhcp-hostsdir``). Every other change is a new server, within some 30 ms: a server keeps an infinite lease in its
memory for ever, so only a new one forgets a lease that is gone, and dnsmasq 2.90 ends with "free(): invalid pointer"
when SIGHUP lets it read its options again. Source: dnsmasq(8).
"""

import hashlib
import ipaddress
import os
import re
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path

from nodes.contract.errors import NodeError
from nodes.contract.specs import NicSpec
from nodes.files import write_atomically
from nodes.log import Log
from nodes.shell import Shell, await_end

log = Log("ulei.leases")

START_TIMEOUT_S = 15.0

_HOST = re.compile(r"^([^,]+),set:([^,]+),set:[^,]+,([^,]+),infinite$")


class Leases:
    def __init__(self, folder: Path, run_dir: Path, shell: Shell) -> None:
        """:param folder: readable for everybody: dnsmasq drops its rights."""
        self._folder = folder
        self._run_dir = run_dir
        self._shell = shell

    def ensure(self, nics: Iterable[NicSpec]) -> None:
        """Serve exactly these NICs: those that have an address."""
        wanted: dict[str, list[NicSpec]] = {}
        for nic in nics:
            if nic.address is not None and nic.prefix_length is not None:
                wanted.setdefault(nic.bridge, []).append(nic)
        for bridge in sorted({file.parent.name for file in self._files()} | wanted.keys()):
            self._ensure_bridge(bridge, wanted.get(bridge, []))

    def held(self) -> list[tuple[str, str, str]]:
        """(NIC id, MAC, address) of every lease that is given."""
        hosts = [_HOST.findall(file.read_text().strip()) for file in self._folder.glob("*/hosts/[!.]*")]
        return sorted((nic, mac, address) for ((mac, nic, address),) in hosts)

    def _files(self) -> Iterable[Path]:
        return self._folder.glob("*/dnsmasq.conf")

    def _ensure_bridge(self, bridge: str, nics: list[NicSpec]) -> None:
        file = self._file(bridge)
        if not nics:
            self._stop(bridge)
            shutil.rmtree(file.parent)
            return
        configuration, hosts = self._configuration(bridge, nics), {nic.id: _host(nic) for nic in nics}
        known = {host.name: host.read_text() for host in self._hosts(bridge).glob("[!.]*")}
        same = file.exists() and file.read_text() == configuration and self._pid(bridge) is not None
        serves_on = same and known.items() <= hosts.items()
        if not serves_on:
            self._stop(bridge)
            write_atomically(file, configuration, mode=0o644)
            for gone in known.keys() - hosts.keys():
                (self._hosts(bridge) / gone).unlink()
        for name, line in hosts.items():
            if known.get(name) != line:
                write_atomically(self._hosts(bridge) / name, line, mode=0o644)
        if not serves_on:
            self._start(bridge)

    def _configuration(self, bridge: str, nics: Iterable[NicSpec]) -> str:
        """All that guests have in common, so that one more of them changes nothing here."""
        lines = [
            "port=0",
            "no-resolv",
            "no-hosts",
            "no-ping",
            f"interface={bridge}",
            "except-interface=lo",
            "bind-dynamic",
            "leasefile-ro",
            f"pid-file={self._pid_file(bridge)}",
            f"dhcp-hostsdir={self._hosts(bridge)}",
        ]
        networks = {ipaddress.IPv4Interface(f"{nic.address}/{nic.prefix_length}").network for nic in nics}
        for network in sorted(networks):
            lines.append(f"dhcp-range={network.network_address},static,{network.netmask},infinite")
            # Where the bridge has no address in the guests' network, the range is served all the same.
            lines.append(f"shared-network={bridge},{network.network_address}")
        for tag, (router, nameservers) in sorted({_tag(nic): _options(nic) for nic in nics}.items()):
            # An option without a value is not sent: else dnsmasq would name itself as router.
            for option, values in (("router", router), ("dns-server", nameservers)):
                lines.append(",".join([f"dhcp-option=tag:{tag}", f"option:{option}", *values]))
        return "\n".join(lines) + "\n"

    def _start(self, bridge: str) -> None:
        self._run_dir.mkdir(parents=True, exist_ok=True)
        # It forks into the background by itself, so this returns when it serves.
        self._shell.run(["dnsmasq", f"--conf-file={self._file(bridge)}"], timeout_s=START_TIMEOUT_S, outlives=True)
        log.info("dhcp server started", bridge=bridge)

    def _stop(self, bridge: str) -> None:
        pid = self._pid(bridge)
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            await_end(pid)

    def _pid(self, bridge: str) -> int | None:
        """Of the bridge's running server; the number in the file may be somebody else's by now."""
        try:
            pid = int(self._pid_file(bridge).read_text())
            command = Path(f"/proc/{pid}/cmdline").read_text()
        except (OSError, ValueError):
            return None
        return pid if str(self._file(bridge)) in command else None

    def _file(self, bridge: str) -> Path:
        return self._folder / bridge / "dnsmasq.conf"

    def _hosts(self, bridge: str) -> Path:
        """A file for each lease, by the NIC's id."""
        return self._folder / bridge / "hosts"

    def _pid_file(self, bridge: str) -> Path:
        return self._run_dir / f"dnsmasq-{bridge}.pid"


def _host(nic: NicSpec) -> str:
    return f"{nic.mac},set:{nic.id},set:{_tag(nic)},{_ip(nic.address)},infinite\n"


def _options(nic: NicSpec) -> tuple[list[str], list[str]]:
    """Its router, as a list of at most one, and its name servers."""
    return [_ip(nic.gateway)] if nic.gateway else [], [_ip(server) for server in nic.nameservers]


def _tag(nic: NicSpec) -> str:
    """The same for NICs with the same options."""
    return "o" + hashlib.sha256(repr(_options(nic)).encode()).hexdigest()[:12]


def _ip(text: str | None) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise NodeError("bad_message", f"{text!r} is not an IPv4 address") from None
