"""Opening hours and holidays: what an operator writes, whether it is open at an instant, and when that changes.

Hours are wall-clock times in an IANA zone, from inclusive, to exclusive: it is open at an instant when the local time
lies in a range of the local date, or in the morning part of a range that began on the date before. So a skipped hour
does not occur, and a doubled one is open both times.

A holiday is a local date with hours of its own, or none. Only they count on it, not even the morning part of the night
before; and nothing of the week begins on it, so the morning after it is open only by what began on the holiday itself.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Final
from zoneinfo import ZoneInfo

from capconduit.errors import UsageError

# Minutes from midnight of the date a range begins on, from inclusive, to exclusive; to > 1,440: it ends on the next.
Range = tuple[int, int]

SEARCH_DAYS: Final = 400  # how far ahead a change is looked for: every day of the year is seen, save 02-29
MAX_RANGES_PER_DAY: Final = 24
MAX_HOLIDAYS: Final = 200
MAX_HOURS_CHARS: Final = 4_000  # with the bounds above the canonical text always fits
MAX_HOLIDAYS_CHARS: Final = 65_536
FIRST_YEAR: Final = 1970  # of a dated holiday; instants of other years do not occur (units.MAX_INSTANT_MS)
LAST_YEAR: Final = 2199

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_LONG_DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DAY_NUMBERS: Final = {name.lower(): number for names in (DAYS, _LONG_DAYS) for number, name in enumerate(names)}
_DAY: Final = 1_440  # minutes
_WEEK: Final = 7 * _DAY
_DAY_S: Final = 86_400
_ONE_DAY: Final = timedelta(days=1)
_EPOCH: Final = date(1970, 1, 1).toordinal()
_A_LEAP_YEAR: Final = 2000  # in which every day of every year exists
_YEARLY: Final = 10_000  # holiday keys below are MMDD, others YYYYMMDD
_SHOWN_CHARS: Final = 80  # of an offending text in a message

_RANGE = re.compile(r"([^- ]+)-([^- ]+)")
_TIME = re.compile(r"([0-9]{1,2}):([0-9]{2})")
_DATE = re.compile(r"(?:([0-9]{4})-)?([0-9]{2})-([0-9]{2})")
_HOURS_FORM: Final = "write them like Mon-Fri 09:00-12:00,13:00-17:00; Sat 22:00-06:00, or always, or never"
_HOLIDAYS_FORM: Final = "write them like 2026-12-25; 2026-12-31 09:00-12:00; 12-25"


def _pieces(days: Sequence[Sequence[Range]]) -> list[Range]:
    """All ranges as minutes of the week, in order; one that runs past its end is cut there."""
    pieces = []
    for number, ranges in enumerate(days):
        for start, end in ranges:
            pieces.append((number * _DAY + start, min(number * _DAY + end, _WEEK)))
            if number * _DAY + end > _WEEK:
                pieces.append((0, number * _DAY + end - _WEEK))
    return sorted(pieces)


@dataclass(frozen=True, slots=True)
class Hours:
    """The ranges of each weekday, Monday first, in order; parse_hours makes them."""

    days: tuple[tuple[Range, ...], ...]
    edges: tuple[int, ...] = field(init=False, compare=False, repr=False)  # minutes of the week: opens, closes, opens …

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", tuple(minute for piece in _pieces(self.days) for minute in piece))


@dataclass(frozen=True, slots=True)
class Holidays:
    """Dates with the hours that count on them, none being closed; parse_holidays makes them.

    A date is the number YYYYMMDD, or MMDD for every year; where both name a date, the year's own counts.
    """

    dates: tuple[tuple[int, tuple[Range, ...]], ...] = ()
    index: dict[int, tuple[Range, ...]] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", dict(self.dates))

    def on(self, day: date) -> tuple[Range, ...] | None:
        """The holiday's own ranges, empty where it is closed; None where `day` is no holiday."""
        yearly = day.month * 100 + day.day
        own = self.index.get(day.year * _YEARLY + yearly)
        return self.index.get(yearly) if own is None else own


ALWAYS: Final = Hours((((0, _DAY),),) * 7)
NEVER: Final = Hours(((),) * 7)
NO_HOLIDAYS: Final = Holidays()


@dataclass(frozen=True, slots=True)
class Opening:
    """When something is open. `zone` is an IANA name that exists."""

    zone: str
    hours: Hours
    holidays: Holidays = NO_HOLIDAYS


# --- asked -----------------------------------------------------------------------------------------------------------


def is_open(opening: Opening, now_ms: int) -> bool:
    """Whether it is open at an instant. On the way of every call: one conversion of the clock, one search."""
    local = datetime.fromtimestamp(now_ms // 1_000, _zone(opening.zone))
    minute = local.hour * 60 + local.minute
    weekday = local.weekday()
    if opening.holidays.dates:
        today = local.date()
        own = opening.holidays.on(today)
        if own is not None:
            return _within(own, minute)
        eve = opening.holidays.on(today - _ONE_DAY)
        if eve is not None:  # nothing of the week began yesterday
            return _within(opening.hours.days[weekday], minute) or _within(eve, minute + _DAY)
    return bisect_right(opening.hours.edges, weekday * _DAY + minute) % 2 == 1


def next_change_ms(opening: Opening, now_ms: int) -> int | None:
    """The first instant after `now_ms` at which it opens or closes; None where that is not within SEARCH_DAYS."""
    if not opening.holidays.dates and opening.hours in (ALWAYS, NEVER):
        return None
    state = is_open(opening, now_ms)
    until_ms = now_ms + SEARCH_DAYS * _DAY_S * 1_000
    for instant_s in _possible_changes_s(opening, now_ms // 1_000, until_ms // 1_000):
        if is_open(opening, instant_s * 1_000) is not state:
            return instant_s * 1_000
    return None


def _possible_changes_s(opening: Opening, low: int, until: int) -> Iterator[int]:
    """The instants of [low, until], in order, at which it may open or close: edges of ranges, changes of the clock.

    All are whole seconds, and in the second of `low` it is as it was.
    """
    zone = _zone(opening.zone)
    while low <= until:
        yield low
        high, offset = _steady_until_s(low, zone), _offset_s(low, zone)
        for day in range((low + offset) // _DAY_S, (high + offset - 1) // _DAY_S + 1):
            for minute in _edges_of(opening, date.fromordinal(_EPOCH + day)):
                instant = day * _DAY_S + minute * 60 - offset
                if low < instant < high and instant <= until:
                    yield instant
        low = high


def _steady_until_s(low: int, zone: ZoneInfo) -> int:
    """The end of a stretch from `low`, a day at most, in which the clock does not change.

    Looking a day ahead misses nothing: no zone of the tz database has two changes within a day since 1970.
    """
    high, offset = low + _DAY_S, _offset_s(low, zone)
    if _offset_s(high, zone) == offset:
        return high
    return low + bisect_left(range(low, high), True, key=lambda instant: _offset_s(instant, zone) != offset)


def _edges_of(opening: Opening, day: date) -> list[int]:
    """The minutes of a local date at which it may open or close, midnight among them."""
    today, eve = _ranges_on(opening, day), _ranges_on(opening, day - _ONE_DAY)
    minutes = {0, *(m for span in today for m in span), *(m - _DAY for span in eve for m in span)}
    return sorted(m for m in minutes if 0 <= m < _DAY)


def _ranges_on(opening: Opening, day: date) -> tuple[Range, ...]:
    """The ranges that begin on a local date."""
    own = opening.holidays.on(day)
    return opening.hours.days[day.weekday()] if own is None else own


def _within(ranges: Iterable[Range], minute: int) -> bool:
    return any(start <= minute < end for start, end in ranges)


def _offset_s(instant_s: int, zone: ZoneInfo) -> int:
    offset = datetime.fromtimestamp(instant_s, zone).utcoffset() or timedelta()
    return offset.days * _DAY_S + offset.seconds


@lru_cache(maxsize=1_024)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)  # which keeps only the last eight by itself


# --- read ------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1_024)  # campaigns and targets share few texts
def parse_hours(text: str) -> Hours:
    """Hours of `Mon-Fri 09:00-12:00,13:00-17:00; Sat 22:00-06:00`, `always` or `never`. Raises UsageError.

    A range that does not end after it begins goes on into the next day. Days may be named more than once, ranges may
    touch and not overlap.
    """
    compact = _compact(text, MAX_HOURS_CHARS, "hours-invalid")
    if compact.lower() in ("always", "never"):
        return ALWAYS if compact.lower() == "always" else NEVER
    days: list[list[Range]] = [[] for _ in DAYS]
    for clause in compact.split(";"):
        names, _, ranges = clause.strip().partition(" ")
        if not ranges:
            raise UsageError("hours-invalid", f"{_shown(clause.strip())} is not a day with its hours", _HOURS_FORM)
        spans = _ranges(ranges, "hours-invalid")
        for number in _days(names):
            days[number] += spans
    for (_, end), (start, _) in pairwise(_pieces(days)):
        if start < end:
            twice = f"{DAYS[start // _DAY]} {_clock(start % _DAY)}"
            raise UsageError(
                "hours-invalid", f"{_shown(text)} is open twice at {twice}", "write ranges that do not overlap"
            )
    return Hours(tuple(_bounded(ranges, "hours-invalid") for ranges in days))


@lru_cache(maxsize=256)
def parse_holidays(text: str) -> Holidays:
    """Holidays of `2026-12-25; 2026-12-31 09:00-12:00; 12-25`; an empty text is none. Raises UsageError.

    A date alone is closed all day; one without a year comes every year (02-29 when it exists).
    """
    compact = _compact(text, MAX_HOLIDAYS_CHARS, "holidays-invalid")
    dates: dict[int, tuple[Range, ...]] = {}
    for clause in compact.split(";") if compact else ():
        day, _, ranges = clause.strip().partition(" ")
        key = _date_key(day)
        if key in dates:
            raise UsageError("holidays-invalid", f"{_shown(day)} is given twice", "write each date once")
        dates[key] = _bounded(_ranges(ranges, "holidays-invalid"), "holidays-invalid") if ranges else ()
        for (_, end), (start, _) in pairwise(dates[key]):
            if start < end:
                raise UsageError(
                    "holidays-invalid",
                    f"{_shown(clause.strip())} is open twice at {_clock(start)}",
                    "write ranges that do not overlap",
                )
    if len(dates) > MAX_HOLIDAYS:
        raise UsageError(
            "holidays-invalid", f"{len(dates)} holidays are too many", f"give at most {MAX_HOLIDAYS}; drop those past"
        )
    return Holidays(tuple(sorted(dates.items(), key=lambda item: (item[0] < _YEARLY, item[0]))))


def _compact(text: str, most_chars: int, slug: str) -> str:
    """`text` with single spaces, and none about `-` and `,`."""
    if len(text) > most_chars:
        raise UsageError(slug, f"{_shown(text)} is too long", f"write at most {most_chars} characters")
    return re.sub(r" ?([-,]) ?", r"\1", " ".join(text.split()))


def _days(names: str) -> Iterator[int]:
    """Weekday numbers of `Mon`, `Mon,Wed`, `Mon-Fri` or `Sat-Mon`."""
    for part in names.split(","):
        first, dash, last = part.lower().partition("-")
        begin, end = _DAY_NUMBERS.get(first), _DAY_NUMBERS.get(last if dash else first)
        if begin is None or end is None:
            raise UsageError(
                "hours-invalid", f"{_shown(part)} is no day of the week", f"write {', '.join(DAYS)}, or Mon-Fri"
            )
        yield from ((begin + ahead) % 7 for ahead in range((end - begin) % 7 + 1))


def _ranges(text: str, slug: str) -> list[Range]:
    ranges = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if not match:
            raise UsageError(
                slug, f"{_shown(part)} is no range of hours", "write it like 09:00-17:00, and ; before the next day"
            )
        start, end = _minute(match[1], slug), _minute(match[2], slug)
        if start in (end, _DAY):
            raise UsageError(
                slug, f"{_shown(part)} is an empty range", "write 00:00-24:00 for a whole day, or leave it out"
            )
        ranges.append((start, end if end > start else end + _DAY))
    return ranges


def _minute(text: str, slug: str) -> int:
    match = _TIME.fullmatch(text)
    hour, minute = (int(match[1]), int(match[2])) if match else (99, 99)
    if minute > 59 or hour * 60 + minute > _DAY:
        raise UsageError(slug, f"{_shown(text)} is no time of day", "write it from 00:00 to 24:00")
    return hour * 60 + minute


def _bounded(ranges: Sequence[Range], slug: str) -> tuple[Range, ...]:
    if len(ranges) > MAX_RANGES_PER_DAY:
        raise UsageError(
            slug, f"{len(ranges)} ranges are too many for one day", f"write at most {MAX_RANGES_PER_DAY} a day"
        )
    return tuple(sorted(ranges))


def _date_key(text: str) -> int:
    match = _DATE.fullmatch(text)
    if not match:
        raise UsageError("holidays-invalid", f"{_shown(text)} is no date", _HOLIDAYS_FORM)
    year, month, day = int(match[1] or _A_LEAP_YEAR), int(match[2]), int(match[3])
    try:
        date(year, month, day)
    except ValueError:
        raise UsageError("holidays-invalid", f"{_shown(text)} does not exist", "give a date of the calendar") from None
    if not FIRST_YEAR <= year <= LAST_YEAR:
        raise UsageError(
            "holidays-invalid", f"{_shown(text)} is out of range", f"give a year from {FIRST_YEAR} to {LAST_YEAR}"
        )
    return (year * _YEARLY if match[1] else 0) + month * 100 + day


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…")


# --- written ---------------------------------------------------------------------------------------------------------


def format_hours(hours: Hours) -> str:
    """The canonical text: days of the same hours together, in the order of the week. parse_hours reads it back."""
    if hours in (ALWAYS, NEVER):
        return "always" if hours == ALWAYS else "never"
    numbers_by_ranges: dict[tuple[Range, ...], list[int]] = {}
    for number, ranges in enumerate(hours.days):
        if ranges:
            numbers_by_ranges.setdefault(ranges, []).append(number)
    return "; ".join(f"{_written_days(n)} {_written_ranges(r)}" for r, n in numbers_by_ranges.items())


def format_holidays(holidays: Holidays) -> str:
    """The canonical text: dates in order, then those of every year. parse_holidays reads it back."""
    return "; ".join(f"{_written_date(key)} {_written_ranges(ranges)}".rstrip() for key, ranges in holidays.dates)


def _written_days(numbers: Sequence[int]) -> str:
    """`Mon,Wed-Fri`: days in a row as one span."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(DAYS[a] if a == b else f"{DAYS[a]}-{DAYS[b]}" for a, b in spans)


def _written_ranges(ranges: Sequence[Range]) -> str:
    return ",".join(f"{_clock(start)}-{_clock(end)}" for start, end in ranges)


def _written_date(key: int) -> str:
    year, month_day = divmod(key, _YEARLY)
    month, day = divmod(month_day, 100)
    return f"{year:04d}-{month:02d}-{day:02d}" if year else f"{month:02d}-{day:02d}"


def _clock(minute: int) -> str:
    """`HH:MM` of a minute; of the next day's as that day's, and 24:00 for the midnight between."""
    hour, rest = divmod(minute if minute <= _DAY else minute - _DAY, 60)
    return f"{hour:02d}:{rest:02d}"
