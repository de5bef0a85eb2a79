"""``deploy/lab/history OBJECT``: what the panel, the nodes and the broker remember of one object, side by side."""

import argparse
import json
import sys
from datetime import UTC, datetime
from typing import Any

from deploy.lab import broker
from deploy.lab.demo import Demo
from deploy.lab.processes import Failed
from deploy.lab.state import State

STREAM_TAIL = 20_000


def stream_entries(state: State, node: str, wanted: str) -> list[tuple[str, str]]:
    """``(time, text)`` of the entries of a node's stream that name the object, or its bare id."""
    wanted = wanted.rpartition(":")[2]
    raw = broker.cli(state, "--json", "XREVRANGE", f"n.{node}.events", "+", "-", "COUNT", str(STREAM_TAIL))
    found = []
    for entry, fields in json.loads(raw or "[]"):
        text = " ".join(fields if isinstance(fields, list) else [json.dumps(fields)])
        if wanted in text:
            when = datetime.fromtimestamp(int(entry.split("-")[0]) / 1000, UTC)
            found.append((when.isoformat(timespec="milliseconds"), f"{entry} {shorten(text)}"))
    return found[::-1]


def shorten(text: str, length: int = 300) -> str:
    return text if len(text) <= length else f"{text[:length]}…"


def tell(demo: Demo, wanted: str) -> None:
    panel = json.loads(demo.panel.manage("object_history", wanted, "--json"))
    print(f"== panel: {wanted}")
    print_value(panel)
    for row in demo.api.all("nodes/"):
        node = demo.nodes.get(row["name"])
        print(f"\n== {row['name']}: ledger")
        if node is None or not node.on:
            print("  powered off")
        else:
            done = node.run("ulei-node", "ledger", "--json", wanted, check=False)
            print_value(json.loads(done.stdout) if done.returncode == 0 else done.stderr.strip())
        print(f"== {row['name']}: stream n.{row['id']}.events")
        for when, text in stream_entries(demo.state, row["id"], wanted):
            print(f"  {when}  {text}")


def print_value(value: Any, indent: int = 2) -> None:
    """A list of rows line by line, so that two of them can be compared with the eye."""
    pad = " " * indent
    if isinstance(value, dict):
        for name, part in value.items():
            if isinstance(part, list) and part and isinstance(part[0], dict):
                print(f"{pad}{name}:")
                print_value(part, indent + 2)
            else:
                print(f"{pad}{name}: {part if isinstance(part, str) else json.dumps(part, ensure_ascii=False)}")
    elif isinstance(value, list):
        for row in value:
            scalars = {k: v for k, v in row.items() if not (isinstance(v, list) and v and isinstance(v[0], dict))}
            print(pad + shorten("  ".join(f"{k}={v}" for k, v in scalars.items()), 400))
            for name, part in row.items():
                if name not in scalars:
                    print(f"{pad}  {name}:")
                    print_value(part, indent + 4)
    else:
        print(f"{pad}{value}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="deploy/lab/history", description="One object's history.")
    parser.add_argument("object", help="domain:ID, disk:ID or nic:ID")
    chosen = parser.parse_args()
    try:
        tell(Demo(State.from_environment()), chosen.object)
    except Failed as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
