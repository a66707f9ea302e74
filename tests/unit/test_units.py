"""Money, durations and instants as text: what is read, what is refused, and that nothing is lost on the way."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capconduit.errors import ExitCode, UsageError
from capconduit.units import (
    MAX_INSTANT_MS,
    ceil_div,
    floor_div,
    format_duration,
    format_instant,
    format_micros,
    format_span,
    instant_ms,
    parse_duration_ms,
    parse_instant,
    parse_money,
    seconds_from_ms_ceil,
)

NOW = instant_ms(datetime(2026, 3, 11, 15, 30, 45, tzinfo=UTC))  # a Wednesday


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("25", 25_000_000),
        ("25.5", 25_500_000),
        ("25.50 USD", 25_500_000),
        ("25.50usd", 25_500_000),
        (" 0.000001 ", 1),
        ("0", 0),
        ("999999999999.999999", 999_999_999_999_999_999),
    ],
)
def test_money_is_read_exactly(text: str, micros: int) -> None:
    assert parse_money(text) == micros


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "abc",
        "1,50",
        "1.2345678",
        "1e3",
        "1.",
        ".5",
        "--1",
        "1 2",
        "$5",
        "5 USDT",
        "1000000000000",
        "NaN",
        "0x10",
    ],
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_money(text)
    assert caught.value.slug == "amount-invalid"
    assert caught.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize("text", ["٢٥", "२५.५", "２５"])
def test_digits_of_other_scripts_are_no_amount(text: str) -> None:
    with pytest.raises(UsageError):
        parse_money(text)


def test_a_sign_must_be_asked_for() -> None:
    with pytest.raises(UsageError):
        parse_money("-5")
    assert parse_money("-5", signed=True) == -5_000_000
    assert parse_money("+5", signed=True) == 5_000_000


def test_a_named_currency_must_be_the_account_s() -> None:
    assert parse_money("5 usd", currency="USD") == 5_000_000
    with pytest.raises(UsageError) as caught:
        parse_money("5 EUR", currency="USD")
    assert caught.value.slug == "currency-mismatch"


@given(st.integers(-(10**18) + 1, 10**18 - 1))
def test_money_written_and_read_is_the_same(micros: int) -> None:
    assert parse_money(format_micros(micros), signed=True) == micros
    assert parse_money(format_micros(micros, trim=True), signed=True) == micros


def test_trimmed_money_keeps_two_places() -> None:
    assert format_micros(24_800_000) == "24.800000"
    assert format_micros(24_800_000, trim=True) == "24.80"
    assert format_micros(24_812_345, trim=True) == "24.812345"
    assert format_micros(-500_000, trim=True) == "-0.50"


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [
        ("90", 90_000),
        ("90s", 90_000),
        ("1m30s", 90_000),
        ("2h", 7_200_000),
        ("500ms", 500),
        ("1 h 5 m", 3_900_000),
        ("1d", 86_400_000),
    ],
)
def test_durations_are_read(text: str, duration_ms: int) -> None:
    assert parse_duration_ms(text) == duration_ms


@pytest.mark.parametrize("text", ["", "abc", "-5s", "1.5h", "5x", "s", "5s!", "1m 30", "1234567890", "٩s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_duration_ms(text)


@pytest.mark.parametrize(
    ("duration_ms", "text"),
    [
        (0, "0ms"),
        (350, "350ms"),
        (4_200, "4.2s"),
        (4_050, "4s"),
        (59_999, "59.9s"),
        (60_000, "1m00s"),
        (90_000, "1m30s"),
        (3_723_000, "1h02m03s"),
        (-90_000, "-1m30s"),
    ],
)
def test_durations_are_written_for_people(duration_ms: int, text: str) -> None:
    assert format_duration(duration_ms) == text


@given(st.integers(0, MAX_INSTANT_MS - 1))
def test_instants_written_and_read_are_the_same(at_ms: int) -> None:
    assert parse_instant(format_instant(at_ms), now_ms=NOW) == at_ms


@pytest.mark.parametrize(
    ("text", "zone", "iso"),
    [
        ("now", "UTC", "2026-03-11T15:30:45"),
        ("today", "UTC", "2026-03-11T00:00:00"),
        ("today", "America/New_York", "2026-03-11T04:00:00"),
        ("yesterday", "America/New_York", "2026-03-10T04:00:00"),
        ("Monday", "UTC", "2026-03-09T00:00:00"),
        ("wednesday", "UTC", "2026-03-11T00:00:00"),
        ("thursday", "UTC", "2026-03-05T00:00:00"),
        ("sunday", "America/New_York", "2026-03-08T05:00:00"),  # before the change of that night
        ("-2h", "UTC", "2026-03-11T13:30:45"),
        ("-90s", "UTC", "2026-03-11T15:29:15"),
        ("+2h", "UTC", "2026-03-11T17:30:45"),
        ("tomorrow", "America/New_York", "2026-03-12T04:00:00"),
        ("tomorrow 09:05", "America/New_York", "2026-03-12T13:05:00"),
        ("Monday 9:00", "UTC", "2026-03-09T09:00:00"),
        ("sunday 14:30", "America/New_York", "2026-03-08T18:30:00"),
        ("todayT23:59", "UTC", "2026-03-11T23:59:00"),
        ("2026-03-08", "America/New_York", "2026-03-08T05:00:00"),
        ("2026-03-08T14:30", "America/New_York", "2026-03-08T18:30:00"),
        ("2026-03-08T14:30+02:00", "America/New_York", "2026-03-08T12:30:00"),
        ("2026-03-08T14:30:00Z", "Asia/Tokyo", "2026-03-08T14:30:00"),
    ],
)
def test_times_are_read_as_people_write_them(text: str, zone: str, iso: str) -> None:
    expected = instant_ms(datetime.fromisoformat(iso).replace(tzinfo=UTC))
    assert parse_instant(text, now_ms=NOW, timezone=zone) == expected


def test_today_begins_at_the_first_of_two_midnights_even_after_the_second() -> None:
    after_both = instant_ms(datetime(2026, 11, 1, 5, 30, tzinfo=UTC))  # 00:30 in Havana, for the second time
    first_midnight = instant_ms(datetime(2026, 11, 1, 4, 0, tzinfo=UTC))
    for word in ("today", "sunday"):
        assert parse_instant(word, now_ms=after_both, timezone="America/Havana") == first_midnight


@pytest.mark.parametrize(
    "text",
    [
        "", "noon", "2026-13-01", "-2x", "--2h", "+-2h", "tomorrow 24:00", "tomorrow 9", "now 09:00", "someday 09:00",
        "-٢h", "-99999999999999999999h",
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_instant(text, now_ms=NOW)
    assert caught.value.slug == "time-invalid"


@settings(max_examples=300)
@given(st.integers(-(10**20), 10**20), st.integers(1, 10**6))
def test_division_says_which_way_it_rounds(numerator: int, denominator: int) -> None:
    up, down = ceil_div(numerator, denominator), floor_div(numerator, denominator)
    assert (up - 1) * denominator < numerator <= up * denominator
    assert down * denominator <= numerator < (down + 1) * denominator


def test_a_started_second_counts() -> None:
    assert [seconds_from_ms_ceil(ms) for ms in (0, 1, 999, 1_000, 1_001)] == [0, 1, 1, 1, 2]


@given(st.integers(1, 10**12))
def test_a_span_is_read_back_as_it_was_written(duration_ms: int) -> None:
    assert parse_duration_ms(format_span(duration_ms)) == duration_ms


def test_a_span_names_no_unit_that_is_zero() -> None:
    assert [format_span(ms) for ms in (3_600_000, 604_800_000, 5_400_000, 90_000, 1, 0)] == [
        "1h", "7d", "1h30m", "1m30s", "1ms", "0s",
    ]  # fmt: skip
