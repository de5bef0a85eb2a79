"""``python -m nodes.simulated``: join, seed and run simulated nodes; ``deploy/demo --simulated`` does it for you."""

import argparse
import json
import sys
from pathlib import Path

from nodes import log
from nodes.contract.errors import NodeError
from nodes.simulated import swarm


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m nodes.simulated", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="has a folder for each node, by its name")
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    commands.add_parser("join", help="join the nodes of which standard input has the tickets, as JSON")
    commands.add_parser("seed", help="give nodes the guests of standard input: {node's name: [guest]} as JSON")
    run = commands.add_parser("run", help="run these nodes until SIGTERM")
    run.add_argument("--changes-per-s", type=float, default=0.0, help="guests that go off or come back by themselves")
    run.add_argument("names", nargs="+", metavar="NAME")
    chosen = parser.parse_args()
    log.setup("INFO" if chosen.command == "join" else "WARNING")
    try:
        if chosen.command == "join":
            swarm.join(chosen.folder, json.load(sys.stdin))
        elif chosen.command == "seed":
            for name, guests in json.load(sys.stdin).items():
                swarm.seed(chosen.folder / name, guests)
        else:
            swarm.run([chosen.folder / name for name in chosen.names], chosen.changes_per_s)
    except NodeError as error:
        sys.stderr.write(f"{error.info.code}: {error.info.cause}\n{error.info.hint}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
