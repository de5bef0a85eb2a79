"""What a killed libvirtd leaves of a guest that it had only begun to start.

libvirtd writes ``<domain>.xml`` with ``pid='0'`` before it makes the process that becomes QEMU, and lets that process
go on only after its number is in the file (libvirt 9.0: qemu_process.c, ``qemuProcessLaunch``). A libvirtd that was
killed in between leaves a file from which the next one takes the domain for active, for ever in its first job: it can
be neither started, asked nor destroyed, each try waits libvirt's 30 seconds (seen with 9.0.0). There is no QEMU and
never will be, so the file has nothing true to tell; removed before libvirtd begins, the domain is off again.
"""

import os
from pathlib import Path

from lxml import etree

from nodes.hypervisor.domains import STATE_FOLDER
from nodes.names import vm_of


def forget() -> list[str]:
    """Remove the status of every domain of ours whose QEMU never began; their names. Only while no libvirtd runs."""
    forgotten = []
    for path in sorted(STATE_FOLDER.glob("*.xml")):
        if vm_of(path.stem) is not None and _never_began(path):
            path.unlink(missing_ok=True)
            forgotten.append(path.stem)
    return forgotten


def _never_began(path: Path) -> bool:
    """In doubt no: a file that cannot be read, or one whose domain a process names, stays for libvirtd."""
    try:
        status = etree.parse(path, etree.XMLParser(resolve_entities=False, no_network=True)).getroot()
    except (OSError, etree.XMLSyntaxError):
        return False
    uuid = status.findtext("domain/uuid")
    return status.tag == "domstatus" and status.get("pid") == "0" and uuid is not None and not _named(uuid)


def _named(uuid: str) -> bool:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                if uuid.encode() in Path(entry.path, "cmdline").read_bytes().split(b"\0"):
                    return True
            except (FileNotFoundError, ProcessLookupError):
                continue
    return False
