"""Sizes: round them to a pool's granule, read what people type, print what they read. Pure; used by both sides."""

import re
from fractions import Fraction
from typing import Literal

from .specs import DiskFormat, PoolFacts

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

MAX_BYTES = 1 << 62
"""Nothing larger is taken for a size: sums of a few such numbers still fit a signed 64-bit column."""

# People say "20 ГБ" and mean what the hypervisor counts in: powers of two, as VMmanager and virt-manager do.
_UNITS = {
    "": 1, "b": 1, "б": 1, "байт": 1,
    "k": KIB, "kb": KIB, "kib": KIB, "к": KIB, "кб": KIB, "киб": KIB,
    "m": MIB, "mb": MIB, "mib": MIB, "м": MIB, "мб": MIB, "миб": MIB,
    "g": GIB, "gb": GIB, "gib": GIB, "г": GIB, "гб": GIB, "гиб": GIB,
    "t": TIB, "tb": TIB, "tib": TIB, "т": TIB, "тб": TIB, "тиб": TIB,
}  # fmt: skip

_SIZE = re.compile(r"\s*(\d{1,19}(?:[.,]\d{1,9})?)\s*([a-zа-яё]*)\s*", re.IGNORECASE)

_PRINTED: dict[str, tuple[str, ...]] = {
    "ru": ("Б", "КиБ", "МиБ", "ГиБ", "ТиБ"),
    "en": ("B", "KiB", "MiB", "GiB", "TiB"),
}


def round_up(size_bytes: int, granule_bytes: int) -> int:
    """The smallest multiple of the granule that holds ``size_bytes``. Raises ValueError below one byte."""
    if size_bytes < 1 or granule_bytes < 1:
        raise ValueError(f"cannot round {size_bytes} bytes to a multiple of {granule_bytes}")
    return -(-size_bytes // granule_bytes) * granule_bytes


def nearest_sizes(size_bytes: int, granule_bytes: int) -> tuple[int, int]:
    """The two sizes around one that is off the grid, for pools that take exact sizes only: (below, above).

    Both are the size itself where it is on the grid; below is 0 where there is none. Raises ValueError below one byte.
    """
    above = round_up(size_bytes, granule_bytes)
    return (above if above == size_bytes else above - granule_bytes), above


def granule_of(facts: PoolFacts, disk_format: DiskFormat) -> int:
    """Bytes of which a volume's size is a multiple in this pool.

    Raises ValueError when the pool cannot hold the format at all.
    """
    try:
        return facts.granules[disk_format]
    except KeyError:
        raise ValueError(f"a {facts.kind} pool cannot hold {disk_format} volumes") from None


def parse_size(text: str) -> int:
    """Bytes of what a person typed: ``20 ГБ``, ``20 GiB``, ``20000M``, ``20,5 ГБ``; a bare number is bytes.

    Fractions of a byte are rounded up. Raises ValueError for anything else.
    """
    match = _SIZE.fullmatch(text)
    factor = _UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text!r} is not a size")
    exact = Fraction(match[1].replace(",", ".")) * factor
    size_bytes = -(-exact.numerator // exact.denominator)
    if size_bytes > MAX_BYTES:
        raise ValueError(f"{text!r} is larger than anything that can be stored")
    return size_bytes


def format_size(size_bytes: int, language: Literal["ru", "en"] = "ru") -> str:
    """``20 ГиБ``, ``20,004 ГиБ``: at most three decimals, none that are zeros."""
    units = _PRINTED[language]
    power = 0
    while power < len(units) - 1 and abs(size_bytes) >= 1 << 10 * (power + 1):
        power += 1
    value = f"{size_bytes / (1 << 10 * power):.3f}".rstrip("0").rstrip(".")
    return f"{value.replace('.', ',') if language == 'ru' else value} {units[power]}"


def format_exact(size_bytes: int, language: Literal["ru", "en"] = "ru") -> str:
    """``20 ГиБ``, ``20484 МиБ``: the largest unit without decimals, so that typing it again means the same size."""
    power = 0
    while power < len(_PRINTED[language]) - 1 and size_bytes and not size_bytes % (1 << 10 * (power + 1)):
        power += 1
    return f"{size_bytes >> 10 * power} {_PRINTED[language][power]}"
