"""Volumes made and deleted by jobs, and a snapshot of a guest that runs, beside the bare tools on the same node.

Ours is from the first byte of a POST to the websocket's word that its job ended, for two jobs one after the other;
bare is a person's two commands, one after the other. LVM is on the user-mode Linux node, whose one CPU is emulated:
there a command takes a second, and what a job adds drowns in it.
"""

from collections.abc import Callable, Iterator
from statistics import median

from deploy.lab.processes import Failed, wait
from deploy.lab.state import UML_NODE
from tests.bench.bench import Bench
from tests.bench.byhand import ByHand
from tests.bench.row import Result, Row, compared, measures, within_added, within_ratio
from tests.bench.rows.lifecycle import NODE, Life
from tests.bench.statistics import interleaved
from tests.bench.volumes import MIB

WHERE = {"qcow2": (NODE, f"{NODE}-images"), "rbd": (NODE, "ceph"), "lvm": (UML_NODE, "lvm")}
"""Kind -> (node, pool)"""
TOOLS = {"qcow2": "qemu-img create, rm", "rbd": "rbd create, rbd rm", "lvm": "lvcreate, lvremove"}
VOLUMES = {
    kind: Row(f"volume-{kind}", f"disk made and deleted by jobs, {kind} / {tools}", goal=(within_added(60),))
    for kind, tools in TOOLS.items()
}
NOTES = {"lvm": "on the one emulated CPU of user-mode Linux: says little of a machine"}
SNAPSHOT = Row(
    "snapshot",
    "snapshot of a guest that runs, quiesced / virsh snapshot-create-as --disk-only --quiesce",
    goal=(within_ratio(1.3),),
)


@measures(*VOLUMES.values(), SNAPSHOT)
def storage(bench: Bench) -> Iterator[Result]:
    yield snapshots(bench)
    bench.lab.demo.start_storage()
    for kind, row in VOLUMES.items():
        jobs = Jobs(bench, kind)
        pair = {"bare": by_hand(bench, kind), "ours": jobs.measure}
        for measure in pair.values():
            measure()
        samples = interleaved(bench.pairs, pair)
        yield compared(row, samples, "; ".join(filter(None, [NOTES.get(kind), jobs.said()])))


def job_ms(bench: Bench, path: str, body: dict[str, object] | None = None) -> tuple[float, str]:
    """(how long the job took from its POST on, its subject's id)"""
    told = bench.caller.post(path, body)
    job = told.body["job"]
    ended, state = bench.listener.job_ends(job["id"])
    assert state == "succeeded", bench.lab.api.get(f"jobs/{job['id']}/")["error"]
    return (ended - told.began) * 1000, job["subject"].partition(":")[2]


class Jobs:
    """A disk made by one job and deleted by another, as often as is asked."""

    def __init__(self, bench: Bench, kind: str) -> None:
        self.bench = bench
        name = WHERE[kind][1]
        self.pool = next(row["id"] for row in bench.lab.api.all("pools/") if row["name"] == name)
        self.made_ms: list[float] = []
        self.deleted_ms: list[float] = []

    def measure(self) -> float:
        """How long both took."""
        self.bench.wait_quiet()
        made_ms, disk = job_ms(self.bench, "disks/", {"pool": self.pool, "size_bytes": MIB << 20})
        deleted_ms, _disk = job_ms(self.bench, f"disks/{disk}/delete/")
        self.made_ms.append(made_ms)
        self.deleted_ms.append(deleted_ms)
        return made_ms + deleted_ms

    def said(self) -> str:
        return f"medians of the two jobs: {median(self.made_ms):.0f} ms and {median(self.deleted_ms):.0f} ms"


def by_hand(bench: Bench, kind: str) -> Callable[[], float]:
    node = bench.lab.nodes[WHERE[kind][0]]
    config = str(bench.lab.demo.storage.ceph.client_config)

    def measure() -> float:
        bench.wait_quiet()
        return float(node.run("python", "-m", "tests.bench.volumes", kind, "bench-volume", config).stdout)

    return measure


def snapshots(bench: Bench) -> Result:
    """Each is deleted again, or merged, before the next one: that is not measured."""
    with ByHand(bench.lab.nodes[NODE]) as hands:
        life = Life(bench, bench.lab, hands)
        life.warm_up()
        life.ours("create", 1)
        life.bare("create", 1)

        def kept() -> tuple[float, str]:
            """(how long it took, what a guest would find on its disk)"""
            bench.wait_quiet()
            took_ms, _vm = job_ms(bench, f"vms/{life.vm}/snapshot/", {"name": "bench"})
            snapshot = bench.lab.api.all(f"snapshots/?vm={life.vm}")[0]
            job_ms(bench, f"snapshots/{snapshot['id']}/delete/")
            return took_ms, snapshot["consistency"]

        def ours() -> float:
            took_ms, found = kept()
            assert found == "quiesced"
            return took_ms

        def bare() -> float:
            bench.wait_quiet()
            took_ms = hands.ms("snapshot", name="bench-libvirt-1")
            hands.do("merge", name="bench-libvirt-1")
            return took_ms

        def answers() -> bool:
            try:
                bare()
            except Failed:
                return False
            return True

        wait(lambda: kept()[1] == "quiesced", 120, "the agent in the panel's guest")
        wait(answers, 120, "the agent in the other guest")
        samples = interleaved(bench.pairs, {"bare": bare, "ours": ours})
        note = "virsh lays a file over the disk, the panel keeps the snapshot in the file"
        return compared(SNAPSHOT, samples, note)
