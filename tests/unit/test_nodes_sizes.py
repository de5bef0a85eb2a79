"""Properties of rounding, reading and printing sizes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nodes.contract.sizes import MAX_BYTES, format_exact, format_size, granule_of, nearest_sizes, parse_size, round_up
from nodes.contract.specs import PoolFacts

sizes = st.integers(1, MAX_BYTES)
granules = st.integers(1, 1 << 40)


@given(sizes, granules)
def test_rounding_gives_the_smallest_multiple_that_holds_the_size(size, granule):
    rounded = round_up(size, granule)
    assert rounded % granule == 0
    assert rounded - granule < size <= rounded


@given(sizes, granules)
def test_rounding_twice_changes_nothing(size, granule):
    assert round_up(round_up(size, granule), granule) == round_up(size, granule)


@given(sizes, sizes, granules)
def test_rounding_keeps_the_order(one, other, granule):
    if one <= other:
        assert round_up(one, granule) <= round_up(other, granule)


@given(sizes, granules)
def test_the_nearest_sizes_are_the_neighbours_on_the_grid(size, granule):
    below, above = nearest_sizes(size, granule)
    assert below % granule == above % granule == 0
    assert above == round_up(size, granule)
    assert below <= size <= above
    assert above - below == (0 if size % granule == 0 else granule)


@pytest.mark.parametrize(("size", "granule"), [(0, 512), (-1, 512), (1, 0)])
def test_nothing_cannot_be_rounded(size, granule):
    with pytest.raises(ValueError, match="cannot round"):
        round_up(size, granule)


@given(st.integers(0, MAX_BYTES))
def test_a_bare_number_is_bytes(size):
    assert parse_size(str(size)) == size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20 ГБ", 20 << 30),
        ("20GiB", 20 << 30),
        ("20000M", 20000 << 20),
        ("20,5 ГБ", 41 << 29),
        ("0.5 б", 1),
        (" 1 тиб ", 1 << 40),
    ],
)
def test_what_people_type_is_understood(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e9", "20 ГБ ГБ", "10 EiB", "1 000", "9999999 ТБ"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match=r"is not a size|larger than"):
        parse_size(text)


@given(st.integers(0, MAX_BYTES), st.sampled_from(["ru", "en"]))
def test_what_is_printed_reads_back_within_the_last_decimal(size, language):
    printed = format_size(size, language)
    unit = parse_size("1 " + printed.split()[1])
    assert abs(parse_size(printed) - size) <= unit / 1000


def test_a_granule_is_a_fact_of_the_pool_and_the_format():
    facts = PoolFacts(kind="directory", identity="x", path="/x", capacity_bytes=1, free_bytes=1, granules={"raw": 512})
    assert granule_of(facts, "raw") == 512
    with pytest.raises(ValueError, match="cannot hold qcow2"):
        granule_of(facts, "qcow2")


@pytest.mark.parametrize(
    "odd", [{"granules": {"raw": 0}}, {"granules": {}}, {"free_bytes": -1}, {"free_bytes": 1 << 63}]
)
def test_facts_with_which_nobody_can_reckon_are_no_facts(odd):
    """Of a pool that a node reports; every create asks the pools of all nodes."""
    good = {"kind": "directory", "identity": "x", "path": "/x", "capacity_bytes": 1, "free_bytes": 1}
    with pytest.raises(ValidationError):
        PoolFacts.model_validate({**good, "granules": {"raw": 512}, **odd})


@given(sizes, st.sampled_from(["ru", "en"]))
def test_an_exactly_printed_size_is_typed_again_as_the_same_size(size, language):
    assert parse_size(format_exact(size, language)) == size


def test_an_exact_size_is_printed_in_the_largest_unit_that_needs_no_decimals():
    assert [format_exact(size, "en") for size in (20 << 30, 20484 << 20, 65536, 1)] == [
        "20 GiB",
        "20484 MiB",
        "64 KiB",
        "1 B",
    ]
