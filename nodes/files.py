"""Small things about files that more than one module needs."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, content: str | bytes, *, mode: int = 0o600) -> None:
    """The file has the old content or all of the new one, also after a power loss. One writer of a file at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    # The mode is set before there is anything to read.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_rotational(path: Path) -> bool | None:
    """Does the path lie on a spinning disk? None: the kernel does not say (network, memory, several disks)."""
    device = path.stat().st_dev
    block = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    # A partition has no queue of its own.
    for candidate in (block, block.resolve().parent):
        try:
            return (candidate / "queue" / "rotational").read_text().strip() == "1"
        except OSError:
            continue
    return None


# --- owner marks: a file of ours is marked before it has any name ----------------------------------------------


@contextmanager
def unnamed_file(folder: Path) -> Iterator[int]:
    """A descriptor of a file that is gone when the process ends, unless it was given a name."""
    descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def give_name(descriptor: int, path: Path) -> None:
    """Raises FileExistsError where the name is taken."""
    # Naming folders by descriptor makes Python call linkat(2), which follows the link in /proc.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.link(f"/proc/self/fd/{descriptor}", path.name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        os.close(folder)


def mark_of(path: Path, attribute: str) -> str | None:
    """The id in a file's owner mark. A symlink has none: it is never ours."""
    try:
        return os.getxattr(path, attribute, follow_symlinks=False).decode(errors="replace")
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOENT, errno.EPERM, errno.ENOTSUP):
            return None
        raise


def fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
