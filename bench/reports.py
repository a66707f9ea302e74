"""Reports: written as JSON, shown as tables, kept in docs/ when asked, compared with what is kept there."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from bench import tables
from bench.lineup import BASE
from bench.plot import draw

DOCS: Final = Path(__file__).parents[1] / "docs"
KEPT: Final = DOCS / "bench.json"
PAGE: Final = DOCS / "bench.md"
PICTURE: Final = DOCS / "bench.svg"
NOTABLE: Final = 0.15  # a change of a ratio by less is noise

TABLES: Final[dict[str, Callable[[dict[str, Any]], list[str]]]] = {
    "decisions": tables.decisions,
    "asterisk": tables.asterisk,
    "estate": tables.estate,
    "growth": tables.growth,
    "report": tables.report,
    "cli": tables.cli,
    "soak": tables.soak,
}


def finish(name: str, report: dict[str, Any], options: argparse.Namespace) -> None:
    """Write the report, show it; with --update keep it in docs/."""
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{name}.json"
    write_json(path, report)
    print("\n".join(TABLES[name](report)))
    written = [str(path)]
    if name == "decisions" and draw(report, options.out / "decisions.svg"):
        written.append(str(options.out / "decisions.svg"))
    if options.update:
        _keep(name, report)
        written += [str(KEPT), str(PAGE)]
    print(f"written: {', '.join(written)}", file=sys.stderr)


def write_json(path: Path, value: object) -> None:
    """Write all of it or nothing."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def kept(name: str) -> dict[str, Any] | None:
    """The report that is kept in docs/."""
    if not KEPT.exists():
        return None
    found: dict[str, Any] | None = json.loads(KEPT.read_text(encoding="utf-8")).get(name)
    return found


def _keep(name: str, report: dict[str, Any]) -> None:
    reports = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    reports[name] = report
    write_json(KEPT, {key: reports[key] for key in TABLES if key in reports})
    text = PAGE.read_text(encoding="utf-8")
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{PAGE} has no place for the table of {name}: {begin} … {end}")
    lines = TABLES[name](report)
    if name == "decisions" and draw(report, PICTURE):
        lines = [*lines, "", f"![Throughput and latency of the designs, as ratios]({PICTURE.name})"]
    PAGE.write_text("\n".join([before + begin, *lines, end + after]), encoding="utf-8")


def compare(report: dict[str, Any]) -> list[str]:
    """How the ratios of a `decisions` report changed against the kept one, where the machine is of the same kind."""
    before = kept("decisions")
    if before is None:
        return ["nothing to compare with: docs/bench.json has no decisions yet"]
    if before["machine"]["kind"] != report["machine"]["kind"]:
        return [f"not compared: docs/bench.json is of another kind of machine ({before['machine']['kind']})"]
    changes = list(_changes(before["results"], report["results"]))
    told = [
        f"{design} {load} {kind}: {what} {old:.2f} → {new:.2f} of the constant answer ({new / old - 1:+.0%})"
        for design, load, kind, what, old, new in changes
        if abs(new / old - 1) > NOTABLE
    ]
    return told or [f"no ratio of {len(changes)} differs by more than {NOTABLE:.0%} from docs/bench.json"]


def _changes(before: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, str, str, str, float, float]]:
    """Design, load, kind, what, and the ratio to the constant answer before and now."""
    for design, loads in now.items():
        for load, kinds in loads.items():
            for kind, row in kinds.items():
                old_row = before.get(design, {}).get(load, {}).get(kind)
                for what in ("p50_ms",) if load.startswith("open") else ("per_s", "cpu_us"):
                    old, new = _ratio(before, load, what, old_row), _ratio(now, load, what, row)
                    if design != BASE and old and new:
                        yield design, load, kind, what, old, new


def _ratio(results: dict[str, Any], load: str, what: str, row: dict[str, Any] | None) -> float:
    base = results.get(BASE, {}).get(load, {}).get("route")
    return row[what] / base[what] if row and base and base[what] else 0.0


def medians(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One report of several rounds: medians of measures, sums of counts."""
    from statistics import median

    summed = ("count", "unexpected", "errors")
    measures = [name for name, value in rows[0].items() if name not in summed and isinstance(value, float)]
    kinds: dict[str, int] = {}
    for row in rows:
        for kind, times in row["error_kinds"].items():
            kinds[kind] = kinds.get(kind, 0) + times
    return {
        **{name: round(median(row[name] for row in rows), 3) for name in measures},
        **{name: sum(row[name] for row in rows) for name in summed},
        **({"error_kinds": kinds} if kinds else {}),
    }
