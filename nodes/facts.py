"""What this node is: read from the kernel and from libvirt; what libvirt cannot say now, it said before."""

import json
import os
import re
import socket
import threading
from pathlib import Path

from lxml import etree

from nodes.contract.errors import NodeError
from nodes.contract.specs import NodeFacts, Platform
from nodes.files import write_atomically
from nodes.hypervisor import Hypervisor
from nodes.log import Log
from nodes.network import bridges
from nodes.probe import VirtType, qemu_version
from nodes.shell import Shell

log = Log("ulei.facts")

_FIELD = re.compile(r"^([\w() ]+?)\s*:\s*(.*)$", re.MULTILINE)


class Facts:
    def __init__(self, hypervisor: Hypervisor, virt: VirtType, state_dir: Path, shell: Shell) -> None:
        self._hypervisor = hypervisor
        self._virt = virt
        self._cache = state_dir / "host.json"
        self._qemu = qemu_version(shell)
        self._lock = threading.Lock()
        self._platform: tuple[int, Platform] | None = None
        """The connection on which libvirt said it, by its number, and what it said."""

    def read(self) -> NodeFacts:
        with self._lock:
            host_uuid, libvirt_version = self._of_libvirt()
            platform = self._platform_now()
        return NodeFacts(
            hostname=socket.gethostname(),
            cpus=os.cpu_count() or 1,
            memory_bytes=memory("MemTotal"),
            cpu_model=_proc("/proc/cpuinfo").get("model name", ""),
            virt_type=self._virt.type,
            virt_reason=self._virt.reason,
            libvirt_version=libvirt_version,
            qemu_version=self._qemu,
            host_uuid=host_uuid,
            bridges=tuple(bridges.names()),
            simulated=self._hypervisor.simulated,
            platform=platform,
        )

    def _platform_now(self) -> Platform | None:
        """Asked once on each new connection: it changes only with a restart of libvirtd."""
        number = self._hypervisor.connections
        if self._hypervisor.simulated or not self._hypervisor.ok:
            return self._platform[1] if self._platform else None
        if self._platform is None or self._platform[0] != number:
            try:
                self._platform = number, self._hypervisor.platform(self._virt.type)
            except NodeError as error:
                log.warning("libvirt does not say what guests get of this host", cause=error.info.cause)
        return self._platform[1] if self._platform else None

    def _of_libvirt(self) -> tuple[str, str]:
        """(host uuid, version); as it last said while it is silent."""
        try:
            before = tuple(json.loads(self._cache.read_text()))
        except (OSError, ValueError):
            before = (firmware_uuid(), "")
        if not self._hypervisor.ok:
            return before
        try:
            said = host_uuid(self._hypervisor.capabilities()), self._hypervisor.versions()[0]
        except NodeError:
            return before  # it went silent just now
        if said != before:
            write_atomically(self._cache, json.dumps(said))
        return said


def host_uuid(capabilities: str) -> str:
    """The host's uuid in libvirt's capabilities; empty where they have none (the test driver)."""
    parser = etree.XMLParser(resolve_entities=False)
    return etree.fromstring(capabilities.encode(), parser).findtext("host/uuid") or ""


def firmware_uuid() -> str:
    try:
        return Path("/sys/class/dmi/id/product_uuid").read_text().strip().lower()
    except OSError:
        return ""


def memory(field: str) -> int:
    """Bytes of a field of /proc/meminfo."""
    return int(_proc("/proc/meminfo")[field].split()[0]) * 1024


def cpu_flags() -> set[str]:
    return set(_proc("/proc/cpuinfo").get("flags", "").split())


def _proc(path: str) -> dict[str, str]:
    """``name : value`` lines; of a name that repeats, the last."""
    return dict(_FIELD.findall(Path(path).read_text()))
