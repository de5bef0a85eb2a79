"""``python -m tests.bench [row ...]``: measures, prints a table, and writes it to docs/results.

``python -m tests.bench profile`` shows where a create's time goes; ``python -m tests.bench growth`` what grows with
the number of nodes. Rows of one group are measured together; ``--list`` names them all. Needs root, for the lab.
"""

import argparse
import os
import sys
import time
import traceback
from pathlib import Path

from deploy.lab.processes import ROOT
from tests.bench import growth, machine, profile, report, rows
from tests.bench.bench import Bench
from tests.bench.row import GROUPS, Group, Result

EXPLAINED = """\
Pairs are taken in turns, bare and ours, the order swapped in every second pair. A ratio is the median of the pairs'
ratios and `added` the median of their differences, each with its 95 % bootstrap interval. A goal is met when the whole
interval is within it, missed when all of it is beyond, and undecided otherwise; of two alternatives one is enough."""


def main() -> int:
    rows.load()
    chosen = _arguments()
    if chosen.list:
        for group in GROUPS:
            print(f"{group.name}:\n" + "\n".join(f"  {row.name:34} {row.title}" for row in group.rows))
        return 0
    folder = Path(os.environ.get("ULEI_STATE") or ROOT / "var/bench").absolute()
    facts = machine.facts()
    with Bench(chosen.pairs, folder, chosen.postgres) as bench:
        if chosen.rows == ["profile"]:
            parts, raw = profile.measure(bench, chosen.creates)
            title, kind = "Where a create's time goes", "profile"
        elif chosen.rows == ["growth"]:
            parts, raw = growth.measure(bench, [int(size) for size in chosen.nodes.split(",")], chosen.vms)
            title, kind = "What grows with the number of nodes", "growth"
        else:
            parts, raw = _table(bench, chosen.rows)
            title, kind = "Measured beside the bare tools", "bench"
    path = report.Report(Path(chosen.out), kind, facts).write(title, parts, raw)
    print(f"\nwritten to {path}")
    return 1 if raw.get("failed") else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("rows", nargs="*", help="rows or groups (default: all); or `profile`, or `growth`")
    parser.add_argument("--list", action="store_true", help="name the rows")
    parser.add_argument("--pairs", type=int, default=20, help="pairs of each comparison (default 20)")
    parser.add_argument("--out", default=str(ROOT / "docs/results"), help="folder for the table")
    parser.add_argument("--postgres", action="store_true", help="rows of a database also on PostgreSQL")
    parser.add_argument("--creates", type=int, default=30, help="with profile: how many creates")
    parser.add_argument("--nodes", default="10,50,200", help="with growth: sizes, with commas")
    parser.add_argument("--vms", type=int, default=50, help="with growth: VMs of each node")
    chosen = parser.parse_args()
    known = {name for group in GROUPS for name in (group.name, *(row.name for row in group.rows))}
    unknown = set(chosen.rows) - known
    if unknown and chosen.rows not in (["profile"], ["growth"]):
        parser.error(f"no such rows: {', '.join(sorted(unknown))} (--list names them)")
    return chosen


def _table(bench: Bench, names: list[str]) -> tuple[list[str], dict]:
    results: list[Result] = []
    failed: dict[str, str] = {}
    for group in GROUPS:
        wanted = _wanted(group, names)
        if not wanted:
            continue
        began = time.monotonic()
        bench.say(f"{group.name} ...")
        try:
            for result in group.measure(bench):
                if result.row.name in wanted:
                    results.append(result)
                    bench.say("  " + " | ".join(report.line(result)))
        except Exception as error:  # noqa: BLE001 the other groups are still worth their numbers
            failed[group.name] = f"{type(error).__name__}: {error}"
            bench.say(traceback.format_exc())
        bench.say(f"{group.name}: {time.monotonic() - began:.0f} s")
    lines = [report.line(result) for result in results]
    if lines:
        print("\n" + report.text_table(report.HEAD, lines))
    parts = [EXPLAINED, report.markdown_table(report.HEAD, lines), report.notes_of(results)]
    parts += [f"Not measured: {name} ({why})" for name, why in failed.items()]
    return [part for part in parts if part], {"rows": report.raw_of(results), "failed": failed}


def _wanted(group: Group, names: list[str]) -> set[str]:
    every = {row.name for row in group.rows}
    return every if not names or group.name in names else every & set(names)


if __name__ == "__main__":
    sys.exit(main())
