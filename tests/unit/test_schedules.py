"""Opening hours as operators write them, holidays, and the nights that clocks change."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capconduit.domain.schedules import (
    ALWAYS,
    DAYS,
    MAX_HOLIDAYS,
    MAX_HOLIDAYS_CHARS,
    MAX_HOURS_CHARS,
    MAX_RANGES_PER_DAY,
    NEVER,
    Opening,
    format_holidays,
    format_hours,
    is_open,
    next_change_ms,
    parse_holidays,
    parse_hours,
)
from capconduit.errors import UsageError
from capconduit.units import instant_ms

NEW_YORK = "America/New_York"
DAY_MS = 86_400_000


def opening(hours: str, holidays: str = "", zone: str = "UTC") -> Opening:
    return Opening(zone, parse_hours(hours), parse_holidays(holidays))


def local(text: str, zone: str = "UTC", fold: int = 0) -> int:
    return instant_ms(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold))


def utc(text: str) -> int:
    return instant_ms(datetime.fromisoformat(text).replace(tzinfo=UTC))


def open_times(schedule: Opening, *texts: str) -> list[bool]:
    return [is_open(schedule, local(text, schedule.zone)) for text in texts]


def changes(schedule: Opening, start_ms: int, count: int) -> list[int | None]:
    """The next `count` changes after an instant, each found from the one before."""
    found: list[int | None] = []
    at: int | None = start_ms
    for _ in range(count):
        at = next_change_ms(schedule, at) if at is not None else None
        found.append(at)
    return found


# --- hours as text ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("Mon-Fri 09:00-17:00; Sat 10:00-14:00", "Mon-Fri 09:00-17:00; Sat 10:00-14:00"),
        ("Mon,Wed 22:00-06:00", "Mon,Wed 22:00-06:00"),
        ("Mon-Sun 00:00-24:00", "always"),
        ("always", "always"),
        (" ALWAYS ", "always"),
        ("never", "never"),
        ("Mon-Fri 09:00-12:00,13:00-17:00", "Mon-Fri 09:00-12:00,13:00-17:00"),
        ("monday - FRIDAY 9:00 - 17:00 ;sat  10:00-14:00", "Mon-Fri 09:00-17:00; Sat 10:00-14:00"),
        ("Mon 13:00-17:00; Mon 09:00-12:00", "Mon 09:00-12:00,13:00-17:00"),
        ("Wed 09:00-17:00; Mon 09:00-17:00; Tue 10:00-11:00", "Mon,Wed 09:00-17:00; Tue 10:00-11:00"),
        ("Sat-Mon 09:00-17:00", "Mon,Sat-Sun 09:00-17:00"),
        ("Fri 22:00-00:00", "Fri 22:00-24:00"),
        ("Mon-Sun 06:00-05:59", "Mon-Sun 06:00-05:59"),
        ("Mon 09:00-12:00,12:00-17:00", "Mon 09:00-12:00,12:00-17:00"),
        ("Sun 22:00-06:00; Mon 06:00-08:00", "Mon 06:00-08:00; Sun 22:00-06:00"),
        ("Mon\t09:00-17:00;\n Tue 10:00-11:00", "Mon 09:00-17:00; Tue 10:00-11:00"),
    ],
)
def test_hours_have_one_canonical_text_that_reads_back(text: str, canonical: str) -> None:
    hours = parse_hours(text)
    assert format_hours(hours) == canonical
    assert parse_hours(canonical) == hours


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "''"),
        (";", "''"),
        ("Mon", "'Mon'"),
        ("Mon 09:00-17:00;", "''"),
        ("09:00-17:00", "'09:00-17:00'"),
        ("Funday 09:00-17:00", "'Funday'"),
        ("Mon-Funday 09:00-17:00", "'Mon-Funday'"),
        ("Mon- 09:00-17:00", "'Mon-09:00-17:00'"),
        ("Mon-Tue-Wed 09:00-17:00", "'Mon-Tue-Wed'"),
        ("Mo 09:00-17:00", "'Mo'"),
        ("always 09:00-17:00", "'always'"),
        ("Mon always", "'always'"),
        ("Mon 09:00", "'09:00'"),
        ("Mon 9-17", "'9'"),
        ("Mon 09:00-17:00-18:00", "'09:00-17:00-18:00'"),
        ("Mon 09:00-25:00", "'25:00'"),
        ("Mon 09:60-10:00", "'09:60'"),
        ("Mon 09:00-24:01", "'24:01'"),
        ("Mon 24:00-06:00", "'24:00-06:00'"),
        ("Mon ٠٩:00-17:00", "'٠٩:00'"),
        ("Mon 09:00-09:00", "'09:00-09:00'"),
        ("Mon 00:00-00:00", "'00:00-00:00'"),
        ("Mon 09:00-12:00,", "''"),
        ("Mon 09:00-12:00, Tue 09:00-12:00", "'Tue 09:00-12:00'"),
        ("Mon 09:00-17:00\x00", "'17:00\\x00'"),
    ],
)
def test_malformed_hours_are_told_with_the_word_that_is_wrong(text: str, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_hours(text)
    assert caught.value.slug == "hours-invalid"
    assert caught.value.message.startswith(named)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "twice"),
    [
        ("Mon 09:00-12:00,11:59-13:00", "Mon 11:59"),
        ("Mon-Fri 09:00-12:00; Wed 10:00-11:00", "Wed 10:00"),
        ("Mon,Mon 09:00-12:00", "Mon 09:00"),
        ("Mon 22:00-06:00; Tue 05:59-07:00", "Tue 05:59"),
        ("Sun 22:00-06:00; Mon 05:00-07:00", "Mon 05:00"),
        ("Mon 10:00-09:00,12:00-13:00", "Mon 12:00"),
        ("Mon-Sun 00:00-24:00; Sun 23:00-01:00", "Mon 00:00"),
    ],
)
def test_hours_that_overlap_are_told_with_the_time_that_is_open_twice(text: str, twice: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_hours(text)
    assert caught.value.message.endswith(f"is open twice at {twice}")


def test_the_longest_hours_that_are_taken_still_fit_as_canonical_text() -> None:
    ranges = [f"{hour:02d}:{day:02d}-{hour:02d}:59" for day in range(7) for hour in range(MAX_RANGES_PER_DAY)]
    per_day = [",".join(ranges[n * MAX_RANGES_PER_DAY : (n + 1) * MAX_RANGES_PER_DAY]) for n in range(7)]
    hours = parse_hours("; ".join(f"{day} {text}" for day, text in zip(DAYS, per_day, strict=True)))
    assert len(format_hours(hours)) <= MAX_HOURS_CHARS
    assert parse_hours(format_hours(hours)) == hours


def test_hours_without_end_are_refused() -> None:
    many = ",".join(f"{n // 60:02d}:{n % 60:02d}-{n // 60:02d}:{n % 60 + 1:02d}" for n in range(0, 50, 2))
    with pytest.raises(UsageError, match="25 ranges are too many for one day"):
        parse_hours(f"Mon {many}")
    with pytest.raises(UsageError, match="is too long"):
        parse_hours("Mon 09:00-17:00; " * 300)


# --- holidays as text ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", ""),
        ("  ", ""),
        ("2026-12-25; 2026-12-31 09:00-12:00; 12-25", "2026-12-25; 2026-12-31 09:00-12:00; 12-25"),
        ("12-25;01-01;2027-01-01;2026-12-31", "2026-12-31; 2027-01-01; 01-01; 12-25"),
        ("02-29", "02-29"),
        ("2028-02-29 10:00-11:00,9:00-9:30", "2028-02-29 09:00-09:30,10:00-11:00"),
        ("2026-12-31 22:00-02:00", "2026-12-31 22:00-02:00"),
        ("2026-12-31 18:00-24:00", "2026-12-31 18:00-24:00"),
    ],
)
def test_holidays_have_one_canonical_text_that_reads_back(text: str, canonical: str) -> None:
    holidays = parse_holidays(text)
    assert format_holidays(holidays) == canonical
    assert parse_holidays(canonical) == holidays


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2026-02-29", "'2026-02-29' does not exist"),
        ("02-30", "'02-30' does not exist"),
        ("13-01", "'13-01' does not exist"),
        ("0000-01-01", "'0000-01-01' does not exist"),
        ("1226-12-25", "'1226-12-25' is out of range"),
        ("2200-01-01", "'2200-01-01' is out of range"),
        ("christmas", "'christmas' is no date"),
        ("25.12.2026", "'25.12.2026' is no date"),
        ("2026-12-24-2026-12-26", "'2026-12-24-2026-12-26' is no date"),
        ("2026-1-1", "'2026-1-1' is no date"),
        ("12-25;", "'' is no date"),
        ("12-25; 12-25", "'12-25' is given twice"),
        ("2026-12-25; 2026-12-25 09:00-10:00", "'2026-12-25' is given twice"),
        ("12-25 closed", "'closed' is no range of hours"),
        ("12-25 09:00-25:00", "'25:00' is no time of day"),
        ("12-25 09:00-09:00", "'09:00-09:00' is an empty range"),
        ("12-25 09:00-12:00,11:00-13:00", "'12-25 09:00-12:00,11:00-13:00' is open twice at 11:00"),
    ],
)
def test_malformed_holidays_are_told_with_the_word_that_is_wrong(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_holidays(text)
    assert (caught.value.slug, caught.value.message) == ("holidays-invalid", message)
    assert caught.value.hint


def test_the_most_holidays_that_are_taken_still_fit_as_canonical_text() -> None:
    ranges = ",".join(f"{hour:02d}:00-{hour:02d}:59" for hour in range(MAX_RANGES_PER_DAY))
    dates = [f"2026-{1 + n // 28:02d}-{1 + n % 28:02d} {ranges}" for n in range(MAX_HOLIDAYS)]
    holidays = parse_holidays(";".join(dates))
    assert len(format_holidays(holidays)) <= MAX_HOLIDAYS_CHARS
    assert parse_holidays(format_holidays(holidays)) == holidays
    with pytest.raises(UsageError, match="201 holidays are too many"):
        parse_holidays(";".join([*dates, "12-25"]))


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.text(max_size=60), st.text("MonTueSat,-; :0123456789", max_size=60)))
def test_any_text_is_read_or_told_to_be_wrong(text: str) -> None:
    hints = []
    for parse in (parse_hours, parse_holidays):
        try:
            parse(text)
        except UsageError as error:
            hints.append(error.hint)
    assert all(hints), text


# --- open or closed --------------------------------------------------------------------------------------------------


def test_a_range_begins_inclusive_and_ends_exclusive() -> None:
    schedule = opening("Mon-Fri 09:00-17:00")
    monday = "2026-03-02"
    assert open_times(schedule, f"{monday}T08:59:59", f"{monday}T09:00", f"{monday}T16:59:59", f"{monday}T17:00") == [
        False, True, True, False,
    ]  # fmt: skip
    assert is_open(schedule, local(f"{monday}T17:00") - 1)
    assert open_times(schedule, "2026-03-06T12:00", "2026-03-07T12:00") == [True, False]


def test_an_overnight_range_belongs_to_the_day_it_begins_on() -> None:
    schedule = opening("Mon,Wed 22:00-06:00; Sun 23:00-01:00")
    assert open_times(schedule, "2026-03-02T22:00", "2026-03-03T05:59", "2026-03-03T06:00") == [True, True, False]
    assert open_times(schedule, "2026-03-03T22:00", "2026-03-02T05:59") == [False, False]
    assert open_times(schedule, "2026-03-01T23:30", "2026-03-02T00:30", "2026-03-02T01:00") == [True, True, False]


def test_hours_follow_the_zone_s_clock() -> None:
    schedule = opening("Mon-Fri 09:00-17:00", zone=NEW_YORK)
    assert is_open(schedule, utc("2026-03-06T14:00:00"))  # EST
    assert not is_open(schedule, utc("2026-03-06T13:59:59"))
    assert is_open(schedule, utc("2026-03-09T13:00:00"))  # EDT
    assert not is_open(schedule, utc("2026-03-09T21:00:00"))


def test_always_is_open_and_never_is_closed() -> None:
    at = local("2026-03-02T00:00")
    assert is_open(Opening("Asia/Tokyo", ALWAYS), at)
    assert not is_open(Opening("Asia/Tokyo", NEVER), at)
    assert next_change_ms(Opening("Asia/Tokyo", ALWAYS), at) is None
    assert next_change_ms(Opening("Asia/Tokyo", NEVER), at) is None


def test_a_holiday_closes_its_whole_local_date() -> None:
    schedule = opening("always", "2026-12-25", zone="Asia/Tokyo")
    assert open_times(schedule, "2026-12-24T23:59:59", "2026-12-25T00:00", "2026-12-25T23:59:59") == [
        True, False, False,
    ]  # fmt: skip
    assert is_open(schedule, local("2026-12-26T00:00", "Asia/Tokyo"))
    assert is_open(schedule, local("2027-12-25T12:00", "Asia/Tokyo"))


def test_a_holiday_s_own_hours_are_the_only_ones_of_its_date() -> None:
    schedule = opening("Mon-Sun 08:00-20:00", "2026-12-31 09:00-12:00")
    assert open_times(
        schedule, "2026-12-31T08:30", "2026-12-31T09:00", "2026-12-31T12:00", "2027-01-01T08:30"
    ) == [False, True, False, True]  # fmt: skip
    on_a_closed_day = opening("never", "2026-12-31 09:00-12:00")
    assert open_times(on_a_closed_day, "2026-12-31T10:00", "2026-12-30T10:00") == [True, False]


def test_a_holiday_ends_the_night_before_at_its_midnight() -> None:
    schedule = opening("Mon-Sun 22:00-06:00", "12-25")
    assert open_times(schedule, "2026-12-24T23:59:59", "2026-12-25T00:00", "2026-12-25T05:59") == [True, False, False]


def test_nothing_of_the_week_begins_on_a_holiday_so_the_morning_after_is_closed_too() -> None:
    schedule = opening("Mon-Sun 22:00-06:00,07:00-08:00", "12-25")
    assert open_times(
        schedule, "2026-12-25T22:00", "2026-12-26T00:00", "2026-12-26T05:59", "2026-12-26T07:00", "2026-12-26T22:00"
    ) == [False, False, False, True, True]  # fmt: skip


def test_a_holiday_s_own_night_runs_into_the_next_date_unless_that_is_a_holiday() -> None:
    schedule = opening("Mon-Fri 09:00-17:00", "2026-12-31 22:00-02:00")
    assert open_times(schedule, "2026-12-31T23:00", "2027-01-01T01:59", "2027-01-01T02:00", "2027-01-01T09:00") == [
        True, True, False, True,
    ]  # fmt: skip
    cut = opening("Mon-Fri 09:00-17:00", "2026-12-31 22:00-02:00; 01-01")
    assert open_times(cut, "2026-12-31T23:59", "2027-01-01T00:00", "2027-01-01T09:00") == [True, False, False]


def test_a_date_of_one_year_stands_before_that_of_every_year() -> None:
    schedule = opening("always", "12-25; 2026-12-25 10:00-12:00")
    assert open_times(schedule, "2025-12-25T11:00", "2026-12-25T11:00", "2026-12-25T13:00", "2027-12-25T11:00") == [
        False, True, False, False,
    ]  # fmt: skip


def test_a_29th_of_february_of_every_year_is_one_only_in_leap_years() -> None:
    schedule = opening("always", "02-29")
    assert open_times(schedule, "2028-02-28T12:00", "2028-02-29T12:00", "2028-03-01T12:00") == [True, False, True]
    assert open_times(schedule, "2027-02-28T12:00", "2027-03-01T12:00") == [True, True]


# --- the nights that clocks change -----------------------------------------------------------------------------------


def test_an_hour_that_is_skipped_does_not_occur() -> None:
    schedule = opening("Sun 02:00-03:00", zone=NEW_YORK)
    before, week = utc("2026-03-02T00:00:00"), 7 * DAY_MS
    skipped = utc("2026-03-08T07:00:00")  # 01:59:59 EST is followed by 03:00:00 EDT
    assert not any(is_open(schedule, skipped + minute * 60_000) for minute in range(-600, 600))
    assert next_change_ms(schedule, before) == utc("2026-03-15T06:00:00")
    assert next_change_ms(schedule, before - week) == utc("2026-03-01T07:00:00")


def test_a_range_about_a_skipped_hour_is_that_much_shorter() -> None:
    schedule = opening("Sun 01:30-03:30", zone=NEW_YORK)
    assert changes(schedule, utc("2026-03-08T00:00:00"), 2) == [utc("2026-03-08T06:30:00"), utc("2026-03-08T07:30:00")]


def test_a_range_that_ends_within_a_skipped_hour_ends_where_the_clock_jumps() -> None:
    schedule = opening("Sun 01:00-02:30", zone=NEW_YORK)
    assert changes(schedule, utc("2026-03-08T00:00:00"), 2) == [utc("2026-03-08T06:00:00"), utc("2026-03-08T07:00:00")]


def test_a_doubled_hour_is_open_both_times() -> None:
    schedule = opening("Sun 01:00-02:00", zone=NEW_YORK)
    assert changes(schedule, utc("2026-11-01T00:00:00"), 2) == [utc("2026-11-01T05:00:00"), utc("2026-11-01T07:00:00")]


def test_a_range_that_ends_within_a_doubled_hour_is_open_twice() -> None:
    schedule = opening("Sun 00:00-01:30", zone=NEW_YORK)
    assert changes(schedule, utc("2026-11-01T00:00:00"), 4) == [
        utc("2026-11-01T04:00:00"),  # 00:00 EDT
        utc("2026-11-01T05:30:00"),  # 01:30 EDT
        utc("2026-11-01T06:00:00"),  # 01:00 EST, again
        utc("2026-11-01T06:30:00"),  # 01:30 EST
    ]


def test_a_date_without_midnight_opens_at_its_first_instant() -> None:
    schedule = opening("Sun 00:00-06:00", zone="America/Havana")
    assert changes(schedule, utc("2026-03-08T00:00:00"), 2) == [utc("2026-03-08T05:00:00"), utc("2026-03-08T10:00:00")]


def test_a_holiday_on_a_date_with_two_midnights_is_closed_from_the_first() -> None:
    schedule = opening("always", "2026-11-01", zone="America/Havana")
    assert changes(schedule, utc("2026-10-01T00:00:00"), 3) == [
        utc("2026-11-01T04:00:00"),
        utc("2026-11-02T05:00:00"),
        None,
    ]


def test_a_clock_that_goes_back_before_midnight_returns_to_the_date_before() -> None:
    """In Nuuk 23:59:59 of the 24th is followed by 23:00 of the 24th."""
    schedule = opening("Sat 23:15-24:00", zone="America/Nuuk")
    assert changes(schedule, utc("2026-10-24T12:00:00"), 4) == [
        utc("2026-10-25T00:15:00"),
        utc("2026-10-25T01:00:00"),
        utc("2026-10-25T01:15:00"),
        utc("2026-10-25T02:00:00"),
    ]


# --- the next change -------------------------------------------------------------------------------------------------


def test_the_next_change_is_after_now_to_the_millisecond() -> None:
    schedule = opening("Mon-Fri 09:00-17:00")
    opens, closes = local("2026-03-02T09:00"), local("2026-03-02T17:00")
    assert next_change_ms(schedule, opens - 1) == opens
    assert next_change_ms(schedule, opens) == closes
    assert next_change_ms(schedule, closes - 1) == closes
    assert next_change_ms(schedule, closes) == opens + DAY_MS
    assert next_change_ms(schedule, local("2026-03-06T17:00")) == local("2026-03-09T09:00")


def test_ranges_that_touch_are_no_change() -> None:
    schedule = opening("Mon 09:00-12:00,12:00-24:00; Tue 00:00-05:00")
    assert next_change_ms(schedule, local("2026-03-02T10:00")) == local("2026-03-03T05:00")


def test_a_change_is_looked_for_400_days_ahead_and_no_farther() -> None:
    schedule = opening("never", "2027-06-01 10:00-11:00")
    opens = local("2027-06-01T10:00")
    assert next_change_ms(schedule, opens - 400 * DAY_MS) == opens
    assert next_change_ms(schedule, opens - 400 * DAY_MS - 1) is None
    assert next_change_ms(opening("never", "12-25; 2026-03-05"), local("2026-03-02T10:00")) is None
