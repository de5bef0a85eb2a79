"""``python -m tests.bench.bare``: what a person does on a node by hand, timed there. Runs inside the node.

One order a line on standard input, one answer a line on standard output, both JSON. An answer has ``began`` and
``ended`` (monotonic seconds; that clock is one for the whole machine). Connection and files are open before the clock
starts, so by libvirt's own calls this is the floor; by virsh it is what a person would wait for.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt
from lxml import etree

URI = "qemu:///system"
IMAGES = Path("/var/lib/libvirt/images")
EVENT_WITHIN_S = 10.0
VIRSH = ["virsh", "-q", "-c", URI]


class Hands:
    def __init__(self) -> None:
        libvirt.registerErrorHandler(lambda context, error: None, None)
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=self._turn, daemon=True).start()
        self._connection = libvirt.open(URI)
        # Events on a connection of their own: they must not wait for the answer of the call that causes them.
        self._events = libvirt.open(URI)
        self._heard: list[tuple[str, float]] = []
        self._news = threading.Condition()
        self._events.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._hear, None)
        self._template: Any = None
        self._image = ""
        self._size_bytes = 0
        self._folder = Path(tempfile.mkdtemp(prefix="ulei-bench-"))

    @staticmethod
    def _turn() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    def _hear(self, connection: Any, domain: Any, event: int, detail: int, opaque: Any) -> None:
        with self._news:
            self._heard.append((domain.UUIDString(), time.monotonic()))
            self._news.notify_all()

    # --- orders ---------------------------------------------------------------------------------------------

    def template(self, uuid: str, image: str, size_bytes: int) -> dict[str, Any]:
        """Take the shape of later domains from one that the panel has made."""
        xml = self._connection.lookupByUUIDString(uuid).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        self._template = etree.fromstring(xml)
        for address in self._template.findall(".//address"):  # libvirt finds them at each define, as it did for us
            address.getparent().remove(address)
        self._image, self._size_bytes = str(IMAGES / image), size_bytes
        return {}

    def create(self, name: str, virsh: bool = False) -> dict[str, Any]:
        xml, disk = self._shape(name), str(self._disk(name))
        file = self._folder / f"{name}.xml"
        file.write_text(xml)
        make = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", self._image, "-F", "qcow2", disk]

        def by_libvirt() -> None:
            _run([*make, str(self._size_bytes)])
            self._connection.defineXML(xml).create()

        def by_virsh() -> None:
            _run([*make, str(self._size_bytes)])
            _run([*VIRSH, "define", str(file)])
            _run([*VIRSH, "start", name])

        return _timed(by_virsh if virsh else by_libvirt)

    def start(self, name: str, virsh: bool = False) -> dict[str, Any]:
        domain = self._connection.lookupByName(name)
        return _timed((lambda: _run([*VIRSH, "start", name])) if virsh else domain.create)

    def stop(self, name: str, virsh: bool = False) -> dict[str, Any]:
        domain = self._connection.lookupByName(name)
        return _timed((lambda: _run([*VIRSH, "destroy", name])) if virsh else domain.destroy)

    def delete(self, name: str, virsh: bool = False) -> dict[str, Any]:
        domain = self._connection.lookupByName(name)

        def by_libvirt() -> None:
            domain.destroy()
            domain.undefine()
            self._disk(name).unlink()

        def by_virsh() -> None:
            _run([*VIRSH, "destroy", name])
            _run([*VIRSH, "undefine", name])
            _run(["rm", str(self._disk(name))])

        return _timed(by_virsh if virsh else by_libvirt)

    def suspend(self, uuid: str) -> dict[str, Any]:
        return self._and_event(uuid, self._connection.lookupByUUIDString(uuid).suspend)

    def resume(self, uuid: str) -> dict[str, Any]:
        return self._and_event(uuid, self._connection.lookupByUUIDString(uuid).resume)

    def snapshot(self, name: str) -> dict[str, Any]:
        """Lay a file over the first disk of a domain that runs, while its agent lets the file systems stand still."""
        over = str(self._over(name))
        spec = ["--disk-only", "--quiesce", "--atomic", "--no-metadata", "--diskspec", f"vda,file={over}"]
        return _timed(lambda: _run([*VIRSH, "snapshot-create-as", name, "bench", *spec]))

    def merge(self, name: str) -> dict[str, Any]:
        """Take away what :meth:`snapshot` has laid over it."""
        _run([*VIRSH, "blockcommit", name, "vda", "--shallow", "--active", "--pivot", "--wait"])
        self._over(name).unlink()
        return {}

    def clean(self) -> dict[str, Any]:
        """Remove every domain and disk that was made here."""
        for domain in self._connection.listAllDomains():
            if domain.name().startswith("bench-"):
                if domain.isActive():
                    domain.destroy()
                domain.undefine()
        for disk in IMAGES.glob("bench-*.qcow2"):
            disk.unlink()
        return {}

    # --- parts ----------------------------------------------------------------------------------------------

    def _and_event(self, uuid: str, call: Callable[[], Any]) -> dict[str, Any]:
        """With ``event``: when libvirtd told another client of it."""
        with self._news:
            self._heard.clear()
        answer = _timed(call)
        deadline = time.monotonic() + EVENT_WITHIN_S
        with self._news:
            while time.monotonic() < deadline:
                found = [at for which, at in self._heard if which == uuid]
                if found:
                    return answer | {"event": found[0]}
                self._news.wait(deadline - time.monotonic())
        raise TimeoutError("libvirtd told nothing")

    @staticmethod
    def _disk(name: str) -> Path:
        return IMAGES / f"{name}.qcow2"

    def _over(self, name: str) -> Path:
        return IMAGES / f"{name}-over.qcow2"

    def _shape(self, name: str) -> str:
        domain = etree.fromstring(etree.tostring(self._template))
        number = int(name.rpartition("-")[2])
        kind = name.split("-")[1]
        domain.find("name").text = name
        domain.remove(domain.find("uuid"))
        domain.remove(domain.find("metadata"))
        disk = domain.find("devices/disk[@device='disk']")
        disk.find("source").set("file", str(self._disk(name)))
        for position, nic in enumerate(domain.findall("devices/interface")):
            nic.find("mac").set("address", f"52:54:00:{ord(kind[0]):02x}:{number % 256:02x}:{position:02x}")
            nic.find("target").set("dev", f"b{kind[0]}{number}n{position}")
        for log in domain.findall(".//log"):
            log.set("file", str(self._folder / f"{name}.log"))
        return etree.tostring(domain, encoding="unicode")


def _timed(work: Callable[[], Any]) -> dict[str, Any]:
    began = time.monotonic()
    work()
    return {"began": began, "ended": time.monotonic()}


def _run(argv: list[str]) -> None:
    subprocess.run(argv, check=True, capture_output=True)


def main() -> None:
    orders = os.fdopen(os.dup(0))
    hands = Hands()
    print(json.dumps({"ready": True}), flush=True)
    for line in orders:
        order = json.loads(line)
        try:
            answer = getattr(hands, order.pop("do"))(**order)
        except (libvirt.libvirtError, subprocess.CalledProcessError, OSError) as error:
            answer = {"error": f"{error} {getattr(error, 'stderr', b'') or ''}"}
        print(json.dumps(answer), flush=True)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
