"""Statements: what a seller's account did in a month of its own time zone; refused where it does not add up."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from capconduit.domain.model import Account, Seller
from capconduit.domain.statements import Statement, differences, make_statement
from capconduit.domain.windows import window_end_ms, window_start_ms
from capconduit.errors import DriftError, UsageError
from capconduit.services.office import Desk, Office
from capconduit.units import instant_ms
from capconduit.vocab import StatementGroup, WindowKind

THIS: Final = "this"
LAST: Final = "last"
YEARS: Final = (1971, 2199)
_MONTH: Final = re.compile(r"([0-9]{4})-([0-9]{2})")


@dataclass(frozen=True, slots=True)
class MonthStatement:
    """A seller's statement of `month` (`2026-10`): from `since_ms` to before `until_ms`, made at `made_ms`."""

    seller: Seller
    month: str
    since_ms: int
    until_ms: int
    made_ms: int
    by: StatementGroup
    statement: Statement

    @property
    def is_over(self) -> bool:
        """Whether nothing can come to it any more."""
        return self.made_ms >= self.until_ms


def statement_of(
    office: Office, seller_name: str, month: str = LAST, by: StatementGroup = StatementGroup.CAMPAIGN
) -> MonthStatement:
    """A seller's statement of `2026-10`, of `this` month so far or of the `last`, from one snapshot.

    Raises UsageError, NotFound, DriftError where anything in it is not the sum of its parts.
    """

    def work(desk: Desk) -> MonthStatement:
        seller = desk.named(Seller, seller_name)
        year, number = _month(month, desk.now_ms, seller.timezone)
        middle = instant_ms(datetime(year, number, 15, 12, tzinfo=UTC))
        since_ms = window_start_ms(WindowKind.MONTH, middle, seller.timezone)
        until_ms = window_end_ms(WindowKind.MONTH, middle, seller.timezone)
        if since_ms > desk.now_ms:
            raise UsageError(
                "month-to-come", f"{month!r} has not begun for seller {seller.name!r}", "give another month"
            )
        made = _add_up(desk, seller, since_ms, until_ms, by)
        return MonthStatement(seller, f"{year:04d}-{number:02d}", since_ms, until_ms, desk.now_ms, by, made)

    return office.read(work)


def _add_up(desk: Desk, seller: Seller, since_ms: int, until_ms: int, by: StatementGroup) -> Statement:
    """The sums, read in different ways and compared. Raises DriftError."""
    reads, span = desk.tx.statements(), (desk.tenant_id, seller.id, since_ms, until_ms)
    parts = reads.parts(*span)
    calls = reads.charged_calls(*span)
    others = reads.besides_calls(*span)
    account = desk.tx.find(Account, desk.tenant_id, seller_id=seller.id)
    assert account is not None  # made with the seller
    statement = make_statement(parts, calls, others, by)
    wrong = differences(statement, parts, calls, account.balance_micros)
    if wrong:
        raise DriftError(
            "statement-differs",
            f"the statement of {seller.name!r} ({seller.currency}) does not add up:"
            f" {'; '.join(each.words for each in wrong)}",
            "`capconduit balance verify` looks at every account; correct the books before a statement goes out",
        )
    return statement


def _month(text: str, now_ms: int, zone: str) -> tuple[int, int]:
    """Year and month. Raises UsageError."""
    word = text.strip().lower()
    local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=now_ms)).astimezone(ZoneInfo(zone))
    if word == THIS:
        return local.year, local.month
    if word == LAST:
        before = local.replace(day=1) - timedelta(days=1)
        return before.year, before.month
    match = _MONTH.fullmatch(word)
    year, month = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (YEARS[0] <= year <= YEARS[1] and 1 <= month <= 12):
        raise UsageError("month-invalid", f"{text!r} is no month", "write it like 2026-10, this or last")
    return year, month
