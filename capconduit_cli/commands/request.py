"""`capconduit request`: numbers that sellers ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit.vocab import RequestStatus
from capconduit_cli.names import CAMPAIGNS, DIDS, SELLERS, RequestId, name_option
from capconduit_cli.office import emit_change, office
from capconduit_cli.output import ChangeOutput, Column, Kind, ListOutput, Row, ShowOutput, emit_one, emit_rows
from capconduit_cli.params import DryRun, completer
from capconduit_cli.rows import ENTITY_COLUMNS, entity_values
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.services.requests import RequestView

app = NounApp(
    "A seller asks for numbers that begin in some way (+1212); an admin gives available ones, all or some, or says why"
    " not. Numbers that are given with a campaign take calls at once, those without when `capconduit did assign` says"
    " so. A request that got some of its numbers is `partly` done: the rest stays to be decided."
)

COLUMNS: Final = (
    Column("id"),
    Column("seller"),
    Column("status"),
    Column("area"),
    Column("quantity", Kind.INT),
    Column("wanted", Kind.INT),
    Column("note"),
    Column("numbers", Kind.NAMES, shown=False),
    Column("filed_by", shown=False),
    Column("decided", Kind.INSTANT),
    Column("decided_by", shown=False),
    Column("reason", shown=False),
    *ENTITY_COLUMNS[1:],
)
SHOW_COLUMNS: Final = (*COLUMNS, Column("available", Kind.INT), Column("first_available", Kind.NAMES))
OFFERED: Final = 10  # available numbers that `show` names

Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; the seller is told.")]


def row(view: RequestView) -> Row:
    """A request as it is printed."""
    request = view.request
    return {
        "seller": view.seller,
        "status": request.status,
        "area": request.area,
        "quantity": request.quantity,
        "wanted": view.wanted,
        "note": request.note,
        "numbers": view.numbers,
        "filed_by": request.filed_by,
        "decided": request.decided_ms,
        "decided_by": request.decided_by,
        "reason": request.reason,
        **entity_values(request),
    }


@app.verb(
    "file",
    "capconduit request file --seller acme --area +1212 --quantity 3 --note 'for the new solar stream'",
    "capconduit request file --seller acme",
)
def file(
    ctx: typer.Context,
    out: ChangeOutput,
    seller: Annotated[str, name_option("--seller", SELLERS, "Who asks.")],
    area: Annotated[
        str,
        typer.Option("--area", metavar="+1212", help="How the numbers begin; ? is any one digit. Without it, any."),
    ] = "",
    quantity: Annotated[int, typer.Option("--quantity", metavar="N", help="How many.")] = 1,
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="What for, in the seller's words.")] = "",
    dry_run: DryRun = False,
) -> None:
    """Ask for numbers as a seller."""
    from capconduit.services.requests import file_request

    made = office(ctx, dry_run=dry_run)
    view = file_request(made, seller=seller, area=area, quantity=quantity, note=note)
    emit_change(made, row(view), COLUMNS, out)


@app.verb(
    "list",
    "capconduit request list --status open",
    "capconduit request list --seller acme --json",
)
def list_(
    ctx: typer.Context,
    out: ListOutput,
    seller: Annotated[str | None, name_option("--seller", SELLERS, "Only those of this seller.")] = None,
    status: Annotated[RequestStatus | None, typer.Option("--status", help="Only those that stand so.")] = None,
) -> None:
    """List the requests, the newest first."""
    from capconduit.services.requests import list_requests

    views = list_requests(office(ctx), seller=seller or "", status=status)
    emit_rows((row(view) for view in views), COLUMNS, out)


@app.verb("show", "capconduit request show 01KAH7Z5R3M2C9W8X1Y4T6V0QN")
def show(ctx: typer.Context, request: RequestId, out: ShowOutput) -> None:
    """Show one request, and which available numbers would fit."""
    from capconduit.services.requests import available_for, show_request

    made = office(ctx)
    view, fitting = show_request(made, request), available_for(made, request)
    values = {**row(view), "available": len(fitting), "first_available": fitting[:OFFERED]}
    emit_one(values, SHOW_COLUMNS, out)


@app.verb(
    "approve",
    "capconduit request approve 01KAH7Z5R3M2C9W8X1Y4T6V0QN --campaign solar",
    "capconduit request approve 01KAH7Z5R3M2C9W8X1Y4T6V0QN --did +12125550100 --did +12125550101",
    "capconduit request approve 01KAH7Z5R3M2C9W8X1Y4T6V0QN --partly --reason 'the rest comes next week'",
)
def approve(
    ctx: typer.Context,
    request: RequestId,
    out: ChangeOutput,
    campaign: Annotated[
        str | None, name_option("--campaign", CAMPAIGNS, "Give them to this campaign of the seller.")
    ] = None,
    did: Annotated[
        list[str] | None,
        typer.Option("--did", metavar="NUMBER", help="Give this number.", autocompletion=completer(DIDS)),
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", metavar="N", help="Give so many of the available ones.")
    ] = None,
    partly: Annotated[
        bool, typer.Option("--partly", help="Where fewer are available than wanted, give what there is.")
    ] = False,
    reason: Reason = "",
    dry_run: DryRun = False,
) -> None:
    """Give a seller the numbers that it asked for, all in one go or none.

    Without --did the first available ones of the area are given: as many as are wanted, or --count. Prints the request
    with all numbers that were given.
    """
    from capconduit.services.requests import approve_request

    made = office(ctx, dry_run=dry_run)
    view = approve_request(
        made, request, campaign=campaign or "", numbers=did or (), count=count, partly=partly, reason=reason
    )
    emit_change(made, row(view), COLUMNS, out)


@app.verb("reject", "capconduit request reject 01KAH7Z5R3M2C9W8X1Y4T6V0QN --reason 'no numbers there before May'")
def reject(
    ctx: typer.Context,
    request: RequestId,
    out: ChangeOutput,
    reason: Reason,
    dry_run: DryRun = False,
) -> None:
    """Refuse what is still wanted of a request; numbers that were given stay given."""
    from capconduit.services.requests import reject_request

    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(reject_request(made, request, reason=reason)), COLUMNS, out)
