"""`capconduit balance`: prepaid money."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit.errors import DriftError, UsageError
from capconduit.units import format_instant
from capconduit.vocab import StatementGroup
from capconduit_cli.amounts import Amount, amount_option, parse_signed_amount
from capconduit_cli.errors import ThresholdCrossed
from capconduit_cli.names import SellerName
from capconduit_cli.office import emit_change, office, well
from capconduit_cli.output import (
    ChangeOutput,
    Column,
    Kind,
    ListOutput,
    OutputFormat,
    Row,
    ShowOutput,
    emit_one,
    emit_rows,
    emit_text,
    notice,
)
from capconduit_cli.params import DryRun, instant_option
from capconduit_cli.rows import RecentOutput, emit_recent
from capconduit_cli.typer_seam import Bundle, NounApp

if TYPE_CHECKING:
    from capconduit.domain.model import LedgerEntry
    from capconduit.services.balances import Correction, Drift, LedgerView, LowBalance
    from capconduit.services.sellers import SellerView

app = NounApp(
    "What is available is the balance and the credit limit less what live calls hold. Every movement is a ledger entry,"
    " and none is ever changed: what was wrong is put right by another one, a correction that names it."
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
ADD_COLUMNS: Final = (*COLUMNS, Column("added", Kind.BOOL))
LEDGER_COLUMNS: Final = (
    Column("id"),
    Column("at", Kind.INSTANT, source="created_ms"),
    Column("kind"),
    Column("amount", Kind.MONEY, source="amount_micros"),
    Column("corrections", Kind.MONEY),
    Column("balance_after", Kind.MONEY, source="balance_after_micros"),
    Column("currency"),
    Column("reason"),
    Column("actor", shown=False),
    Column("call_id", shown=False),
    Column("corrects", shown=False),
    Column("key", shown=False),
)
CORRECTION_COLUMNS: Final = (
    Column("id"),
    Column("seller"),
    Column("corrects"),
    Column("corrected_kind"),
    Column("corrected_amount", Kind.MONEY),
    Column("amount", Kind.MONEY),
    Column("corrections", Kind.MONEY),
    Column("balance", Kind.MONEY),
    Column("available", Kind.MONEY),
    Column("currency"),
    Column("reason"),
)
LOW_COLUMNS: Final = (
    Column("seller"),
    Column("currency"),
    Column("available", Kind.MONEY),
    Column("threshold", Kind.MONEY),
    Column("balance", Kind.MONEY),
    Column("held", Kind.MONEY),
    Column("credit_limit", Kind.MONEY),
)
DRIFT_COLUMNS: Final = (
    Column("seller"),
    Column("what"),
    Column("recorded", Kind.MONEY),
    Column("recounted", Kind.MONEY),
    Column("currency"),
)


class StatementForm(StrEnum):
    """Forms of a statement."""

    TEXT = "text"
    CSV = "csv"
    JSON = "json"
    HTML = "html"


@dataclass(frozen=True)
class StatementOutput(Bundle):
    """`-o` and `--json` of a statement."""

    output: Annotated[
        StatementForm | None, typer.Option("--output", "-o", help="Form of the statement.", show_default="text")
    ] = None
    json: Annotated[bool, typer.Option("--json", help="Short for --output json.")] = False

    def __post_init__(self) -> None:
        if self.json and self.output not in (None, StatementForm.JSON):
            raise UsageError("output-conflict", f"--json and --output {self.output} exclude each other", "give one")

    @property
    def format(self) -> StatementForm:
        """The form that was asked for."""
        return StatementForm.JSON if self.json else self.output or StatementForm.TEXT


KEY_HELP: Final = "A key of your own: the same one again adds nothing."


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


def ledger_row(entry: LedgerEntry, view: LedgerView) -> Row:
    """A ledger entry as it is printed, with the sum of its corrections where there are any."""
    return {
        "created_ms": entry.created_ms,
        "kind": entry.kind,
        "amount_micros": entry.amount_micros,
        "corrections": view.corrections.get(entry.id),
        "balance_after_micros": entry.balance_after_micros,
        "currency": view.seller.currency,
        "reason": entry.reason,
        "actor": entry.actor,
        "call_id": entry.call_id,
        "corrects": entry.corrects_id,
        "key": entry.idempotency_key,
        "id": entry.id,
    }


def correction_row(correction: Correction) -> Row:
    """What a correction did, as it is printed."""
    entry, wrong = correction.posted.entry, correction.corrected
    return {
        "id": entry.id,
        "seller": correction.view.seller.name,
        "corrects": wrong.id,
        "corrected_kind": wrong.kind,
        "corrected_amount": wrong.amount_micros,
        "amount": entry.amount_micros,
        "corrections": correction.sum_micros,
        "balance": correction.view.account.balance_micros,
        "available": correction.view.account.available_micros,
        "currency": correction.view.seller.currency,
        "reason": entry.reason,
    }


def low_row(low: LowBalance) -> Row:
    """A seller who runs low, as it is printed."""
    account = low.view.account
    return {
        "seller": low.view.seller.name,
        "currency": low.view.seller.currency,
        "available": account.available_micros,
        "threshold": low.threshold_micros,
        "balance": account.balance_micros,
        "held": account.held_micros,
        "credit_limit": account.credit_limit_micros,
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
    key: Annotated[str | None, typer.Option("--key", metavar="TEXT", help=KEY_HELP)] = None,
    dry_run: DryRun = False,
) -> None:
    """Add money to a seller's account, or take it back.

    No more can be taken back than is available: what live calls hold is theirs. Prints the account as it is then, and
    whether anything was added: with a --key that was used before nothing is.
    """
    from capconduit.services.balances import post_adjustment, show_balance

    made = office(ctx, dry_run=dry_run)
    before = show_balance(made, seller)
    micros = amount.within(before.seller.currency)
    posted = post_adjustment(made, seller, micros, reason=reason, key=_given_key(key))
    after = show_balance(made, seller)
    if dry_run and posted.fresh:
        after = replace(before, account=replace(before.account, balance_micros=posted.entry.balance_after_micros))
    emit_change(made, {**row(after), "added": posted.fresh}, ADD_COLUMNS, out)
    if not posted.fresh:
        notice(_used_before(key, posted.entry))


@app.verb(
    "correct",
    "capconduit balance correct 01KAH7Z5R3M2C9W8X1Y4T6V0QN -5 --reason 'wire 1234 was 20, not 25'",
    "capconduit balance correct 01KAH7Z5R3M2C9W8X1Y4T6V0QN 0.20 --reason 'the target was at fault'",
)
def correct(
    ctx: typer.Context,
    entry: Annotated[
        str, typer.Argument(metavar="LEDGER_ID", help="The entry that is wrong: its id from `balance ledger`.")
    ],
    amount: Annotated[
        Amount,
        typer.Argument(metavar="AMOUNT", parser=parse_signed_amount, help="What to add; with - to take back."),
    ],
    out: ChangeOutput,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the ledger.")],
    key: Annotated[str | None, typer.Option("--key", metavar="TEXT", help=KEY_HELP)] = None,
    beyond: Annotated[
        bool, typer.Option("--beyond", help="Though the entry is turned into its opposite: its sign was wrong.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Correct a ledger entry by another one that names it.

    No more can be taken back than is available, and no more be undone than the entry did. A correction is not
    corrected: correct its entry once more. Prints the correction with the sum of all that the entry has.
    """
    from capconduit.services.balances import correct as post_correction
    from capconduit.services.balances import entry_currency

    made = office(ctx, dry_run=dry_run)
    micros = amount.within(entry_currency(made, entry) or amount.currency)
    correction = post_correction(made, entry, micros, reason=reason, key=_given_key(key), beyond=beyond)
    emit_change(made, correction_row(correction), CORRECTION_COLUMNS, out)
    if not correction.posted.fresh:
        notice(_used_before(key, correction.posted.entry))


@app.verb("ledger", "capconduit balance ledger acme", "capconduit balance ledger acme --since monday --json")
def ledger(
    ctx: typer.Context,
    seller: SellerName,
    out: RecentOutput,
    since: Annotated[int | None, instant_option("--since", help="Entries of this time or later.")] = None,
    until: Annotated[int | None, instant_option("--until", help="Entries before this time.")] = None,
) -> None:
    """List the movements of a seller's money, the newest first."""
    from capconduit.services.balances import view_ledger

    limit = None if out.filter or out.sort else out.limit + 1  # one more than is shown, to know of more
    view = view_ledger(office(ctx), seller, since_ms=since, until_ms=until, limit=limit)
    emit_recent(view.entries, lambda entry: ledger_row(entry, view), LEDGER_COLUMNS, out)


@app.verb("check", "capconduit balance check", "capconduit balance check --below 10 --json")
def check(
    ctx: typer.Context,
    out: ListOutput,
    below: Annotated[
        Amount | None,
        amount_option(
            "--below",
            help="What is too little; with a currency only sellers of that one.",
            show_default="each seller's own --low-balance",
        ),
    ] = None,
) -> None:
    """Find the active sellers who have less available than they should, the emptiest first.

    Lists them, with exit code 6; says nothing where all is well. For cron.
    """
    from capconduit.services.balances import check_balances

    found = check_balances(
        office(ctx), below_micros=below.micros if below else None, currency=below.currency if below else ""
    )
    emit_rows((low_row(low) for low in found), LOW_COLUMNS, out, empty="")
    if found:
        raise ThresholdCrossed(
            "balance-low",
            f"{len(found)} sellers have less than they should" if found[1:] else "1 seller has less than it should",
            "`capconduit balance add SELLER AMOUNT --reason TEXT` adds money",
        )
    well("every seller has enough")


@app.verb(
    "statement",
    "capconduit balance statement acme --month 2026-10",
    "capconduit balance statement acme --month last -o html > acme.html",
    "capconduit balance statement acme --month this --by rate --json",
)
def statement(
    ctx: typer.Context,
    seller: SellerName,
    out: StatementOutput,
    month: Annotated[
        str, typer.Option("--month", metavar="2026-10|this|last", help="Which month of the seller's time zone.")
    ] = "last",
    by: Annotated[StatementGroup, typer.Option("--by", help="What calls are grouped by.")] = StatementGroup.CAMPAIGN,
) -> None:
    """A seller's statement of a month: what there was, its calls in groups, all else that moved, what was left.

    It adds up to the millionth, and goes by the entries of the ledger: a call belongs to the month that it was settled
    in. Where anything is not the sum of its parts there is no statement, but the difference and exit code 5. Forms:
    text, csv (line by line, with the running balance), json, html (a page that stands alone, to be printed).
    """
    import json

    from capconduit.services.statements import statement_of
    from capconduit_cli.statement import content, forms

    made = statement_of(office(ctx), seller, month, by)
    match out.format:
        case StatementForm.JSON:
            emit_text(json.dumps(forms.as_json(made), indent=2).splitlines())
        case StatementForm.CSV:
            emit_rows(content.lines(made), content.COLUMNS, ListOutput(output=OutputFormat.CSV))
        case StatementForm.HTML:
            emit_text(forms.as_html(made).splitlines())
        case _:
            emit_text(forms.as_text(made))


@app.verb("verify", "capconduit balance verify")
def verify(ctx: typer.Context, out: ListOutput) -> None:
    """Check that balances are the sum of their ledger, and what is held the sum of open holds.

    Lists the accounts where they are not, with exit code 5; says nothing where all is well.
    """
    from capconduit.services.balances import verify_balances

    drifts = verify_balances(office(ctx))
    emit_rows((drift_row(drift) for drift in drifts), DRIFT_COLUMNS, out, empty="")
    if drifts:
        raise DriftError(
            "balance-drift",
            f"{len(drifts)} numbers do not add up",
            "stop the daemons and compare with `capconduit balance ledger`",
        )
    well("every balance is the sum of its ledger")


def _used_before(key: str | None, entry: LedgerEntry) -> str:
    return f"key {key!r} was used before, on {format_instant(entry.created_ms)[:10]}: nothing was added"


def _given_key(key: str | None) -> str:
    """The key, or nothing where none was meant: an empty one is an unset variable of somebody's script."""
    if key is not None and not key.strip():
        raise UsageError("key-empty", "--key is empty", "give a text of your own, or leave --key out")
    return key or ""
