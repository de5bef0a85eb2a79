"""``python -m tests.storage.results REPORT.xml...``: pytest's reports of this suite as tables of docs/results.

Several reports are laid over each other: what one machine had to skip, another may have run. They are made by

    python -m pytest tests/storage/test_drivers.py -o junit_family=xunit1 --junitxml here.xml
    tests/storage/in-uml FOLDER
"""

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from dataclasses import dataclass, field

from tests.bench import machine
from tests.storage.conftest import KINDS

WORST_FIRST = ("FAILED", "skipped", "passed")
TOOLS = {"directory": "qemu-img info", "lvm": "lvs", "rbd": "rbd info"}
FACTS = ("date", "commit", "cores", "kernel", "QEMU")


@dataclass
class Read:
    outcomes: dict[tuple[str, str], str] = field(default_factory=dict)
    """(case, variant) -> the best of all reports; a failure in any of them stays one."""
    reasons: dict[tuple[str, str], str] = field(default_factory=dict)
    """(case, variant) -> why it was skipped"""
    sizes: list[str] = field(default_factory=list)

    def cases(self) -> dict[str, dict[str, str]]:
        """case -> kind -> the worst of its variants"""
        found: dict[str, dict[str, str]] = defaultdict(dict)
        for (name, variant), outcome in self.outcomes.items():
            kind = next((kind for kind in sorted(KINDS, key=len, reverse=True) if variant.startswith(kind)), "")
            if kind:
                found[name][kind] = min(found[name].get(kind, "passed"), outcome, key=WORST_FIRST.index)
        return found


def read(files: list[str]) -> Read:
    found = Read()
    for case in (case for file in files for case in ElementTree.parse(file).getroot().iter("testcase")):
        name, _, variant = str(case.get("name")).rstrip("]").partition("[")
        failed = case.find("failure") is not None or case.find("error") is not None
        skipped = case.find("skipped")
        outcome = "FAILED" if failed else "skipped" if skipped is not None else "passed"
        known = found.outcomes.get((name, variant), outcome)
        best = "FAILED" if "FAILED" in (known, outcome) else max(known, outcome, key=WORST_FIRST.index)
        found.outcomes[name, variant] = best
        if skipped is not None:
            found.reasons[name, variant] = str(skipped.get("message"))
        found.sizes += [str(each.get("value")) for each in case.iter("property") if each.get("name") == "sizes"]
    return found


def main(files: list[str]) -> None:
    found, facts = read(files), machine.facts()
    print("# Storage drivers\n\n" + "; ".join(f"{name}: {facts[name]}" for name in FACTS))
    print("\nOne suite over every driver. LVM runs over real device-mapper in a user-mode Linux, the rest beside it.\n")
    print(f"| case | {' | '.join(KINDS)} |\n|{' --- |' * (len(KINDS) + 1)}")
    for name, outcomes in found.cases().items():
        words = name.removeprefix("test_").replace("_", " ")
        print(f"| {words} | {' | '.join(outcomes.get(kind, '') for kind in KINDS)} |")
    _print_sums(found)
    print("\n## Sizes, in bytes\n\n| driver | asked | quote | driver says | tool measures | tool |")
    print("| --- | --- | --- | --- | --- | --- |")
    for line in dict.fromkeys(found.sizes):
        kind, _, numbers = line.partition(": ")
        tool = next(tool for begin, tool in TOOLS.items() if kind.startswith(begin))
        print(f"| {kind} | {' | '.join(re.findall(r'[0-9]+', numbers))} | {tool} |")


def _print_sums(found: Read) -> None:
    outcomes = list(found.outcomes.values())
    sums = ", ".join(f"{word} {outcomes.count(word)}" for word in reversed(WORST_FIRST))
    print(f"\nRuns, with each variant of a case counted: {sums}.")
    for key, reason in found.reasons.items():
        if found.outcomes[key] == "skipped":
            print(f"\n- {' '.join(key).removeprefix('test_').replace('_', ' ')}: {reason}")


if __name__ == "__main__":
    main(sys.argv[1:])
