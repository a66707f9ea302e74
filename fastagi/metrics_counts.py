"""What the daemon counts for its metrics, as plain numbers: a few additions on the way of a call, no labels, no locks.

What is counted on the engine's thread is only written there; a reading in between may be one addition behind.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from capconduit.domain.model import Cdr
from capconduit.domain.outcomes import outcome_of
from capconduit.vocab import CcVariable, Verdict
from fastagi.agi_server import AgiReply, Endpoint

# Seconds. A decision has 250 ms by default; a settlement may wait for a database that is away.
DECISION_BOUNDS: Final = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
LAG_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 3600.0, 86_400.0)
MS_PER_SECOND: Final = 1_000


class Histogram:
    """Observations by upper bound (inclusive), their number and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by bound, as Prometheus wants them."""
        told, so_far = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), tuple(self.counts), strict=True):
            so_far += count
            told.append((bound, float(so_far)))
        return told


class Counts:
    """Counted since start. Decisions on the loop, ended calls on the engine's thread."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self.took: dict[str, Histogram] = {}  # seconds to an answer, by script
        self.decisions: Counter[tuple[str, str, str]] = Counter()  # (script, verdict, reject code)
        self.ended: Counter[tuple[str, str]] = Counter()  # (outcome, reject code)
        self.talk_ms = 0
        self.billed_s = 0
        self.amounts: Counter[str] = Counter()  # micros by currency
        self.lag = Histogram(LAG_BOUNDS)  # seconds from the end of a call to its record

    def counted(self, script: str, endpoint: Endpoint) -> Endpoint:
        """The same endpoint, its answers counted and timed."""
        took = self.took.setdefault(script, Histogram(DECISION_BOUNDS))

        def answered(reply: AgiReply | None, took_s: float) -> None:
            if reply is None:
                return
            took.observe(took_s)
            verdict, code = _verdict(reply)
            if verdict:
                self.decisions[(script, verdict, code)] += 1

        return replace(endpoint, on_answer=(*endpoint.on_answer, answered))

    def on_cdrs(self, cdrs: Sequence[Cdr]) -> None:
        """Count calls that are over; told by the engine after their commit."""
        now_ms = self._now_ms()
        for cdr in cdrs:
            self.ended[(outcome_of(cdr), cdr.reject_code)] += 1
            self.lag.observe(max(now_ms - cdr.ended_ms, 0) / MS_PER_SECOND)
            self.talk_ms += cdr.talk_ms
            self.billed_s += cdr.billed_seconds
            if cdr.currency:
                self.amounts[cdr.currency] += cdr.amount_micros


def _verdict(reply: AgiReply) -> tuple[str, str]:
    """(verdict, reject code without its refinement) of an answer, whose verdict is last; empty where it is none."""
    name, verdict = reply.variables[-1] if reply.variables else ("", "")
    if name != CcVariable.VERDICT:
        return "", ""
    if verdict == Verdict.DIAL:
        return str(verdict), ""
    return str(verdict), dict(reply.variables).get(CcVariable.REASON, "").partition(":")[0]
