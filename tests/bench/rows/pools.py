"""The disks of a pool that has 10,000 of them, as page and as API, beside those of one that has 100."""

from collections.abc import Iterator

from tests.bench.bench import Bench
from tests.bench.row import Result, Row, compared, measures, within_ratio

FEW, MANY = 100, 10_000
WHAT = {"page": "a pool's page", "api": "a pool's disks, API"}


def _row(kind: str, database: str) -> Row:
    name = f"pool-disks-{kind}" + ("-postgres" if database else "")
    title = f"{WHAT[kind]}: {MANY:,} disks / {FEW} disks" + (f" ({database})" if database else "")
    return Row(name, title, goal=(within_ratio(1.2),))


@measures(*(_row(kind, database) for database in ("", "PostgreSQL") for kind in WHAT))
def pools(bench: Bench) -> Iterator[Result]:
    for database in ("", "PostgreSQL") if bench.with_postgres else ("",):
        with bench.plant(database) as panel:
            found = panel.work("pools", few=FEW, many=MANY, pairs=bench.pairs, token=panel.api.token)
        for kind, samples in found.items():
            yield compared(_row(kind, database), samples)
