"""`capconduit target`: where calls are forwarded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit.vocab import TargetKind
from capconduit_cli.names import RATES, SCHEDULES, NewName, TargetName, name_or_none_option, named
from capconduit_cli.office import destroy, emit_change, given, office
from capconduit_cli.output import ChangeOutput, Column, Kind, ListOutput, Row, ShowOutput, emit_one, emit_rows, notice
from capconduit_cli.params import DryRun, Yes, duration_option
from capconduit_cli.rows import ENTITY_COLUMNS, entity_values
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.services.targets import TargetView

app = NounApp(
    "The address is what Asterisk dials: for pjsip sip:user@host:port or the name of an endpoint, for iax2 peer/number,"
    " for extension number@context. Campaigns reach a target by `capconduit rule`. One that fails several times in a"
    " row (the setting breaker_failures) is rested for a while (breaker_rest_s), then one call tries it again."
)

COLUMNS: Final = (
    Column("name"),
    Column("kind"),
    Column("address"),
    Column("ring_ms", Kind.DURATION, shown=False),
    Column("enabled", Kind.BOOL),
    Column("health"),
    Column("active", Kind.INT),
    Column("failures", Kind.INT),
    Column("rested_until", Kind.INSTANT),
    Column("schedule", shown=False),
    Column("rate", shown=False),
    Column("payout", shown=False),
    *ENTITY_COLUMNS,
)

ADDRESS_HELP: Final = "What to dial, by kind."
RING_HELP: Final = "How long it may ring before the next target is tried."
SCHEDULE_HELP: Final = "When it takes calls; without one, always."
RATE_HELP: Final = "What sellers pay for calls there, instead of the campaign's rate."
PAYOUT_HELP: Final = "What its side is paid for them."
OwnSchedule = Annotated[str | None, name_or_none_option("--schedule", SCHEDULES, SCHEDULE_HELP)]
OwnRate = Annotated[str | None, name_or_none_option("--rate", RATES, RATE_HELP)]
Payout = Annotated[str | None, name_or_none_option("--payout", RATES, PAYOUT_HELP)]


def row(view: TargetView) -> Row:
    """A target as it is printed."""
    target, state = view.target, view.state
    return {
        "name": target.name,
        "kind": target.kind,
        "address": target.address,
        "ring_ms": target.ring_ms,
        "enabled": target.enabled,
        "health": view.health,
        "active": state.active,
        "failures": state.failures,
        "rested_until": state.rested_until_ms or None,
        "schedule": view.schedule,
        "rate": view.rate,
        "payout": view.payout,
        **entity_values(target),
    }


@app.verb(
    "add",
    "capconduit target add buyer1 --kind pjsip --address sip:buyer@127.0.0.1:5080 --ring 20s",
    "capconduit target add desk --kind extension --address 100@internal",
    "capconduit target add buyer2 --address sip:buyer@192.0.2.9 --schedule office --payout buyer2-pay",
)
def add(
    ctx: typer.Context,
    name: NewName,
    out: ChangeOutput,
    address: Annotated[str, typer.Option("--address", metavar="ADDRESS", help=ADDRESS_HELP)],
    kind: Annotated[TargetKind, typer.Option("--kind", help="How it is dialled.")] = TargetKind.PJSIP,
    ring: Annotated[int, duration_option("--ring", help=RING_HELP, show_default="20s")] = 20_000,
    schedule: OwnSchedule = None,
    rate: OwnRate = None,
    payout: Payout = None,
    dry_run: DryRun = False,
) -> None:
    """Add a target."""
    from capconduit.services.targets import add_target

    made = office(ctx, dry_run=dry_run)
    view = add_target(
        made,
        name,
        kind=kind,
        address=address,
        ring_ms=ring,
        schedule=named(schedule) or "",
        rate=named(rate) or "",
        payout=named(payout) or "",
    )
    emit_change(made, row(view), COLUMNS, out)


@app.verb(
    "list",
    "capconduit target list",
    "capconduit target list --filter enabled=no",
    "capconduit target list --filter health=resting --json",
)
def list_(ctx: typer.Context, out: ListOutput) -> None:
    """List the targets, with the calls that are there now and how they are.

    Health is well, failing (some Dials in a row failed), resting, waiting (the next call tries it) or probing (a call
    tries it now).
    """
    from capconduit.services.targets import list_targets

    emit_rows((row(view) for view in list_targets(office(ctx))), COLUMNS, out)


@app.verb("show", "capconduit target show buyer1")
def show(ctx: typer.Context, name: TargetName, out: ShowOutput) -> None:
    """Show one target."""
    from capconduit.services.targets import show_target

    emit_one(row(show_target(office(ctx), name)), COLUMNS, out)


@app.verb(
    "set",
    "capconduit target set buyer1 --ring 30s",
    "capconduit target set buyer1 --address sip:buyer@192.0.2.9",
    "capconduit target set buyer1 --schedule office --rate premium --payout none",
)
def set_(
    ctx: typer.Context,
    name: TargetName,
    out: ChangeOutput,
    address: Annotated[str | None, typer.Option("--address", metavar="ADDRESS", help=ADDRESS_HELP)] = None,
    kind: Annotated[TargetKind | None, typer.Option("--kind", help="How it is dialled.")] = None,
    ring: Annotated[int | None, duration_option("--ring", help=RING_HELP)] = None,
    schedule: OwnSchedule = None,
    rate: OwnRate = None,
    payout: Payout = None,
    dry_run: DryRun = False,
) -> None:
    """Change a target; calls that are being dialled keep what they began with.

    A rate in another currency than that of a seller whose calls go there is refused.
    """
    from capconduit.services.targets import set_target

    fields = given(
        "target",
        name,
        address=address,
        kind=kind,
        ring_ms=ring,
        schedule=named(schedule),
        rate=named(rate),
        payout=named(payout),
    )
    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(set_target(made, name, **fields)), COLUMNS, out)


@app.verb("pause", "capconduit target pause buyer1")
def pause(ctx: typer.Context, name: TargetName, out: ChangeOutput, dry_run: DryRun = False) -> None:
    """Offer no more calls to a target; live calls go on."""
    _enable(ctx, name, out, dry_run, enabled=False)


@app.verb("resume", "capconduit target resume buyer1")
def resume(ctx: typer.Context, name: TargetName, out: ChangeOutput, dry_run: DryRun = False) -> None:
    """Offer calls to a target again."""
    _enable(ctx, name, out, dry_run, enabled=True)


def _enable(ctx: typer.Context, name: str, out: ChangeOutput, dry_run: bool, *, enabled: bool) -> None:
    from capconduit.services.targets import set_target

    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(set_target(made, name, enabled=enabled)), COLUMNS, out)


@app.verb("revive", "capconduit target revive buyer1")
def revive(ctx: typer.Context, name: TargetName, out: ChangeOutput, dry_run: DryRun = False) -> None:
    """End a target's rest and forget its failures: it is tried again at once."""
    from capconduit.services.targets import revive_target

    made = office(ctx, dry_run=dry_run)
    view, rested = revive_target(made, name)
    emit_change(made, row(view), COLUMNS, out)
    if not rested:
        notice(f"target {name} did not rest and had no failures")


@app.verb("rest", "capconduit target rest buyer1", "capconduit target rest buyer1 --for 30s")
def rest(
    ctx: typer.Context,
    name: TargetName,
    out: ChangeOutput,
    for_: Annotated[
        int | None,
        duration_option("--for", help="How long, at most what the setting says.", show_default="breaker_rest_s"),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Leave a target alone for a while, then let one call try it; live calls go on.

    `capconduit target pause` stops it for good.
    """
    from capconduit.services.targets import rest_target

    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(rest_target(made, name, rest_ms=for_)), COLUMNS, out)


@app.verb("remove", "capconduit target remove buyer1 --yes")
def remove(ctx: typer.Context, name: TargetName, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Remove a target that no rule uses, with its caps."""
    from capconduit.services.targets import remove_target

    destroy(office(ctx), f"target {name}", lambda made: remove_target(made, name), yes=yes, dry_run=dry_run)
