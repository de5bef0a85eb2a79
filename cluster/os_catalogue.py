"""Operating systems that people choose from, with what each asks of a VM.

A list of our own: the distribution's osinfo-db is older than the systems that people install today. The figures are
the vendors' public ones, rounded to what a machine is usually given; a minimum never refuses, it only warns.
"""

from dataclasses import dataclass
from typing import Literal

from nodes.contract.sizes import GIB, MIB
from nodes.contract.specs import DiskBus, NicModel

OsType = Literal["linux", "windows", "bsd", "other"]
Figures = tuple[int, int, float]
"""vCPUs, memory in MiB, disk in GiB"""


@dataclass(frozen=True)
class Needs:
    vcpus: int
    memory_bytes: int
    disk_bytes: int


@dataclass(frozen=True)
class Os:
    """One choice. ``bus`` and ``nic_model`` are what its installer can drive without extra drivers."""

    code: str
    name_ru: str
    name_en: str
    type: OsType
    version: str
    minimum: Needs
    recommended: Needs
    bus: DiskBus = "virtio"
    nic_model: NicModel = "virtio"

    def name(self, language: str) -> str:
        return self.name_ru if language.startswith("ru") else self.name_en


def _needs(vcpus: int, memory_mib: int, disk_gib: float) -> Needs:
    return Needs(vcpus, memory_mib * MIB, int(disk_gib * GIB))


def _linux(code: str, name: str, version: str, minimum: Figures, recommended: Figures, ru: str = "") -> Os:
    return Os(
        code, f"{ru or name} {version}", f"{name} {version}", "linux", version, _needs(*minimum), _needs(*recommended)
    )


def _windows(code: str, version: str, minimum: Figures, recommended: Figures) -> Os:
    """Windows' installer has no virtio drivers: it begins on SATA and e1000."""
    name = f"Windows {version}"
    return Os(code, name, name, "windows", version, _needs(*minimum), _needs(*recommended), "sata", "e1000")


def _rows() -> list[Os]:
    enterprise = ((1, 1536, 10), (2, 4096, 20))
    server = ((1, 2048, 32), (2, 4096, 60))
    return [
        _linux("debian-13", "Debian", "13", (1, 512, 4), (1, 2048, 10)),
        _linux("debian-12", "Debian", "12", (1, 512, 4), (1, 2048, 10)),
        _linux("debian-11", "Debian", "11", (1, 512, 4), (1, 1024, 10)),
        _linux("ubuntu-26.04", "Ubuntu", "26.04 LTS", (1, 1536, 5), (2, 4096, 25)),
        _linux("ubuntu-24.04", "Ubuntu", "24.04 LTS", (1, 1536, 5), (2, 3072, 25)),
        _linux("ubuntu-22.04", "Ubuntu", "22.04 LTS", (1, 1024, 5), (2, 2048, 25)),
        _linux("ubuntu-20.04", "Ubuntu", "20.04 LTS", (1, 1024, 5), (2, 2048, 20)),
        _linux("redos-8", "RED OS", "8", (1, 2048, 10), (2, 4096, 15), "РЕД ОС"),
        _linux("redos-7.3", "RED OS", "7.3", (1, 2048, 10), (2, 4096, 15), "РЕД ОС"),
        _linux("astra-1.8", "Astra Linux", "1.8", (1, 2048, 16), (2, 4096, 30)),
        _linux("astra-1.7", "Astra Linux", "1.7", (1, 1024, 16), (2, 4096, 30)),
        _linux("alt-11", "ALT Server", "11", (1, 1024, 10), (2, 4096, 32), "Альт Сервер"),
        _linux("alt-10", "ALT Server", "10", (1, 1024, 10), (2, 4096, 32), "Альт Сервер"),
        _linux("rosa-13", "ROSA Chrome Server", "13", (1, 2048, 10), (2, 4096, 20), "РОСА Хром Сервер"),
        _linux("rosa-12", "ROSA Chrome Server", "12", (1, 2048, 10), (2, 4096, 20), "РОСА Хром Сервер"),
        _linux("centos-stream-10", "CentOS Stream", "10", *enterprise),
        _linux("centos-stream-9", "CentOS Stream", "9", *enterprise),
        _linux("almalinux-10", "AlmaLinux", "10", *enterprise),
        _linux("almalinux-9", "AlmaLinux", "9", *enterprise),
        _linux("almalinux-8", "AlmaLinux", "8", *enterprise),
        _linux("rocky-10", "Rocky Linux", "10", *enterprise),
        _linux("rocky-9", "Rocky Linux", "9", *enterprise),
        _linux("rocky-8", "Rocky Linux", "8", *enterprise),
        _linux("fedora-43", "Fedora Server", "43", (1, 2048, 15), (2, 4096, 20)),
        _linux("opensuse-leap-16", "openSUSE Leap", "16.0", (1, 1024, 10), (2, 4096, 40)),
        _linux("opensuse-leap-15.6", "openSUSE Leap", "15.6", (1, 1024, 10), (2, 2048, 40)),
        Os("freebsd-15", "FreeBSD 15", "FreeBSD 15", "bsd", "15", _needs(1, 512, 8), _needs(1, 2048, 20)),
        Os("freebsd-14", "FreeBSD 14", "FreeBSD 14", "bsd", "14", _needs(1, 512, 8), _needs(1, 2048, 20)),
        _windows("windows-server-2025", "Server 2025", *server),
        _windows("windows-server-2022", "Server 2022", *server),
        _windows("windows-server-2019", "Server 2019", *server),
        _windows("windows-server-2016", "Server 2016", *server),
        _windows("windows-11", "11", (2, 4096, 64), (4, 8192, 100)),
        _windows("windows-10", "10", (1, 2048, 32), (2, 4096, 60)),
        Os("other-linux", "Другой Linux", "Other Linux", "linux", "", _needs(1, 64, 0.0625), _needs(1, 1024, 10)),
        Os("other", "Другая ОС", "Other", "other", "", _needs(1, 64, 0.0625), _needs(1, 1024, 10), "sata", "e1000"),
    ]


CATALOGUE: dict[str, Os] = {row.code: row for row in _rows()}
"""code -> Os, in the order in which people see them."""
