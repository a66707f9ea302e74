"""`decisions`: how many decisions a second, how soon, for how much CPU time; the daemon among other designs."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from bench import machine
from bench.generator import Generator, Load
from bench.lineup import BASE, LINEUP, LOADS, Design, running
from bench.options import parser, workplace
from bench.postgres import Postgres
from bench.reports import compare, finish, medians
from bench.rounds import measure

ROUNDS: Final = 3
SECONDS: Final = 4.0
MAX_ROUNDS: Final = 100
MAX_SECONDS: Final = 60.0
SHUFFLE_SEED: Final = 1

Rows = dict[tuple[str, str], list[dict[str, dict[str, Any]]]]


def main(argv: Sequence[str]) -> int:
    """Measure, write, compare."""
    options = _options(argv)
    with workplace(options) as directory:
        report = _measure(options, directory)
    finish("decisions", report, options)
    print("\n".join(compare(report)))
    return 0


def _options(argv: Sequence[str]) -> argparse.Namespace:
    made = parser("decisions", __doc__)
    made.add_argument("--seconds", type=float, default=SECONDS, help=f"of each round (default {SECONDS:.0f})")
    made.add_argument("--rounds", type=int, default=ROUNDS, help=f"of each design and load (default {ROUNDS})")
    made.add_argument(
        "--only", nargs="+", metavar="DESIGN", choices=[d.name for d in LINEUP], default=None,
        help=f"only these designs, and {BASE}: {', '.join(d.name for d in LINEUP)}",
    )  # fmt: skip
    made.add_argument("--loads", nargs="+", metavar="LOAD", default=None, help=", ".join(load.name for load in LOADS))
    options = made.parse_args(argv)
    if not (0 < options.seconds <= MAX_SECONDS and 1 <= options.rounds <= MAX_ROUNDS):
        made.error(f"--seconds is at most {MAX_SECONDS:.0f}, --rounds at most {MAX_ROUNDS}")
    return options


def _measure(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    designs = [d for d in LINEUP if options.only is None or d.name == BASE or d.name in options.only]
    plan = [
        (design, load)
        for design in designs
        for load in design.loads
        if options.loads is None or load.name in options.loads
        for _ in range(options.rounds)
    ]
    random.Random(SHUFFLE_SEED).shuffle(plan)
    generator = Generator(directory)
    rows: Rows = defaultdict(list)
    with ExitStack() as stack:
        postgres = None
        if any(design.database == "postgres" for design, _ in plan):
            postgres = stack.enter_context(Postgres(options.dir))
        for done, (design, load) in enumerate(plan, 1):
            told = _round(design, load, directory, postgres, generator, options.seconds)
            rows[design.name, load.name].append(told)
            print(f"{done}/{len(plan)} {design.name} {load.name}: {_line(told)}", file=sys.stderr)
        version = postgres.version if postgres is not None else ""
    return {
        "machine": machine.describe(options.dir),
        "options": {"seconds": options.seconds, "rounds": options.rounds, "forced": options.force},
        "generator": "agi_load.c" if generator.compiled else "agi_load.py",
        "postgres": version,
        "results": _results(rows, designs),
    }


def _round(
    design: Design, load: Load, directory: Path, postgres: Postgres | None, generator: Generator, seconds: float
) -> dict[str, dict[str, Any]]:
    with (
        tempfile.TemporaryDirectory(prefix="round-", dir=directory) as place,
        running(design, Path(place), postgres) as server,
    ):
        return measure(server, generator, load, seconds)


def _results(rows: Rows, designs: Sequence[Design]) -> dict[str, Any]:
    """design → load → route or settle → medians, in the order of the line-up."""
    results: dict[str, Any] = {}
    for design in designs:
        for load in design.loads:
            if told := rows.get((design.name, load.name)):
                results.setdefault(design.name, {})[load.name] = {
                    kind: medians([row[kind] for row in told]) for kind in told[0]
                }
    return results


def _line(told: dict[str, dict[str, Any]]) -> str:
    words = []
    for kind, row in told.items():
        words.append(f"{kind} {row['per_s']:.0f}/s p50 {row['p50_ms']:.2f} p99 {row['p99_ms']:.2f} ms")
        words[-1] += f" {row['cpu_us']:.0f}+{row['database_us']:.0f} µs, foreign {row['foreign_cores']:.2f}"
        if row["unexpected"] or row["errors"]:
            words[-1] += f", {row['unexpected']} unexpected, errors {row['error_kinds']}"
    return "; ".join(words)
