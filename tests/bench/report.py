"""The table for people, and the raw samples for whoever wants to reckon again."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.bench.row import Result
from tests.bench.statistics import Interval, Limit

HEAD = ("row", "what", "bare", "ours", "ours / bare", "added", "goal", "goal is", "aim", "aim is")
NOTHING = "–"


def number(value: float) -> str:
    if value and abs(value) < 0.995:
        return f"{value:.2g}" if abs(value) < 0.1 else f"{value:.2f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:,.0f}"


def interval(found: Interval | None, unit: str = "") -> str:
    """``1.08 [1.05, 1.12]``"""
    if found is None:
        return NOTHING
    return f"{number(found.value)}{unit and ' ' + unit} [{number(found.low)}, {number(found.high)}]"


def limits(them: Sequence[Limit]) -> str:
    return " or ".join(map(_limit, them)) or NOTHING


def _limit(one: Limit) -> str:
    said = {"ratio": " x", "added": " ms added", "share": " of bare", "per_s": " a second"}.get(one.figure, "")
    before = f"{one.figure} " if one.figure in ("p50", "p99") else ""
    return f"{before}{'≥' if one.at_least else '≤'} {number(one.value)}{said}"


def line(result: Result) -> tuple[str, ...]:
    row, figures = result.row, result.figures
    return (
        row.name,
        row.title,
        interval(figures.get("bare"), row.unit),
        _ours(result),
        _ratio(result),
        interval(figures.get("added"), row.unit),
        limits(row.goal),
        result.verdict or NOTHING,
        limits(row.aim),
        result.aimed or NOTHING,
    )


def _ours(result: Result) -> str:
    figures, unit = result.figures, result.row.unit
    said = [interval(figures[name], unit) for name in ("ours", "value") if name in figures]
    said += [f"{name} {interval(figures[name], unit)}" for name in ("p50", "p99") if name in figures]
    said += [f"{interval(figures['per_s'])} a second"] if "per_s" in figures else []
    return ", ".join(said) or NOTHING


def _ratio(result: Result) -> str:
    figures = result.figures
    said = [interval(figures["ratio"])] if "ratio" in figures else []
    said += [f"{interval(figures['share'])} of the bare rate"] if "share" in figures else []
    said += [f"{name.removeprefix('ratio ')}: {interval(figures[name])}" for name in figures if "ratio to " in name]
    return ", ".join(said) or NOTHING


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)


def text_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """For a terminal."""
    widths = [max(len(row[column]) for row in [head, *lines]) for column in range(len(head))]
    rows = [head, ["-" * width for width in widths], *lines]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def machine_list(facts: dict[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


class Report:
    """Writes ``<kind>-<date>.md`` and ``.json``; a second one of the same day gets a number."""

    def __init__(self, folder: Path, kind: str, facts: dict[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        date = facts["date"].partition(" ")[0]
        names = [f"{kind}-{date}", *(f"{kind}-{date}-{number}" for number in range(2, 100))]
        self._stem = folder / next(name for name in names if not (folder / f"{name}.md").exists())
        self._facts = facts

    def write(self, title: str, parts: Sequence[str], raw: Any) -> Path:
        text = "\n\n".join([f"# {title}", machine_list(self._facts), *parts])
        path = self._stem.with_name(self._stem.name + ".md")
        path.write_text(text + "\n")
        self._stem.with_name(self._stem.name + ".json").write_text(json.dumps({"machine": self._facts, **raw}) + "\n")
        return path


def raw_of(results: Iterable[Result]) -> dict[str, Any]:
    return {
        result.row.name: {
            "unit": result.row.unit,
            "figures": {name: found.as_dict() for name, found in result.figures.items()},
            "samples": {name: _rounded(values) for name, values in result.samples.items()},
            "verdict": result.verdict,
            "note": result.note,
        }
        for result in results
    }


def _rounded(values: Any) -> Any:
    return [_rounded(value) if isinstance(value, Sequence) else round(value, 4) for value in values]


def notes_of(results: Iterable[Result]) -> str:
    return "\n".join(f"- `{result.row.name}`: {result.note}" for result in results if result.note)
