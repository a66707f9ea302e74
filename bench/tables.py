"""Reports as Markdown tables: what a terminal shows and docs/bench.md keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from bench.lineup import BASE, CLOSED_20, CLOSED_64, LINEUP, OPEN_100, OPEN_1000, OURS

GENERATOR_BUSY: Final = 0.9  # a generator busier than this may have been the limit itself
FOREIGN_CORES: Final = 0.2  # others used more than this of the machine meanwhile
KEPT_UP: Final = 0.98  # of an open loop's rate
NONE: Final = "–"
PER_S_GOALS: Final = {"sqlite": 5_000, "sqlite-hot": 5_000, "postgres": 4_000, "postgres-hot": 4_000}
PER_S_FLOOR: Final = 3_000
CPU_GOAL_US, CPU_FLOOR_US = 200, 330
P50_GOAL_MS, P99_GOAL_MS = 2.0, 6.0
MIB: Final = 1024 * 1024


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; columns but the first are right-aligned."""
    lines = [f"| {' | '.join(head)} |", "|" + "|".join(["---"] + ["---:"] * (len(head) - 1)) + "|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def decisions(report: dict[str, Any]) -> list[str]:
    """Decisions, settlements, and how they stand to the goals."""
    results = report["results"]
    designs = [d for d in LINEUP if d.name in results]
    lines = [*_about(report), "", "Ratios to the constant answer in the same run:", ""]
    lines += table(
        [
            "Design",
            "64 clients",
            "20 clients",
            "CPU",
            "p50, 100/s",
            "p99, 100/s",
            "p50, 1,000/s",
            "p99, 1,000/s",
        ],
        [
            [
                d.title,
                _ratio(results, d.name, CLOSED_64.name, "per_s"),
                _ratio(results, d.name, CLOSED_20.name, "per_s"),
                _ratio(results, d.name, CLOSED_64.name, "cpu_us"),
                *(
                    _ratio(results, d.name, load.name, what)
                    for load in (OPEN_100, OPEN_1000)
                    for what in ("p50_ms", "p99_ms")
                ),
            ]
            for d in designs
        ],
    )
    for kind, title in (("route", "Decisions"), ("settle", "Settlements")):
        rows = [_absolute(results[d.name], d.title, kind) for d in designs if _has(results[d.name], kind)]
        if rows:
            head = ["/s at 64", "/s at 20", "CPU µs", "PostgreSQL's µs", "ms at 100/s", "ms at 1,000/s"]
            lines += ["", f"{title}, as measured (p50/p95/p99; CPU time for each, at 64 clients):", ""]
            lines += table(["Design", *head], rows)
    lines += _classic(results)
    return [*lines, *_goals(results), *_doubts(results)]


def _about(report: dict[str, Any]) -> list[str]:
    about, options = report["machine"], report["options"]
    disk = f"fdatasync of 4 KiB {about['fdatasync_us']:.0f} µs"
    lines = [f"{about['kind']}; Linux {about['kernel']}; {disk}."]
    if "rounds" in options:
        lines[0] += f" {options['rounds']} rounds of {options['seconds']:g} s, medians."
    if report.get("postgres"):
        lines[0] += f" PostgreSQL {report['postgres']}, durable."
    return lines + (["**Measured on a machine that was not free.**"] if options.get("forced") else [])


def _has(loads: dict[str, Any], kind: str) -> bool:
    return any(kind in kinds for kinds in loads.values())


def _ratio(results: dict[str, Any], design: str, load: str, what: str) -> str:
    row = results[design].get(load, {}).get("route")
    base = results.get(BASE, {}).get(load, {}).get("route")
    if not row or not base or not base[what]:
        return NONE
    ratio = row[what] / base[what]
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


def _absolute(loads: dict[str, Any], title: str, kind: str) -> list[str]:
    def row(load: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = loads.get(load, {}).get(kind)
        return found

    fast, some = row(CLOSED_64.name), row(CLOSED_20.name)
    cells = [title, f"{fast['per_s']:,.0f}" if fast else NONE, f"{some['per_s']:,.0f}" if some else NONE]
    cells += [f"{fast['cpu_us']:.0f}", f"{fast['database_us']:.0f}"] if fast else [NONE, NONE]
    for load in (OPEN_100, OPEN_1000):
        found = row(load.name)
        if found and load.rate and found["per_s"] < load.rate * KEPT_UP:
            cells.append(f"only {found['per_s']:.0f}/s")
        else:
            cells.append(f"{found['p50_ms']:.2f}/{found['p95_ms']:.2f}/{found['p99_ms']:.2f}" if found else NONE)
    return cells


def _classic(results: dict[str, Any]) -> list[str]:
    rows = results.get("classic", {})
    if not rows:
        return []
    words = [
        f"{row['route']['per_s']:.0f}/s with {load.removeprefix('closed-')} at a time"
        f" (p50 {row['route']['p50_ms']:.0f} ms, CPU {row['route']['cpu_us'] / 1_000:.0f} ms)"
        for load, row in rows.items()
    ]
    return ["", f"The classic design: {'; '.join(words)}."]


def _goals(results: dict[str, Any]) -> list[str]:
    """The goals of the house, for each of our databases."""
    rows = []
    for name in (n for n in OURS if n in results):
        fast = results[name].get(CLOSED_64.name, {}).get("route")
        low = results[name].get(OPEN_100.name, {}).get("route")
        if fast:
            goal = PER_S_GOALS[name]
            rows.append([name, "decisions/s", f"≥ {goal:,} (floor {PER_S_FLOOR:,})", f"{fast['per_s']:,.0f}"])
            rows[-1].append(_verdict(fast["per_s"] >= goal, fast["per_s"] >= PER_S_FLOOR))
            cpu = fast["cpu_us"]
            rows.append([name, "CPU µs", f"≤ {CPU_GOAL_US} (floor {CPU_FLOOR_US})", f"{cpu:.0f}"])
            rows[-1].append(_verdict(cpu <= CPU_GOAL_US, cpu <= CPU_FLOOR_US))
        if low:
            for what, goal_ms in (("p50_ms", P50_GOAL_MS), ("p99_ms", P99_GOAL_MS)):
                told = f"{what.removesuffix('_ms')} at 100/s"
                rows.append([name, told, f"≤ {goal_ms:g} ms", f"{low[what]:.2f} ms"])
                rows[-1].append(_verdict(low[what] <= goal_ms, False))
    return ["", "Goals:", "", *table(["", "What", "Goal", "Measured", ""], rows)] if rows else []


def _verdict(goal: bool, floor: bool) -> str:
    return "met" if goal else "floor" if floor else "missed"


def _doubts(results: dict[str, Any]) -> list[str]:
    """What a reader must know before believing a number."""
    lines = []
    for design, loads in results.items():
        for load, kinds in loads.items():
            for kind, row in kinds.items():
                name = f"{design} {load} {kind}"
                if row["generator_busy"] > GENERATOR_BUSY:
                    lines.append(f"{name}: the generator was {row['generator_busy']:.0%} busy and may be the limit")
                if row["foreign_cores"] > FOREIGN_CORES:
                    lines.append(f"{name}: others used {row['foreign_cores']:.2f} cores meanwhile")
                if row["unexpected"] or row["errors"]:
                    lines.append(f"{name}: {row['unexpected']} unexpected answers, {row['errors']} errors")
    return ["", "Doubts:", "", *(f"- {line}" for line in lines)] if lines else []


def estate(report: dict[str, Any]) -> list[str]:
    """Cost by the size of the estate; memory and start-up of a large one."""
    sizes = report["sizes"]
    base = sizes[0]
    lines = [*_about(report), ""]
    lines += table(
        ["DIDs", "Campaigns", "CPU µs", "ratio", "/s", "ratio", "start s", "RSS MiB", "after a change ms"],
        [
            [
                f"{row['dids']:,}", f"{row['campaigns']:,}", f"{row['cpu_us']:.0f}",
                f"{row['cpu_us'] / base['cpu_us']:.2f}",
                f"{row['per_s']:,.0f}", f"{row['per_s'] / base['per_s']:.2f}", f"{row['start_s']:.2f}",
                f"{row['rss_bytes'] / MIB:.0f}", f"{row['after_change_ms']:.1f}",
            ]
            for row in sizes
        ],
    )  # fmt: skip
    large = report["large"]
    lines += [
        "",
        f"With {large['dids']:,} DIDs, {large['campaigns']:,} campaigns and {large['targets']:,} targets: ready after"
        f" {large['start_s']:.2f} s, {large['rss_bytes'] / MIB:.0f} MiB; with {large['live_calls']:,} live calls"
        f" {large['rss_live_bytes'] / MIB:.0f} MiB ({large['bytes_per_live_call'] / 1024:.1f} KiB each).",
    ]
    return lines


def growth(report: dict[str, Any]) -> list[str]:
    """What a call leaves behind, and what it costs those that come later."""
    lines = _about(report)
    for engine, told in report["engines"].items():
        lines += ["", f"{engine}, {told['cdrs']:,} CDRs over {told['days']} days ({told['fill_s']:.0f} s to make):", ""]
        lines += table(
            ["Table", "rows per call", "bytes per call"],
            [
                [name, f"{row['rows'] / told['cdrs']:.3f}", f"{row['bytes'] / told['cdrs']:.0f}"]
                for name, row in told["tables"].items()
            ],
        )
        lines += ["", *table(["", "before", "after", "ratio"], [_growth_row(row) for row in told["costs"]])]
    return lines


def _growth_row(row: dict[str, Any]) -> list[str]:
    ratio = f"{row['after'] / row['before']:.2f}" if row["before"] else NONE
    return [row["what"], f"{row['before']:.4g}", f"{row['after']:.4g}", ratio]


def report(report: dict[str, Any]) -> list[str]:
    """How long reports take, and what their sums cost."""
    lines, options = _about(report), report["options"]
    for engine, told in report["engines"].items():
        lines += ["", f"{engine}, {options['cdrs']:,} CDRs over {options['days']} days (seconds):", ""]
        slow = told["from_records_s"]
        rows = [
            [name, f"{seconds:.2f}", f"{slow[name]:.2f}" if name in slow else NONE]
            for name, seconds in told["reports_s"].items()
        ]
        rows += [[f"`report {name}`, a process", f"{s:.2f}", NONE] for name, s in told["commands_s"].items()]
        rows.append(["campaigns, compared with the period before", f"{told['compared_s']:.2f}", NONE])
        rows.append(["nothing, with late calls", f"{told['with_late_calls_s']:.2f}", NONE])
        lines += table(["Report by", "from sums", "from records"], rows)
        sizes = [f"{name} {row['rows']:,} rows, {row['bytes'] / MIB:.0f} MiB" for name, row in told["sizes"].items()]
        lines += ["", f"Summing all of them the first time: {told['first_rollup_s']:.1f} s; {'; '.join(sizes)}."]
    return lines


def cli(report: dict[str, Any]) -> list[str]:
    """Start-up of commands."""
    base = report["commands"][0]["p50_ms"]
    rows = [
        [f"`{row['command']}`", f"{row['p50_ms']:.0f}", f"{row['p50_ms'] / base:.1f}"] for row in report["commands"]
    ]
    return [*_about(report), "", *table(["Command", "ms", f"of `{report['commands'][0]['command']}`"], rows)]


def asterisk(report: dict[str, Any]) -> list[str]:
    """Calls through a real Asterisk."""
    ours, constant = report["maximum"]["capconduit"], report["maximum"]["constant"]
    lines = [*_about(report), ""]
    lines += table(
        [
            "Calls a second",
            "Decider",
            "answered/s",
            "failed",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "decider's CPU ms",
            "Asterisk's",
        ],
        [
            [load, name, f"{found['per_s']:.0f}", _plain(found["failed"])]
            + [f"{found[key]:.1f}" for key in ("p50_ms", "p95_ms", "p99_ms")]
            + [f"{found[key]:.2f}" for key in ("cpu_ms", "asterisk_ms")]
            for load, by_name in _loads(report)
            for name, found in by_name.items()
        ],
    )
    half = {name: report["steps"][name]["0.5"] for name in ("capconduit", "constant")}
    lines += [
        "",
        f"With our decisions {ours['per_s'] / constant['per_s']:.0%} of the calls a second of constant ones. At half"
        f" of the maximum a caller hears ringing {half['capconduit']['p50_ms'] - half['constant']['p50_ms']:.1f} ms"
        f" later (p50), p95 {half['capconduit']['p95_ms'] - half['constant']['p95_ms']:.1f} ms.",
    ]
    return lines


def _loads(report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The loads of `asterisk`, each with what both deciders did under it."""
    maximum = {name: report["maximum"][name] for name in ("constant", "capconduit")}
    steps = report["steps"]
    open_loops = [
        (f"{steps['constant'][share]['rate']:.0f}", {name: steps[name][share] for name in maximum})
        for share in steps["constant"]
    ]
    return [*open_loops, ("as many as go", maximum)]


def soak(report: dict[str, Any]) -> list[str]:
    """An hour of calls."""
    series = report["series"]
    first, last = series[0], series[-1]
    lines = [*_about(report), ""]
    lines += table(
        ["", f"minute {first['minute']:g}", f"minute {last['minute']:g}", "most"],
        [
            [name, _plain(first[name]), _plain(last[name]), _plain(max(row[name] for row in series))]
            for name in ("live_calls", "rss_mib", "open_files", "open_places", "open_holds", "database_mib", "wal_mib")
        ],
    )
    done = report["calls"]
    lines += [
        "",
        f"{done['ended']:,} calls in {report['minutes']:g} minutes, {done['answered']:,} answered,"
        f" {done['rejected']:,} rejected, {done['fallback']:,} without a verdict, {done['kept']:,} settlements kept by"
        f" Asterisk; {report['changes']:,} changes of configuration."
        f" {'Nothing leaked.' if not report['faults'] else 'Faults:'}",
        *(f"- {fault}" for fault in report["faults"]),
    ]
    return lines


def _plain(value: float) -> str:
    return f"{value:,.0f}" if isinstance(value, int) or value >= 100 else f"{value:.1f}"
