"""`python -m bench [--seconds S] [--out FILE]`: decisions per second and their latency, against a constant answer.

Everything on one machine: the server is pinned to one core and the load generator to another, rounds are shuffled,
medians are reported. Each daemon decides on a fresh database, all checks on, durable before it answers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

from bench.servers import ConstantServer, DaemonServer, postgres_url, run_generator

SERVER_CORE: Final = 0
LOAD_CORE: Final = 1
BUSY_LIMIT: Final = 0.9  # a generator that is busier than this was the limit itself
LOAD_LIMIT: Final = 0.5  # of the machine before we begin
ROUNDS: Final = 3
# name → (clients, open rate a second or None for a closed loop)
LOADS: Final[dict[str, tuple[int, float | None]]] = {
    "low": (64, 100.0),
    "closed-20": (20, None),
    "closed-64": (64, None),
}


def main(argv: list[str]) -> int:
    """Measure and write a JSON report; 0, or 1 where the machine is not free."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=Path("bench-report.json"))
    parser.add_argument("--postgres", action="store_true", help="also on PostgreSQL")
    parser.add_argument("--force", action="store_true", help="measure although something else uses the machine")
    options = parser.parse_args(argv)
    if os.getloadavg()[0] > LOAD_LIMIT and not options.force:
        print(
            f"load average {os.getloadavg()[0]:.2f}: something else uses this machine; try later or --force",
            file=sys.stderr,
        )
        return 1
    report = measure(options.seconds, options.rounds, with_postgres=options.postgres)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    show(report)
    print(f"written to {options.out}", file=sys.stderr)
    return 0


def measure(seconds: float, rounds: int, *, with_postgres: bool) -> dict[str, Any]:
    """Run all servers under all loads; medians of the rounds."""
    results: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    servers = ["constant", "sqlite", *(["postgres"] if with_postgres else [])]
    plan = [(server, load) for server in servers for load in LOADS for _ in range(rounds)]
    random.Random(1).shuffle(plan)
    for done, (server, load) in enumerate(plan, 1):
        print(f"{done}/{len(plan)} {server} {load}", file=sys.stderr)
        clients, rate = LOADS[load]
        with _server(server) as running:
            results[server][load].append(
                run_generator(running.port, running.pid, clients, rate, seconds, core=LOAD_CORE)
            )
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "seconds": seconds,
        "rounds": rounds,
        "results": {s: {load: _median(rows) for load, rows in loads.items()} for s, loads in results.items()},
    }


def _server(name: str) -> ConstantServer | DaemonServer:
    if name == "constant":
        return ConstantServer(SERVER_CORE)
    return DaemonServer(SERVER_CORE, postgres_url() if name == "postgres" else "")


def _median(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the numbers of several rounds."""
    numbers = ("per_second", "p50_ms", "p95_ms", "p99_ms", "server_cpu_us", "generator_busy")
    median = {name: round(statistics.median(row[name] for row in rows), 3) for name in numbers}
    return {
        **median,
        "errors": sum(row["errors"] for row in rows),
        "generator_was_the_limit": median["generator_busy"] > BUSY_LIMIT,
    }


def show(report: dict[str, Any]) -> None:
    """The report as a table, with ratios to the constant answer."""
    columns = {"/s": 7, "of const": 8, "p50": 7, "p95": 7, "p99": 7, "cpu µs": 7, "errors": 6}
    print(f"{'server':9} {'load':10} " + " ".join(f"{name:>{width}}" for name, width in columns.items()))
    for server, loads in report["results"].items():
        for load in LOADS:
            row, base = loads[load], report["results"]["constant"][load]
            ratio = row["per_second"] / base["per_second"]
            print(
                f"{server:9} {load:10} {row['per_second']:7.0f} {ratio:8.2f} {row['p50_ms']:7.2f} {row['p95_ms']:7.2f}"
                f" {row['p99_ms']:7.2f} {row['server_cpu_us']:7.0f} {row['errors']:6}"
                + ("  generator was the limit" if row["generator_was_the_limit"] else "")
            )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
