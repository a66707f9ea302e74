"""`capconduit cap`: limits on calls and on calls at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit.errors import DriftError, UsageError
from capconduit.vocab import CapMetric, CapScope, WindowKind
from capconduit_cli.names import ScopeName
from capconduit_cli.office import NOTHING_CHANGED, office, well
from capconduit_cli.output import Column, Kind, ListOutput, Row, confirm, emit_rows, notice
from capconduit_cli.params import DryRun, Yes
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.services.caps import CapDrift, CapView, Limit

app = NounApp(
    "A cap limits the whole system, a seller, a campaign, a target, a rule (CAMPAIGN/TARGET), a DID or a trunk. It"
    " counts calls at once (concurrent), or in a window: attempts, connected or billable calls by hour, day, week,"
    " month or total. Calls that are up count, so that no cap is ever exceeded. Windows are those of the calendar in"
    " the seller's time zone, for targets, trunks and the system in that of the setting timezone. No cap is unlimited,"
    " 0 is closed. Lowering a cap ends no call."
)

COLUMNS: Final = (
    Column("scope"),
    Column("name"),
    Column("metric"),
    Column("window"),
    Column("limit", Kind.INT),
    Column("timezone"),
    Column("id", shown=False),
)
USAGE_COLUMNS: Final = (
    Column("scope"),
    Column("name"),
    Column("metric"),
    Column("window"),
    Column("used", Kind.INT),
    Column("in_flight", Kind.INT),
    Column("limit", Kind.INT),
    Column("free", Kind.INT),
    Column("resets", Kind.INSTANT),
    Column("timezone", shown=False),
    Column("id", shown=False),
)
DRIFT_COLUMNS: Final = (
    Column("scope"),
    Column("name"),
    Column("metric"),
    Column("window"),
    Column("window_start", Kind.INSTANT, source="window_start_ms"),
    Column("used", Kind.INT),
    Column("recounted_used", Kind.INT),
    Column("in_flight", Kind.INT),
    Column("recounted_in_flight", Kind.INT),
    Column("id", shown=False),
)

Scope = Annotated[CapScope, typer.Argument(metavar="SCOPE", help=f"One of {', '.join(CapScope)}.")]
_WINDOWED: Final = "more than N in a WINDOW (hour, day, week, month, total); none/WINDOW takes it away."


def row(view: CapView) -> Row:
    """A cap with its use, as it is printed. `window` is None for calls at once."""
    cap = view.cap
    return {
        "scope": cap.scope,
        "name": view.subject,
        "metric": cap.metric,
        "window": _window(cap.window_kind),
        "used": view.used,
        "in_flight": view.in_flight,
        "limit": cap.limit_value,
        "free": max(cap.limit_value - view.used - view.in_flight, 0),
        "resets": view.resets_ms,
        "timezone": view.zone,
        "id": cap.id,
    }


def drift_row(drift: CapDrift) -> Row:
    """A counter that is not what its places say, as it is printed."""
    cap = drift.cap
    return {
        "scope": cap.scope if cap else None,
        "name": drift.subject,
        "metric": cap.metric if cap else None,
        "window": _window(cap.window_kind) if cap else None,
        "window_start_ms": drift.window_start_ms if not cap or cap.window_kind is not WindowKind.NONE else None,
        "used": drift.used,
        "recounted_used": drift.counted,
        "in_flight": drift.in_flight,
        "recounted_in_flight": drift.open,
        "id": drift.cap_id,
    }


def _window(kind: WindowKind) -> str | None:
    return None if kind is WindowKind.NONE else kind


def _scope_name(scope: CapScope, name: str | None) -> str:
    """The name, which all scopes have but the system. Raises UsageError."""
    if scope is CapScope.SYSTEM:
        if name is not None:
            raise UsageError("argument-unexpected", f"the system has no name like {name!r}", "leave the name away")
        return ""
    if name is None:
        form = "CAMPAIGN/TARGET" if scope is CapScope.RULE else "NAME"
        raise UsageError("argument-missing", f"which {scope} is limited?", f"write it like {scope} {form}")
    return name


def _limits(asked: Sequence[tuple[CapMetric, Sequence[str]]]) -> list[Limit]:
    """The limits that were asked for. Raises UsageError, also where one is asked for twice."""
    from capconduit.services.caps import parse_limit

    limits = [parse_limit(metric, text) for metric, texts in asked for text in texts]
    seen: set[tuple[CapMetric, WindowKind]] = set()
    for limit in limits:
        if (limit.metric, limit.window) in seen:
            window = "" if limit.window is WindowKind.NONE else f" by {limit.window}"
            raise UsageError("limit-twice", f"two limits of {limit.metric} calls{window}", "give one")
        seen.add((limit.metric, limit.window))
    return limits


@app.verb(
    "set",
    "capconduit cap set campaign solar --billable 200/day --concurrent 10",
    "capconduit cap set target buyer1 --concurrent 5",
    "capconduit cap set rule solar/buyer1 --connected 20/hour --connected 100/day",
    "capconduit cap set campaign solar --billable none/day",
    "capconduit cap set system --concurrent 500",
)
def set_(
    ctx: typer.Context,
    scope: Scope,
    out: ListOutput,
    name: ScopeName = None,
    concurrent: Annotated[
        list[str] | None, typer.Option("--concurrent", metavar="N", help="No more than N calls at once; or none.")
    ] = None,
    attempts: Annotated[
        list[str] | None,
        typer.Option("--attempts", metavar="N/WINDOW", help=f"Calls that were dialled: no {_WINDOWED}"),
    ] = None,
    connected: Annotated[
        list[str] | None, typer.Option("--connected", metavar="N/WINDOW", help=f"Answered calls: no {_WINDOWED}")
    ] = None,
    billable: Annotated[
        list[str] | None,
        typer.Option("--billable", metavar="N/WINDOW", help=f"Calls over the billable threshold: no {_WINDOWED}"),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Set, change or take away caps of one thing, all or nothing.

    A new cap counts what happened before it. Caps that are not named stay. Prints the caps the thing has now.
    """
    from capconduit.services.caps import set_caps

    known = _scope_name(scope, name)
    limits = _limits(
        [
            (CapMetric.CONCURRENT, concurrent or ()),
            (CapMetric.ATTEMPTS, attempts or ()),
            (CapMetric.CONNECTED, connected or ()),
            (CapMetric.BILLABLE, billable or ()),
        ]
    )
    made = office(ctx, dry_run=dry_run)
    emit_rows((row(view) for view in set_caps(made, scope, known, limits)), USAGE_COLUMNS, out)
    if dry_run:
        notice(NOTHING_CHANGED)


@app.verb("clear", "capconduit cap clear campaign solar --yes")
def clear(ctx: typer.Context, scope: Scope, name: ScopeName = None, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Take away all caps of one thing."""
    from capconduit.services.caps import clear_caps

    known = _scope_name(scope, name)
    what = f"{scope} {known}".strip()
    made = office(ctx, dry_run=True)
    count = clear_caps(made, scope, known)
    if dry_run or not count:
        notice(f"{what} has {count} caps; nothing was changed")
        return
    confirm(f"Take away the {count} caps of {what}?", yes=yes)
    made.dry_run = False
    notice(f"{clear_caps(made, scope, known)} caps of {what} are gone")


def _some_caps(ctx: typer.Context, scope: CapScope | None, name: str | None) -> Sequence[CapView]:
    from capconduit.services.caps import cap_usage

    if scope is CapScope.SYSTEM:
        _scope_name(scope, name)
    return cap_usage(office(ctx), scope, name or "")


OptionalScope = Annotated[
    CapScope | None, typer.Argument(metavar="SCOPE", help=f"Only caps on this: {', '.join(CapScope)}.")
]


@app.verb("list", "capconduit cap list", "capconduit cap list campaign solar --json")
def list_(ctx: typer.Context, out: ListOutput, scope: OptionalScope = None, name: ScopeName = None) -> None:
    """List the caps: all, those of a scope, or those of one thing."""
    emit_rows((row(view) for view in _some_caps(ctx, scope, name)), COLUMNS, out)


@app.verb("usage", "capconduit cap usage", "capconduit cap usage campaign solar", "capconduit cap usage --sort free")
def usage(ctx: typer.Context, out: ListOutput, scope: OptionalScope = None, name: ScopeName = None) -> None:
    """List caps with what is used of them now.

    Used are settled calls, in flight those that are up; what is free is the limit less both.
    """
    emit_rows((row(view) for view in _some_caps(ctx, scope, name)), USAGE_COLUMNS, out)


@app.verb("verify", "capconduit cap verify", "capconduit cap verify --fix")
def verify(
    ctx: typer.Context,
    out: ListOutput,
    fix: Annotated[bool, typer.Option("--fix", help="Set the counters right.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Check the counters of all caps against the places of the calls they count.

    Lists the counters that differ, with exit code 5, also where --fix has set them right; says nothing where all is
    well.
    """
    from capconduit.services.caps import verify_caps

    drifts = verify_caps(office(ctx, dry_run=dry_run), fix=fix)
    emit_rows((drift_row(drift) for drift in drifts), DRIFT_COLUMNS, out)
    if not drifts:
        well("every counter is what its places say")
        return
    fixed = fix and not dry_run
    raise DriftError(
        "cap-drift",
        f"{len(drifts)} counters {'were' if fixed else 'are'} not what their places say",
        "they are set right" if fixed else "`capconduit cap verify --fix` sets them right",
    )
