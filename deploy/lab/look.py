"""``deploy/lab/audit``: fetches what ``deploy.lab.audit`` compares, and prints the differences.

The three sides are read one after another while the cluster lives, so a difference counts only if it is still there
when everything is looked at again.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from deploy.lab import broker
from deploy.lab.audit import BrokerView, NodeView, compare
from deploy.lab.demo import Demo
from deploy.lab.node import Node
from deploy.lab.processes import Failed, run
from deploy.lab.state import State

SETTLE_S = 10.0


def differences(demo: Demo, settle_s: float = SETTLE_S) -> list[str]:
    """What differs, after at most ``settle_s`` for what is still on its way."""
    until = time.monotonic() + settle_s
    while True:
        found = look(demo)
        if not found or time.monotonic() > until:
            return found


def look(demo: Demo) -> list[str]:
    panel = json.loads(demo.panel.manage("audit_rows"))
    joined = [row for row in panel["nodes"] if row["joined"]]  # the others wait for a machine that was never there
    with ThreadPoolExecutor() as at_once:
        views = dict(
            zip([row["id"] for row in joined], at_once.map(lambda row: view_of(demo, row), joined), strict=True)
        )
    return compare(panel, views, broker_view(demo.state, {row["id"] for row in panel["nodes"]}))


def view_of(demo: Demo, row: dict[str, Any]) -> NodeView | None:
    node = demo.nodes.get(row["name"])
    return None if node is None else node_view(node, row)


def node_view(node: Node, row: dict[str, Any]) -> NodeView | None:
    if not node.on:
        return None
    done = node.run("ulei-node", "audit", "--json", check=False)
    if done.returncode:
        print(f"{node.name}: ulei-node audit: {done.stderr.strip()[-500:]}", file=sys.stderr)
        return None
    view = read_view(json.loads(done.stdout))
    view.certificate = certificate_fault(node, row)
    return view


def read_view(said: dict[str, Any]) -> NodeView:
    """The agent's own words as the comparison wants them."""
    return NodeView(
        domains=said["domains"],
        volumes=said["volumes"],
        leases=said["leases"],
        chains=said["chains"],
        ledger=said["ledger"],
        wanted=said["wanted"],
        children=said["children"],
    )


def certificate_fault(node: Node, row: dict[str, Any]) -> str:
    """What is wrong with the node's certificate, or nothing."""
    path = node.folder / "etc/pki/ulei/cert.pem"
    if not path.exists():
        return "is missing"
    checked = run("openssl", "verify", "-CAfile", str(node.state.ca / "ca.pem"), str(path), check=False)
    if checked.returncode:
        return checked.stderr.strip().splitlines()[-1]
    recorded = row.get("certificate_sha256")
    printed = run("openssl", "x509", "-in", str(path), "-noout", "-fingerprint", "-sha256").stdout
    own = printed.partition("=")[2].strip().replace(":", "").lower()
    return "is not the one that the panel gave out" if recorded and recorded.lower() != own else ""


def broker_view(state: State, nodes: set[str]) -> BrokerView:
    users = {line.split()[1] for line in broker.cli(state, "ACL", "LIST").splitlines() if line.strip()}
    waiting = {}
    for key in broker.cli(state, "--scan", "--pattern", "n.*").split():
        node, _, rest = key.removeprefix("n.").partition(".")
        if rest == "commands" or node not in nodes or rest in ("unacked", "unacked_index"):
            waiting[key] = _size(state, key)
    return BrokerView(users, waiting)


def _size(state: State, key: str) -> int:
    kind = broker.cli(state, "TYPE", key).strip()
    command = {"list": "LLEN", "hash": "HLEN", "zset": "ZCARD", "set": "SCARD", "stream": "XLEN"}.get(kind)
    if command is None:
        return 0 if kind == "none" else 1
    return int(broker.cli(state, command, key))


def main() -> int:
    parser = argparse.ArgumentParser(prog="deploy/lab/audit", description="The panel's rows against every node.")
    parser.add_argument("--settle", type=float, default=SETTLE_S, metavar="SECONDS", help="wait this long for the rest")
    chosen = parser.parse_args()
    try:
        found = differences(Demo(State.from_environment()), chosen.settle)
    except Failed as failure:
        print(f"FAILED: {failure}\n  the audit needs a running demo: deploy/demo --status", file=sys.stderr)
        return 2
    for text in found:
        print(text)
    print(f"{len(found)} differences" if found else "clean: the panel, the nodes and the broker agree")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
