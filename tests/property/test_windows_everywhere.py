"""Windows in every zone of the tz database over 2024-2030: they hold their instants, touch, and never overlap."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capconduit.domain.windows import window_end_ms, window_start_ms
from capconduit.units import instant_ms
from capconduit.vocab import WindowKind

ZONES = sorted(available_timezones())
FIRST = instant_ms(datetime(2024, 1, 1, tzinfo=UTC))
LAST = instant_ms(datetime(2031, 1, 1, tzinfo=UTC))
CALENDAR = (WindowKind.HOUR, WindowKind.DAY, WindowKind.WEEK, WindowKind.MONTH)
DAY_MS = 86_400_000


def offset_changes(zone: str) -> list[int]:
    """The instants (UTC ms) from FIRST to LAST at which the zone's offset changes, to the second."""
    tz = ZoneInfo(zone)

    def offset(second: int) -> object:
        return datetime.fromtimestamp(second, tz).utcoffset()

    changes, step = [], 7 * 86_400
    low = FIRST // 1000
    while low < LAST // 1000:
        high = low + step
        if offset(low) != offset(high):
            a, b = low, high
            while b - a > 1:
                middle = (a + b) // 2
                a, b = (a, middle) if offset(middle) != offset(a) else (middle, b)
            changes.append(b * 1000)
        low = high
    return changes


def check(kind: WindowKind, now_ms: int, zone: str) -> None:
    start, end = window_start_ms(kind, now_ms, zone), window_end_ms(kind, now_ms, zone)
    at = (kind, now_ms, zone)
    assert start <= now_ms < end, at
    assert window_start_ms(kind, start, zone) == start, at
    assert window_end_ms(kind, start, zone) == end, at
    assert window_start_ms(kind, end - 1, zone) == start, at
    assert window_start_ms(kind, end, zone) == end, at


@pytest.mark.parametrize("shard", range(4))
def test_windows_hold_around_every_change_of_every_clock(shard: int) -> None:
    """The instants where mistakes live: each change of offset and the midnights about it, to the millisecond."""
    changes = 0
    for zone in ZONES[shard::4]:
        for change in offset_changes(zone):
            changes += 1
            for near in (-DAY_MS, -3_600_000, -1_800_000, -1, 0, 1, 1_799_999, 3_599_999, 3_600_000, DAY_MS):
                for kind in (WindowKind.HOUR, WindowKind.DAY):
                    check(kind, change + near, zone)
            for kind in (WindowKind.WEEK, WindowKind.MONTH):
                check(kind, change, zone)
    assert changes > 200, "the tz database is missing: nothing was looked at"


@settings(max_examples=1_500, deadline=None, derandomize=True)
@given(kind=st.sampled_from(CALENDAR), zone=st.sampled_from(ZONES), now_ms=st.integers(FIRST, LAST))
def test_windows_hold_at_any_instant_of_any_zone(kind: WindowKind, zone: str, now_ms: int) -> None:
    check(kind, now_ms, zone)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(zone=st.sampled_from(ZONES), now_ms=st.integers(FIRST, LAST))
def test_every_hour_lies_in_one_day_and_every_day_in_one_month(zone: str, now_ms: int) -> None:
    inner = WindowKind.HOUR
    for outer in (WindowKind.DAY, WindowKind.MONTH):
        start, end = window_start_ms(inner, now_ms, zone), window_end_ms(inner, now_ms, zone)
        assert window_start_ms(outer, now_ms, zone) <= start
        assert end <= window_end_ms(outer, now_ms, zone)
        inner = outer
