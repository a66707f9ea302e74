"""`capconduit rate`: what a call costs its seller, and what its target is paid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from capconduit_cli.amounts import Amount, amount_option, one_currency, parse_amount
from capconduit_cli.bulk.importing import ListFile, Update, carry_out
from capconduit_cli.names import NewName, RateName
from capconduit_cli.office import destroy, emit_change, given, office
from capconduit_cli.output import ChangeOutput, Column, Kind, ListOutput, Row, ShowOutput, emit_one, emit_rows
from capconduit_cli.params import NONE, DryRun, Yes, duration_option
from capconduit_cli.rows import ENTITY_COLUMNS, entity_values
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.domain.model import Rate

app = NounApp(
    "A connected call costs the connect fee and the price of its minutes, billed in increments: 60/60 bills whole"
    " minutes, 30/6 the first 30 seconds and then steps of 6, 1/1 by the second. A rate may have a second price for the"
    " seconds billed beyond some length. Campaigns name the rate their seller pays; targets and rules may have another,"
    " and one that their side is paid (payout). Live calls keep the rate they began with."
)

DEFAULT_CURRENCY: Final = "USD"
DEFAULT_INCREMENT: Final = "60/60"
COLUMNS: Final = (
    Column("name"),
    Column("currency"),
    Column("per_minute", Kind.MONEY),
    Column("connect_fee", Kind.MONEY),
    Column("increment"),
    Column("then_per_minute", Kind.MONEY),
    Column("then_after_ms", Kind.DURATION),
    *ENTITY_COLUMNS,
)

PER_MINUTE_HELP: Final = "Price of a minute."
THEN_AFTER_HELP: Final = "How many seconds are billed at the first price; 1s to 24h."
Fee = Annotated[Amount | None, amount_option("--connect-fee", help="Price of being connected at all.")]


@dataclass(frozen=True, slots=True)
class SecondPrice:
    """What `--then` says: an amount, or None for `none`."""

    amount: Amount | None


def parse_second_price(text: str) -> SecondPrice:
    """`0.10`, `none`. Raises UsageError."""
    return SecondPrice(None if text.strip().lower() == NONE else parse_amount(text))


def row(rate: Rate) -> Row:
    """A rate as it is printed."""
    return {
        "name": rate.name,
        "currency": rate.currency,
        "per_minute": rate.per_minute_micros,
        "connect_fee": rate.connect_fee_micros,
        "increment": f"{rate.first_s}/{rate.step_s}",
        "then_per_minute": rate.then_per_minute_micros if rate.then_after_s else None,
        "then_after_ms": rate.then_after_s * 1_000 if rate.then_after_s else None,
        **entity_values(rate),
    }


@app.verb(
    "add",
    "capconduit rate add std --per-minute 0.20 --increment 60/60",
    "capconduit rate add second --per-minute '0.18 EUR' --increment 1/1 --connect-fee 0.05",
    "capconduit rate add long --per-minute 0.20 --then 0.10 --then-after 60s",
)
def add(
    ctx: typer.Context,
    name: NewName,
    out: ChangeOutput,
    per_minute: Annotated[Amount, amount_option("--per-minute", help=PER_MINUTE_HELP)],
    connect_fee: Fee = None,
    increment: Annotated[
        str, typer.Option("--increment", metavar="FIRST/STEP", help="Seconds of the first and each further increment.")
    ] = DEFAULT_INCREMENT,
    currency: Annotated[
        str | None, typer.Option("--currency", metavar="CODE", help="ISO code.", show_default=DEFAULT_CURRENCY)
    ] = None,
    then: Annotated[
        Amount | None, amount_option("--then", help="Price of a minute beyond --then-after; both or none.")
    ] = None,
    then_after: Annotated[int | None, duration_option("--then-after", help=THEN_AFTER_HELP)] = None,
    dry_run: DryRun = False,
) -> None:
    """Add a rate."""
    from capconduit.services.rates import add_rate

    code = one_currency(currency, per_minute, connect_fee, then, default=DEFAULT_CURRENCY)
    made = office(ctx, dry_run=dry_run)
    rate = add_rate(
        made,
        name,
        per_minute_micros=per_minute.within(code),
        connect_fee_micros=connect_fee.within(code) if connect_fee else 0,
        increment=increment,
        currency=code,
        then_per_minute_micros=then.within(code) if then else None,
        then_after_ms=then_after,
    )
    emit_change(made, row(rate), COLUMNS, out)


@app.verb(
    "import",
    "capconduit rate import rates.csv --dry-run",
    "capconduit rate import rates.csv --update",
)
def import_(
    ctx: typer.Context, source: ListFile, out: ChangeOutput, update: Update = False, dry_run: DryRun = False
) -> None:
    """Add the rates of a list: name, per_minute, if wanted connect_fee, increment, currency, and a second price.

    The first line names the columns, in any order; a list that `rate list -o csv` wrote is one. All or nothing: where
    any line is wrong, all that are wrong are told and nothing changes. With --update columns that are not there stay
    as they are, and so do those whose cell is empty; both cells of the second price empty take it away.
    """
    from capconduit.services.bulk_selling import RATE_COLUMNS, import_rates

    carry_out(ctx, source, RATE_COLUMNS, import_rates, out, update=update, dry_run=dry_run)


@app.verb("list", "capconduit rate list", "capconduit rate list --filter currency=EUR")
def list_(ctx: typer.Context, out: ListOutput) -> None:
    """List the rates."""
    from capconduit.services.rates import list_rates

    emit_rows((row(rate) for rate in list_rates(office(ctx))), COLUMNS, out)


@app.verb("show", "capconduit rate show std")
def show(ctx: typer.Context, name: RateName, out: ShowOutput) -> None:
    """Show one rate."""
    from capconduit.services.rates import show_rate

    emit_one(row(show_rate(office(ctx), name)), COLUMNS, out)


@app.verb(
    "set",
    "capconduit rate set std --per-minute 0.25",
    "capconduit rate set std --increment 30/6",
    "capconduit rate set std --then 0.10 --then-after 60s",
    "capconduit rate set std --then none",
)
def set_(
    ctx: typer.Context,
    name: RateName,
    out: ChangeOutput,
    per_minute: Annotated[Amount | None, amount_option("--per-minute", help=PER_MINUTE_HELP)] = None,
    connect_fee: Fee = None,
    increment: Annotated[
        str | None,
        typer.Option("--increment", metavar="FIRST/STEP", help="Seconds of the first and each further increment."),
    ] = None,
    then: Annotated[
        SecondPrice | None,
        typer.Option(
            "--then",
            metavar=f"AMOUNT|{NONE}",
            parser=parse_second_price,
            help="Price of a minute beyond --then-after; none: one price again.",
        ),
    ] = None,
    then_after: Annotated[int | None, duration_option("--then-after", help=THEN_AFTER_HELP)] = None,
    dry_run: DryRun = False,
) -> None:
    """Change a rate; calls that are up keep the old one."""
    from capconduit.services.rates import set_rate, show_rate

    given(
        "rate", name, per_minute=per_minute, connect_fee=connect_fee, increment=increment, then=then, after=then_after
    )
    made = office(ctx, dry_run=dry_run)
    code = show_rate(made, name).currency
    fields: dict[str, Any] = {"increment": increment, "then_after_ms": then_after}
    if per_minute is not None:
        fields["per_minute_micros"] = per_minute.within(code)
    if connect_fee is not None:
        fields["connect_fee_micros"] = connect_fee.within(code)
    if then is not None:
        fields |= {"then_per_minute_micros": then.amount.within(code)} if then.amount else {"one_price": True}
    emit_change(made, row(set_rate(made, name, **fields)), COLUMNS, out)


@app.verb("remove", "capconduit rate remove std --yes")
def remove(ctx: typer.Context, name: RateName, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Remove a rate that no campaign, target or rule uses."""
    from capconduit.services.rates import remove_rate

    destroy(office(ctx), f"rate {name}", lambda made: remove_rate(made, name), yes=yes, dry_run=dry_run)
