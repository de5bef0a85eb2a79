"""``ulei-node``: join a cluster, run the agent, look at what this node holds."""

import argparse
import json
import sys
from typing import Any

from nodes import config as settings
from nodes import log
from nodes.contract.errors import NodeError


def main() -> int:
    arguments = _parser().parse_args()
    log.setup("INFO")
    try:
        arguments.command(arguments)
    except NodeError as error:
        sys.stderr.write(f"{error.info.code}: {error.info.cause}\n{error.info.hint}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ulei-node", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    join = commands.add_parser("join", help="make this machine a node of a cluster")
    join.add_argument("--panel", required=True, metavar="https://HOST:8101")
    join.add_argument("--token", required=True)
    join.add_argument("--ca-fingerprint", required=True, metavar="sha256:HEX")
    join.set_defaults(command=_join)

    run = commands.add_parser("run", help="run the agent until SIGTERM")
    run.set_defaults(command=_run)

    check = commands.add_parser("check", help="print the preflight")
    check.set_defaults(command=_check)

    before_libvirtd = commands.add_parser(
        "before-libvirtd", help="forget guests that a killed libvirtd had only begun to start; while none runs"
    )
    before_libvirtd.set_defaults(command=_before_libvirtd)

    ledger = commands.add_parser("ledger", help="print what the agent remembers of its messages")
    ledger.add_argument("object", nargs="?", metavar="OBJECT", help="for example domain:aaaaaaaaaaaaa")
    ledger.add_argument("--json", action="store_true")
    ledger.set_defaults(command=_ledger)

    audit = commands.add_parser("audit", help="print everything of ours on this node")
    audit.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    audit.set_defaults(command=_audit)
    return parser


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _join(arguments: argparse.Namespace) -> None:
    from nodes import enrol

    joined = enrol.join(settings.Paths(), arguments.panel, arguments.token, arguments.ca_fingerprint)
    _say(f"This machine is the node {joined.name} ({joined.node}). Start its agent: systemctl start ulei-node")


def _run(arguments: argparse.Namespace) -> None:
    from nodes.agent import Agent

    config = settings.load()
    log.setup(config.log_level)
    Agent(config).run()


def _check(arguments: argparse.Namespace) -> None:
    from nodes import inspection

    for check in inspection.checks(settings.load()):
        facts = " ".join(f"{name}={value}" for name, value in check.facts.items())
        _say(f"{check.level:8} {check.code:20} {facts}")


def _before_libvirtd(arguments: argparse.Namespace) -> None:
    from nodes.hypervisor import unborn

    for name in unborn.forget():
        _say(f"{name} was about to start when libvirtd ended; it has no QEMU and is off")


def _ledger(arguments: argparse.Namespace) -> None:
    from nodes import inspection

    rows = inspection.ledger_rows(settings.Paths(), arguments.object)
    if arguments.json:
        _say(json.dumps(rows, indent=1))
        return
    for row in rows:
        _say(" ".join(f"{name}={value}" for name, value in row.items() if name != "envelope"))


def _audit(arguments: argparse.Namespace) -> None:
    from nodes import inspection

    found: dict[str, Any] = inspection.audit(settings.load())
    if arguments.json:
        _say(json.dumps(found, indent=1))
        return
    for kind, entries in found.items():
        for entry in entries:
            _say(f"{kind} {json.dumps(entry)}")


if __name__ == "__main__":
    sys.exit(main())
