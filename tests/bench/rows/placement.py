"""Where a VM would go, asked of a cluster of 1,000 nodes with 50 VMs each: the plan of a create and of a move."""

from collections.abc import Iterator

from tests.bench.bench import Bench
from tests.bench.row import Result, Row, latency, measures
from tests.bench.statistics import Limit

NODES, VMS = 1_000, 50
WHAT = {
    "create": "the plan of a create",
    "create-apart": "the plan of a create in an affinity group of 20 VMs",
    "move": "the plan of a move",
}


def _row(kind: str, database: str) -> Row:
    name = f"placement-{kind}" + ("-postgres" if database else "")
    title = f"{WHAT[kind]}, {NODES:,} nodes with {VMS} VMs each" + (f" ({database})" if database else "")
    return Row(name, title, goal=(Limit("p50", 50),) if kind != "move" else ())


@measures(*(_row(kind, database) for database in ("", "PostgreSQL") for kind in WHAT))
def placement(bench: Bench) -> Iterator[Result]:
    for database in ("", "PostgreSQL") if bench.with_postgres else ("",):
        with bench.plant(database) as panel:
            found = panel.work("placement", nodes=NODES, vms=VMS, pairs=bench.pairs)
        for kind, samples in found.items():
            yield latency(_row(kind, database), [[one] for one in samples])
