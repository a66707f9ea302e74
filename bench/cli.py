"""`cli`: how soon commands answer, against an interpreter that does nothing."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench import machine
from bench.options import parser, workplace
from bench.reports import finish
from bench.servers import Installation, environment, pin
from bench.shapes import Shape, number_of

SHAPE: Final = Shape(dids=10_000, campaigns=1_000, sellers=250)
RUNS: Final = 20
MAX_RUNS: Final = 1_000
NOTHING: Final = "python -c pass"
USAGE: Final = 2
COMMAND_S: Final = 600
COMMANDS: Final = (
    "--help",
    "did --help",
    "did list",
    "did list --json",
    "did list --filter status=available",
    f"did show {number_of(77)}",
    "campaign list",
    "cap usage seller s7",
    "balance show s7",
    "call list",
    f"route {number_of(77)} --from +12125550147",
)


def main(argv: Sequence[str]) -> int:
    """Measure and write."""
    made = parser("cli", __doc__)
    made.add_argument("--runs", type=int, default=RUNS, help=f"of each command (default {RUNS})")
    options = made.parse_args(argv)
    if not 1 <= options.runs <= MAX_RUNS:
        made.error(f"--runs is 1 to {MAX_RUNS}")
    with workplace(options) as directory, Installation(directory / "cli", SHAPE) as shop:
        report = {
            "machine": machine.describe(options.dir),
            "options": {"runs": options.runs, "forced": options.force},
            "dids": SHAPE.dids,
            "commands": time_commands(shop, COMMANDS, options.runs),
        }
    finish("cli", report, options)
    return 0


def time_commands(shop: Installation, commands: Sequence[str], runs: int) -> list[dict[str, Any]]:
    """Medians of each command, the empty interpreter first; commands that this version does not have are left out."""
    lines = {NOTHING: [sys.executable, "-c", "pass"]}
    lines |= {f"capconduit {words}": shop.command(*words.split()) for words in commands}
    known = {name: line for name, line in lines.items() if run_command(line, shop.directory)[1] != USAGE}
    plan = [name for name in known for _ in range(runs)]
    random.Random(1).shuffle(plan)
    took: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for name in plan:
        took[name].append(run_command(known[name], shop.directory))
    return [
        {
            "command": name,
            "p50_ms": round(median(row[0] for row in took[name]), 1),
            "max_ms": round(max(row[0] for row in took[name]), 1),
            "exit_code": took[name][0][1],
        }
        for name in known
    ]


def run_command(line: Sequence[str], state: Path) -> tuple[float, int]:
    """Milliseconds and exit code of one run; what it prints goes nowhere."""
    nowhere = subprocess.DEVNULL
    began_s = time.perf_counter()
    done = subprocess.run(
        line, stdin=nowhere, stdout=nowhere, stderr=nowhere, env=environment(state), preexec_fn=pin,
        timeout=COMMAND_S, check=False,
    )  # fmt: skip
    return (time.perf_counter() - began_s) * 1e3, done.returncode
