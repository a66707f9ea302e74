"""`capconduit schedule`: opening hours of campaigns and targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit_cli.names import NewName, ScheduleName
from capconduit_cli.office import destroy, emit_change, given, office
from capconduit_cli.output import ChangeOutput, Column, Kind, ListOutput, Row, ShowOutput, emit_one, emit_rows
from capconduit_cli.params import NONE, DryRun, Yes
from capconduit_cli.rows import ENTITY_COLUMNS, entity_values
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.services.schedules import ScheduleView

app = NounApp(
    "Hours are written 'Mon-Fri 09:00-12:00,13:00-17:00; Sat 22:00-06:00', always or never: days, then ranges from"
    " inclusive to exclusive; one that ends before it begins goes on into the next day. They are local time in the"
    " schedule's zone. Holidays are dates that have hours of their own, or none: '2026-12-25; 2026-12-31 09:00-12:00;"
    " 12-25' (without a year: every year). A campaign that is closed rejects calls (campaign_closed); a target that is"
    " closed is passed by."
)

COLUMNS: Final = (
    Column("name"),
    Column("open", Kind.BOOL),
    Column("changes", Kind.INSTANT),
    Column("timezone"),
    Column("hours"),
    Column("holidays", shown=False),
    Column("campaigns", Kind.NAMES, shown=False),
    Column("targets", Kind.NAMES, shown=False),
    *ENTITY_COLUMNS,
)

HOURS_HELP: Final = "Like 'Mon-Fri 09:00-17:00; Sat 10:00-14:00', always or never."
ZONE_HELP: Final = "IANA zone like America/New_York."
HOLIDAYS_HELP: Final = "Like '2026-12-25; 2026-12-31 09:00-12:00; 12-25'; closed where no hours are given."


def row(view: ScheduleView) -> Row:
    """A schedule as it is printed."""
    schedule = view.schedule
    return {
        "name": schedule.name,
        "open": view.is_open,
        "changes": view.changes_ms,
        "timezone": schedule.timezone,
        "hours": schedule.hours,
        "holidays": schedule.holidays,
        "campaigns": view.campaigns,
        "targets": view.targets,
        **entity_values(schedule),
    }


@app.verb(
    "add",
    "capconduit schedule add office --hours 'Mon-Fri 09:00-17:00' --timezone America/New_York",
    "capconduit schedule add nights --hours 'Mon-Fri 22:00-06:00' --holidays '2026-12-25; 12-26'",
)
def add(
    ctx: typer.Context,
    name: NewName,
    out: ChangeOutput,
    hours: Annotated[str, typer.Option("--hours", metavar="HOURS", help=HOURS_HELP)],
    timezone: Annotated[
        str | None, typer.Option("--timezone", metavar="ZONE", help=ZONE_HELP, show_default="the setting timezone")
    ] = None,
    holidays: Annotated[str, typer.Option("--holidays", metavar="DATES", help=HOLIDAYS_HELP)] = "",
    dry_run: DryRun = False,
) -> None:
    """Add a schedule; campaigns and targets go by it when they are told to (--schedule)."""
    from capconduit.services.schedules import add_schedule

    made = office(ctx, dry_run=dry_run)
    view = add_schedule(made, name, hours=hours, timezone=timezone, holidays=_dates(holidays) or "")
    emit_change(made, row(view), COLUMNS, out)


@app.verb("list", "capconduit schedule list", "capconduit schedule list --filter open=yes --json")
def list_(ctx: typer.Context, out: ListOutput) -> None:
    """List the schedules: whether they are open now, and when that changes."""
    from capconduit.services.schedules import list_schedules

    emit_rows((row(view) for view in list_schedules(office(ctx))), COLUMNS, out)


@app.verb("show", "capconduit schedule show office", "capconduit schedule show office --fields open -o plain")
def show(ctx: typer.Context, name: ScheduleName, out: ShowOutput) -> None:
    """Show one schedule: its hours, whether it is open now, when that changes, and who goes by it."""
    from capconduit.services.schedules import show_schedule

    emit_one(row(show_schedule(office(ctx), name)), COLUMNS, out)


@app.verb(
    "set",
    "capconduit schedule set office --hours 'Mon-Sat 09:00-17:00'",
    "capconduit schedule set office --holidays none",
)
def set_(
    ctx: typer.Context,
    name: ScheduleName,
    out: ChangeOutput,
    hours: Annotated[str | None, typer.Option("--hours", metavar="HOURS", help=HOURS_HELP)] = None,
    timezone: Annotated[str | None, typer.Option("--timezone", metavar="ZONE", help=ZONE_HELP)] = None,
    holidays: Annotated[
        str | None,
        typer.Option(
            "--holidays", metavar=f"DATES|{NONE}", help=f"All of them: {HOLIDAYS_HELP[0].lower()}{HOLIDAYS_HELP[1:]}"
        ),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Change a schedule, in force with the next call; calls that are up go on."""
    from capconduit.services.schedules import set_schedule

    fields = given("schedule", name, hours=hours, timezone=timezone, holidays=_dates(holidays))
    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(set_schedule(made, name, **fields)), COLUMNS, out)


@app.verb("remove", "capconduit schedule remove office --yes")
def remove(ctx: typer.Context, name: ScheduleName, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Remove a schedule that no campaign and no target goes by."""
    from capconduit.services.schedules import remove_schedule

    destroy(office(ctx), f"schedule {name}", lambda made: remove_schedule(made, name), yes=yes, dry_run=dry_run)


def _dates(holidays: str | None) -> str | None:
    """The holidays that were given; empty for `none`."""
    return "" if holidays is not None and holidays.strip().lower() == NONE else holidays
