"""Schedules: the opening hours of campaigns and targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from capconduit.domain.model import Campaign, Schedule, Target
from capconduit.domain.schedules import (
    Opening,
    format_holidays,
    format_hours,
    is_open,
    next_change_ms,
    parse_holidays,
    parse_hours,
)
from capconduit.services.office import Desk, Office, check_name
from capconduit.services.rates import check_not_none
from capconduit.services.sellers import check_timezone


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """A schedule, whether it is open now, when that changes (None: not within a year), and who goes by it."""

    schedule: Schedule
    is_open: bool
    changes_ms: int | None
    campaigns: Sequence[str]
    targets: Sequence[str]


def add_schedule(
    office: Office, name: str, *, hours: str, timezone: str | None = None, holidays: str = ""
) -> ScheduleView:
    """A new schedule; `hours` and `holidays` as domain/schedules.py reads them, `timezone` None: that of the setting.

    Raises UsageError, Refused.
    """
    check_not_none("schedule", check_name("schedule", name))
    if timezone is not None:
        check_timezone(timezone)
    kept_hours, kept_holidays = _kept_hours(hours), _kept_holidays(holidays)

    def work(desk: Desk) -> ScheduleView:
        schedule = Schedule(
            **desk.stamp(),
            name=name,
            timezone=desk.settings().timezone if timezone is None else timezone,
            hours=kept_hours,
            holidays=kept_holidays,
        )
        desk.add("schedule", schedule)
        return _view(desk, schedule)

    return office.change(work)


def list_schedules(office: Office) -> Sequence[ScheduleView]:
    """All schedules by name."""

    def work(desk: Desk) -> Sequence[ScheduleView]:
        users = _Users(desk)
        schedules = sorted(desk.tx.rows(Schedule, desk.tenant_id), key=lambda s: s.name)
        return [users.view(schedule, desk.now_ms) for schedule in schedules]

    return office.read(work)


def show_schedule(office: Office, name: str) -> ScheduleView:
    """One schedule. Raises NotFound."""
    return office.read(lambda desk: _view(desk, desk.named(Schedule, name)))


def set_schedule(
    office: Office, name: str, *, hours: str | None = None, timezone: str | None = None, holidays: str | None = None
) -> ScheduleView:
    """Change hours, time zone or holidays (an empty text: none); calls that are up go on. Raises UsageError."""
    kept: dict[str, Any] = {}
    if hours is not None:
        kept["hours"] = _kept_hours(hours)
    if timezone is not None:
        kept["timezone"] = check_timezone(timezone)
    if holidays is not None:
        kept["holidays"] = _kept_holidays(holidays)

    def work(desk: Desk) -> ScheduleView:
        schedule = desk.named(Schedule, name)
        changed = replace(schedule, **kept, updated_ms=desk.now_ms)
        desk.change("schedule", schedule, changed)
        return _view(desk, changed)

    return office.change(work)


def remove_schedule(office: Office, name: str) -> None:
    """Remove a schedule that nobody goes by. Raises NotFound, Refused."""
    office.change(
        lambda desk: desk.remove(
            "schedule", desk.named(Schedule, name), "give the campaigns and targets that use it another schedule first"
        )
    )


def schedule_or_none(desk: Desk, name: str) -> Schedule | None:
    """The schedule of that name; None for an empty one. Raises NotFound."""
    return desk.named(Schedule, name) if name else None


def _kept_hours(text: str) -> str:
    return format_hours(parse_hours(text))


def _kept_holidays(text: str) -> str:
    return format_holidays(parse_holidays(text))


class _Users:
    """Who goes by which schedule, or by one of them, read once."""

    def __init__(self, desk: Desk, **of: Any) -> None:
        self._campaigns = sorted((c.name, c.schedule_id) for c in desk.tx.rows(Campaign, desk.tenant_id, **of))
        self._targets = sorted((t.name, t.schedule_id) for t in desk.tx.rows(Target, desk.tenant_id, **of))

    def view(self, schedule: Schedule, now_ms: int) -> ScheduleView:
        opening = Opening(schedule.timezone, parse_hours(schedule.hours), parse_holidays(schedule.holidays))
        return ScheduleView(
            schedule=schedule,
            is_open=is_open(opening, now_ms),
            changes_ms=next_change_ms(opening, now_ms),
            campaigns=[name for name, schedule_id in self._campaigns if schedule_id == schedule.id],
            targets=[name for name, schedule_id in self._targets if schedule_id == schedule.id],
        )


def _view(desk: Desk, schedule: Schedule) -> ScheduleView:
    return _Users(desk, schedule_id=schedule.id).view(schedule, desk.now_ms)
