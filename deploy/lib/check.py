"""``deploy/check``: what a person runs before each commit. Tools of one kind run beside each other on both cores."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / "var/venv/bin"
PYTHON = str(BIN / "python")

TOOLS: dict[str, list[str]] = {
    "mypy": [str(BIN / "mypy")],
    "ruff": [str(BIN / "ruff"), "check", "."],
    "ruff format": [str(BIN / "ruff"), "format", "--check", "."],
    "import-linter": [str(BIN / "lint-imports")],
    "migrations": [PYTHON, "manage.py", "makemigrations", "--check", "--dry-run"],
}
UNIT = [PYTHON, "-m", "pytest", "-q", "-n", "2", "tests/unit"]


@dataclass(frozen=True)
class Outcome:
    name: str
    passed: bool
    seconds: float
    output: str


def run_tool(name: str, argv: list[str]) -> Outcome:
    began = time.monotonic()
    path = f"{BIN}:{os.environ.get('PATH', '/usr/bin:/bin')}"
    done = subprocess.run(
        argv, cwd=ROOT, env={**os.environ, "PATH": path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    # pytest answers 5 where it finds no test at all.
    passed = done.returncode == 0 or (name == "unit tests" and done.returncode == 5)
    return Outcome(name, passed, time.monotonic() - began, done.stdout)


def run_tools(tools: dict[str, list[str]]) -> list[Outcome]:
    """Runs them two at a time and prints each as it ends; a failed one says all that it has to say."""
    outcomes = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        for ended in as_completed([pool.submit(run_tool, *item) for item in tools.items()]):
            outcome = ended.result()
            print(
                f"  {outcome.name:14} {'passed' if outcome.passed else 'FAILED'}  {outcome.seconds:.1f} s", flush=True
            )
            if not outcome.passed:
                print(outcome.output, flush=True)
            outcomes.append(outcome)
    return outcomes


def main() -> int:
    began = time.monotonic()
    tools = dict(TOOLS)
    if any((ROOT / "tests/unit").glob("test_*.py")):
        tools["unit tests"] = UNIT
    outcomes = run_tools(tools)
    failed = [outcome.name for outcome in outcomes if not outcome.passed]
    print(f"{len(outcomes) - len(failed)} passed, {len(failed)} failed, in {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
