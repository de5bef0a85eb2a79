"""Images and ISOs that somebody put into the node's folders: found, described, never touched."""

import json
import os
import unicodedata
from pathlib import Path

from nodes.contract.errors import NodeError
from nodes.contract.image_file import QCOW2_MAGIC, is_volume
from nodes.contract.specs import FileFacts
from nodes.files import mark_of
from nodes.log import Log
from nodes.shell import Shell

log = Log("ulei.images")

FORMATS = {".qcow2": "qcow2", ".raw": "raw", ".img": ""}
"""What a name promises must be true; only ``.img`` may be either."""
MARK = "user.ulei.file"
"""On a copy of a file that the panel keeps: its id there."""
ISO_SUFFIXES = (".iso",)
INFO_TIMEOUT_S = 10.0

_Key = tuple[str, int, int]


class Scanner:
    """Remembers what it has seen by name, time and size: qemu-img runs once for each new file."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._known: dict[_Key, FileFacts | None] = {}

    def scan(self, images_dir: Path, isos_dir: Path) -> tuple[tuple[FileFacts, ...], tuple[FileFacts, ...]]:
        """(images, ISOs), sorted by name."""
        seen: set[_Key] = set()
        images = [file for file in self._folder(images_dir, tuple(FORMATS), seen) if not is_volume(file.name)]
        isos = self._folder(isos_dir, ISO_SUFFIXES, seen)
        self._known = {key: facts for key, facts in self._known.items() if key in seen}
        return tuple(images), tuple(isos)

    def _folder(self, folder: Path, suffixes: tuple[str, ...], seen: set[_Key]) -> list[FileFacts]:
        found = []
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            return []
        for entry in entries:
            # A symlink could lead out of the folder, and a file that grows is not yet an image.
            if not entry.name.lower().endswith(suffixes) or not entry.is_file(follow_symlinks=False):
                continue
            stat = entry.stat(follow_symlinks=False)
            key = (entry.path, stat.st_mtime_ns, stat.st_size)
            seen.add(key)
            if key not in self._known:
                self._known[key] = self._describe(Path(entry.path), stat)
            facts = self._known[key]
            if facts is not None:
                found.append(facts)
        return found

    def _describe(self, path: Path, stat: os.stat_result) -> FileFacts | None:
        """None: qemu-img cannot read it, or its name cannot be told, so nothing can be made from it."""
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in path.name):
            # A name in another encoding than UTF-8, or with control characters: neither JSON nor XML could hold it.
            log.warning("a file is left out because of its name: rename it", path=os.fsencode(path))
            return None
        if path.suffix.lower() == ".iso":
            return FileFacts(
                name=path.name,
                format="iso",
                size_bytes=stat.st_size,
                virtual_size_bytes=stat.st_size,
                modified=stat.st_mtime,
                mark=mark_of(path, MARK) or "",
            )
        try:
            argv = ["qemu-img", "info", "-U", "--output=json", "-f", _format_of(path), str(path)]
            info = json.loads(self._shell.run(argv, timeout_s=INFO_TIMEOUT_S).stdout)
        except (NodeError, OSError) as error:
            log.warning("an image cannot be read", path=path, cause=error)
            return None
        return FileFacts(
            name=path.name,
            format=info["format"],
            size_bytes=stat.st_size,
            virtual_size_bytes=info["virtual-size"],
            modified=stat.st_mtime,
            mark=mark_of(path, MARK) or "",
        )


def _format_of(path: Path) -> str:
    """Of the two that there are; QEMU, if asked, would find others as well, among them some that name further files."""
    promised = FORMATS[path.suffix.lower()]
    if promised:
        return promised
    with path.open("rb") as file:
        return "qcow2" if file.read(4) == QCOW2_MAGIC else "raw"
