"""100 empty jobs at once, through HTTP, until the websocket has said of the last one that it ended.

One kind has no verb at all; the other sends one verb through the queue to a node that answers at once, so that all of
the panel's own work is in it and nothing of a hypervisor's. The jobs are about 100 VMs, for one VM has one at a time.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from deploy.lab.processes import Failed
from tests.bench.bench import Bench
from tests.bench.caller import Caller, Listener
from tests.bench.plant import Plant
from tests.bench.row import Result, Row, measures
from tests.bench.statistics import Limit, median_of

JOBS = 100
CALLERS = 8
GOAL = (Limit("per_s", 100, at_least=True),)
KINDS = {"bench_empty": ("jobs", "without a verb"), "bench_verb": ("jobs-verb", "of one verb, answered at once")}
DATABASES = ("", "PostgreSQL")


def row_of(kind: str, database: str = "") -> Row:
    name, said = KINDS[kind]
    on = f" ({database})" if database else ""
    return Row(name + ("-postgres" if database else ""), f"{JOBS} empty jobs at once, {said}{on}", goal=GOAL)


@measures(*(row_of(kind, database) for database in DATABASES for kind in KINDS))
def jobs(bench: Bench) -> Iterator[Result]:
    for database in DATABASES if bench.with_postgres else ("",):
        yield from jobs_of(bench, 20, database)


def jobs_of(bench: Bench, nodes: int, database: str = "") -> Iterator[Result]:
    """With so many nodes; the 100 VMs are spread over them."""
    with bench.plant(database) as panel:
        panel.work("fill", nodes=nodes, vms=-(-JOBS // nodes))
        panel.run("-m", "tests.bench.work.conductor")
        panel.run("-m", "tests.bench.work.nodes")
        panel.run_web("tests.bench.work.web:application")
        panel.wait_ready(conductor=True)
        vms = [row["id"] for row in panel.api.all("vms/?page_size=500")][:JOBS]
        with Listener(panel.api, ["jobs"]) as listener:
            for kind in KINDS:
                _at_once(panel, listener, kind, vms)  # warm
                found = [_at_once(panel, listener, kind, vms) for _ in range(max(3, bench.pairs // 2))]
                yield _result(row_of(kind, database), found)


def _at_once(panel: Plant, listener: Listener, kind: str, vms: list[str]) -> tuple[float, float]:
    """Seconds until the last was taken (202), and until the last ended."""
    caller = Caller(panel.api)
    began = time.monotonic()
    with ThreadPoolExecutor(CALLERS) as pool:
        told = list(pool.map(lambda vm: caller.post(f"vms/{vm}/{kind}/"), vms))
    taken = max(one.ended for one in told)
    ended = began
    for one in told:
        came, state = listener.job_ends(one.body["job"]["id"], began, 120)
        if state != "succeeded":
            raise Failed(f"an empty job {state}")
        ended = max(ended, came)
    return taken - began, ended - began


def _result(row: Row, found: list[tuple[float, float]]) -> Result:
    ended_ms = [1000 * ended for _, ended in found]
    per_s = [JOBS / ended for _, ended in found]
    taken_ms = [1000 * taken for taken, _ in found]
    figures = {"ours": median_of(ended_ms), "per_s": median_of(per_s)}
    note = (
        f"all taken (202) after {median_of(taken_ms).value:.0f} ms, the last ended after {figures['ours'].value:.0f} ms"
    )
    return Result(row, figures, {"ours": ended_ms, "taken": taken_ms}, note)
