"""`growth`: what a call leaves in the database, and what a million of them cost those that come later."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any, Final

from bench import machine
from bench.cli import NOTHING, time_commands
from bench.filling import MAX_CDRS, Filler
from bench.generator import Generator
from bench.lineup import CLOSED_20, OPEN_100, Design, Running
from bench.options import parser, workplace
from bench.postgres import Postgres
from bench.reports import finish
from bench.rounds import measure
from bench.servers import Installation, Process
from bench.shapes import SPREAD
from bench.sizes import table_sizes

CDRS: Final = 1_000_000
DAYS: Final = 90
SECONDS: Final = 4.0
ROUNDS: Final = 3
COMMAND_RUNS: Final = 3
COMMANDS: Final = (
    "cdr list",
    "cdr list --campaign c7",
    "cdr list --since -48h --until -24h --limit 1000000 -o csv",
    "call list",
    "cap usage",
    "cap verify",
    "balance verify",
    "balance ledger s7",
    "report summary",
    "report hourly",
    "report campaigns",
)


def main(argv: Sequence[str]) -> int:
    """Measure and write."""
    options = _options(argv)
    with workplace(options) as directory:
        engines, version = {}, ""
        generator = Generator(directory)
        for engine in options.engines:
            with ExitStack() as stack:
                url, pid = "", None
                if engine == "postgres":
                    postgres = stack.enter_context(Postgres(options.dir))
                    url, pid, version = postgres.new_database(), postgres.pid, postgres.version
                shop = stack.enter_context(Installation(directory / engine, SPREAD, url))
                engines[engine] = _measure(options, shop, pid, generator)
        report = {
            "machine": machine.describe(options.dir),
            "options": {"seconds": options.seconds, "rounds": options.rounds, "forced": options.force},
            "postgres": version,
            "engines": engines,
        }
    finish("growth", report, options)
    return 0


def _options(argv: Sequence[str]) -> argparse.Namespace:
    made = parser("growth", __doc__)
    made.add_argument("--cdrs", type=int, default=CDRS, help=f"how many (default {CDRS:,})")
    made.add_argument("--days", type=int, default=DAYS, help=f"over how many days (default {DAYS})")
    made.add_argument("--seconds", type=float, default=SECONDS, help=f"of each round (default {SECONDS:.0f})")
    made.add_argument("--rounds", type=int, default=ROUNDS, help=f"before and after (default {ROUNDS})")
    made.add_argument("--engines", nargs="+", choices=("sqlite", "postgres"), default=["sqlite", "postgres"])
    options = made.parse_args(argv)
    if not (1 <= options.cdrs <= MAX_CDRS and 1 <= options.days <= 3_650 and options.rounds >= 1):
        made.error(f"--cdrs is 1 to {MAX_CDRS:,}, --days 1 to 3650, --rounds at least 1")
    return options


def _measure(
    options: argparse.Namespace, shop: Installation, database_pid: int | None, generator: Generator
) -> dict[str, Any]:
    before = _costs(options, shop, database_pid, generator)
    empty = table_sizes(shop.url)
    began_s = time.monotonic()
    Filler(shop, SPREAD).fill(options.cdrs, options.days, lambda text: print(text, file=sys.stderr))
    fill_s = time.monotonic() - began_s
    full = table_sizes(shop.url)
    after = _costs(options, shop, database_pid, generator)
    nothing = {"rows": 0, "bytes": 0}
    grown = {
        name: {key: value - empty.get(name, nothing)[key] for key, value in row.items()} for name, row in full.items()
    }
    return {
        "cdrs": options.cdrs,
        "days": options.days,
        "fill_s": round(fill_s, 1),
        "tables": {name: row for name, row in grown.items() if row["rows"] > 0},
        "costs": [{"what": what, "before": before[what], "after": after[what]} for what in before if what in after],
    }


def _costs(
    options: argparse.Namespace, shop: Installation, database_pid: int | None, generator: Generator
) -> dict[str, float]:
    """What things cost now, by what they are."""
    rounds: list[dict[str, float]] = []
    with shop.daemon() as daemon:
        for done in range(options.rounds):
            rounds.append(_round(shop, daemon, database_pid, generator, options.seconds))
            print(f"round {done + 1}/{options.rounds}: {rounds[-1]}", file=sys.stderr)
    costs = {what: round(median(row[what] for row in rounds), 3) for what in rounds[0]}
    for row in time_commands(shop, COMMANDS, COMMAND_RUNS):
        if row["command"] != NOTHING:
            costs[f"`{row['command']}` ms"] = row["p50_ms"]
    return costs


def _round(
    shop: Installation, daemon: Process, database_pid: int | None, generator: Generator, seconds: float
) -> dict[str, float]:
    running = Running(Design("growth", "", database="any", shape=SPREAD), shop.port, daemon, database_pid)
    told, low = measure(running, generator, CLOSED_20, seconds), measure(running, generator, OPEN_100, seconds)
    costs = {}
    for kind, name in (("route", "decision"), ("settle", "settlement")):
        costs[f"{name} CPU µs"] = told[kind]["cpu_us"] + told[kind]["database_us"]
        costs[f"{name}s/s, 20 clients"] = told[kind]["per_s"]
        costs[f"{name} p50 ms at 100/s"] = low[kind]["p50_ms"]
        costs[f"{name} p99 ms at 100/s"] = low[kind]["p99_ms"]
    return costs
