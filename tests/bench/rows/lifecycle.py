"""A guest's life beside the same calls by hand, and how soon the panel says 202.

Bare is libvirt's own calls (and qemu-img) on an open connection inside the node: the strict floor, apart from the
node's agent, which hears of those domains too. Beside it stands virsh, as a person would type it; its processes are a
part of what that person waits for. Ours is from the first byte of the POST to the websocket's word that it is done.
"""

from collections.abc import Iterator

from tests.bench.bench import Bench
from tests.bench.byhand import ByHand
from tests.bench.row import Result, Row, compared, latency, measures, within_added, within_ratio
from tests.bench.statistics import Limit, orders
from tests.lab.conftest import MIB, Lab

NODE = "n2"
SIZE_BYTES = 128 * MIB
DONE = {"create": "running", "stop": "stopped", "start": "running", "delete": "deleted"}

POWER = {"goal": (within_ratio(1.2), within_added(60)), "aim": (within_ratio(1.1), within_added(30))}
SOON = {"goal": (Limit("p50", 60),), "aim": (Limit("p50", 25),)}
ROWS = {
    "create": Row(
        "create",
        "create from image to running / qemu-img, define, start",
        goal=(within_ratio(1.25),),
        aim=(within_ratio(1.1),),
    ),
    "start": Row("start", "start / virDomainCreate", **POWER),
    "stop": Row("stop", "stop / virDomainDestroy", **POWER),
    "delete": Row("delete", "delete / destroy, undefine, unlink"),
}
SOON_ROWS = {
    "create": Row("202-create", "POST to 202 of a create", **SOON),
    "start": Row("202-start", "POST to 202 of a start", **SOON),
}


class Life:
    """One guest after the other, by the panel, by libvirt and by virsh."""

    def __init__(self, bench: Bench, lab: Lab, hands: ByHand) -> None:
        self.bench, self.lab, self.hands = bench, lab, hands
        self.vm = ""
        self.said_202_ms: dict[str, list[float]] = {action: [] for action in DONE}

    def ours(self, action: str, number: int) -> float:
        path = "vms/" if action == "create" else f"vms/{self.vm}/{action}/"
        body = {"delete": {"disks": True}}.get(action, {})
        if action == "create":
            body = self.lab.vm_body(f"ours{number}", node=self.lab.node_id(NODE))
        told = self.bench.caller.post(path, body)
        if action == "create":
            self.vm = told.body["vm"]["id"]
        ended = self.bench.listener.vm(self.vm, DONE[action], told.began)
        self.bench.listener.job_ends(told.body["job"]["id"])
        self.said_202_ms[action].append(told.ms)
        return (ended - told.began) * 1000

    def bare(self, action: str, number: int) -> float:
        return self.hands.ms(action, name=f"bench-libvirt-{number}")

    def virsh(self, action: str, number: int) -> float:
        return self.hands.ms(action, name=f"bench-virsh-{number}", virsh=True)

    def warm_up(self) -> None:
        """One of each, not counted; the first of ours gives the others their shape."""
        self.bench.settle_on(NODE)
        self.ours("create", 0)
        row = self.lab.api.get(f"vms/{self.vm}/")
        image = next(row for row in self.lab.api.all("images/") if row["name"].startswith("micro"))
        uuid = _uuid(self.lab, row["name"], row["id"])
        self.hands.do("template", uuid=uuid, image=image["name"], size_bytes=SIZE_BYTES)
        for action in DONE:
            for measure in (self.bare, self.virsh):
                measure(action, 0)
            if action != "create":
                self.ours(action, 0)
        for values in self.said_202_ms.values():
            values.clear()


def _uuid(lab: Lab, name: str, vm: str) -> str:
    return lab.nodes[NODE].run("virsh", "domuuid", f"{name}.{vm}").stdout.strip()


@measures(*ROWS.values(), *SOON_ROWS.values())
def lifecycle(bench: Bench) -> Iterator[Result]:
    samples: dict[str, dict[str, list[float]]] = {a: {"bare": [], "ours": [], "virsh": []} for a in DONE}
    with ByHand(bench.lab.nodes[NODE]) as hands:
        life = Life(bench, bench.lab, hands)
        life.warm_up()
        for number, order in enumerate(orders(bench.pairs), 1):
            for action in DONE:
                # virsh comes last: it is beside the pair, not in it.
                for side in (*order, "virsh"):
                    bench.wait_quiet()
                    samples[action][side].append(getattr(life, side)(action, number))
    note = f"{bench.noisy} measurements began on a machine that was not quiet" if bench.noisy else ""
    for action, row in ROWS.items():
        yield compared(row, samples[action], note)
    for action, row in SOON_ROWS.items():
        yield latency(row, [[value] for value in life.said_202_ms[action]], note)
