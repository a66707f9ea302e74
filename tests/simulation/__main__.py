"""`python -m tests.simulation`: seeds for as long as asked, or one seed again with its story, made small.

python -m tests.simulation --seconds 600          as many seeds as that time allows, on all processors
python -m tests.simulation --first 5000 --seeds 200
python -m tests.simulation 4711                   one seed; its story where it breaks
python -m tests.simulation 4711 --shrink          with the fewest faults and calls with which it still breaks
"""

from __future__ import annotations

import argparse
import os
import sys

from tests.simulation.page import PAGE, renewed
from tests.simulation.runner import Sweep, replay, shrink, sweep_all
from tests.simulation.world import CALLS, Broken, simulate


def main() -> int:
    """The exit code: 0 where every promise held."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("seed", nargs="?", type=int, help="one seed")
    parser.add_argument("--calls", type=int, default=CALLS, help="calls of that seed's world")
    parser.add_argument("--without", default="", help="faults left out, separated by commas")
    parser.add_argument("--shrink", action="store_true", help="find the smallest form of a seed that breaks")
    parser.add_argument("--write", action="store_true", help="renew the tables of docs/simulation.md")
    parser.add_argument("--seconds", type=float, default=0.0, help="how long")
    parser.add_argument("--seeds", type=int, default=10**9, help="how many seeds")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    args = parser.parse_args()
    if args.write:
        PAGE.write_text(renewed(PAGE.read_text()))
        return 0
    if args.seed is None:
        return many(args.first, args.seeds, args.seconds or (600.0 if args.seeds == 10**9 else 0.0), args.jobs)
    if args.shrink:
        options, story = shrink(args.seed)
        sys.stdout.write(f"{story}\nagain: {replay(args.seed, options)}\n")
        return 1
    try:
        world = simulate(args.seed, calls=args.calls, without=frozenset(filter(None, args.without.split(","))))
    except Broken as error:
        sys.stdout.write(f"{error}\n")
        return 1
    sys.stdout.write(f"seed {args.seed}: {world.born} calls, {world.admitted} admitted, every promise held\n")
    return 0


def many(first: int, seeds: int, seconds: float, jobs: int) -> int:
    """Many seeds; the exit code."""
    total = Sweep()
    for part in sweep_all(first, seeds, seconds, jobs):
        total.add(part)
    for story in total.broken:
        sys.stdout.write(f"{story}\n")
    for seed in total.failed_seeds:
        sys.stdout.write(f"again: python -m tests.simulation {seed}, or with --shrink\n")
    sys.stdout.write(f"{total}\n")
    return 1 if total.broken else 0


if __name__ == "__main__":
    sys.exit(main())
