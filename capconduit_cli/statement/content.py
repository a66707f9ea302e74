"""What a statement says, the same in every form: its lines as rows, and its words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from capconduit.domain.statements import CallLine
from capconduit.units import format_instant
from capconduit.vocab import LedgerKind, StatementGroup
from capconduit_cli.output import Column, Kind, Row

if TYPE_CHECKING:
    from capconduit.services.statements import MonthStatement

# One line of a statement. Amounts have their sign: what went is negative, so the lines between the balances sum up.
COLUMNS: Final = (
    Column("line"),
    Column("at", Kind.INSTANT),
    Column("text"),
    Column("calls", Kind.INT),
    Column("billed_minutes"),
    Column("talk_ms", Kind.DURATION),
    Column("amount", Kind.MONEY),
    Column("balance", Kind.MONEY),
    Column("currency"),
)
HEAD_COLUMNS: Final = (
    Column("seller"),
    Column("month"),
    Column("timezone"),
    Column("currency"),
    Column("since", Kind.INSTANT),
    Column("until", Kind.INSTANT),
    Column("made", Kind.INSTANT),
    Column("final", Kind.BOOL),
    Column("grouped_by"),
    Column("opening", Kind.MONEY),
    Column("calls", Kind.MONEY),
    Column("adjustments", Kind.MONEY),
    Column("fees", Kind.MONEY),
    Column("corrections", Kind.MONEY),
    Column("closing", Kind.MONEY),
    Column("written_off", Kind.MONEY),
)
CALL_COLUMNS: Final = (
    Column("group"),
    Column("calls", Kind.INT),
    Column("billed_seconds", Kind.INT),
    Column("billed_minutes"),
    Column("talk_ms", Kind.DURATION),
    Column("amount", Kind.MONEY),
    Column("written_off", Kind.MONEY),
    Column("currency"),
)
ENTRY_COLUMNS: Final = (
    Column("id"),
    Column("at", Kind.INSTANT),
    Column("kind"),
    Column("amount", Kind.MONEY),
    Column("currency"),
    Column("reason"),
    Column("corrects"),
)
PRUNED: Final = "calls whose records were pruned"
TITLES: Final = {
    LedgerKind.ADJUSTMENT: "Payments and adjustments",
    LedgerKind.FEE: "Fees",
    LedgerKind.CORRECTION: "Corrections",
}


@dataclass(frozen=True, slots=True)
class Words:
    """How a statement speaks of itself."""

    title: str
    period: str
    note: str


def words(made: MonthStatement) -> Words:
    """The title, the period in the seller's zone, and what is to be known."""
    first, last = local_time(made.since_ms, made), local_time(made.until_ms - 1, made)
    note = f"Days are those of {made.seller.timezone}. Amounts are in {made.seller.currency}; what went is negative."
    if not made.is_over:
        note += f" The month is not over: this is what there was at {local_time(made.made_ms, made)}."
    return Words(f"Statement {made.month}: {made.seller.name}", f"{first[:10]} to {last[:10]}", note)


def local_time(at_ms: int, made: MonthStatement) -> str:
    """`2026-10-05 14:30` in the seller's zone."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)
    return moment.astimezone(ZoneInfo(made.seller.timezone)).strftime("%Y-%m-%d %H:%M")


def group_name(line: CallLine, by: StatementGroup) -> str:
    """What a group of calls is called."""
    if line.group:
        return line.group
    return PRUNED if by is StatementGroup.CAMPAIGN else f"{PRUNED}, at any price"


def head(made: MonthStatement) -> Row:
    """The statement as one object: HEAD_COLUMNS."""
    statement = made.statement
    return {
        "seller": made.seller.name,
        "month": made.month,
        "timezone": made.seller.timezone,
        "currency": made.seller.currency,
        "since": made.since_ms,
        "until": made.until_ms,
        "made": made.made_ms,
        "final": made.is_over,
        "grouped_by": made.by,
        "opening": statement.opening_micros,
        "calls": statement.sum_of(LedgerKind.CALL),
        "adjustments": statement.sum_of(LedgerKind.ADJUSTMENT),
        "fees": statement.sum_of(LedgerKind.FEE),
        "corrections": statement.sum_of(LedgerKind.CORRECTION),
        "closing": statement.closing_micros,
        "written_off": statement.total_calls.written_off_micros if statement.total_calls.known else None,
    }


def call_rows(made: MonthStatement) -> Iterator[Row]:
    """The groups of calls: CALL_COLUMNS."""
    for line in made.statement.calls:
        yield {
            "group": group_name(line, made.by),
            "calls": line.calls,
            "billed_seconds": line.billed_s if line.known else None,
            "billed_minutes": line.billed_minutes if line.known else None,
            "talk_ms": line.talk_ms if line.known else None,
            "amount": -line.amount_micros,
            "written_off": line.written_off_micros if line.known else None,
            "currency": made.seller.currency,
        }


def entry_rows(made: MonthStatement) -> Iterator[Row]:
    """The other entries: ENTRY_COLUMNS."""
    for entry in made.statement.others:
        yield {
            "id": entry.id,
            "at": entry.created_ms,
            "kind": entry.kind,
            "amount": entry.amount_micros,
            "currency": made.seller.currency,
            "reason": entry.reason,
            "corrects": entry.corrects_id or "",
        }


def lines(made: MonthStatement) -> Iterator[Row]:
    """The whole statement line by line: COLUMNS. The balance runs from the opening one to the closing one."""
    statement, balance = made.statement, made.statement.opening_micros
    blank = {"at": None, "text": "", "calls": None, "billed_minutes": "", "talk_ms": None, "amount": None}
    blank |= {"currency": made.seller.currency}
    yield {**blank, "line": "opening", "at": made.since_ms, "text": "opening balance", "balance": balance}
    for group in call_rows(made):
        balance += int(str(group["amount"]))
        told = {key: group[key] for key in ("calls", "billed_minutes", "talk_ms", "amount")}
        yield {**blank, **told, "line": "call", "text": group["group"], "balance": balance}
    for entry in statement.others:
        balance += entry.amount_micros
        yield {
            **blank,
            "line": entry.kind,
            "at": entry.created_ms,
            "text": entry.reason,
            "amount": entry.amount_micros,
            "balance": balance,
        }
    assert balance == statement.closing_micros, "a statement that does not add up is refused before"
    yield {**blank, "line": "closing", "at": made.until_ms, "text": "closing balance", "balance": balance}


def stamp(made: MonthStatement) -> str:
    """When it was made, for the foot."""
    return format_instant(made.made_ms)[:19] + "Z"
