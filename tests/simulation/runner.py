"""Many seeds on several processors, and a failing one made small: fewer faults, fewer calls."""

from __future__ import annotations

import multiprocessing
import re
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.world import CALLS, Broken, World, simulate


@dataclass
class Sweep:
    """What many seeds came to."""

    seeds: int = 0
    calls: int = 0
    admitted: int = 0
    cpu_s: float = 0.0
    met: Tally[str] = field(default_factory=Tally)
    broken: list[str] = field(default_factory=list)  # stories
    failed_seeds: list[int] = field(default_factory=list)

    def add(self, other: Sweep) -> None:
        """Take another one in."""
        for name in ("seeds", "calls", "admitted", "cpu_s", "met", "broken", "failed_seeds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def __str__(self) -> str:
        rate = self.calls / self.cpu_s if self.cpu_s else 0
        return f"{self.seeds} seeds, {self.calls} calls ({self.admitted} admitted), {rate:.0f} calls/s per processor"


def sweep(first: int, step: int, seeds: int, until_s: float, stop_at: int = 1) -> Sweep:
    """Every `step`-th of `seeds` seeds from `first` on, until the monotonic clock says `until_s` or so many failed."""
    found = Sweep()
    for seed in range(first, first + seeds, step):
        if time.monotonic() >= until_s or len(found.broken) >= stop_at:
            break
        began = time.process_time()
        try:
            world = simulate(seed)
        except Broken as error:
            found.broken.append(str(error))
            found.failed_seeds.append(seed)
        else:
            found.calls += world.born
            found.admitted += world.admitted
            found.met += world.met
        found.seeds += 1
        found.cpu_s += time.process_time() - began
    return found


def sweep_all(first: int, seeds: int, seconds: float, jobs: int) -> Iterator[Sweep]:
    """All seeds, shared among processes; each one's part as it ends."""
    until_s = time.monotonic() + seconds if seconds else float("inf")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        parts = [pool.submit(sweep, first + n, jobs, seeds - n, until_s) for n in range(jobs)]
        for part in parts:
            yield part.result()


# --- shrinking --------------------------------------------------------------------------------------------------------


def _kind(error: Broken) -> str:
    """What broke, without the numbers and names of this seed."""
    return re.sub(r"\d+|[0-9A-Z]{26}|buyer\S*|campaign\S*", "#", str(error).split("\n", 1)[0])


def _fails(seed: int, kind: str, options: dict[str, Any]) -> World | None:
    """The world, if it still breaks in the same way."""
    world = World(seed, **options)
    try:
        world.run()
    except Broken as error:
        return world if _kind(error) == kind else None
    return None


def shrink(seed: int, also: frozenset[str] = frozenset()) -> tuple[dict[str, Any], str]:
    """The fewest faults and calls with which a seed still breaks in the same way; and what it says then."""
    options: dict[str, Any] = {"also": also}
    try:
        World(seed, **options).run()
    except Broken as error:
        kind = _kind(error)
    else:
        raise ValueError(f"seed {seed} does not fail")
    for name in sorted(World(seed, **options).enabled):
        tried = {**options, "without": options.get("without", frozenset()) | {name}}
        if _fails(seed, kind, tried) is not None:
            options = tried
    options |= {"calls": _fewest(lambda calls: _fails(seed, kind, {**options, "calls": calls}) is not None)}
    try:
        World(seed, **options, telling=True).run()
    except Broken as error:
        return options, str(error)
    return options, ""


def _fewest(fails: Callable[[int], bool]) -> int:
    """The smallest number of calls that was found to fail, by halving."""
    most = CALLS
    least = 1
    while least < most:
        middle = (least + most) // 2
        if fails(middle):
            most = middle
        else:
            least = middle + 1
    return most


def replay(seed: int, options: dict[str, Any]) -> str:
    """How a person lives through it again."""
    words: Sequence[str] = [str(seed)]
    if "calls" in options:
        words = [*words, f"--calls {options['calls']}"]
    if options.get("without"):
        words = [*words, f"--without {','.join(sorted(options['without']))}"]
    return f"python -m tests.simulation {' '.join(words)}"
