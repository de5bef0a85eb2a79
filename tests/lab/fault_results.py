"""``python -m tests.lab.fault_results FILE...``: what ``faults.jsonl`` says, for docs/results/faults.md."""

import json
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy.lab.processes import ROOT
from tests.lab.fault_table import BESIDE_TWO, ONE_OF_TWO, PARTS, Case, cases

Row = dict[str, Any]
ENDED = {"succeeded": "done", "failed": "undone", "cancelled": "cancelled"}
NOT_REACHED = "–"
WAYS = {
    "forward": "The part is killed when the holder comes by the point",
    "cancel": "A person cancels at the point (and then the agent is killed)",
    "undo": "The job has been cancelled; the part is killed at a point of the way back",
}


def read(paths: Iterable[Path]) -> dict[tuple[str, ...], Row]:
    """The last line of every case."""
    rows = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return {(row["operation"], row["way"], row["part"], row["where"]): row for row in rows}


def outcome(row: Row | None) -> str:
    if row is None:
        return NOT_REACHED
    if not row["job"]:
        return "no answer"
    said = ENDED.get(row["job"], row["job"])
    return f"{said}, {len(row['audit'])} differences" if row["audit"] else said


def grid(every: list[Case], rows: dict[tuple[str, ...], Row]) -> list[str]:
    """Points down, parts across; passages of the same point are counted in one cell."""
    parts = [part for part in ["", *PARTS, ONE_OF_TWO, BESIDE_TWO] if any(case.part == part for case in every)]
    lines = [f"| point | {' | '.join(part or 'nothing' for part in parts)} |", "| --- " * (len(parts) + 1) + "|"]
    for point in dict.fromkeys((case.point, case.detail) for case in every):
        cells = []
        for part in parts:
            here = [case for case in every if (case.point, case.detail, case.part) == (*point, part)]
            counts = Counter(outcome(rows.get((c.operation, c.way, c.part, c.where))) for c in here)
            cells.append("; ".join(said if len(here) == 1 else f"{n} {said}" for said, n in counts.items()))
        lines.append(f"| {' '.join(point).strip()} | {' | '.join(cells)} |")
    return lines


def version(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip().splitlines()[0]


def tell(rows: dict[tuple[str, ...], Row]) -> list[str]:
    every = cases()
    counts = Counter(outcome(rows.get((c.operation, c.way, c.part, c.where))) for c in every)
    counts["not reached"] = counts.pop(NOT_REACHED, 0)
    seconds = sorted(row["seconds"] for row in rows.values() if "seconds" in row)
    processor = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    said = [
        f"{datetime.now(UTC):%Y-%m-%d}; commit {version('git', 'rev-parse', '--short', 'HEAD')}; "
        f"{processor.partition(': ')[2]}, {len(list(Path('/sys/devices/system/cpu').glob('cpu[0-9]*')))} cores, "
        f"Linux {platform.release()}; {version('libvirtd', '--version')}, "
        f"{version('qemu-system-x86_64', '--version').partition(' (')[0]}, "
        f"{' '.join(version('redis-server', '--version').split()[:3])}.",
        "",
        f"{sum(counts.values())} cases: {', '.join(f'{n} {what}' for what, n in counts.most_common())}.",
    ]
    if seconds:
        said.append(
            f"Seconds from the request to the job's end, with the strike and the part's return: median "
            f"{seconds[len(seconds) // 2]}, at most {seconds[-1]}."
        )
    for way, words in WAYS.items():
        for operation in dict.fromkeys(case.operation for case in every):
            said += ["", f"## {operation}: {words[0].lower()}{words[1:]}", ""]
            said += grid([case for case in every if (case.way, case.operation) == (way, operation)], rows)
    return said


if __name__ == "__main__":
    print("\n".join(tell(read(map(Path, sys.argv[1:])))))
