"""`estate`: what a decision costs as the estate grows; memory and start-up of the daemon with a large one."""

from __future__ import annotations

import argparse
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench import machine
from bench.generator import Generator, Load
from bench.lineup import CLOSED_1, CLOSED_20, Design, Running
from bench.options import parser, workplace
from bench.reports import finish, medians
from bench.rounds import Traffic, measure
from bench.servers import Installation, Process
from bench.shapes import MAX_DIDS, Shape
from capconduit.services import targets

SIZES: Final = (100, 1_000, 10_000, 100_000)
MAX_CAMPAIGNS: Final = 1_000
LARGE: Final = Shape(dids=10_000, campaigns=1_000, sellers=250, targets=5)
LIVE_CALLS: Final = 2_000
WARM_CALLS: Final = 200  # at a time, so that they do not leave room for many behind
WARM_UPS: Final = 10
CHANGES: Final = 5  # of configuration, each followed by one decision
STARTS: Final = 3
SECONDS: Final = 4.0
ROUNDS: Final = 3
PATIENCE_S: Final = 120.0


def main(argv: Sequence[str]) -> int:
    """Measure and write."""
    made = parser("estate", __doc__)
    made.add_argument("--seconds", type=float, default=SECONDS, help=f"of each round (default {SECONDS:.0f})")
    made.add_argument("--rounds", type=int, default=ROUNDS, help=f"of each size (default {ROUNDS})")
    made.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="DIDS", help="numbers of DIDs")
    options = made.parse_args(argv)
    if not all(1 <= size <= MAX_DIDS for size in options.sizes):
        made.error(f"an estate has 1 to {MAX_DIDS:,} DIDs")
    with workplace(options) as directory:
        report = {
            "machine": machine.describe(options.dir),
            "options": {"seconds": options.seconds, "rounds": options.rounds, "forced": options.force},
            **_measure(options, directory),
        }
    finish("estate", report, options)
    return 0


def shape_of(size: int) -> Shape:
    """Ten DIDs to a campaign, up to MAX_CAMPAIGNS, four campaigns to a seller."""
    campaigns = max(1, min(size // 10, MAX_CAMPAIGNS))
    return Shape(dids=size, campaigns=campaigns, sellers=max(1, campaigns // 4))


def _measure(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    generator = Generator(directory)
    sizes = sorted(options.sizes)
    with ExitStack() as stack:
        shops = {s: stack.enter_context(Installation(directory / str(s), shape_of(s))) for s in sizes}
        rows: dict[int, list[dict[str, Any]]] = defaultdict(list)
        plan = [size for size in sizes for _ in range(options.rounds)]
        random.Random(1).shuffle(plan)
        for done, size in enumerate(plan, 1):
            rows[size].append(_round(shops[size], shape_of(size), generator, options.seconds))
            print(f"{done}/{len(plan)} {size} DIDs: {rows[size][-1]['cpu_us']:.0f} µs", file=sys.stderr)
    told = [{"dids": s, "campaigns": shape_of(s).campaigns, **medians(rows[s])} for s in sizes]
    return {"sizes": told, "large": _large(directory, generator)}


def _round(shop: Installation, shape: Shape, generator: Generator, seconds: float) -> dict[str, Any]:
    with shop.daemon() as daemon:
        running = _running(shop, shape, daemon)
        told = measure(running, generator, CLOSED_20, seconds)["route"]
        rss = float(machine.rss_bytes(daemon.pid))
        return {
            **told,
            "start_s": daemon.start_s,
            "rss_bytes": rss,
            "after_change_ms": _after_change_ms(shop, Traffic(running, generator)),
        }


def _after_change_ms(shop: Installation, traffic: Traffic) -> float:
    """How long the first decision after a change of configuration takes: it reads the estate again."""
    took = []
    for change in range(CHANGES):
        targets.set_target(shop.office, "t0-0", ring_ms=20_000 + change)
        first, told = traffic.begin(CLOSED_1, PATIENCE_S, 1)
        traffic.end(CLOSED_1, first, told.begun)
        took += list(told.latencies_ms)
    return median(took)


def _large(directory: Path, generator: Generator) -> dict[str, Any]:
    """Start-up and memory with a large estate, without calls and with many."""
    with Installation(directory / "large", LARGE) as shop:
        starts = []
        for _ in range(STARTS - 1):
            with shop.daemon() as daemon:
                starts.append(daemon.start_s)
        with shop.daemon() as daemon:
            starts.append(daemon.start_s)
            rss_bytes = machine.rss_bytes(daemon.pid)
            traffic, load = Traffic(_running(shop, LARGE, daemon), generator), Load("fill", 20)
            for _ in range(WARM_UPS):
                first, told = traffic.begin(load, PATIENCE_S, WARM_CALLS)
                traffic.end(load, first, told.begun)
            before_bytes = machine.rss_bytes(daemon.pid)
            first, told = traffic.begin(load, PATIENCE_S, LIVE_CALLS)
            live_calls, live_bytes = shop.status().get("calls", 0), machine.rss_bytes(daemon.pid)
            traffic.end(load, first, told.begun)
    return {
        "dids": LARGE.dids,
        "campaigns": LARGE.campaigns,
        "targets": LARGE.campaigns * LARGE.targets,
        "start_s": round(median(starts), 3),
        "rss_bytes": rss_bytes,
        "rss_used_bytes": before_bytes,
        "live_calls": live_calls,
        "rss_live_bytes": live_bytes,
        "bytes_per_live_call": round((live_bytes - before_bytes) / max(live_calls, 1)),
    }


def _running(shop: Installation, shape: Shape, daemon: Process) -> Running:
    return Running(Design("estate", "", database="sqlite", shape=shape), shop.port, daemon, None)
