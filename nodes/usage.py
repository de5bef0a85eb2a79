"""Whether a domain's XML names a volume: by the last part of its path, so that an unusual way to it is seen too.

A disk keeps its name when it goes to another pool, so a word that certainly leads to something else does not count.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

from lxml import etree


def names(xml: str, volume_path: str) -> bool:
    """
    :param volume_path: of a file or a device; of an RBD image ``<Ceph pool>/<image>``.
    """
    name = Path(volume_path).name
    if escape(name) not in xml:
        return False
    return any(name in word and not _is_other(word, image, volume_path) for word, image in _words(xml))


def _words(xml: str) -> Iterator[tuple[str, bool]]:
    """Each word, and whether it names an RBD image."""
    for element in etree.fromstring(xml, etree.XMLParser(resolve_entities=False)).iter(etree.Element):
        if element.tag == "serial":
            continue  # what the guest calls the disk, wherever its volume lies
        yield element.text or "", False
        rbd = element.get("protocol") == "rbd"
        yield from ((str(value), rbd and name == "name") for name, value in element.attrib.items())


def _is_other(word: str, image: bool, volume_path: str) -> bool:
    """Errs on the side of the same: both must lead somewhere, and not to the same."""
    if image:
        return word != volume_path
    if not word.startswith("/"):
        return False
    if not volume_path.startswith("/"):
        return not word.startswith("/dev/rbd") and os.path.exists(word)
    try:
        return _place(word) != _place(volume_path)
    except OSError:
        return False


def _place(path: str) -> tuple[str, int, int]:
    """What the path leads to. Raises OSError."""
    found = os.stat(path)
    if stat.S_ISBLK(found.st_mode):
        return "device", os.major(found.st_rdev), os.minor(found.st_rdev)
    return "file", found.st_dev, found.st_ino
