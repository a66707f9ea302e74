"""`capconduit did`: the numbers that calls arrive on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit_cli.names import CAMPAIGNS, TRUNKS, CampaignName, Number, name_option
from capconduit_cli.office import destroy, emit_change, given, office
from capconduit_cli.output import ChangeOutput, Column, ListOutput, Row, ShowOutput, emit_one, emit_rows
from capconduit_cli.params import DryRun, Yes
from capconduit_cli.rows import ENTITY_COLUMNS, entity_values
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.services.dids import DidView

app = NounApp(
    "Numbers may be written in any usual notation; they are kept in E.164. A DID takes calls while it is assigned to a"
    " campaign."
)

COLUMNS: Final = (
    Column("number"),
    Column("status"),
    Column("trunk"),
    Column("seller"),
    Column("campaign"),
    *ENTITY_COLUMNS,
)


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
)
def add(
    ctx: typer.Context,
    number: Annotated[str, typer.Argument(metavar="NUMBER", help="The number, in any usual notation.")],
    out: ChangeOutput,
    trunk: Annotated[str | None, name_option("--trunk", TRUNKS, "The trunk it arrives on.")] = None,
    campaign: Annotated[str | None, name_option("--campaign", CAMPAIGNS, "Assign it to this campaign.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Add a number."""
    from capconduit.services.dids import add_did

    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(add_did(made, number, trunk=trunk or "", campaign=campaign or "")), COLUMNS, out)


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


@app.verb("assign", "capconduit did assign +18005550100 solar")
def assign(
    ctx: typer.Context, number: Number, campaign: CampaignName, out: ChangeOutput, dry_run: DryRun = False
) -> None:
    """Give a number to a campaign, and so to its seller.

    One that is suspended stays suspended.
    """
    from capconduit.services.dids import assign_did

    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(assign_did(made, number, campaign)), COLUMNS, out)


@app.verb("release", "capconduit did release +18005550100")
def release(ctx: typer.Context, number: Number, out: ChangeOutput, dry_run: DryRun = False) -> None:
    """Take a number back from its campaign; live calls go on."""
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
