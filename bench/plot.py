"""The plot of `decisions`: throughput and latency of every design, as ratios to the constant answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

from bench.lineup import BASE, CLOSED_20, CLOSED_64, LINEUP, OPEN_100, OURS

OURS_COLOUR: Final = "#1b6ca8"
OTHER_COLOUR: Final = "#a9a9a9"


def draw(report: dict[str, Any], path: Path) -> bool:
    """Write an SVG; False where matplotlib is not installed or the base was not measured."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("no plot: matplotlib is missing (pip install '.[bench]')", file=sys.stderr)
        return False
    results = report["results"]
    if not {CLOSED_64.name, OPEN_100.name} <= set(results.get(BASE, {})):
        return False
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "capconduit"  # the same numbers give the same file
    from matplotlib import pyplot

    designs = [d for d in reversed(LINEUP) if d.name in results]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 0.4 * len(designs) + 1.5), sharey=True)
    for place, design in enumerate(designs):
        colour = OURS_COLOUR if design.name in OURS else OTHER_COLOUR
        loads = results[design.name]
        fast = loads.get(CLOSED_64.name) or loads.get(CLOSED_20.name)
        if fast:
            ratio = fast["route"]["per_s"] / results[BASE][CLOSED_64.name]["route"]["per_s"]
            left.barh(place, ratio, color=colour)
            left.text(ratio + 0.01, place, f"{ratio:.2g}", va="center", fontsize=8)
        slow = loads.get(OPEN_100.name, {}).get("route")
        if slow:
            base = results[BASE][OPEN_100.name]["route"]["p50_ms"]
            points = [slow[name] / base for name in ("p50_ms", "p95_ms", "p99_ms")]
            right.plot(points, [place] * 3, color=colour, marker="|", markersize=9, linewidth=2)
            right.plot(points[:1], [place], color=colour, marker="o")
    left.set_yticks(range(len(designs)), [d.title for d in designs], fontsize=8)
    left.set_xlim(0, 1.12)
    left.set_xlabel("decisions per second, 64 clients (the classic: 20)\nthe constant answer's is 1", fontsize=9)
    right.set_xscale("log")
    right.xaxis.set_major_formatter("{x:g}")
    right.set_xlabel("latency at 100 per second: p50 (dot), p95, p99\nthe constant answer's p50 is 1", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    return True
