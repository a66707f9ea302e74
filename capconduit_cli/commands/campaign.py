"""`capconduit campaign`: a seller's stream of calls."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit.vocab import Strategy
from capconduit_cli.names import (
    RATES,
    SCHEDULES,
    SELLERS,
    CampaignName,
    NewName,
    name_option,
    name_or_none_option,
    named,
)
from capconduit_cli.office import destroy, emit_change, given, office
from capconduit_cli.output import ChangeOutput, Column, Kind, ListOutput, Row, ShowOutput, emit_one, emit_rows
from capconduit_cli.params import NONE, DryRun, Yes, duration_option, parse_duration_or_none
from capconduit_cli.rows import ENTITY_COLUMNS, entity_values
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.services.campaigns import CampaignView

app = NounApp(
    "A campaign belongs to a seller, is paid by a rate, gets its calls from DIDs and gives them to targets by rules."
    " Live calls keep what they began with.\n\nStrategies: priority (lowest number first, equal ones drawn by weight),"
    " weighted (all drawn by weight), round-robin (in turn, by weight), percentage (weights are shares that are kept"
    " over time), least-cost (the cheapest rate first), highest-payout, longest-idle (longest since its last answered"
    " call), fewest-active (fewest calls now), ring-all (up to --max-attempts at once; the first that answers has the"
    " call)."
)

COLUMNS: Final = (
    Column("name"),
    Column("seller"),
    Column("status"),
    Column("strategy"),
    Column("rate"),
    Column("dids", Kind.INT),
    Column("rules", Kind.INT),
    Column("billable_threshold_ms", Kind.DURATION, shown=False),
    Column("max_attempts", Kind.INT, shown=False),
    Column("ring_budget_ms", Kind.DURATION, shown=False),
    Column("max_duration_ms", Kind.DURATION, shown=False),
    Column("schedule", shown=False),
    Column("duplicate_window_ms", Kind.DURATION, shown=False),
    Column("anonymous", shown=False),
    Column("min_attestation", shown=False),
    *ENTITY_COLUMNS,
)


class Anonymous(StrEnum):
    """What becomes of callers without a number."""

    ALLOW = "allow"
    REJECT = "reject"
    DEFAULT = "default"


class Attested(StrEnum):
    """The least attestation of calls."""

    A = "A"
    B = "B"
    C = "C"
    DEFAULT = "default"


STRATEGY_HELP: Final = "How targets are chosen; see above."
THRESHOLD_HELP: Final = "Shorter talk is not billed; exactly this long is."
ATTEMPTS_HELP: Final = "Targets tried for one call."
BUDGET_HELP: Final = "How long all targets together may ring."
DURATION_HELP: Final = "No call of the campaign talks longer."
SCHEDULE_HELP: Final = "When it takes calls; without one, always."
DUPLICATE_HELP: Final = "A caller who was connected is not taken again for so long; calls before do not count."
ANONYMOUS_HELP: Final = "Callers without a number; default: as the setting anonymous_callers says."
ATTESTATION_HELP: Final = "Least STIR attestation of calls; default: as the setting min_attestation says."
OwnSchedule = Annotated[str | None, name_or_none_option("--schedule", SCHEDULES, SCHEDULE_HELP)]
DuplicateWindow = Annotated[
    int | None,
    typer.Option("--duplicate-window", metavar=f"DURATION|{NONE}", parser=parse_duration_or_none, help=DUPLICATE_HELP),
]
AnonymousPolicy = Annotated[Anonymous | None, typer.Option("--anonymous", help=ANONYMOUS_HELP)]
LeastAttestation = Annotated[Attested | None, typer.Option("--min-attestation", help=ATTESTATION_HELP)]


def row(view: CampaignView) -> Row:
    """A campaign as it is printed."""
    campaign = view.campaign
    return {
        "name": campaign.name,
        "seller": view.seller,
        "status": campaign.status,
        "strategy": campaign.strategy,
        "rate": view.rate,
        "dids": view.dids,
        "rules": view.rules,
        "billable_threshold_ms": campaign.billable_threshold_ms,
        "max_attempts": campaign.max_attempts,
        "ring_budget_ms": campaign.ring_budget_ms,
        "max_duration_ms": campaign.max_duration_ms,
        "schedule": view.schedule,
        "duplicate_window_ms": campaign.duplicate_window_ms or None,
        "anonymous": campaign.anonymous_callers or Anonymous.DEFAULT,
        "min_attestation": campaign.min_attestation or Attested.DEFAULT,
        **entity_values(campaign),
    }


def _policy(word: StrEnum | None) -> str | None:
    """A policy as it is kept; empty for `default`, None where nothing was given."""
    return "" if word is not None and word.value == Anonymous.DEFAULT else word


@app.verb(
    "add",
    "capconduit campaign add solar --seller acme --rate std --strategy priority",
    "capconduit campaign add roof --seller acme --rate std --strategy weighted --billable-threshold 90s",
    "capconduit campaign add legal --seller acme --rate std --schedule office --duplicate-window 30d",
)
def add(
    ctx: typer.Context,
    name: NewName,
    out: ChangeOutput,
    seller: Annotated[str, name_option("--seller", SELLERS, "Whose campaign it is.")],
    rate: Annotated[str, name_option("--rate", RATES, "What its calls cost, in the seller's currency.")],
    strategy: Annotated[Strategy, typer.Option("--strategy", help=STRATEGY_HELP)] = Strategy.PRIORITY,
    billable_threshold: Annotated[
        int, duration_option("--billable-threshold", help=THRESHOLD_HELP, show_default="0s")
    ] = 0,
    max_attempts: Annotated[
        int | None,
        typer.Option(
            "--max-attempts", metavar="N", help=ATTEMPTS_HELP, show_default="the setting default_max_attempts"
        ),
    ] = None,
    ring_budget: Annotated[int, duration_option("--ring-budget", help=BUDGET_HELP, show_default="90s")] = 90_000,
    max_duration: Annotated[int, duration_option("--max-duration", help=DURATION_HELP, show_default="4h")] = 14_400_000,
    schedule: OwnSchedule = None,
    duplicate_window: DuplicateWindow = None,
    anonymous: AnonymousPolicy = None,
    min_attestation: LeastAttestation = None,
    dry_run: DryRun = False,
) -> None:
    """Add a campaign; it takes calls at once."""
    from capconduit.services.campaigns import add_campaign

    made = office(ctx, dry_run=dry_run)
    view = add_campaign(
        made,
        name,
        seller=seller,
        rate=rate,
        strategy=strategy,
        billable_threshold_ms=billable_threshold,
        max_attempts=max_attempts,
        ring_budget_ms=ring_budget,
        max_duration_ms=max_duration,
        schedule=named(schedule) or "",
        duplicate_window_ms=duplicate_window or 0,
        anonymous_callers=_policy(anonymous) or "",
        min_attestation=_policy(min_attestation) or "",
    )
    emit_change(made, row(view), COLUMNS, out)


@app.verb("list", "capconduit campaign list", "capconduit campaign list --filter status=paused")
def list_(ctx: typer.Context, out: ListOutput) -> None:
    """List the campaigns."""
    from capconduit.services.campaigns import list_campaigns

    emit_rows((row(view) for view in list_campaigns(office(ctx))), COLUMNS, out)


@app.verb("show", "capconduit campaign show solar")
def show(ctx: typer.Context, name: CampaignName, out: ShowOutput) -> None:
    """Show one campaign."""
    from capconduit.services.campaigns import show_campaign

    emit_one(row(show_campaign(office(ctx), name)), COLUMNS, out)


@app.verb(
    "set",
    "capconduit campaign set solar --rate premium",
    "capconduit campaign set solar --max-duration 1h",
    "capconduit campaign set solar --schedule office --duplicate-window none",
    "capconduit campaign set solar --strategy ring-all --anonymous reject --min-attestation A",
)
def set_(
    ctx: typer.Context,
    name: CampaignName,
    out: ChangeOutput,
    rate: Annotated[str | None, name_option("--rate", RATES, "What its calls cost.")] = None,
    strategy: Annotated[Strategy | None, typer.Option("--strategy", help=STRATEGY_HELP)] = None,
    billable_threshold: Annotated[int | None, duration_option("--billable-threshold", help=THRESHOLD_HELP)] = None,
    max_attempts: Annotated[int | None, typer.Option("--max-attempts", metavar="N", help=ATTEMPTS_HELP)] = None,
    ring_budget: Annotated[int | None, duration_option("--ring-budget", help=BUDGET_HELP)] = None,
    max_duration: Annotated[int | None, duration_option("--max-duration", help=DURATION_HELP)] = None,
    schedule: OwnSchedule = None,
    duplicate_window: DuplicateWindow = None,
    anonymous: AnonymousPolicy = None,
    min_attestation: LeastAttestation = None,
    dry_run: DryRun = False,
) -> None:
    """Change a campaign."""
    from capconduit.services.campaigns import set_campaign

    fields = given(
        "campaign",
        name,
        rate=rate,
        strategy=strategy,
        billable_threshold_ms=billable_threshold,
        max_attempts=max_attempts,
        ring_budget_ms=ring_budget,
        max_duration_ms=max_duration,
        schedule=named(schedule),
        duplicate_window_ms=duplicate_window,
        anonymous_callers=_policy(anonymous),
        min_attestation=_policy(min_attestation),
    )
    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(set_campaign(made, name, **fields)), COLUMNS, out)


@app.verb("pause", "capconduit campaign pause solar")
def pause(ctx: typer.Context, name: CampaignName, out: ChangeOutput, dry_run: DryRun = False) -> None:
    """Take no more calls for a campaign; live calls go on."""
    _pause(ctx, name, out, dry_run, paused=True)


@app.verb("resume", "capconduit campaign resume solar")
def resume(ctx: typer.Context, name: CampaignName, out: ChangeOutput, dry_run: DryRun = False) -> None:
    """Take calls for a campaign again."""
    _pause(ctx, name, out, dry_run, paused=False)


def _pause(ctx: typer.Context, name: str, out: ChangeOutput, dry_run: bool, *, paused: bool) -> None:
    from capconduit.services.campaigns import pause_campaign

    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(pause_campaign(made, name, paused=paused)), COLUMNS, out)


@app.verb("remove", "capconduit campaign remove solar --yes")
def remove(ctx: typer.Context, name: CampaignName, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Remove a campaign without DIDs, rules and live calls, with its caps.

    The records of its calls stay.
    """
    from capconduit.services.campaigns import remove_campaign

    destroy(office(ctx), f"campaign {name}", lambda made: remove_campaign(made, name), yes=yes, dry_run=dry_run)
