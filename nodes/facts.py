"""What this node is: read from the kernel and from libvirt; what libvirt cannot say now, it said before."""

import json
import os
import re
import socket
import threading
from pathlib import Path

from lxml import etree

from nodes.contract.errors import NodeError
from nodes.contract.specs import NodeFacts
from nodes.files import write_atomically
from nodes.hypervisor import Hypervisor
from nodes.network import bridges
from nodes.probe import VirtType, qemu_version
from nodes.shell import Shell

_FIELD = re.compile(r"^([\w() ]+?)\s*:\s*(.*)$", re.MULTILINE)


class Facts:
    def __init__(self, hypervisor: Hypervisor, virt: VirtType, state_dir: Path, shell: Shell) -> None:
        self._hypervisor = hypervisor
        self._virt = virt
        self._cache = state_dir / "host.json"
        self._qemu = qemu_version(shell)
        self._lock = threading.Lock()

    def read(self) -> NodeFacts:
        with self._lock:
            host_uuid, libvirt_version = self._of_libvirt()
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
        )

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
