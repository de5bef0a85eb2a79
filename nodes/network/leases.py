"""DHCP for this node's guests: one dnsmasq for each bridge, static leases only.

Not authoritative: two such servers on one segment refuse each other's guests and strangers' machines. It outlives
the agent, which only makes sure of it. Its folder is readable: dnsmasq drops its rights. Source: dnsmasq(8).
"""

import ipaddress
import os
import shutil
import signal
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path

from nodes.contract.errors import NodeError
from nodes.contract.specs import NicSpec
from nodes.files import write_atomically
from nodes.log import Log
from nodes.shell import Shell, await_end

log = Log("ulei.leases")

READABLE = 0o644
CONFIGURATION = "dnsmasq.conf"
START_TIMEOUT_S = 15.0


class Leases:
    def __init__(self, folder: Path, run_dir: Path, shell: Shell) -> None:
        self._folder = folder
        self._run_dir = run_dir
        self._shell = shell

    def ensure(self, nics: Iterable[NicSpec]) -> None:
        """Serve exactly these NICs: those that have an address."""
        wanted: dict[str, list[NicSpec]] = {}
        for nic in nics:
            if nic.address is not None and nic.prefix_length is not None:
                wanted.setdefault(nic.bridge, []).append(nic)
        known = {entry.name for entry in self._folder.iterdir()} if self._folder.exists() else set()
        for bridge in sorted(known | wanted.keys()):
            self._ensure_bridge(bridge, wanted.get(bridge, []))

    def held(self) -> list[tuple[str, str, str]]:
        """(NIC id, MAC, address) of every lease that is given."""
        lines = {file.name: file.read_text().split(",") for file in self._folder.glob("*/hosts/[!.]*")}
        return sorted((nic, fields[0], fields[2]) for nic, fields in lines.items())

    def _ensure_bridge(self, bridge: str, nics: list[NicSpec]) -> None:
        if not nics:
            self._stop(bridge)
            shutil.rmtree(self._folder / bridge, ignore_errors=True)
            return
        # Options first: a host is never served without them.
        options = _write_folder(self._folder / bridge / "options", {nic.id: _option_lines(nic) for nic in nics})
        hosts = _write_folder(self._folder / bridge / "hosts", {nic.id: _host_line(nic) for nic in nics})
        configuration = _write_folder(self._folder / bridge, {CONFIGURATION: self._configuration(bridge, nics)})
        pid = self._pid(bridge)
        # A lease lives in the server's memory for ever: only a new server forgets one that changed or went.
        if pid is None or configuration is not Change.NONE or hosts is Change.REPLACED:
            self._stop(bridge)
            self._start(bridge)
        elif hosts is Change.ADDED or options is not Change.NONE:
            os.kill(pid, signal.SIGHUP)

    def _configuration(self, bridge: str, nics: Iterable[NicSpec]) -> str:
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
            f"dhcp-hostsfile={self._folder / bridge / 'hosts'}",
            f"dhcp-optsfile={self._folder / bridge / 'options'}",
        ]
        networks = {ipaddress.IPv4Interface(f"{nic.address}/{nic.prefix_length}").network for nic in nics}
        for network in sorted(networks):
            lines.append(f"dhcp-range={network.network_address},static,{network.netmask},infinite")
            # Where the bridge has no address in the guests' network, the range is served all the same.
            lines.append(f"shared-network={bridge},{network.network_address}")
        return "\n".join(lines) + "\n"

    def _start(self, bridge: str) -> None:
        self._run_dir.mkdir(parents=True, exist_ok=True)
        # It forks into the background by itself, so this returns when it serves.
        self._shell.run(
            ["dnsmasq", f"--conf-file={self._folder / bridge / CONFIGURATION}"],
            timeout_s=START_TIMEOUT_S,
            outlives=True,
        )
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
        return pid if str(self._folder / bridge / CONFIGURATION) in command else None

    def _pid_file(self, bridge: str) -> Path:
        return self._run_dir / f"dnsmasq-{bridge}.pid"


class Change(Enum):
    NONE = 0
    ADDED = 1
    REPLACED = 2
    """Something that was there has changed or is gone."""


def _write_folder(folder: Path, wanted: Mapping[str, str]) -> Change:
    """Make the files in a folder exactly these, each atomically; names that begin with a dot are not looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    before = {file.name: file.read_text() for file in folder.glob("[!.]*") if file.is_file()}
    for name in before.keys() - wanted.keys():
        (folder / name).unlink()
    for name, content in wanted.items():
        if before.get(name) != content:
            write_atomically(folder / name, content, mode=READABLE)
    if any(wanted.get(name) != content for name, content in before.items()):
        return Change.REPLACED
    return Change.ADDED if wanted.keys() > before.keys() else Change.NONE


def _host_line(nic: NicSpec) -> str:
    return f"{nic.mac},set:{nic.id},{_ip(nic.address)},infinite\n"


def _option_lines(nic: NicSpec) -> str:
    # An option without a value is not sent: else dnsmasq would name itself as router.
    router = [_ip(nic.gateway)] if nic.gateway else []
    servers = [_ip(server) for server in nic.nameservers]
    return "".join(
        ",".join([f"tag:{nic.id}", f"option:{name}", *values]) + "\n"
        for name, values in (("router", router), ("dns-server", servers))
    )


def _ip(text: str | None) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise NodeError("bad_message", f"{text!r} is not an IPv4 address") from None
