"""`capconduit did`: the numbers that calls arrive on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit.errors import UsageError
from capconduit_cli.bulk.importing import ListFile, Update, carry_out
from capconduit_cli.names import CAMPAIGNS, SELLERS, TRUNKS, Number, name_argument, name_option
from capconduit_cli.office import destroy, emit_change, emit_changes, given, office
from capconduit_cli.output import ChangeOutput, Column, ListOutput, Row, ShowOutput, emit_one, emit_rows, notice
from capconduit_cli.params import DryRun, Yes
from capconduit_cli.rows import ENTITY_COLUMNS, entity_values
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.services.dids import DidView

app = NounApp(
    "Numbers may be written in any usual notation; they are kept in E.164. A DID takes calls while it is assigned to a"
    " campaign; one that a seller has without a campaign takes none yet."
)

COLUMNS: Final = (
    Column("number"),
    Column("status"),
    Column("trunk"),
    Column("seller"),
    Column("campaign"),
    *ENTITY_COLUMNS,
)


OfCampaign = Annotated[str | None, name_argument(CAMPAIGNS, "CAMPAIGN", "The campaign's name.")]


def row(view: DidView) -> Row:
    """A DID as it is printed; empty where it has no trunk, seller or campaign."""
    return {
        "number": view.did.number,
        "status": view.did.status,
        "trunk": view.trunk,
        "seller": view.seller,
        "campaign": view.campaign,
        **entity_values(view.did),
    }


@app.verb(
    "add",
    "capconduit did add +18005550100 --trunk carrier --campaign solar",
    "capconduit did add '(800) 555-0101' --trunk carrier",
    "capconduit did add +18005550200-+18005550299 --trunk carrier",
    "capconduit did add +18005550300 --count 50 --campaign solar",
)
def add(
    ctx: typer.Context,
    number: Annotated[
        str,
        typer.Argument(metavar="NUMBER", help="The number, in any usual notation, or a range: FIRST-+LAST."),
    ],
    out: ChangeOutput,
    trunk: Annotated[str | None, name_option("--trunk", TRUNKS, "The trunk it arrives on.")] = None,
    campaign: Annotated[str | None, name_option("--campaign", CAMPAIGNS, "Assign it to this campaign.")] = None,
    count: Annotated[
        int | None, typer.Option("--count", metavar="N", help="So many numbers, one after the other.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Add a number, or a range of them: all or none.

    A range is printed as a list.
    """
    from capconduit.services.dids import add_did_range, has_odd_length

    made = office(ctx, dry_run=dry_run)
    views = add_did_range(made, number, count=count, trunk=trunk or "", campaign=campaign or "")
    if len(views) == 1:
        emit_change(made, row(views[0]), COLUMNS, out)
    else:
        emit_changes(made, map(row, views), COLUMNS, out)
    if has_odd_length(first := views[0].did.number):
        notice(f"{first} is as long as no number of its country: is a digit missing, or one too many?")


@app.verb(
    "import",
    "capconduit did import numbers.csv --dry-run",
    "capconduit did import numbers.csv --update",
    "capconduit did import -",
)
def import_(
    ctx: typer.Context, source: ListFile, out: ChangeOutput, update: Update = False, dry_run: DryRun = False
) -> None:
    """Add the numbers of a list: number, and if wanted trunk, campaign, seller, status.

    The first line names the columns, in any order; a list that `did list -o csv` wrote is one. All or nothing: where
    any line is wrong, all that are wrong are told and nothing changes. With --update columns that are not there stay
    as they are, and an empty cell takes away what was there.
    """
    from capconduit.services.bulk_dids import COLUMNS as LISTED
    from capconduit.services.bulk_dids import import_dids

    carry_out(ctx, source, LISTED, import_dids, out, update=update, dry_run=dry_run)


@app.verb("list", "capconduit did list", "capconduit did list --filter status=available --fields number -o plain")
def list_(ctx: typer.Context, out: ListOutput) -> None:
    """List the numbers and whose they are."""
    from capconduit.services.dids import list_dids

    emit_rows((row(view) for view in list_dids(office(ctx))), COLUMNS, out)


@app.verb("show", "capconduit did show +18005550100")
def show(ctx: typer.Context, number: Number, out: ShowOutput) -> None:
    """Show one number."""
    from capconduit.services.dids import show_did

    emit_one(row(show_did(office(ctx), number)), COLUMNS, out)


@app.verb("set", "capconduit did set +18005550100 --trunk carrier2")
def set_(
    ctx: typer.Context,
    number: Number,
    out: ChangeOutput,
    trunk: Annotated[str | None, name_option("--trunk", TRUNKS, "The trunk it arrives on.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Change the trunk of a number."""
    from capconduit.services.dids import set_did_trunk

    fields = given("did", number, trunk=trunk)
    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(set_did_trunk(made, number, **fields)), COLUMNS, out)


@app.verb(
    "assign",
    "capconduit did assign +18005550100 solar",
    "capconduit did assign +18005550100 --campaign solar",
    "capconduit did assign +18005550101 --seller acme",
)
def assign(
    ctx: typer.Context,
    number: Number,
    out: ChangeOutput,
    campaign: OfCampaign = None,
    to_campaign: Annotated[str | None, name_option("--campaign", CAMPAIGNS, "The same as CAMPAIGN.")] = None,
    seller: Annotated[
        str | None, name_option("--seller", SELLERS, "Give it to this seller, who has no campaign for it yet.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Give a number to a campaign, and so to its seller; or to a seller alone, where it takes no calls yet.

    One that is suspended stays suspended.
    """
    from capconduit.services.dids import assign_did, give_did_to_seller

    if campaign is not None and to_campaign not in (None, campaign):
        raise UsageError(
            "campaign-twice",
            f"{campaign!r} and {to_campaign!r} are two campaigns",
            "give one: a number has one at a time",
        )
    campaign = campaign or to_campaign
    if (campaign is None) == (seller is None):
        raise UsageError(
            "campaign-missing" if campaign is None else "campaign-and-seller",
            f"whose is {number} to be?" if campaign is None else "a campaign and a seller are too much at once",
            f"give a campaign: capconduit did assign {number} CAMPAIGN, or --seller NAME",
        )
    made = office(ctx, dry_run=dry_run)
    view = assign_did(made, number, campaign) if campaign else give_did_to_seller(made, number, seller or "")
    emit_change(made, row(view), COLUMNS, out)


@app.verb("release", "capconduit did release +18005550100")
def release(ctx: typer.Context, number: Number, out: ChangeOutput, dry_run: DryRun = False) -> None:
    """Take a number back from its campaign and seller; live calls go on."""
    from capconduit.services.dids import release_did

    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(release_did(made, number)), COLUMNS, out)


@app.verb("suspend", "capconduit did suspend +18005550100")
def suspend(ctx: typer.Context, number: Number, out: ChangeOutput, dry_run: DryRun = False) -> None:
    """Take no more calls on a number; live calls go on."""
    _suspend(ctx, number, out, dry_run, suspended=True)


@app.verb("resume", "capconduit did resume +18005550100")
def resume(ctx: typer.Context, number: Number, out: ChangeOutput, dry_run: DryRun = False) -> None:
    """Take calls on a number again."""
    _suspend(ctx, number, out, dry_run, suspended=False)


def _suspend(ctx: typer.Context, number: str, out: ChangeOutput, dry_run: bool, *, suspended: bool) -> None:
    from capconduit.services.dids import suspend_did

    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(suspend_did(made, number, suspended=suspended)), COLUMNS, out)


@app.verb("remove", "capconduit did remove +18005550100 --yes")
def remove(ctx: typer.Context, number: Number, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Remove a number that is not assigned, with its caps."""
    from capconduit.services.dids import remove_did

    destroy(office(ctx), f"did {number}", lambda made: remove_did(made, number), yes=yes, dry_run=dry_run)
