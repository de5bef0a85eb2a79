"""A pool of every kind, made once; what a test leaves in it is taken away after the test."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nodes.config import Paths
from nodes.hypervisor import Hypervisor
from nodes.node import Node
from nodes.probe import VirtType
from nodes.shell import Shell
from nodes.verbs import load
from tests.libvirtd import PATIENCE_S, a_libvirtd
from tests.storage import places
from tests.storage.ceph import Ceph
from tests.storage.places import Place

KINDS = ("directory-qcow2", "directory-raw", "lvm", "lvm-striped", "lvmthin", "rbd")
NO_DEVICE_MAPPER = "this kernel has no device-mapper: LVM can only write down here what it would do"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """There is one Ceph pool, and a disk does not move to where it is: no test, and none that is skipped."""
    moves = {"place": "rbd", "elsewhere": "rbd"}
    items[:] = [item for item in items if not moves.items() <= _params(item).items()]


def _params(item: pytest.Item) -> dict[str, object]:
    return item.callspec.params if hasattr(item, "callspec") else {}


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """On a disk: a memory file system may have no user xattrs."""
    path = Path(tempfile.mkdtemp(prefix="ulei-storage-", dir="/var/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def group(folder: Path) -> Iterator[str]:
    (folder / "lvm").mkdir()
    with places.volume_group(folder / "lvm") as name:
        yield name


@pytest.fixture(scope="session")
def ceph(folder: Path) -> Iterator[Ceph]:
    (folder / "ceph").mkdir()
    server = Ceph(folder / "ceph")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def made(folder: Path) -> dict[str, Place]:
    return {}


def _make(kind: str, request: pytest.FixtureRequest, folder: Path) -> Place:
    keys = folder / "keys"
    if kind.startswith("directory-"):
        disk_format = kind.removeprefix("directory-")
        return places.directory(folder / disk_format, "qcow2" if disk_format == "qcow2" else "raw")
    if kind == "rbd":
        return places.rbd(request.getfixturevalue("ceph"), keys)
    group = request.getfixturevalue("group")
    if kind == "lvmthin":
        if not places.has_device_mapper():
            pytest.skip(NO_DEVICE_MAPPER)
        return places.thin(group, keys)
    return places.logical(group, keys, stripes=2 if kind == "lvm-striped" else 1)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, folder: Path, made: dict[str, Place]) -> Iterator[Place]:
    """The suite's pool of each kind in its turn."""
    kind = request.param
    if kind not in made:
        made[kind] = _make(kind, request, folder)
    yield made[kind]
    made[kind].clear()


@pytest.fixture
def on_device(place: Place) -> Place:
    """Only where the pool's volumes have a content."""
    if not place.devices:
        pytest.skip(NO_DEVICE_MAPPER)
    return place


@pytest.fixture
def rbd(request: pytest.FixtureRequest, folder: Path, made: dict[str, Place]) -> Iterator[Place]:
    if "rbd" not in made:
        made["rbd"] = _make("rbd", request, folder)
    yield made["rbd"]
    made["rbd"].clear()


@pytest.fixture(scope="session")
def libvirt_uri(folder: Path) -> Iterator[str]:
    with a_libvirtd(folder / "node") as uri:
        yield uri


@pytest.fixture(scope="session")
def node(libvirt_uri: str, folder: Path) -> Node:
    load()
    hypervisor = Hypervisor(libvirt_uri)
    hypervisor.start()
    assert hypervisor.await_ok(PATIENCE_S)
    parts: Any = {"network": None, "inspect": lambda: None, "set_self_fencing": lambda after_s: None}
    virt = VirtType("qemu", "the suite's")
    return Node(paths=Paths(state_dir=folder), hypervisor=hypervisor, shell=Shell(), virt=virt, **parts)
