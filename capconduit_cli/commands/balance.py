"""`capconduit balance`: prepaid money."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit.errors import DriftError, UsageError
from capconduit_cli.amounts import Amount, parse_signed_amount
from capconduit_cli.names import SellerName
from capconduit_cli.office import emit_change, office, well
from capconduit_cli.output import ChangeOutput, Column, Kind, ListOutput, Row, ShowOutput, emit_one, emit_rows
from capconduit_cli.params import DryRun, instant_option
from capconduit_cli.rows import RecentOutput, emit_recent
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.domain.model import LedgerEntry
    from capconduit.services.balances import Drift
    from capconduit.services.sellers import SellerView

app = NounApp(
    "What is available is the balance and the credit limit less what live calls hold. Every movement is a ledger entry,"
    " and none is ever changed: what was wrong is taken back by another one."
)

COLUMNS: Final = (
    Column("seller"),
    Column("currency"),
    Column("balance", Kind.MONEY),
    Column("held", Kind.MONEY),
    Column("available", Kind.MONEY),
    Column("credit_limit", Kind.MONEY),
    Column("low_balance", Kind.MONEY),
    Column("status"),
)
LEDGER_COLUMNS: Final = (
    Column("at", Kind.INSTANT, source="created_ms"),
    Column("kind"),
    Column("amount", Kind.MONEY, source="amount_micros"),
    Column("balance_after", Kind.MONEY, source="balance_after_micros"),
    Column("currency"),
    Column("reason"),
    Column("actor"),
    Column("call_id", shown=False),
    Column("corrects", shown=False),
    Column("key", shown=False),
    Column("id", shown=False),
)
DRIFT_COLUMNS: Final = (
    Column("seller"),
    Column("what"),
    Column("recorded", Kind.MONEY),
    Column("recounted", Kind.MONEY),
    Column("currency"),
)


def row(view: SellerView) -> Row:
    """A seller's money as it is printed."""
    return {
        "seller": view.seller.name,
        "currency": view.seller.currency,
        "balance": view.account.balance_micros,
        "held": view.account.held_micros,
        "available": view.account.available_micros,
        "credit_limit": view.account.credit_limit_micros,
        "low_balance": view.seller.low_balance_micros,
        "status": view.seller.status,
    }


def ledger_row(entry: LedgerEntry, currency: str) -> Row:
    """A ledger entry as it is printed."""
    return {
        "created_ms": entry.created_ms,
        "kind": entry.kind,
        "amount_micros": entry.amount_micros,
        "balance_after_micros": entry.balance_after_micros,
        "currency": currency,
        "reason": entry.reason,
        "actor": entry.actor,
        "call_id": entry.call_id,
        "corrects": entry.corrects_id,
        "key": entry.idempotency_key,
        "id": entry.id,
    }


def drift_row(drift: Drift) -> Row:
    """An account that does not add up."""
    return {
        "seller": drift.seller,
        "what": drift.what,
        "recorded": drift.stands_micros,
        "recounted": drift.sums_micros,
        "currency": drift.currency,
    }


@app.verb("show", "capconduit balance show acme --json", "capconduit balance show acme --fields available -o plain")
def show(ctx: typer.Context, seller: SellerName, out: ShowOutput) -> None:
    """Show a seller's balance, what live calls hold of it, and what is available."""
    from capconduit.services.balances import show_balance

    emit_one(row(show_balance(office(ctx), seller)), COLUMNS, out)


@app.verb(
    "add",
    "capconduit balance add acme 25 --reason 'wire 1234'",
    "capconduit balance add acme -5 --reason refund",
    "capconduit balance add acme '25.50 USD' --reason 'invoice 7' --key invoice-7",
)
def add(
    ctx: typer.Context,
    seller: SellerName,
    amount: Annotated[
        Amount, typer.Argument(metavar="AMOUNT", parser=parse_signed_amount, help="What to add; with - to take back.")
    ],
    out: ChangeOutput,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the ledger.")],
    key: Annotated[
        str | None, typer.Option("--key", metavar="TEXT", help="A key of your own: the same one again adds nothing.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Add money to a seller's account, or take it back.

    No more can be taken back than is available: what live calls hold is theirs. Prints the account as it is then.
    """
    from capconduit.services.balances import adjust, show_balance

    made = office(ctx, dry_run=dry_run)
    before = show_balance(made, seller)
    entry = adjust(made, seller, amount.within(before.seller.currency), reason=reason, key=_given_key(key))
    after = show_balance(made, seller)
    if dry_run:
        after = replace(before, account=replace(before.account, balance_micros=entry.balance_after_micros))
    emit_change(made, row(after), COLUMNS, out)


@app.verb("ledger", "capconduit balance ledger acme", "capconduit balance ledger acme --since monday --json")
def ledger(
    ctx: typer.Context,
    seller: SellerName,
    out: RecentOutput,
    since: Annotated[int | None, instant_option("--since", help="Entries of this time or later.")] = None,
    until: Annotated[int | None, instant_option("--until", help="Entries before this time.")] = None,
) -> None:
    """List the movements of a seller's money, the newest first."""
    from capconduit.services.balances import ledger as read_ledger

    limit = None if out.filter or out.sort else out.limit + 1  # one more than is shown, to know of more
    owner, entries = read_ledger(office(ctx), seller, since_ms=since, until_ms=until, limit=limit)
    emit_recent(entries, lambda entry: ledger_row(entry, owner.currency), LEDGER_COLUMNS, out)


@app.verb("verify", "capconduit balance verify")
def verify(ctx: typer.Context, out: ListOutput) -> None:
    """Check that balances are the sum of their ledger, and what is held the sum of open holds.

    Lists the accounts where they are not, with exit code 5; says nothing where all is well.
    """
    from capconduit.services.balances import verify_balances

    drifts = verify_balances(office(ctx))
    emit_rows((drift_row(drift) for drift in drifts), DRIFT_COLUMNS, out)
    if drifts:
        raise DriftError(
            "balance-drift",
            f"{len(drifts)} numbers do not add up",
            "stop the daemons and compare with `capconduit balance ledger`",
        )
    well("every balance is the sum of its ledger")


def _given_key(key: str | None) -> str:
    """The key, or nothing where none was meant: an empty one is an unset variable of somebody's script."""
    if key is not None and not key.strip():
        raise UsageError("key-empty", "--key is empty", "give a text of your own, or leave --key out")
    return key or ""
