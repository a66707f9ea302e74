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
CPS_WINDOW_MS = 1_000  # calls per second are those of the last second, at any instant
CPS_BUCKET_MS = 50
BUCKETS = 60  # of a rolling window
LEAST_BUCKET_MS = 1_000
_SEARCH = timedelta(hours=26)  # farther than any offset change can move a local midnight


# The window of each kind and zone that was asked for last: most calls of a day lie in the same one.
_recent: dict[tuple[WindowKind, str], tuple[int, int]] = {}


def bucket_ms(window_ms: int) -> int:
    """Width of the buckets that a rolling window counts in.

    A bucket counts as long as any part of it lies in the window: never less than what the window holds, and at most a
    bucket more.
    """
    return max(-(-window_ms // BUCKETS), LEAST_BUCKET_MS)


def window_start_ms(kind: WindowKind, now_ms: int, zone: str) -> int:
    """Start of the calendar window of `kind` that `now_ms` lies in; 0 for windows without a start."""
    if kind in (WindowKind.NONE, WindowKind.TOTAL, WindowKind.ROLLING):
        return 0
    known = _recent.get((kind, zone))
    if known is None or not known[0] <= now_ms < known[1]:
        known = _recent[(kind, zone)] = (_start_ms(kind, now_ms, zone), window_end_ms(kind, now_ms, zone))
    return known[0]


def _start_ms(kind: WindowKind, now_ms: int, zone: str) -> int:
    if kind is WindowKind.HOUR:
        return _hour(now_ms, zone)[0]
    return _day_start_ms(zone, _first_date(kind, _local_date(now_ms, zone)))


def window_end_ms(kind: WindowKind, now_ms: int, zone: str) -> int:
    """First instant of the next window; FOREVER_MS for windows that do not end."""
    if kind in (WindowKind.NONE, WindowKind.TOTAL, WindowKind.ROLLING):
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
