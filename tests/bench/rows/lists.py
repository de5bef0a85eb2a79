"""The list of VMs with 50, 5,000 and 50,000 of them: first page and 900th, as API and as page.

Bare is ``.values()`` and JSON (the standard library's: no other is in the lock file) of the same rows in the same
database. Ours is asked in the process, by Django's test client, and over HTTP.
"""

from collections.abc import Iterator
from typing import Any

from tests.bench.bench import Bench
from tests.bench.row import Result, Row, compared, measures, within_ratio
from tests.bench.statistics import Interval, Limit, median_of

SIZES = (50, 5_000, 50_000)
FLAT = (Limit("ratio", 1.2),)
PAGES = {"first": "first page", "far": "page 900"}
KINDS = {"api": "API", "page": "page"}
WAYS = {"inside": "", "http": ", over HTTP"}


def _row(size: int, page: str, kind: str, way: str, database: str) -> Row:
    return Row(
        _name(f"list-{kind}-{size}-{page}", way, database),
        f"list of VMs, {KINDS[kind]}, {PAGES[page]} of {size:,}{WAYS[way]} / values and JSON{_on(database)}",
        goal=(within_ratio(1.5),) if way == "inside" else (),
    )


def _flat_row(kind: str, way: str, what: str, database: str) -> Row:
    said = {"size": f"first page of {SIZES[-1]:,} / first page of {SIZES[0]}", "depth": "page 900 / first page"}[what]
    name = _name(f"list-{kind}-flat-in-{what}", way, database)
    return Row(name, f"list of VMs, {KINDS[kind]}{WAYS[way]}: {said}{_on(database)}", goal=FLAT)


def _name(name: str, way: str, database: str) -> str:
    return name + ("-http" if way == "http" else "") + ("-postgres" if database else "")


def _on(database: str) -> str:
    return f" ({database})" if database else ""


def _rows(database: str) -> list[Row]:
    ways = [(kind, way) for kind in KINDS for way in WAYS]
    pages = [(size, "first") for size in SIZES] + [(SIZES[-1], "far")]
    rows = [_row(size, page, kind, way, database) for size, page in pages for kind, way in ways]
    return rows + [_flat_row(kind, way, what, database) for kind, way in ways for what in ("size", "depth")]


@measures(*_rows(""), *_rows("PostgreSQL"))
def lists(bench: Bench) -> Iterator[Result]:
    for database in ("", "PostgreSQL") if bench.with_postgres else ("",):
        found = lists_of(bench, SIZES, database)
        for size, pages in found.items():
            for page, ways in pages.items():
                for kind_way, samples in ways.items():
                    kind, way = kind_way.split("-")
                    yield compared(_row(int(size), page, kind, way, database), samples)
        yield from _flatness(found, database)


def lists_of(bench: Bench, sizes: tuple[int, ...], database: str = "", nodes: int = 20) -> dict[str, Any]:
    """Samples by size, page and way."""
    with bench.plant(database) as panel:
        panel.run_web()
        panel.wait_ready(conductor=False)
        token = panel.api.token
        found: dict[str, Any] = panel.work(
            "lists", sizes=list(sizes), pairs=bench.pairs, url=panel.state.url, token=token, nodes=nodes
        )
    return found


def _flatness(found: dict[str, Any], database: str) -> Iterator[Result]:
    """Not pairs, for the tables were measured one after the other: the intervals of both medians are divided."""
    least, most = str(SIZES[0]), str(SIZES[-1])
    for kind in KINDS:
        for way in WAYS:
            small, large, far = (
                found[size][page][f"{kind}-{way}"]["ours"]
                for size, page in ((least, "first"), (most, "first"), (most, "far"))
            )
            yield _divided(_flat_row(kind, way, "size", database), large, small)
            yield _divided(_flat_row(kind, way, "depth", database), far, large)


def _divided(row: Row, ours: list[float], bare: list[float]) -> Result:
    one, other = median_of(ours), median_of(bare)
    ratio = Interval(one.value / other.value, one.low / other.high, one.high / other.low)
    return Result(row, {"bare": other, "ours": one, "ratio": ratio}, {"bare": bare, "ours": ours})
