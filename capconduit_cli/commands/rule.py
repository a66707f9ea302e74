"""`capconduit rule`: which targets a campaign forwards to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit_cli.bulk.importing import ListFile, Update, carry_out
from capconduit_cli.names import (
    CAMPAIGNS,
    RATES,
    CampaignName,
    TargetName,
    name_argument,
    name_or_none_option,
    named,
)
from capconduit_cli.office import destroy, emit_change, given, office
from capconduit_cli.output import ChangeOutput, Column, Kind, ListOutput, Row, ShowOutput, emit_one, emit_rows
from capconduit_cli.params import DryRun, Yes
from capconduit_cli.rows import ENTITY_COLUMNS, entity_values
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.services.targets import RuleView

app = NounApp(
    "Most strategies try the lowest priority first and draw equal ones by weight; weighted draws all of them by weight,"
    " round-robin and percentage share the calls by it. A rate or payout of the rule stands before the target's and the"
    " campaign's. Where a cap names a rule, it is written CAMPAIGN/TARGET."
)

COLUMNS: Final = (
    Column("campaign"),
    Column("target"),
    Column("priority", Kind.INT),
    Column("weight", Kind.INT),
    Column("enabled", Kind.BOOL),
    Column("rate", shown=False),
    Column("payout", shown=False),
    *ENTITY_COLUMNS,
)

PRIORITY_HELP: Final = "Lower numbers are tried first."
WEIGHT_HELP: Final = "Share of the calls among equals; 0 only as a last resort."
RATE_HELP: Final = "What the seller pays for calls there, instead of the target's and the campaign's rate."
PAYOUT_HELP: Final = "What the target's side is paid for them, instead of the target's own payout."
OwnRate = Annotated[str | None, name_or_none_option("--rate", RATES, RATE_HELP)]
Payout = Annotated[str | None, name_or_none_option("--payout", RATES, PAYOUT_HELP)]


def row(view: RuleView) -> Row:
    """A rule as it is printed."""
    return {
        "campaign": view.campaign,
        "target": view.target,
        "priority": view.rule.priority,
        "weight": view.rule.weight,
        "enabled": view.rule.enabled,
        "rate": view.rate,
        "payout": view.payout,
        **entity_values(view.rule),
    }


@app.verb(
    "add",
    "capconduit rule add solar buyer1 --priority 1",
    "capconduit rule add solar buyer2 --priority 2 --weight 70",
    "capconduit rule add solar buyer3 --rate premium --payout buyer3-pay",
)
def add(
    ctx: typer.Context,
    campaign: CampaignName,
    target: TargetName,
    out: ChangeOutput,
    priority: Annotated[int, typer.Option("--priority", metavar="N", help=PRIORITY_HELP)] = 1,
    weight: Annotated[int, typer.Option("--weight", metavar="N", help=WEIGHT_HELP)] = 1,
    rate: OwnRate = None,
    payout: Payout = None,
    dry_run: DryRun = False,
) -> None:
    """Let a campaign's calls go to a target.

    Rates in another currency than that of the campaign's seller are refused, the target's too.
    """
    from capconduit.services.targets import add_rule

    made = office(ctx, dry_run=dry_run)
    view = add_rule(
        made,
        campaign,
        target,
        priority=priority,
        weight=weight,
        rate=named(rate) or "",
        payout=named(payout) or "",
    )
    emit_change(made, row(view), COLUMNS, out)


@app.verb(
    "import",
    "capconduit rule import rules.csv --dry-run",
    "capconduit rule import rules.csv --update",
)
def import_(
    ctx: typer.Context, source: ListFile, out: ChangeOutput, update: Update = False, dry_run: DryRun = False
) -> None:
    """Add the rules of a list: campaign, target, and if wanted priority, weight, enabled, rate, payout.

    The first line names the columns, in any order; a list that `rule list -o csv` wrote is one. All or nothing: where
    any line is wrong, all that are wrong are told and nothing changes. With --update columns that are not there stay
    as they are, and an empty rate or payout takes it away.
    """
    from capconduit.services.bulk_selling import RULE_COLUMNS, import_rules

    carry_out(ctx, source, RULE_COLUMNS, import_rules, out, update=update, dry_run=dry_run)


@app.verb("list", "capconduit rule list", "capconduit rule list solar")
def list_(
    ctx: typer.Context,
    out: ListOutput,
    campaign: Annotated[str | None, name_argument(CAMPAIGNS, "CAMPAIGN", "Only rules of this campaign.")] = None,
) -> None:
    """List the rules in the order they are tried."""
    from capconduit.services.targets import list_rules

    emit_rows((row(view) for view in list_rules(office(ctx), campaign or "")), COLUMNS, out)


@app.verb("show", "capconduit rule show solar buyer1")
def show(ctx: typer.Context, campaign: CampaignName, target: TargetName, out: ShowOutput) -> None:
    """Show one rule."""
    from capconduit.services.targets import show_rule

    emit_one(row(show_rule(office(ctx), campaign, target)), COLUMNS, out)


@app.verb("set", "capconduit rule set solar buyer1 --priority 2", "capconduit rule set solar buyer1 --payout none")
def set_(
    ctx: typer.Context,
    campaign: CampaignName,
    target: TargetName,
    out: ChangeOutput,
    priority: Annotated[int | None, typer.Option("--priority", metavar="N", help=PRIORITY_HELP)] = None,
    weight: Annotated[int | None, typer.Option("--weight", metavar="N", help=WEIGHT_HELP)] = None,
    rate: OwnRate = None,
    payout: Payout = None,
    dry_run: DryRun = False,
) -> None:
    """Change a rule's priority, weight or rates; calls that are being dialled keep theirs."""
    from capconduit.services.targets import set_rule

    fields = given(
        "rule", f"{campaign}/{target}", priority=priority, weight=weight, rate=named(rate), payout=named(payout)
    )
    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(set_rule(made, campaign, target, **fields)), COLUMNS, out)


@app.verb("pause", "capconduit rule pause solar buyer1")
def pause(
    ctx: typer.Context, campaign: CampaignName, target: TargetName, out: ChangeOutput, dry_run: DryRun = False
) -> None:
    """Send no more of a campaign's calls to a target; live calls go on."""
    _enable(ctx, campaign, target, out, dry_run, enabled=False)


@app.verb("resume", "capconduit rule resume solar buyer1")
def resume(
    ctx: typer.Context, campaign: CampaignName, target: TargetName, out: ChangeOutput, dry_run: DryRun = False
) -> None:
    """Send a campaign's calls to a target again."""
    _enable(ctx, campaign, target, out, dry_run, enabled=True)


def _enable(ctx: typer.Context, campaign: str, target: str, out: ChangeOutput, dry_run: bool, *, enabled: bool) -> None:
    from capconduit.services.targets import set_rule

    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(set_rule(made, campaign, target, enabled=enabled)), COLUMNS, out)


@app.verb("remove", "capconduit rule remove solar buyer1 --yes")
def remove(
    ctx: typer.Context, campaign: CampaignName, target: TargetName, yes: Yes = False, dry_run: DryRun = False
) -> None:
    """Remove a rule, with its caps; live calls go on."""
    from capconduit.services.targets import remove_rule

    what = f"rule {campaign}/{target}"
    destroy(office(ctx), what, lambda made: remove_rule(made, campaign, target), yes=yes, dry_run=dry_run)
