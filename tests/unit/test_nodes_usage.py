"""Which words of a domain's XML name a volume, and which name another one that is called the same."""

from pathlib import Path

import pytest

from nodes.usage import names

DISK = "d" * 13


def domain(source: str) -> str:
    return f"<domain><devices><disk>{source}<serial>{DISK}</serial></disk></devices></domain>"


@pytest.fixture
def pools(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders, each with a file of one name."""
    files = tmp_path / "one" / f"{DISK}.raw", tmp_path / "two" / f"{DISK}.raw"
    for file in files:
        file.parent.mkdir()
        file.touch()
    return files


def test_a_volume_is_named_by_its_path_and_by_every_other_way_to_it(pools: tuple[Path, Path], tmp_path: Path):
    one, _two = pools
    (tmp_path / "link").symlink_to(one.parent)
    for way in (str(one), f"{tmp_path}/link/{one.name}", f"{tmp_path}/two/../one/{one.name}", one.name):
        assert names(domain(f'<source file="{way}"/>'), str(one)), way
        assert names(domain(f'<mirror><source file="{way}"/></mirror>'), str(one)), way
    assert names(domain(f'<source name="json:{{&quot;filename&quot;: &quot;{one.name}&quot;}}"/>'), str(one))


def test_a_volume_of_the_same_name_in_another_pool_is_another_one(pools: tuple[Path, Path]):
    one, two = pools
    assert not names(domain(f'<source file="{two}"/>'), str(one))
    assert names(domain(f'<source file="{two}"/><backingStore><source file="{one}"/></backingStore>'), str(one))


def test_what_leads_nowhere_counts_as_the_volume(pools: tuple[Path, Path]):
    one, two = pools
    two.unlink()
    assert names(domain(f'<source file="{two}"/>'), str(one))


def test_the_serial_number_names_no_volume():
    assert not names(domain('<source dev="/dev/vg0/other"/>'), f"/dev/vg0/{DISK}")
    assert names(domain(f'<source dev="/dev/mapper/vg0-{DISK}"/>'), f"/dev/vg0/{DISK}")


def test_an_rbd_image_is_named_by_its_pool_and_itself(pools: tuple[Path, Path]):
    one, _two = pools
    image = f'<source protocol="rbd" name="volumes/{DISK}"/>'
    assert names(domain(image), f"volumes/{DISK}")
    assert not names(domain(image), f"others/{DISK}")
    assert not names(domain(image), f"/dev/vg0/{DISK}")
    assert not names(domain(f'<source file="{one}"/>'), f"volumes/{DISK}")
    assert names(domain(f'<source dev="/dev/rbd/volumes/{DISK}"/>'), f"volumes/{DISK}")
