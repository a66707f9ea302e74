"""Opening hours in every zone of the tz database over 2024-2030, against definitions that only count."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capconduit.domain.schedules import (
    DAYS,
    SEARCH_DAYS,
    Opening,
    format_holidays,
    format_hours,
    is_open,
    next_change_ms,
    parse_holidays,
    parse_hours,
)
from tests.property.test_windows_everywhere import DAY_MS, FIRST, LAST, ZONES, offset_changes

DAY = 1_440
WEEK = 7 * DAY
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
Spans = list[tuple[int, int]]  # minutes of the day they begin on


@dataclass
class Plan:
    """A schedule as data, with a text of its own and the plain definition of open."""

    zone: str
    week: list[Spans]
    holidays: dict[str, Spans]

    def opening(self) -> Opening:
        clauses = [f"{DAYS[n]} {spans_text(spans)}" for n, spans in enumerate(self.week) if spans]
        holidays = [f"{day} {spans_text(spans)}".strip() for day, spans in self.holidays.items()]
        return Opening(self.zone, parse_hours("; ".join(clauses) or "never"), parse_holidays("; ".join(holidays)))

    def holiday(self, day: date) -> Spans | None:
        text = day.isoformat()
        return self.holidays.get(text, self.holidays.get(text[5:]))

    def open_at(self, now_ms: int) -> bool:
        """The definition: the local time lies in a range that began today, or yesterday if today is no holiday."""
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=now_ms)
        wall = moment.astimezone(ZoneInfo(self.zone)).replace(tzinfo=None)
        for ago in (0, 1):
            begun = wall.date() - timedelta(days=ago)
            if ago and self.holiday(wall.date()) is not None:
                continue
            own = self.holiday(begun)
            midnight = datetime.combine(begun, time())  # wall time, as `wall` is
            for start, end in self.week[begun.weekday()] if own is None else own:
                if midnight + timedelta(minutes=start) <= wall < midnight + timedelta(minutes=end):
                    return True
        return False

    def first_flip(self, now_ms: int, until_ms: int) -> int | None:
        """The first whole minute after `now_ms` that is not as `now_ms` is; every minute is looked at."""
        state = self.open_at(now_ms)
        for at in range(now_ms - now_ms % MINUTE_MS + MINUTE_MS, until_ms + 1, MINUTE_MS):
            if self.open_at(at) is not state:
                return at
        return None


def spans_text(spans: Spans) -> str:
    def clock(minute: int) -> str:
        minute = minute - DAY if minute > DAY else minute
        return f"{minute // 60:02d}:{minute % 60:02d}"

    return ",".join(f"{clock(start)}-{clock(end)}" for start, end in spans)


def a_minute(rng: random.Random, most: int) -> int:
    """Any minute, or (clocks change at night) a quarter of an hour of the first hours of a day."""
    if rng.random() < 0.5:
        return rng.randrange(most)
    return rng.randrange(-(-most // DAY)) * DAY + rng.randrange(0, 270, 15)


def a_week(rng: random.Random) -> list[Spans]:
    """Ranges that do not overlap, overnight ones and one over the week's end among them."""
    minutes = sorted({a_minute(rng, WEEK) for _ in range(2 * rng.choice((0, 1, 5, 10, 20)))})
    minutes = minutes[: len(minutes) // 2 * 2]
    if minutes and rng.random() < 0.5:
        minutes = [*minutes[1:], minutes[0] + WEEK]
    week: list[Spans] = [[] for _ in DAYS]
    for start, end in zip(minutes[::2], minutes[1::2], strict=True):
        day, minute = divmod(start, DAY)
        week[day].append((minute, minute + min(end - start, DAY - 1)))
    return week


def a_day(rng: random.Random) -> Spans:
    minutes = sorted({a_minute(rng, DAY) for _ in range(2 * rng.choice((0, 0, 1, 2)))})
    spans = list(zip(minutes[::2], minutes[1::2], strict=False))
    if spans and rng.random() < 0.3:
        spans[-1] = (spans[-1][0], DAY + rng.randrange(spans[-1][0]) if spans[-1][0] else DAY)
    return spans


def a_plan(seed: int, zone: str, now_ms: int) -> Plan:
    """A schedule with holidays, if it has any, about the local date of `now_ms`."""
    rng = random.Random(seed)
    today = datetime.fromtimestamp(now_ms // 1000, ZoneInfo(zone)).date()
    holidays: dict[str, Spans] = {}
    for _ in range(rng.choice((0, 1, 3))):
        day = (today + timedelta(days=rng.randrange(-2, 4))).isoformat()
        holidays[day[5:] if rng.random() < 0.3 else day] = a_day(rng)
    return Plan(zone, a_week(rng), holidays)


seeds = st.integers(0, 2**32)
instants = st.integers(FIRST, LAST)


@settings(max_examples=1_500, deadline=None, derandomize=True)
@given(seed=seeds, zone=st.sampled_from(ZONES), now_ms=instants)
def test_it_is_open_as_the_definition_says_at_any_instant_of_any_zone(seed: int, zone: str, now_ms: int) -> None:
    plan = a_plan(seed, zone, now_ms)
    opening = plan.opening()
    for near_ms in (0, 6 * HOUR_MS, DAY_MS, 2 * DAY_MS, -DAY_MS, -1):
        assert is_open(opening, now_ms + near_ms) is plan.open_at(now_ms + near_ms), (plan, now_ms + near_ms)


@pytest.mark.parametrize("shard", range(4))
def test_it_opens_and_closes_as_the_definition_says_around_every_change_of_every_clock(shard: int) -> None:
    """Every minute of the four hours about each change, and the first flip from a moment before it."""
    seen = flips = 0
    for number, zone in enumerate(ZONES[shard::4]):
        for change in offset_changes(zone):
            seen += 1
            plan = a_plan(seed=number * 1_000 + seen, zone=zone, now_ms=change)
            opening = plan.opening()
            start, end = change - 2 * HOUR_MS + seen * 7_919 % HOUR_MS, change + 2 * HOUR_MS
            flip = plan.first_flip(start, end)
            found = next_change_ms(opening, start)
            assert found == flip if flip is not None else found is None or found > end, (plan, start)
            flips += flip is not None
            for at in range(change - 2 * HOUR_MS, end, 5 * MINUTE_MS):
                for near in (at - 1, at):
                    assert is_open(opening, near) is plan.open_at(near), (plan, near)
    assert seen > 200, "the tz database is missing: nothing was looked at"
    assert flips > seen // 10, "the schedules never changed: nothing was looked at"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(seed=seeds, zone=st.sampled_from(ZONES), now_ms=instants)
def test_the_next_change_is_the_first_flip_of_all_minutes(seed: int, zone: str, now_ms: int) -> None:
    plan = a_plan(seed, zone, now_ms)
    until_ms = now_ms + 2 * DAY_MS
    flip, found = plan.first_flip(now_ms, until_ms), next_change_ms(plan.opening(), now_ms)
    assert found == flip if flip is not None else found is None or found > until_ms, (plan, now_ms)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seed=seeds, zone=st.sampled_from(ZONES), now_ms=instants)
def test_nothing_changes_before_the_next_change_however_far_it_is(seed: int, zone: str, now_ms: int) -> None:
    plan = a_plan(seed, zone, now_ms)
    plan.week = [[] for _ in DAYS]  # only holidays are left: changes are far apart, or there are none
    found = next_change_ms(plan.opening(), now_ms)
    state = plan.open_at(now_ms)
    until_ms = found if found is not None else now_ms + SEARCH_DAYS * DAY_MS
    assert now_ms < until_ms <= now_ms + SEARCH_DAYS * DAY_MS
    for at in range(now_ms, until_ms, 3 * HOUR_MS):
        assert plan.open_at(at) is state, (plan, now_ms, at)
    if found is not None:
        assert plan.open_at(found - 1) is state, (plan, now_ms)
        assert plan.open_at(found) is not state, (plan, now_ms)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(seed=seeds, now_ms=instants)
def test_what_is_written_reads_back_the_same(seed: int, now_ms: int) -> None:
    plan = a_plan(seed, "UTC", now_ms)
    opening = plan.opening()
    assert [list(ranges) for ranges in opening.hours.days] == [sorted(spans) for spans in plan.week]
    hours, holidays = format_hours(opening.hours), format_holidays(opening.holidays)
    assert parse_hours(hours) == opening.hours
    assert parse_holidays(holidays) == opening.holidays
    assert (format_hours(parse_hours(hours)), format_holidays(parse_holidays(holidays))) == (hours, holidays)
