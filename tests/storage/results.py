"""``python -m tests.storage.results REPORT.xml...``: pytest's reports of this suite as tables of docs/results.

Several reports are laid over each other: what one machine had to skip, another may have run.
"""

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict

from tests.storage.conftest import KINDS

WORDS = {"passed": 3, "FAILED": 2, "skipped": 1, "": 0}


def read(files: list[str]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """(case -> kind -> outcome, lines about sizes)"""
    cases: dict[str, dict[str, str]] = defaultdict(dict)
    sizes = []
    for case in (case for file in files for case in ElementTree.parse(file).getroot().iter("testcase")):
        name, _, variant = str(case.get("name")).rstrip("]").partition("[")
        kind = next((kind for kind in sorted(KINDS, key=len, reverse=True) if variant.startswith(kind)), "")
        failed = case.find("failure") is not None or case.find("error") is not None
        outcome = "FAILED" if failed else "skipped" if case.find("skipped") is not None else "passed"
        if kind:
            known = cases[name].get(kind, "")
            cases[name][kind] = "FAILED" if "FAILED" in (known, outcome) else max(known, outcome, key=WORDS.__getitem__)
        sizes += [str(each.get("value")) for each in case.iter("property") if each.get("name") == "sizes"]
    return cases, sizes


def main(files: list[str]) -> None:
    cases, sizes = read(files)
    print(f"| case | {' | '.join(KINDS)} |\n|{' --- |' * (len(KINDS) + 1)}")
    for name, outcomes in cases.items():
        words = name.removeprefix("test_").replace("_", " ")
        print(f"| {words} | {' | '.join(outcomes.get(kind, '') for kind in KINDS)} |")
    print("\n| driver | asked | quote | driver says | tool measures |\n| --- | --- | --- | --- | --- |")
    for line in dict.fromkeys(sizes):
        kind, _, numbers = line.partition(": ")
        print(f"| {kind} | {' | '.join(re.findall(r'[0-9]+', numbers))} |")


if __name__ == "__main__":
    main(sys.argv[1:])
