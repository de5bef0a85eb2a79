"""``deploy/test [--full]``: every layer in its order, with the time of each and every skip with its reason."""

import argparse
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from deploy.lib import check, postgres

ROOT = check.ROOT
STATE = Path(os.environ.get("ULEI_STATE") or ROOT / "var").absolute() / "test"
SKIPS = ROOT / "deploy/skips.txt"


@dataclass
class Result:
    """One layer: numbers, and ``(test, reason)`` of every skip."""

    layer: str
    passed: int = 0
    failed: int = 0
    skips: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    note: str = ""

    def add(self, other: "Result") -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skips += other.skips
        self.note = self.note or other.note


def read_report(layer: str, report: Path) -> Result:
    """Counts from pytest's JUnit file; one that is missing or has no test in it is a failure."""
    result = Result(layer)
    if not report.exists():
        return Result(layer, failed=1, note="pytest ended without a report")
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            result.failed += 1
        elif skipped is not None:
            result.skips.append((name, skipped.get("message") or ""))
        else:
            result.passed += 1
    return result


def unexplained(skips: list[tuple[str, str]], allowed: str) -> list[tuple[str, str]]:
    """The skips whose reason is not on the list."""
    patterns = [line.strip() for line in allowed.splitlines() if line.strip() and not line.startswith("#")]
    return [(test, reason) for test, reason in skips if not any(re.search(pattern, reason) for pattern in patterns)]


def pytest(layer: str, *arguments: str, **environment: str) -> Result:
    """One run of pytest on a layer's folder; a folder without tests says so."""
    if not any((ROOT / arguments[0]).rglob("test_*.py")):
        return Result(layer, note=f"{arguments[0]} has no tests yet")
    report = STATE / f"{layer}.xml"
    report.unlink(missing_ok=True)
    argv = [check.PYTHON, "-m", "pytest", "-q", *arguments, f"--junitxml={report}"]
    env = {**os.environ, "PATH": f"{check.BIN}:{os.environ['PATH']}", "ULEI_STATE": str(STATE), **environment}
    done = subprocess.run(argv, cwd=ROOT, env=env)
    result = read_report(layer, report)
    if done.returncode == 5:  # nothing matched
        return Result(layer, note="no test matched")
    if done.returncode and not result.failed:
        result.failed, result.note = 1, f"pytest ended with {done.returncode}"
    return result


def layer_check(full: bool) -> Result:
    outcomes = check.run_tools(check.TOOLS)
    failed = sum(not outcome.passed for outcome in outcomes)
    return Result("check", passed=len(outcomes) - failed, failed=failed)


def layer_unit(full: bool) -> Result:
    return pytest("unit", "tests/unit", "-n", "2")


def layer_panel(full: bool) -> Result:
    """On PostgreSQL; what races is told by its name, and runs on SQLite too."""
    with postgres.server(STATE / "postgres.log") as url:
        result = pytest("panel", "tests/panel", "-n", "2", DATABASE_URL=url)
    result.add(pytest("panel-sqlite", "tests/panel", "-n", "2", "-k", "race", DATABASE_URL=""))
    return result


def layer_agent(full: bool) -> Result:
    return pytest("agent", "tests/agent")


def layer_storage(full: bool) -> Result:
    # The older form of the report has room for the sizes that were measured (tests/storage/results.py).
    return pytest("storage", "tests/storage", "-o", "junit_family=xunit1", *slowest(full))


def layer_lab(full: bool) -> Result:
    # Most of the time is spent waiting for guests to boot: two labs side by side keep two cores busy.
    side_by_side = ["-n", "2", "--dist", "loadfile"]
    return pytest("lab", "tests/lab", *side_by_side, *slowest(full), ULEI_TEST_FULL="1" if full else "")


def layer_browser(full: bool) -> Result:
    return pytest("browser", "tests/browser", ULEI_TEST_FULL="1" if full else "")


def slowest(full: bool) -> list[str]:
    return ["--durations=10"] if full else []


LAYERS: dict[str, Callable[[bool], Result]] = {
    "check": layer_check,
    "unit": layer_unit,
    "panel": layer_panel,
    "agent": layer_agent,
    "storage": layer_storage,
    "lab": layer_lab,
    "browser": layer_browser,
}


def run_layer(name: str, full: bool) -> Result:
    print(f"\n== {name}", flush=True)
    began = time.monotonic()
    try:
        result = LAYERS[name](full)
    except Exception as error:  # noqa: BLE001 - a layer that cannot start must not hide the others
        result = Result(name, failed=1, note=str(error))
    result.layer, result.seconds = name, time.monotonic() - began
    if result.note:
        print(f"  {result.note}", flush=True)
    return result


def summary(results: list[Result], allowed: str) -> tuple[list[str], bool]:
    """Lines to print at the end, the total last, and whether all is well."""
    lines = [f"{'layer':10} {'seconds':>8} {'passed':>7} {'failed':>7} {'skipped':>8}"]
    for result in results:
        numbers = f"{result.seconds:8.1f} {result.passed:7} {result.failed:7} {len(result.skips):8}"
        lines.append(f"{result.layer:10} {numbers}  {result.note}".rstrip())
    skips = [skip for result in results for skip in result.skips]
    lines += [f"skipped: {test}: {reason}" for test, reason in skips]
    bad = unexplained(skips, allowed)
    lines += [f"not on deploy/skips.txt: {test}: {reason}" for test, reason in bad]
    passed, failed = sum(r.passed for r in results), sum(r.failed for r in results) + len(bad)
    lines.append(f"{passed} passed, {failed} failed, {len(skips)} skipped")
    return lines, failed == 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="deploy/test", description="The tests of all layers.")
    parser.add_argument("--full", action="store_true", help="whole fault matrices instead of a sample")
    parser.add_argument("--layer", action="append", choices=LAYERS, help="only this one; may be repeated")
    chosen = parser.parse_args()
    STATE.mkdir(parents=True, exist_ok=True)
    results = [run_layer(name, chosen.full) for name in chosen.layer or LAYERS]
    lines, well = summary(results, SKIPS.read_text())
    print("\n" + "\n".join(lines), flush=True)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
