"""States of VMs from the nodes' streams into rows, beside the raw UPDATE of the same rows in the same database."""

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from deploy.lab.processes import ROOT
from tests.bench.bench import Bench
from tests.bench.plant import Plant
from tests.bench.processes import shares_of_a_core
from tests.bench.row import Result, Row, compared, measures, single
from tests.bench.statistics import Limit, median_of

NODES, VMS = 20, 50
SHARE = (Limit("share", 0.7, at_least=True),)
RATE_PER_S = 1000.0
WARM_UP_S, WINDOWS, WINDOW_S = 3.0, 8, 2.0
BATCHES = {VMS: ("ingest", "an entry a node"), 1: ("ingest-single", "an entry a VM")}
HALF_A_CORE = (Limit("value", 50),)


def _name(name: str, database: str) -> str:
    return name + ("-postgres" if database else "")


def _on(database: str) -> str:
    return f" ({database})" if database else ""


def _row(batch: int, database: str) -> Row:
    name, said = BATCHES[batch]
    title = f"{NODES * VMS:,} states from {NODES} streams into rows, {said} / UPDATE{_on(database)}"
    return Row(_name(name, database), title, goal=SHARE)


def _steady_row(database: str) -> Row:
    title = f"conductor at {RATE_PER_S:,.0f} changes a second, {NODES} nodes x {VMS} VMs{_on(database)}"
    return Row(_name("conductor-1000", database), title, unit="% of a core", goal=HALF_A_CORE)


DATABASES = ("", "PostgreSQL")


@measures(*(row for d in DATABASES for row in (*(_row(batch, d) for batch in BATCHES), _steady_row(d))))
def ingest(bench: Bench) -> Iterator[Result]:
    for database in DATABASES if bench.with_postgres else ("",):
        for batch in BATCHES:
            with bench.plant(database) as panel:
                found = panel.work("ingest", nodes=NODES, vms=VMS, batch=batch, pairs=bench.pairs)
            yield of_samples(_row(batch, database), found)
        yield steady(bench, _steady_row(database), NODES, VMS, RATE_PER_S, database)


def of_samples(row: Row, found: dict[str, Any]) -> Result:
    """``share``: ours as a part of the raw rate, so that more is better."""
    in_ms = {side: [1000 * seconds for seconds in found[side]] for side in ("bare", "ours")}
    cpu_us = median_of(found["cpu"]).value / found["count"] * 1e6
    per_s = found["count"] / median_of(found["ours"]).value
    published_s = median_of(found["published"]).value
    result = compared(row, in_ms)
    result.note = (
        f"{per_s:,.0f} states/s, {cpu_us:.0f} µs of CPU each; the last frame is out after {published_s * 1000:.0f} ms"
    )
    shares = [bare / ours for bare, ours in zip(found["bare"], found["ours"], strict=True)]
    result.figures["share"] = median_of(shares)
    result.samples["published"] = [1000 * seconds for seconds in found["published"]]
    result.samples["cpu"] = [1000 * seconds for seconds in found["cpu"]]
    return result


def steady(bench: Bench, row: Row, nodes: int, vms: int, rate_per_s: float, database: str = "") -> Result:
    """What a conductor takes of a core while changes come in at this rate, each an entry of its own."""
    with bench.plant(database) as panel:
        panel.work("fill", nodes=nodes, vms=vms)
        panel.panel.start("conductor")
        try:
            shares, note = _fed(panel, rate_per_s)
        finally:
            panel.panel.process("conductor").stop()
    return single(row, shares, note)


def _fed(panel: Plant, rate_per_s: float) -> tuple[list[float], str]:
    seconds = WARM_UP_S + WINDOWS * WINDOW_S + 1
    given = f'{{"rate_per_s": {rate_per_s}, "seconds": {seconds}}}'
    argv = [sys.executable, "-m", "tests.bench.work.feed", given]
    with subprocess.Popen(argv, cwd=ROOT, env=panel.environment(), stdout=subprocess.DEVNULL) as feed:
        time.sleep(WARM_UP_S)
        pid = panel.panel.process("conductor").pid()
        assert pid is not None
        shares = shares_of_a_core({"conductor": pid}, WINDOWS, WINDOW_S)["conductor"]
        assert feed.poll() is None
    left = panel.work("behind")
    note = "it kept up" if left["entries"] == 0 else f"it fell behind: {left['entries']} entries were left"
    return shares, note
