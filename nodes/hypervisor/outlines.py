"""What definitions say, read from libvirt again only where they were written anew."""

import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt

from nodes.contract.specs import Outline
from nodes.names import vm_of
from nodes.outline import measured, outline_of


@dataclass(frozen=True)
class _Read:
    name: str
    written: tuple[int, ...]
    outline: Outline


class Outlines:
    """
    :param folder: where libvirt keeps definitions, each in a file that it replaces; None: nowhere.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._read: dict[str, _Read] = {}
        self._lock = threading.Lock()

    def of(self, domain: Any, *, anew: bool = False) -> Outline | None:
        """None: the domain has gone meanwhile.

        :param anew: it was written again, although its file may not show that.
        """
        uuid, name = domain.UUIDString(), domain.name()
        # Before the reading: what is written after it is then seen as newer.
        written = self._written(name)
        with self._lock:
            known = self._read.get(uuid)
        if known is not None and not anew and (known.name, known.written) == (name, written):
            return known.outline
        try:
            outline = _outline(domain, name)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise
        with self._lock:
            self._read[uuid] = _Read(name, written, outline)
        return outline

    def keep(self, uuids: Collection[str]) -> None:
        """Forget all others: they are gone."""
        with self._lock:
            for gone in self._read.keys() - uuids:
                del self._read[gone]

    def forget(self, uuid: str) -> None:
        with self._lock:
            self._read.pop(uuid, None)

    def outdated(self) -> list[tuple[str, str]]:
        """(uuid, name) of those whose file is another one by now."""
        if self._folder is None:
            return []
        with self._lock:
            known = list(self._read.items())
        return [(uuid, read.name) for uuid, read in known if self._written(read.name) != read.written]

    def _written(self, name: str) -> tuple[int, ...]:
        """When the definition was; of one that lies in no file nothing is known."""
        if self._folder is None:
            return ()
        try:
            found = (self._folder / f"{name}.xml").stat()
        except OSError:
            return ()
        starts = (self._folder / "autostart" / f"{name}.xml").is_symlink()
        return found.st_mtime_ns, found.st_ino, found.st_size, int(starts)


def _outline(domain: Any, name: str) -> Outline:
    xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    outline = outline_of(xml, autostart=bool(domain.autostart()), persistent=bool(domain.isPersistent()))
    return outline if vm_of(name) else measured(outline)
