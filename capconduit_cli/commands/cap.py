"""`capconduit cap`: limits on calls at once, calls, minutes, money and calls per second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit.errors import DriftError, UsageError
from capconduit.vocab import CapMetric, CapScope, WindowKind
from capconduit_cli.names import ScopeName
from capconduit_cli.office import NOTHING_CHANGED, office, well
from capconduit_cli.output import Column, Kind, ListOutput, Quantity, Row, Unit, confirm, emit_rows, notice
from capconduit_cli.params import DryRun, Yes
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.domain.model import Cap
    from capconduit.services.caps import CapDrift, CapView, Limit

app = NounApp(
    "A cap limits the whole system, a seller, a campaign, a target, a rule (CAMPAIGN/TARGET), a DID or a trunk. It"
    " counts calls at once (concurrent), new calls per second (cps), or in a window: attempts, connected or billable"
    " calls, minutes of talk, or money (spend). Calls that are up count, with what is reserved for them, so that no cap"
    " is ever exceeded.\n\nA window is hour, day, week, month or total, or looks back from now: rolling:1h, rolling:7d"
    " (10s to 35d). Those of the calendar are in the seller's time zone, for targets, trunks and the system in that of"
    " the setting timezone. No cap is unlimited, 0 is closed. Lowering a cap ends no call."
)

COLUMNS: Final = (
    Column("scope"),
    Column("name"),
    Column("metric"),
    Column("window"),
    Column("limit", Kind.QUANTITY),
    Column("unit", shown=False),
    Column("currency", shown=False),
    Column("timezone"),
    Column("id", shown=False),
)
USAGE_COLUMNS: Final = (
    Column("scope"),
    Column("name"),
    Column("metric"),
    Column("window"),
    Column("used", Kind.QUANTITY),
    Column("in_flight", Kind.QUANTITY),
    Column("limit", Kind.QUANTITY),
    Column("free", Kind.QUANTITY),
    Column("resets", Kind.INSTANT),
    Column("unit", shown=False),
    Column("currency", shown=False),
    Column("timezone", shown=False),
    Column("id", shown=False),
)
DRIFT_COLUMNS: Final = (
    Column("scope"),
    Column("name"),
    Column("metric"),
    Column("window"),
    Column("window_start", Kind.INSTANT, source="window_start_ms"),
    Column("used", Kind.QUANTITY),
    Column("recounted_used", Kind.QUANTITY),
    Column("in_flight", Kind.QUANTITY),
    Column("recounted_in_flight", Kind.QUANTITY),
    Column("unit", shown=False),
    Column("id", shown=False),
)

Scope = Annotated[CapScope, typer.Argument(metavar="SCOPE", help=f"One of {', '.join(CapScope)}.")]
_WINDOWED: Final = "more than N in a WINDOW; none/WINDOW takes it away."
_ACTIVE: Final = "active"  # stands for the metric where a target's attempts under way are wrong


def unit_of(metric: CapMetric | None) -> Unit:
    """What a metric counts in."""
    return {CapMetric.MINUTES: Unit.SECONDS, CapMetric.SPEND: Unit.MONEY}.get(metric or CapMetric.ATTEMPTS, Unit.CALLS)


def row(view: CapView) -> Row:
    """A cap with its use, as it is printed. `window` is None for calls at once and per second."""
    cap, unit = view.cap, unit_of(view.cap.metric)

    def quantity(value: int) -> Quantity:
        return Quantity(value, unit, view.currency)

    return {
        "scope": cap.scope,
        "name": view.subject,
        "metric": cap.metric,
        "window": _window(cap),
        "used": quantity(view.used),
        "in_flight": quantity(view.in_flight),
        "limit": quantity(cap.limit_value),
        "free": quantity(max(cap.limit_value - view.used - view.in_flight, 0)),
        "resets": view.resets_ms,
        "unit": unit,
        "currency": view.currency,
        "timezone": view.zone,
        "id": cap.id,
    }


def drift_row(drift: CapDrift) -> Row:
    """A counter that is not what its places say, as it is printed."""
    cap = drift.cap
    unit = unit_of(cap.metric if cap else None)
    windowed = not drift.of_target and (cap is None or cap.window_kind is not WindowKind.NONE)
    return {
        "scope": cap.scope if cap else CapScope.TARGET if drift.of_target else None,
        "name": drift.subject,
        "metric": cap.metric if cap else _ACTIVE if drift.of_target else None,
        "window": _window(cap) if cap else None,
        "window_start_ms": drift.window_start_ms if windowed else None,
        "used": Quantity(drift.used, unit),
        "recounted_used": Quantity(drift.counted, unit),
        "in_flight": Quantity(drift.in_flight, unit),
        "recounted_in_flight": Quantity(drift.open, unit),
        "unit": unit,
        "id": drift.cap_id,
    }


def _window(cap: Cap) -> str | None:
    from capconduit.domain.usage import window_text

    return window_text(cap) or None


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
    seen: set[tuple[CapMetric, WindowKind, int]] = set()
    for limit in limits:
        if (limit.metric, limit.window, limit.window_ms) in seen:
            window = "" if limit.window is WindowKind.NONE else f" by {limit.window}"
            raise UsageError("limit-twice", f"two limits of {limit.metric}{window}", "give one")
        seen.add((limit.metric, limit.window, limit.window_ms))
    return limits


@app.verb(
    "set",
    "capconduit cap set campaign solar --billable 200/day --concurrent 10",
    "capconduit cap set target buyer1 --concurrent 5",
    "capconduit cap set rule solar/buyer1 --connected 20/hour --connected 100/day",
    "capconduit cap set seller acme --minutes 500/day --spend 25.50/week",
    "capconduit cap set trunk carrier --cps 5 --attempts 50/rolling:1h",
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
    minutes: Annotated[
        list[str] | None, typer.Option("--minutes", metavar="N/WINDOW", help=f"Minutes of talk: no {_WINDOWED}")
    ] = None,
    spend: Annotated[
        list[str] | None,
        typer.Option("--spend", metavar="AMOUNT/WINDOW", help="Money for calls: no more in a WINDOW; none/WINDOW."),
    ] = None,
    cps: Annotated[
        list[str] | None, typer.Option("--cps", metavar="N", help="No more than N new calls per second; or none.")
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
            (CapMetric.MINUTES, minutes or ()),
            (CapMetric.SPEND, spend or ()),
            (CapMetric.CPS, cps or ()),
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
        notice(f"{what} has {_caps(count)}; nothing was changed")
        return
    confirm(f"Take away the {_caps(count)} of {what}?", yes=yes)
    made.dry_run = False
    gone = clear_caps(made, scope, known)
    notice(f"{_caps(gone)} of {what} {'is' if gone == 1 else 'are'} gone")


def _caps(count: int) -> str:
    return f"{count} cap" if count == 1 else f"{count} caps"


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

    Used are settled calls, in flight those that are up (of minutes and spend what is reserved for them); what is free
    is the limit less both. Minutes are shown as minutes and seconds; in JSON they are seconds.
    """
    emit_rows((row(view) for view in _some_caps(ctx, scope, name)), USAGE_COLUMNS, out)


@app.verb("verify", "capconduit cap verify", "capconduit cap verify --fix")
def verify(
    ctx: typer.Context,
    out: ListOutput,
    fix: Annotated[bool, typer.Option("--fix", help="Set the counters right.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Check the counters of all caps against the places of the calls they count, and those of targets.

    Lists the counters that differ, with exit code 5, also where --fix has set them right; says nothing where all is
    well. Of a target it is the number of calls there now (metric active), which fewest-active goes by.
    """
    from capconduit.services.caps import verify_caps

    drifts = verify_caps(office(ctx, dry_run=dry_run), fix=fix)
    emit_rows((drift_row(drift) for drift in drifts), DRIFT_COLUMNS, out, empty="")
    if not drifts:
        well("every counter is what its places say")
        return
    fixed = fix and not dry_run
    raise DriftError(
        "cap-drift",
        f"{len(drifts)} counters {'were' if fixed else 'are'} not what their places say",
        "they are set right" if fixed else "`capconduit cap verify --fix` sets them right",
    )
