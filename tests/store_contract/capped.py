"""Estates with one cap, for the contract tests of caps."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from capconduit.units import instant_ms
from capconduit.vocab import CapMetric, CapScope, WindowKind
from tests.unit.estate_builder import SCOPE_IDS, EstateBuilder, Till, small_estate

Shop = Callable[[EstateBuilder], Till]

# Caps by these count calls; the others reserve, or count new calls only.
COUNTED = (CapMetric.CONCURRENT, CapMetric.ATTEMPTS, CapMetric.CONNECTED, CapMetric.BILLABLE)
DAY_MS = 86_400_000
HOUR_MS = 3_600_000


def utc(text: str) -> int:
    """UTC milliseconds of an ISO time without an offset."""
    return instant_ms(datetime.fromisoformat(text).replace(tzinfo=UTC))


def capped(scope: CapScope, metric: CapMetric, limit: int, window: WindowKind = WindowKind.DAY) -> EstateBuilder:
    """The small estate (billable from 30 s on) with one cap; a rolling one is over an hour."""
    builder = small_estate(billable_threshold_ms=30_000)
    window = WindowKind.NONE if metric in (CapMetric.CONCURRENT, CapMetric.CPS) else window
    length_ms = HOUR_MS if window is WindowKind.ROLLING else 0
    builder.cap(scope, SCOPE_IDS[scope], metric, limit, window, length_ms)
    return builder
