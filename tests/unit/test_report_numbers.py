"""Sums, measures, periods and thresholds of reports: exact, and meaningless where there is nothing to tell."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capconduit.domain.periods import Period, before, parse_period, parse_span, steps
from capconduit.domain.rollups import Sums
from capconduit.domain.stats import MEASURES, Group, Line, change_percent, lines_of, merged, rekeyed, rounded, value_of
from capconduit.domain.thresholds import crossings, parse_threshold
from capconduit.errors import UsageError
from capconduit.units import format_instant, instant_ms
from capconduit.vocab import WindowKind

NEW_YORK, KATHMANDU, HAVANA = "America/New_York", "Asia/Kathmandu", "America/Havana"


def at(text: str, zone: str = "UTC") -> int:
    return instant_ms(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)))


NOW = at("2026-11-21T21:07:33")  # a Saturday


# Measures


def line(**sums: int) -> Line:
    return Line((), "USD", Sums(**sums))


def test_measures_are_what_is_documented() -> None:
    told = line(
        calls=10, attempted=8, connected=4, billable=3, rejected=3, rang=6, pdd_ms=9_000, talk_ms=600_000, billed_s=660,
        amount_micros=3_000_000, payout_micros=1_000_000, written_off_micros=5,
    )  # fmt: skip
    assert {name: value_of(name, told) for name in MEASURES} == {
        "calls": 10, "attempted": 8, "connected": 4, "billable": 3, "rejected": 3, "unanswered": 3, "asr": 50,
        "abr": 40, "acd": 150_000, "pdd": 1_500, "minutes": 10, "billed_minutes": 11, "revenue": 3_000_000,
        "payout": 1_000_000, "margin": 2_000_000, "margin_percent": Fraction(200, 3), "written_off": 5,
    }  # fmt: skip


def test_a_ratio_of_nothing_has_no_value() -> None:
    empty = line()
    assert {name for name in MEASURES if value_of(name, empty) is None} == {
        "asr", "abr", "acd", "pdd", "margin_percent",
    }  # fmt: skip


@given(st.fractions(min_value=-(10**15), max_value=10**15), st.integers(0, 3))
def test_rounding_is_half_away_from_zero(value: Fraction, places: int) -> None:
    found = rounded(value, places)
    assert abs(Fraction(found, 10**places) - value) <= Fraction(1, 2 * 10**places)
    assert rounded(-value, places) == -found
    assert rounded(Fraction(5, 10 ** (places + 1)), places) == 1


def test_a_change_from_nothing_is_none() -> None:
    assert change_percent(Fraction(5), Fraction(0)) is None
    assert change_percent(None, Fraction(4)) is None
    assert change_percent(Fraction(6), Fraction(4)) == 50
    assert change_percent(Fraction(-6), Fraction(-4)) == -50, "a loss that grew is worse"


# Lines


def group(key: str, currency: str, calls: int) -> Group:
    return Group((key,), currency, Sums(calls=calls, amount_micros=calls * 1_000_000))


def test_different_currencies_are_never_added() -> None:
    found = lines_of([group("a", "USD", 3), group("a", "EUR", 4), group("a", "", 1)], overall=True)
    assert [(one.currency, one.sums.calls, one.mixed) for one in found] == [
        ("", 8, True), ("EUR", 4, False), ("USD", 3, False), ("", 1, False),
    ]  # fmt: skip
    assert value_of("revenue", found[0]) is None
    assert value_of("margin_percent", found[0]) is None
    assert value_of("calls", found[0]) == 8


def test_calls_without_a_currency_belong_to_the_only_one() -> None:
    (only,) = lines_of([group("a", "USD", 3), group("a", "", 1)], [group("a", "", 2)])
    assert (only.currency, only.sums.calls, only.before) == ("USD", 4, Sums(calls=2, amount_micros=2_000_000))


def test_what_was_there_before_alone_is_a_line_too() -> None:
    found = lines_of([group("a", "USD", 3)], [group("b", "USD", 2)])
    assert [(one.key, one.sums.calls, one.before.calls if one.before else None) for one in found] == [
        (("a",), 3, 0), (("b",), 0, 2),
    ]  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["USD", "EUR", ""]), st.integers(0, 99))))
def test_nothing_is_lost_or_counted_twice(parts: list[tuple[str, str, int]]) -> None:
    groups = [group(*part) for part in parts]
    total = sum(part[2] for part in parts)
    assert sum(one.sums.calls for one in merged(groups)) == total
    assert sum(one.sums.calls for one in rekeyed(groups, lambda _: ())) == total
    assert sum(one.sums.calls for one in lines_of(groups)) == total


# Periods


@pytest.mark.parametrize(
    ("text", "zone", "start", "end"),
    [
        ("today", "UTC", "2026-11-21T00:00", "2026-11-21T21:07:33"),
        ("today", NEW_YORK, "2026-11-21T05:00", "2026-11-21T21:07:33"),
        ("yesterday", KATHMANDU, "2026-11-20T18:15", "2026-11-21T18:15"),
        ("-7d", "UTC", "2026-11-14T21:07:33", "2026-11-21T21:07:33"),
        ("12h", "UTC", "2026-11-21T09:07:33", "2026-11-21T21:07:33"),
        ("week", "UTC", "2026-11-16T00:00", "2026-11-21T21:07:33"),
        ("last-week", "UTC", "2026-11-09T00:00", "2026-11-16T00:00"),
        ("month", "UTC", "2026-11-01T00:00", "2026-11-21T21:07:33"),
        ("last-month", NEW_YORK, "2026-10-01T04:00", "2026-11-01T04:00"),
        ("monday", "UTC", "2026-11-16T00:00", "2026-11-21T21:07:33"),
        ("saturday", "UTC", "2026-11-21T00:00", "2026-11-21T21:07:33"),
        ("november", "UTC", "2026-11-01T00:00", "2026-11-21T21:07:33"),
        ("dec", "UTC", "2025-12-01T00:00", "2026-01-01T00:00"),
        ("2026-10", NEW_YORK, "2026-10-01T04:00", "2026-11-01T04:00"),
        ("2026-10-31", "UTC", "2026-10-31T00:00", "2026-11-01T00:00"),
        ("2025", "UTC", "2025-01-01T00:00", "2026-01-01T00:00"),
        ("2026-11-01", NEW_YORK, "2026-11-01T04:00", "2026-11-02T05:00"),  # 25 hours
        ("2026-03-08", HAVANA, "2026-03-08T05:00", "2026-03-09T04:00"),  # without a midnight, 23 hours
    ],
)
def test_a_period_is_what_people_mean_by_it(text: str, zone: str, start: str, end: str) -> None:
    found = parse_period(text, NOW, zone)
    assert [format_instant(found.from_ms), format_instant(found.until_ms)] == [
        format_instant(at(start)), format_instant(at(end)),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "tomorow", "2026-13", "2026-02-30", "0000", "9999-01", "-", "7y", "last-year "])
def test_what_is_no_period_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_period(text, NOW, "UTC")


@pytest.mark.parametrize(
    ("text", "zone", "start", "end"),
    [
        ("today", "UTC", "2026-11-20T00:00", "2026-11-20T21:07:33"),  # as much of it as of today
        ("yesterday", "UTC", "2026-11-19T00:00", "2026-11-20T00:00"),
        ("last-month", "UTC", "2026-09-01T00:00", "2026-10-01T00:00"),
        ("2026-03", "UTC", "2026-02-01T00:00", "2026-03-01T00:00"),
        ("7d", "UTC", "2026-11-07T21:07:33", "2026-11-14T21:07:33"),
        ("2026-11-02", NEW_YORK, "2026-11-01T04:00", "2026-11-02T05:00"),
    ],
)
def test_the_period_before(text: str, zone: str, start: str, end: str) -> None:
    earlier = before(parse_period(text, NOW, zone), zone)
    assert [format_instant(earlier.from_ms), format_instant(earlier.until_ms)] == [
        format_instant(at(start)), format_instant(at(end)),
    ]  # fmt: skip


def test_a_span_of_times() -> None:
    found = parse_span("2026-11-20", "2026-11-21", NOW, "UTC")
    assert found == Period(at("2026-11-20"), at("2026-11-21"), WindowKind.DAY)
    assert parse_span("-2h", None, NOW, "UTC") == Period(NOW - 7_200_000, NOW)
    with pytest.raises(UsageError, match="not after"):
        parse_span("2026-11-21", "2026-11-20", NOW, "UTC")
    with pytest.raises(UsageError):
        parse_span("soon", None, NOW, "UTC")


def test_the_night_when_clocks_are_set_back_has_two_hours_of_one_name() -> None:
    night = parse_period("2026-11-01", NOW, NEW_YORK)
    starts = list(steps(night, WindowKind.HOUR, NEW_YORK))
    assert len(starts) == 25
    named = [datetime.fromtimestamp(s // 1_000, UTC).astimezone(ZoneInfo(NEW_YORK)).hour for s in starts]
    assert named[:4] == [0, 1, 1, 2]


# Thresholds


@pytest.mark.parametrize(
    ("text", "crossed"),
    [
        ("asr<40", False), ("asr<50.1", True), ("asr <= 50%", True), ("asr<50", False), ("ASR>=50", True),
        ("acd<3m", True), ("acd>150", False), ("acd=150", True), ("pdd>1500ms", False), ("pdd!=1s", True),
        ("revenue<3.01", True), ("margin>1.99 USD", True), ("margin>1.99 EUR", False), ("margin>1.99USD", True),
        ("calls=10", True), ("calls==9", False), ("minutes<10.5", True), ("margin_percent<66.7", True),
        ("margin>-5", True),
    ],
)  # fmt: skip
def test_thresholds(text: str, crossed: bool) -> None:
    told = line(
        calls=10, attempted=8, connected=4, rang=6, pdd_ms=9_000, talk_ms=600_000, amount_micros=3_000_000,
        payout_micros=1_000_000,
    )  # fmt: skip
    assert [one.text for one, _ in crossings([parse_threshold(text)], [told])] == [text] * crossed


@pytest.mark.parametrize(
    ("text", "slug", "says"),
    [
        ("asrr<40", "measure-unknown", "did you mean 'asr'?"),
        ("spam<1", "measure-unknown", "the measures are calls"),
        ("asr", "threshold-invalid", "asr<40"),
        ("asr<", "threshold-invalid", "asr<40"),
        ("asr<40<50", "threshold-invalid", "percentage"),
        ("__import__('os')<1", "threshold-invalid", "asr<40"),
        ("calls<5%", "threshold-invalid", "number"),
        ("calls<1e9", "threshold-invalid", "number"),
        ("margin<ten", "amount-invalid", "25.50"),
        ("acd<soon", "duration-invalid", "90s"),
        ("asr<" + "9" * 200, "threshold-invalid", "asr<40"),
        ("asr<٤٠", "threshold-invalid", "percentage"),
    ],
)
def test_what_is_no_threshold_is_refused(text: str, slug: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_threshold(text)
    assert caught.value.slug == slug
    assert says in caught.value.hint


def test_what_has_no_value_crosses_nothing() -> None:
    assert not parse_threshold("asr<40").crossed(line(calls=3))
    assert parse_threshold("calls<5").crossed(line(calls=3))


def test_an_amount_needs_its_currency_where_there_are_several() -> None:
    lines = [Line(("a",), "USD", Sums(amount_micros=1)), Line(("b",), "EUR", Sums(amount_micros=2))]
    with pytest.raises(UsageError, match="does not say of which currency"):
        list(crossings([parse_threshold("revenue<1")], lines))
    assert [one.key for _, one in crossings([parse_threshold("revenue<1 EUR")], lines)] == [("b",)]


def test_of_several_currencies_calls_are_looked_at_together_and_amounts_apart() -> None:
    lines = lines_of([group("a", "USD", 3), group("a", "EUR", 4)], overall=True)
    found = crossings([parse_threshold(text) for text in ("calls<5", "calls<8", "revenue<3.5 USD")], lines)
    assert [(one.text, line.currency, line.mixed) for one, line in found] == [
        ("calls<8", "", True), ("revenue<3.5 USD", "USD", False),
    ]  # fmt: skip
