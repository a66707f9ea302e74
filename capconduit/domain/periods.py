"""Periods of reports: what `yesterday`, `last-month`, `7d` or `2026-10` mean in a time zone, what came before, and the
hours, days, weeks and months in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from capconduit.domain.windows import window_end_ms, window_start_ms
from capconduit.errors import UsageError
from capconduit.units import MAX_INSTANT_MS, instant_ms, parse_instant
from capconduit.vocab import WindowKind

DAY_MS: Final = 86_400_000
FORMS: Final = "today, yesterday, 7d, week, last-week, month, last-month, monday, november, 2026-10 or 2026-10-31"
_MONTHS: Final = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_CALENDAR: Final = {"day": WindowKind.DAY, "week": WindowKind.WEEK, "month": WindowKind.MONTH}
_BACK: Final = re.compile(r"-?([0-9]{1,5})(m|h|d|w)")
_BACK_MS: Final = {"m": 60_000, "h": 3_600_000, "d": DAY_MS, "w": 7 * DAY_MS}
_DATE: Final = re.compile(r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2}))?)?")


@dataclass(frozen=True, slots=True)
class Period:
    """A span: from inclusive, until exclusive, UTC ms. `kind`: the calendar window that it is, or the part of it that
    has passed; NONE for any other span."""

    from_ms: int
    until_ms: int
    kind: WindowKind = WindowKind.NONE


def parse_period(text: str, now_ms: int, zone: str) -> Period:
    """The period that `text` names in `zone`; one that goes on ends now. Raises UsageError."""
    word = text.strip().lower()
    if word in ("today", "yesterday"):
        return _window(WindowKind.DAY, now_ms, now_ms, zone, back=int(word == "yesterday"))
    for name, kind in _CALENDAR.items():
        if word in (name, f"this-{name}", f"last-{name}"):
            return _window(kind, now_ms, now_ms, zone, back=int(word.startswith("last-")))
    if word in _WEEKDAYS:
        return Period(_weekday_ms(word, now_ms, zone), now_ms)
    if word in _MONTHS or (len(word) == 3 and any(month.startswith(word) for month in _MONTHS)):
        return _month_named(word, now_ms, zone)
    if found := _BACK.fullmatch(word):
        return Period(max(now_ms - int(found[1]) * _BACK_MS[found[2]], 0), now_ms)
    if found := _DATE.fullmatch(word):
        return _dated(text, found, now_ms, zone)
    raise UsageError("period-invalid", f"{text!r} is not a period", f"write {FORMS}, or --from TIME --to TIME")


def parse_span(start: str | None, end: str | None, now_ms: int, zone: str) -> Period:
    """The span between two times as `--from` and `--to` give them. Raises UsageError."""
    from_ms = _instant(start, now_ms, zone) if start is not None else 0
    until_ms = _instant(end, now_ms, zone) if end is not None else now_ms
    if until_ms <= from_ms:
        raise UsageError("period-empty", f"{end or 'now'!r} is not after {start!r}", "--from comes before --to")
    return Period(from_ms, until_ms, _kind_of(from_ms, until_ms, zone))


def _instant(text: str, now_ms: int, zone: str) -> int:
    """A time; days begin as those of caps do, also where midnight does not exist."""
    word = text.strip().lower()
    if word in ("today", "yesterday"):
        return _window(WindowKind.DAY, now_ms, now_ms, zone, back=int(word == "yesterday")).from_ms
    if word in _WEEKDAYS:
        return _weekday_ms(word, now_ms, zone)
    found = _DATE.fullmatch(word)
    return (
        _dated(text, found, MAX_INSTANT_MS, zone).from_ms
        if found
        else parse_instant(text, now_ms=now_ms, timezone=zone)
    )


def before(period: Period, zone: str) -> Period:
    """The period that `period` is compared with: the day, week or month before, as much of it as has passed of
    `period`; for any other span the one of the same length that ends where it begins."""
    length_ms = period.until_ms - period.from_ms
    if period.kind is WindowKind.NONE:
        return Period(max(period.from_ms - length_ms, 0), period.from_ms)
    start_ms = window_start_ms(period.kind, max(period.from_ms - 1, 0), zone)
    whole = period.until_ms == window_end_ms(period.kind, period.from_ms, zone)
    end_ms = period.from_ms if whole else min(start_ms + length_ms, period.from_ms)
    return Period(start_ms, end_ms, period.kind)


def steps(period: Period, kind: WindowKind, zone: str) -> Iterator[int]:
    """The starts of the hours, days, weeks or months that have a part in a period, in order."""
    start_ms = window_start_ms(kind, period.from_ms, zone)
    while start_ms < period.until_ms:
        yield start_ms
        start_ms = window_end_ms(kind, start_ms, zone)


def _window(kind: WindowKind, at_ms: int, now_ms: int, zone: str, *, back: int = 0) -> Period:
    """The calendar window of an instant, or an earlier one."""
    start_ms = window_start_ms(kind, at_ms, zone)
    for _ in range(back):
        start_ms = window_start_ms(kind, start_ms - 1, zone)
    return Period(start_ms, min(window_end_ms(kind, start_ms, zone), max(now_ms, start_ms + 1)), kind)


def _kind_of(from_ms: int, until_ms: int, zone: str) -> WindowKind:
    """The calendar window that a span is exactly."""
    for kind in _CALENDAR.values():
        if window_start_ms(kind, from_ms, zone) == from_ms and window_end_ms(kind, from_ms, zone) == until_ms:
            return kind
    return WindowKind.NONE


def _weekday_ms(word: str, now_ms: int, zone: str) -> int:
    """The start of the last day of this name that has begun."""
    start_ms = window_start_ms(WindowKind.DAY, now_ms, zone)
    for _ in range(7):
        if _local(start_ms, zone).weekday() == _WEEKDAYS.index(word):
            break
        start_ms = window_start_ms(WindowKind.DAY, start_ms - 1, zone)
    return start_ms


def _month_named(word: str, now_ms: int, zone: str) -> Period:
    """The last month of this name that has begun."""
    number = next(n for n, month in enumerate(_MONTHS, 1) if month.startswith(word))
    start_ms = window_start_ms(WindowKind.MONTH, now_ms, zone)
    while _local(start_ms, zone).month != number:
        start_ms = window_start_ms(WindowKind.MONTH, start_ms - 1, zone)
    return _window(WindowKind.MONTH, start_ms, now_ms, zone)


def _dated(text: str, found: re.Match[str], now_ms: int, zone: str) -> Period:
    """A year, a month or a day."""
    year, month, day = int(found[1]), int(found[2] or 1), int(found[3] or 1)
    try:  # noon exists everywhere
        noon_ms = instant_ms(datetime(year, month, day, 12, tzinfo=ZoneInfo(zone)))
        next_ms = instant_ms(datetime(year + 1, 1, 1, 12, tzinfo=ZoneInfo(zone)))
    except (ValueError, OverflowError):
        raise UsageError("time-invalid", f"{text!r} is no date", "write it like 2026-10-31, 2026-10 or 2026") from None
    if not 0 < noon_ms < MAX_INSTANT_MS or year < 1970:
        raise UsageError("time-out-of-range", f"{text!r} is out of range", "give a time from 1970 to 2199")
    if found[2]:
        return _window(WindowKind.DAY if found[3] else WindowKind.MONTH, noon_ms, now_ms, zone)
    start_ms = window_start_ms(WindowKind.MONTH, noon_ms, zone)
    end_ms = window_start_ms(WindowKind.MONTH, next_ms, zone)
    return Period(start_ms, min(end_ms, max(now_ms, start_ms + 1)))


def _local(at_ms: int, zone: str) -> datetime:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)).astimezone(ZoneInfo(zone))
