"""The calendar windows of caps in a time zone: where one begins, where the next begins.

A day is a local date, never 24 hours. Where local midnight does not exist the day begins at the first instant that
does; where it comes twice, at the first. An hour is a clock hour keyed by its UTC start. Weeks begin on Monday.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from capconduit.units import instant_ms
from capconduit.vocab import WindowKind

HOUR_MS = 3_600_000
FOREVER_MS = 1 << 62  # the end of windows that do not end
_SEARCH = timedelta(hours=26)  # farther than any offset change can move a local midnight


def window_start_ms(kind: WindowKind, now_ms: int, zone: str) -> int:
    """Start of the window of `kind` that `now_ms` lies in; 0 for windows without a start."""
    if kind in (WindowKind.NONE, WindowKind.TOTAL):
        return 0
    if kind is WindowKind.HOUR:
        return _hour(now_ms, zone)[0]
    return _day_start_ms(zone, _first_date(kind, _local_date(now_ms, zone)))


def window_end_ms(kind: WindowKind, now_ms: int, zone: str) -> int:
    """First instant of the next window; FOREVER_MS for windows that do not end."""
    if kind in (WindowKind.NONE, WindowKind.TOTAL):
        return FOREVER_MS
    if kind is WindowKind.HOUR:
        return _hour(now_ms, zone)[1]
    return _day_start_ms(zone, _next_date(kind, _first_date(kind, _local_date(now_ms, zone))))


def _local(now_ms: int, zone: str) -> datetime:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=now_ms)).astimezone(ZoneInfo(zone))


def _local_date(now_ms: int, zone: str) -> date:
    return _local(now_ms, zone).date()


def _first_date(kind: WindowKind, day: date) -> date:
    if kind is WindowKind.WEEK:
        return day - timedelta(days=day.weekday())
    if kind is WindowKind.MONTH:
        return day.replace(day=1)
    return day


def _next_date(kind: WindowKind, first: date) -> date:
    if kind is WindowKind.WEEK:
        return first + timedelta(days=7)
    if kind is WindowKind.MONTH:
        return (first.replace(day=28) + timedelta(days=4)).replace(day=1)
    return first + timedelta(days=1)


@lru_cache(maxsize=4096)
def _day_start_ms(zone: str, day: date) -> int:
    """First instant whose local date in `zone` is `day` or later."""
    tz = ZoneInfo(zone)
    midnight = datetime(day.year, day.month, day.day, tzinfo=tz).astimezone(UTC)  # fold=0: the first of two
    back = midnight.astimezone(tz)
    if (back.date(), back.hour, back.minute, back.second) == (day, 0, 0, 0):
        return instant_ms(midnight)
    low, high = instant_ms(midnight - _SEARCH), instant_ms(midnight + _SEARCH)
    return _first_instant(low, high, lambda t: _local_date(t, zone) >= day)


def _hour(now_ms: int, zone: str) -> tuple[int, int]:
    """Start and end of the clock hour of `now_ms`; an offset change inside an hour ends it."""
    local = _local(now_ms, zone)
    into_ms = (local.minute * 60 + local.second) * 1_000 + now_ms % 1_000
    start, end = now_ms - into_ms, now_ms - into_ms + HOUR_MS
    offset = local.utcoffset()
    if _local(start, zone).utcoffset() != offset:
        start = _first_instant(start, now_ms, lambda t: _local(t, zone).utcoffset() == offset)
    if _local(end - 1, zone).utcoffset() != offset:
        end = _first_instant(now_ms, end, lambda t: _local(t, zone).utcoffset() != offset)
    return start, end


def _first_instant(low_ms: int, high_ms: int, reached: Callable[[int], bool]) -> int:
    """The smallest instant in (low, high] for which `reached` holds; it holds at high and not at low."""
    while high_ms - low_ms > 1:
        middle = (low_ms + high_ms) // 2
        if reached(middle):
            high_ms = middle
        else:
            low_ms = middle
    return high_ms
