"""A guest that moves between two nodes, and a node that is emptied, beside the same by ``virsh migrate``.

The guests run from an ISO and have no disk, so that both sides send the same memory and nothing else. Ours is from the
first byte of the POST to the websocket's word that the job has ended; bare is virsh on the node, as a person types it,
with the ports between the nodes opened beforehand.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

from lxml import etree

from deploy.lab.node import Node
from tests.bench.bench import Bench
from tests.bench.row import Result, Row, compared, measures, within_added, within_ratio
from tests.bench.rows.storage import job_ms
from tests.bench.statistics import interleaved
from tests.lab.conftest import MIB

HERE, THERE = "n1", "n2"
GUESTS, AT_ONCE = 10, 2
MOST_EVACUATIONS = 5
"""Each moves all of them four times."""
VIRSH_MOVE = ("virsh", "-q", "migrate", "--live", "--p2p", "--tls", "--persistent", "--undefinesource")
MOVE = Row("move", "live move / virsh migrate", goal=(within_ratio(1.15), within_added(100)), aim=(within_ratio(1.05),))
EVACUATE = Row("evacuate", f"{GUESTS} guests off a node / virsh migrate, {AT_ONCE} at once", goal=(within_ratio(1.2),))


@measures(MOVE, EVACUATE)
def moves(bench: Bench) -> Iterator[Result]:
    vms = [guest(bench, f"moved{number}") for number in range(GUESTS)]
    domains = [by_hand(bench, vms[0], f"bench-{number}") for number in range(GUESTS)]
    for vm in vms:
        bench.lab.wait_console(vm, "GUEST-UP", 120)
    pair = {"bare": there_and_back(bench, domains[0]), "ours": ours(bench, vms[0])}
    for measure in pair.values():
        measure()
    yield compared(MOVE, interleaved(bench.pairs, pair), "there and back, halved")
    pair = {"bare": all_by_hand(bench, domains), "ours": evacuated(bench)}
    yield compared(EVACUATE, interleaved(min(bench.pairs, MOST_EVACUATIONS), pair))


def guest(bench: Bench, name: str) -> str:
    iso = bench.lab.api.all("isos/")[0]["id"]
    body = bench.lab.vm_body(name, node=bench.lab.node_id(HERE), image=None, iso=iso, disks=[], memory_bytes=128 * MIB)
    return str(bench.lab.api.do("vms/", body)["subject"].partition(":")[2])


def by_hand(bench: Bench, vm: str, name: str) -> str:
    """A domain of the same shape that the panel does not know."""
    node = bench.lab.nodes[HERE]
    row = bench.lab.api.get(f"vms/{vm}/")
    xml = etree.fromstring(node.run("virsh", "dumpxml", "--inactive", f"{row['name']}.{vm}").stdout)
    for path in ("uuid", "metadata", "devices/interface", ".//address", "devices/serial", "devices/console"):
        for found in xml.findall(path):
            found.getparent().remove(found)
    xml.find("name").text = name
    node.run("virsh", "-q", "define", "/dev/stdin", input=etree.tostring(xml, encoding="unicode"))
    node.run("virsh", "-q", "start", name)
    return name


def there_and_back(bench: Bench, domain: str) -> Callable[[], float]:
    def measure() -> float:
        open_ports(bench)
        bench.wait_quiet()
        began = monotonic()
        for source, target in ((HERE, THERE), (THERE, HERE)):
            virsh_move(bench.lab.nodes[source], domain, target)
        return (monotonic() - began) * 500

    return measure


def ours(bench: Bench, vm: str) -> Callable[[], float]:
    def measure() -> float:
        bench.wait_quiet()
        both = [{"target": bench.lab.node_id(name)} for name in (THERE, HERE)]
        return sum(job_ms(bench, f"vms/{vm}/migrate/", body)[0] for body in both) / 2

    return measure


def all_by_hand(bench: Bench, domains: Sequence[str]) -> Callable[[], float]:
    def move_all(source: str, target: str) -> None:
        with ThreadPoolExecutor(AT_ONCE) as hands:
            list(hands.map(lambda domain: virsh_move(bench.lab.nodes[source], domain, target), domains))

    def measure() -> float:
        open_ports(bench)
        bench.wait_quiet()
        began = monotonic()
        move_all(HERE, THERE)
        took_ms = (monotonic() - began) * 1000
        move_all(THERE, HERE)
        return took_ms

    return measure


def evacuated(bench: Bench) -> Callable[[], float]:
    def measure() -> float:
        bench.wait_quiet()
        node = bench.lab.node_id(HERE)
        took_ms, _node = job_ms(bench, f"nodes/{node}/evacuate/")
        job_ms(bench, f"nodes/{node}/put_back/")
        return took_ms

    return measure


def virsh_move(node: Node, domain: str, target: str) -> None:
    node.run(*VIRSH_MOVE, domain, f"qemu+tls://{target}/system")


def open_ports(bench: Bench) -> None:
    """Until an agent closes them again, with its next move."""
    for name in (HERE, THERE):
        bench.lab.nodes[name].run("nft", "flush", "chain", "inet", "ulei", "input")
