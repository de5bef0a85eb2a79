"""The node's checks: a stable word, a level and values for each; the panel says it in the reader's language."""

import os
import socket
from pathlib import Path

from nodes import facts, generalise, peers
from nodes.config import Config
from nodes.contract.errors import NodeError
from nodes.contract.specs import Check, NodeFacts
from nodes.files import is_rotational
from nodes.network import bridges
from nodes.storage import directory

LEAST_MEMORY_BYTES = 2 << 30
LEAST_FREE_BYTES = 10 << 30
OLDEST_LIBVIRT = (9, 0)
OLDEST_QEMU = (7, 2)
LIBVIRT_TLS_PORT = 16514
MIGRATION_PORTS = range(49152, 49216)
USELESS_UUIDS = {
    "": "missing",
    "00000000-0000-0000-0000-000000000000": "zero",
    "ffffffff-ffff-ffff-ffff-ffffffffffff": "unset",
    "03000200-0400-0500-0006-000700080009": "a board maker's default",
    "12345678-1234-5678-90ab-cddeefaabbcc": "a board maker's default",
}


def run(config: Config, node: NodeFacts) -> tuple[Check, ...]:
    return (
        _cpu(),
        Check(
            code="kvm",
            level="ok" if node.virt_type == "kvm" else "warning",
            facts={"type": node.virt_type, "reason": node.virt_reason},
        ),
        _memory(node),
        *_pool(config),
        _version("libvirt_version", node.libvirt_version, OLDEST_LIBVIRT),
        _version("qemu_version", node.qemu_version, OLDEST_QEMU),
        _bridges(),
        _host_uuid(node),
        _names_resolve(peers.known(config.state_dir)),
        _migration_ports(),
        _guestfs(),
    )


def _cpu() -> Check:
    found = sorted({"vmx", "svm"} & facts.cpu_flags())
    return Check(code="cpu_virtualisation", level="ok" if found else "warning", facts={"flags": " ".join(found)})


def _memory(node: NodeFacts) -> Check:
    return Check(
        code="memory",
        level="ok" if node.memory_bytes >= LEAST_MEMORY_BYTES else "warning",
        facts={"bytes": node.memory_bytes, "least_bytes": LEAST_MEMORY_BYTES},
    )


def _pool(config: Config) -> list[Check]:
    folder = config.images_dir
    try:
        directory.check_fit(folder)
    except NodeError as error:
        return [Check(code="pool_xattr", level="error", facts={"path": str(folder), "cause": error.info.cause})]
    room = os.statvfs(folder)
    free_bytes = room.f_bavail * room.f_frsize
    rotational = is_rotational(folder)
    return [
        Check(code="pool_xattr", level="ok", facts={"path": str(folder)}),
        Check(
            code="disk_space",
            level="ok" if free_bytes >= LEAST_FREE_BYTES else "warning",
            facts={"path": str(folder), "free_bytes": free_bytes, "least_bytes": LEAST_FREE_BYTES},
        ),
        Check(code="ssd", level="warning" if rotational else "ok", facts={"rotational": rotational}),
    ]


def _version(code: str, found: str, oldest: tuple[int, int]) -> Check:
    parts = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    return Check(
        code=code,
        level="error" if not found else "ok" if parts >= oldest else "warning",
        facts={"version": found, "oldest": ".".join(map(str, oldest))},
    )


def _bridges() -> Check:
    names = bridges.names()
    return Check(code="bridges", level="ok" if names else "error", facts={"bridges": " ".join(names)})


def _host_uuid(node: NodeFacts) -> Check:
    uuid = node.host_uuid.lower()
    useless = USELESS_UUIDS.get(uuid)
    return Check(
        code="host_uuid",
        level="error" if useless else "ok",
        facts={"uuid": uuid, **({"why": useless} if useless else {})},
    )


def _names_resolve(names: dict[str, str]) -> Check:
    """A migration hangs for minutes on a name that no resolver knows."""
    wrong = []
    for name, address in sorted(names.items()):
        try:
            found = {info[4][0] for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
        except OSError:
            found = set()
        if address not in found:
            wrong.append(name)
    return Check(code="names_resolve", level="error" if wrong else "ok", facts={"names": " ".join(wrong)})


def _migration_ports() -> Check:
    """libvirtd listens for its peers, and nobody else took the ports that a migration needs."""
    listening = _listening_ports()
    taken = sorted(listening & set(MIGRATION_PORTS))
    return Check(
        code="migration_ports",
        level="ok" if LIBVIRT_TLS_PORT in listening and len(taken) < len(MIGRATION_PORTS) // 2 else "warning",
        facts={
            "libvirt_tls": LIBVIRT_TLS_PORT in listening,
            "taken": " ".join(map(str, taken)),
        },
    )


def _listening_ports() -> set[int]:
    """TCP ports on which somebody listens on this node. Source: proc(5), /proc/net/tcp; state 0A is LISTEN."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == "0A":
                found.add(int(fields[1].rpartition(":")[2], 16))
    return found


def _guestfs() -> Check:
    """Whether images made on this node can be generalised."""
    lacks = generalise.missing()
    return Check(code="guestfs", level="warning" if lacks else "ok", facts={"lacks": lacks})
