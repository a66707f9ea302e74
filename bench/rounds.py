"""One round of one server under one load: calls are admitted and measured, then ended, which is measured apart.

A closed loop goes in slices: a second of admissions, then the ends of those calls, so that no more than SLICE_CALLS
calls live at a time and no cap ever fills. An open loop admits for the whole time, and then ends all.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter
from typing import Any, Final

from bench import machine
from bench.agi_load import MAX_COUNT, percentile
from bench.generator import Generator, Load, Request, Slice
from bench.lineup import Running
from bench.shapes import TRUNK, dnid_pattern

SLICE_S: Final = 1.0
SLICE_CALLS: Final = 10_000
SLICES_MAX: Final = 100
WARM_UP_S: Final = 0.5
WARM_UP_CALLS: Final = 500
END_S: Final = 120.0  # for the ends of one slice
TALK_MS: Final = 45_000
CONTEXT: Final = "capconduit-inbound"


class Traffic:
    """Calls of a server, each with its own uniqueid and caller: what was begun is what is ended."""

    def __init__(self, running: Running, generator: Generator) -> None:
        self._running = running
        self._generator = generator
        self._next = 0
        channel = f"{time.time_ns():x}-{{n}}"  # other than those of an earlier run on the same database
        number = dnid_pattern(running.design.shape)
        caller = "+1212{n%7000000+2000000}"
        self._route = Request(
            "route",
            [channel, channel, number, caller, "Load", TRUNK, "", "", "sip-{n}"],
            "CC_VERDICT=dial",
        )
        self._settle = Request(
            "settle", [channel, "1", "ANSWER", str(TALK_MS), "50000", "16", "PJSIP/t-1", CONTEXT], "CC_ACK=1"
        )

    def begin(self, load: Load, seconds: float, count: int) -> tuple[int, Slice]:
        """Admit calls; the number of the first, and what became of them."""
        first = self._next
        slice_ = self._generator.run(self._running.port, self._route, load, first=first, seconds=seconds, count=count)
        self._next += slice_.begun
        return first, slice_

    def end(self, load: Load, first: int, count: int) -> Slice:
        """End calls that were begun."""
        return self._generator.run(
            self._running.port, self._settle, load, first=first, seconds=END_S, count=max(count, 1)
        )


class Tally:
    """Sums slices, and the CPU time that everybody used meanwhile."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._latencies_ms: array[float] = array("f")
        self._count = self._unexpected = 0
        self._errors: Counter[str] = Counter()
        self._seconds = self._generator_s = self._server_s = self._database_s = self._machine_s = 0.0
        self._slices = 0

    def watch(self) -> tuple[float, float, float]:
        """CPU time so far of the server, its database and the machine but for ourselves (s)."""
        database = self._running.database_pid
        return (
            machine.tree_cpu_s(self._running.process.pid),
            machine.tree_cpu_s(database) if database is not None else 0.0,
            machine.busy_s() - time.process_time(),
        )

    def add(self, slice_: Slice, before: tuple[float, float, float]) -> None:
        """One more slice, which began when `watch` had told `before`."""
        server_s, database_s, machine_s = self.watch()
        self._server_s += server_s - before[0]
        self._database_s += database_s - before[1]
        self._machine_s += machine_s - before[2]
        self._latencies_ms.extend(slice_.latencies_ms)
        self._count += slice_.count
        self._unexpected += slice_.unexpected
        self._errors.update(slice_.errors)
        self._seconds += slice_.seconds
        self._generator_s += slice_.cpu_s
        self._slices += 1

    @property
    def seconds(self) -> float:
        """Measured so far."""
        return self._seconds

    @property
    def slices(self) -> int:
        """How many."""
        return self._slices

    def report(self) -> dict[str, Any]:
        """Numbers of the round. `*_us`: CPU time for each exchange; `foreign_cores`: what others used meanwhile."""
        ordered, count = sorted(self._latencies_ms), max(self._count, 1)
        foreign_s = self._machine_s - self._server_s - self._database_s - self._generator_s
        return {
            "per_s": self._count / self._seconds,
            **{f"p{p}_ms": percentile(ordered, p) or 0.0 for p in (50, 95, 99)},
            "cpu_us": self._server_s / count * 1e6,
            "database_us": self._database_s / count * 1e6,
            "generator_busy": self._generator_s / self._seconds,
            "foreign_cores": max(foreign_s / self._seconds, 0.0),
            "count": self._count,
            "unexpected": self._unexpected,
            "errors": sum(self._errors.values()),
            "error_kinds": dict(self._errors),
        }


def measure(running: Running, generator: Generator, load: Load, seconds: float) -> dict[str, dict[str, Any]]:
    """Reports of `route` and, where calls are ended, of `settle`."""
    traffic = Traffic(running, generator)
    ends = bool(running.design.database)
    first, warm = traffic.begin(Load("warm-up", load.clients), WARM_UP_S, WARM_UP_CALLS)
    if ends:
        traffic.end(Load("warm-up", load.clients), first, warm.begun)
    routes, settles = Tally(running), Tally(running)
    slice_s, most = (SLICE_S if load.rate is None else seconds, SLICE_CALLS) if ends else (seconds, MAX_COUNT)
    while routes.seconds < seconds * 0.99 and routes.slices < SLICES_MAX:
        before = routes.watch()
        first, slice_ = traffic.begin(load, min(slice_s, seconds - routes.seconds), most)
        routes.add(slice_, before)
        if ends:
            before = settles.watch()
            settles.add(traffic.end(load, first, slice_.begun), before)
    return {"route": routes.report(), **({"settle": settles.report()} if ends else {})}
