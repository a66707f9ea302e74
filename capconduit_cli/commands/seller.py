"""`capconduit seller`: the prepaid accounts of sellers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit.units import format_micros
from capconduit_cli.amounts import Amount, amount_option, one_currency
from capconduit_cli.names import NewName, SellerName
from capconduit_cli.office import destroy, emit_change, given, office
from capconduit_cli.output import ChangeOutput, Column, Kind, ListOutput, Row, ShowOutput, emit_one, emit_rows, notice
from capconduit_cli.params import DryRun, Yes
from capconduit_cli.rows import ENTITY_COLUMNS, entity_values
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.services.sellers import SellerView

app = NounApp(
    "A seller owns campaigns and pays for their calls in advance. Its money is moved with `capconduit balance`; the"
    " time zone says when the days of its caps begin."
)

DEFAULT_CURRENCY: Final = "USD"
COLUMNS: Final = (
    Column("name"),
    Column("status"),
    Column("currency"),
    Column("balance", Kind.MONEY),
    Column("held", Kind.MONEY),
    Column("available", Kind.MONEY),
    Column("credit_limit", Kind.MONEY, shown=False),
    Column("low_balance", Kind.MONEY, shown=False),
    Column("timezone"),
    *ENTITY_COLUMNS,
)

Credit = Annotated[Amount | None, amount_option("--credit-limit", help="How far below zero the account may go.")]
LowBalance = Annotated[Amount | None, amount_option("--low-balance", help="Below this the seller is to be told.")]


def row(view: SellerView) -> Row:
    """A seller as it is printed."""
    seller, account = view.seller, view.account
    return {
        "name": seller.name,
        "status": seller.status,
        "currency": seller.currency,
        "balance": account.balance_micros,
        "held": account.held_micros,
        "available": account.available_micros,
        "credit_limit": account.credit_limit_micros,
        "low_balance": seller.low_balance_micros,
        "timezone": seller.timezone,
        **entity_values(seller),
    }


@app.verb(
    "add",
    "capconduit seller add acme --currency USD --timezone America/New_York",
    "capconduit seller add globex --currency EUR --credit-limit 100",
)
def add(
    ctx: typer.Context,
    name: NewName,
    out: ChangeOutput,
    currency: Annotated[
        str | None,
        typer.Option("--currency", metavar="CODE", help="ISO code; it stays.", show_default=DEFAULT_CURRENCY),
    ] = None,
    timezone: Annotated[
        str, typer.Option("--timezone", metavar="ZONE", help="IANA zone like America/New_York; it stays.")
    ] = "UTC",
    credit_limit: Credit = None,
    low_balance: LowBalance = None,
    dry_run: DryRun = False,
) -> None:
    """Add a seller with an empty account."""
    from capconduit.services.sellers import add_seller

    code = one_currency(currency, credit_limit, low_balance, default=DEFAULT_CURRENCY)
    made = office(ctx, dry_run=dry_run)
    view = add_seller(
        made,
        name,
        currency=code,
        timezone=timezone,
        credit_limit_micros=credit_limit.within(code) if credit_limit else 0,
        low_balance_micros=low_balance.within(code) if low_balance else 0,
    )
    emit_change(made, row(view), COLUMNS, out)


@app.verb("list", "capconduit seller list", "capconduit seller list --sort -balance --json")
def list_(ctx: typer.Context, out: ListOutput) -> None:
    """List the sellers and what they have left."""
    from capconduit.services.sellers import list_sellers

    emit_rows((row(view) for view in list_sellers(office(ctx))), COLUMNS, out)


@app.verb("show", "capconduit seller show acme", "capconduit seller show acme --fields available -o plain")
def show(ctx: typer.Context, name: SellerName, out: ShowOutput) -> None:
    """Show one seller."""
    from capconduit.services.sellers import show_seller

    emit_one(row(show_seller(office(ctx), name)), COLUMNS, out)


@app.verb("set", "capconduit seller set acme --credit-limit 50", "capconduit seller set acme --low-balance 10")
def set_(
    ctx: typer.Context,
    name: SellerName,
    out: ChangeOutput,
    credit_limit: Credit = None,
    low_balance: LowBalance = None,
    dry_run: DryRun = False,
) -> None:
    """Change a seller's credit limit or low-balance mark.

    A credit limit that live calls already lean on is refused. Currency and time zone stay what they are: money and
    caps are counted by them.
    """
    from capconduit.services.sellers import set_seller, show_seller

    given("seller", name, credit_limit=credit_limit, low_balance=low_balance)
    made = office(ctx, dry_run=dry_run)
    code = show_seller(made, name).seller.currency
    fields = {"low_balance_micros": low_balance.within(code)} if low_balance else {}
    credit = credit_limit.within(code) if credit_limit else None
    view = set_seller(made, name, credit_limit_micros=credit, **fields)
    emit_change(made, row(view), COLUMNS, out)
    mark_micros, has_micros = view.seller.low_balance_micros, view.account.balance_micros
    if low_balance and has_micros < mark_micros:
        has, mark = format_micros(has_micros, trim=True), format_micros(mark_micros, trim=True)
        notice(f"{name} has {has} {code}, less than its mark of {mark} {code}: it is low from now on")


@app.verb("suspend", "capconduit seller suspend acme")
def suspend(ctx: typer.Context, name: SellerName, out: ChangeOutput, dry_run: DryRun = False) -> None:
    """Take no more calls for a seller; live calls go on."""
    _suspend(ctx, name, out, dry_run, suspended=True)


@app.verb("resume", "capconduit seller resume acme")
def resume(ctx: typer.Context, name: SellerName, out: ChangeOutput, dry_run: DryRun = False) -> None:
    """Take calls for a seller again."""
    _suspend(ctx, name, out, dry_run, suspended=False)


def _suspend(ctx: typer.Context, name: str, out: ChangeOutput, dry_run: bool, *, suspended: bool) -> None:
    from capconduit.services.sellers import suspend_seller

    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(suspend_seller(made, name, suspended=suspended)), COLUMNS, out)


@app.verb("remove", "capconduit seller remove acme --yes")
def remove(ctx: typer.Context, name: SellerName, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Remove a seller that never had money, with its caps.

    One that has ledger entries stays: suspend it.
    """
    from capconduit.services.sellers import remove_seller

    destroy(office(ctx), f"seller {name}", lambda made: remove_seller(made, name), yes=yes, dry_run=dry_run)
