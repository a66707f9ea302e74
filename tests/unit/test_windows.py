"""The nights that clocks change, in the places where they change at midnight; and plain days."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from capconduit.domain.windows import FOREVER_MS, HOUR_MS, window_end_ms, window_start_ms
from capconduit.units import instant_ms
from capconduit.vocab import WindowKind

HOURS = 3_600_000


def utc(text: str) -> int:
    return instant_ms(datetime.fromisoformat(text).replace(tzinfo=UTC))


def day(zone: str, date: str) -> tuple[int, int]:
    """Start and end of the day window that noon of `date` lies in."""
    noon = instant_ms(datetime.fromisoformat(f"{date}T12:00:00").replace(tzinfo=ZoneInfo(zone)))
    return window_start_ms(WindowKind.DAY, noon, zone), window_end_ms(WindowKind.DAY, noon, zone)


@pytest.mark.parametrize(
    ("zone", "date", "hours"),
    [
        ("America/New_York", "2026-03-08", 23),
        ("America/New_York", "2026-11-01", 25),
        ("America/New_York", "2026-03-07", 24),
        ("UTC", "2026-03-08", 24),
        ("Africa/Cairo", "2026-04-24", 23),
        ("America/Havana", "2026-03-08", 23),
        ("America/Havana", "2026-11-01", 25),
        ("America/Santiago", "2026-09-06", 23),
        ("Asia/Beirut", "2026-03-29", 23),
        ("Atlantic/Azores", "2026-03-29", 23),
        ("Atlantic/Azores", "2026-10-25", 25),
        ("Europe/Berlin", "2026-10-25", 25),
    ],
)
def test_a_day_is_a_local_date_and_not_24_hours(zone: str, date: str, hours: int) -> None:
    start, end = day(zone, date)
    assert end - start == hours * HOURS


@pytest.mark.parametrize(
    ("zone", "date", "start"),
    [
        # Local midnight does not exist: the day begins at 01:00, the first instant that does.
        ("Africa/Cairo", "2026-04-24", "2026-04-23T22:00:00"),
        ("America/Havana", "2026-03-08", "2026-03-08T05:00:00"),
        ("America/Santiago", "2026-09-06", "2026-09-06T04:00:00"),
        ("Asia/Beirut", "2026-03-29", "2026-03-28T22:00:00"),
        ("Atlantic/Azores", "2026-03-29", "2026-03-29T01:00:00"),
        # It comes twice: the day begins at the first.
        ("America/Havana", "2026-11-01", "2026-11-01T04:00:00"),
        ("Atlantic/Azores", "2026-10-25", "2026-10-25T00:00:00"),
    ],
)
def test_a_midnight_that_is_missing_or_doubled_begins_the_day_once(zone: str, date: str, start: str) -> None:
    begins = utc(start)
    assert day(zone, date)[0] == begins
    assert window_end_ms(WindowKind.DAY, begins - 1, zone) == begins
    assert window_start_ms(WindowKind.DAY, begins, zone) == begins
    local = datetime.fromtimestamp(begins // 1000, ZoneInfo(zone))
    assert local.date().isoformat() == date
    assert datetime.fromtimestamp(begins // 1000 - 1, ZoneInfo(zone)).date().isoformat() < date


def test_both_times_of_a_doubled_midnight_hour_belong_to_one_day() -> None:
    first, second = utc("2026-11-01T04:30:00"), utc("2026-11-01T05:30:00")  # 00:30 CDT and 00:30 CST in Havana
    assert window_start_ms(WindowKind.DAY, first, "America/Havana") == window_start_ms(
        WindowKind.DAY, second, "America/Havana"
    )


def test_the_two_hours_of_one_name_are_two_windows() -> None:
    first, second = utc("2026-11-01T05:30:00"), utc("2026-11-01T06:30:00")  # 01:30 EDT and 01:30 EST
    zone = "America/New_York"
    assert window_start_ms(WindowKind.HOUR, first, zone) == utc("2026-11-01T05:00:00")
    assert window_start_ms(WindowKind.HOUR, second, zone) == utc("2026-11-01T06:00:00")
    assert window_end_ms(WindowKind.HOUR, first, zone) == utc("2026-11-01T06:00:00")


def test_hours_of_zones_with_half_and_quarter_hours_begin_on_the_local_hour() -> None:
    now = utc("2026-05-01T10:20:00")
    assert window_start_ms(WindowKind.HOUR, now, "Asia/Kolkata") == utc("2026-05-01T09:30:00")
    assert window_start_ms(WindowKind.HOUR, now, "Asia/Kathmandu") == utc("2026-05-01T10:15:00")


def test_an_hour_is_cut_where_the_clock_changes_by_half_an_hour() -> None:
    zone = "Australia/Lord_Howe"  # 2026-04-05: 02:00 +11 becomes 01:30 +10:30
    change = utc("2026-04-04T15:00:00")
    assert window_end_ms(WindowKind.HOUR, change - 1, zone) == change
    assert window_start_ms(WindowKind.HOUR, change, zone) == change
    assert window_end_ms(WindowKind.HOUR, change, zone) == change + HOUR_MS // 2


def test_weeks_begin_on_monday() -> None:
    sunday = utc("2026-03-08T20:00:00")
    zone = "America/New_York"
    assert window_start_ms(WindowKind.WEEK, sunday, zone) == utc("2026-03-02T05:00:00")  # EST
    assert window_end_ms(WindowKind.WEEK, sunday, zone) == utc("2026-03-09T04:00:00")  # EDT: an hour shorter


def test_months_have_their_own_length() -> None:
    assert window_start_ms(WindowKind.MONTH, utc("2028-02-29T12:00:00"), "UTC") == utc("2028-02-01T00:00:00")
    assert window_end_ms(WindowKind.MONTH, utc("2028-02-29T12:00:00"), "UTC") == utc("2028-03-01T00:00:00")
    assert window_end_ms(WindowKind.MONTH, utc("2026-12-31T23:59:59"), "UTC") == utc("2027-01-01T00:00:00")


def test_the_last_millisecond_of_a_day_belongs_to_it() -> None:
    midnight = utc("2026-03-09T04:00:00")
    zone = "America/New_York"
    assert window_end_ms(WindowKind.DAY, midnight - 1, zone) == midnight
    assert window_start_ms(WindowKind.DAY, midnight, zone) == midnight


@pytest.mark.parametrize("kind", [WindowKind.NONE, WindowKind.TOTAL])
def test_windows_without_a_calendar_never_begin_and_never_end(kind: WindowKind) -> None:
    assert window_start_ms(kind, utc("2026-03-08T20:00:00"), "Asia/Tokyo") == 0
    assert window_end_ms(kind, utc("2026-03-08T20:00:00"), "Asia/Tokyo") == FOREVER_MS
