"""The sums of a seller's statement: its ledger by span, and its charged calls by campaign and price."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from capconduit.domain.model import LedgerEntry
from capconduit.domain.statements import ChargedCalls, Parts
from capconduit.ids import ulid
from capconduit.store.dialect import Dialect
from capconduit.store.rows import mapping

# Ids begin with the instant of their making, so that months which cannot have any are not read. The margin is far more
# than an entry's id and its instant, which come from one clock in one transaction, can be apart.
MARGIN_MS: Final = 86_400_000

_PARTS: Final = (
    "SELECT coalesce(sum(CASE WHEN created_ms < :since THEN amount_micros ELSE 0 END), 0),"
    " coalesce(sum(CASE WHEN created_ms >= :since AND created_ms < :until THEN amount_micros ELSE 0 END), 0),"
    " coalesce(sum(CASE WHEN created_ms >= :until THEN amount_micros ELSE 0 END), 0)"
    " FROM ledger WHERE tenant_id = :tenant_id AND seller_id = :seller_id"
)
_PRICE: Final = (
    "cdr.connect_fee_micros, cdr.per_minute_micros, cdr.first_s, cdr.step_s, cdr.then_after_s,"
    " cdr.then_per_minute_micros"
)
_CHARGED: Final = (
    f"SELECT cdr.campaign, {_PRICE}, count(*), sum(cdr.billed_seconds), sum(cdr.talk_ms), -sum(ledger.amount_micros),"  # noqa: S608 - our own names
    " sum(cdr.amount_micros), sum(cdr.written_off_micros)"
    " FROM ledger LEFT JOIN cdr ON cdr.call_id = ledger.call_id AND cdr.tenant_id = ledger.tenant_id"
    " WHERE ledger.tenant_id = :tenant_id AND ledger.seller_id = :seller_id AND ledger.kind = 'call'"
    " AND ledger.created_ms >= :since AND ledger.created_ms < :until"
    " AND ledger.id >= :oldest AND ledger.id < :newest"
    f" GROUP BY cdr.campaign, {_PRICE}"
)


class StatementReads:
    """The reads of one transaction, each of a tenant's seller from one instant to before another."""

    def __init__(self, db: Dialect) -> None:
        self._db = db

    def parts(self, tenant_id: str, seller_id: str, since_ms: int, until_ms: int) -> Parts:
        """The sums of the ledger before the span, in it and after it."""
        row = self._db.query(_PARTS, _span(tenant_id, seller_id, since_ms, until_ms))[0]
        return Parts(int(row[0]), int(row[1]), int(row[2]))

    def besides_calls(self, tenant_id: str, seller_id: str, since_ms: int, until_ms: int) -> Sequence[LedgerEntry]:
        """The entries of the ledger that are not those of calls, the oldest first."""
        m = mapping(LedgerEntry)
        rows = self._db.query(
            f"{m.select} WHERE tenant_id = :tenant_id AND seller_id = :seller_id AND kind <> 'call'"
            " AND created_ms >= :since AND created_ms < :until ORDER BY created_ms, id",
            _span(tenant_id, seller_id, since_ms, until_ms),
        )
        return [m.load(row) for row in rows]

    def charged_calls(self, tenant_id: str, seller_id: str, since_ms: int, until_ms: int) -> Sequence[ChargedCalls]:
        """The calls that the ledger has, by campaign and price, with the sums of their records."""
        bounds = {"oldest": ulid(max(since_ms - MARGIN_MS, 0), 0), "newest": ulid(until_ms + MARGIN_MS, 0)}
        rows = self._db.query(_CHARGED, {**_span(tenant_id, seller_id, since_ms, until_ms), **bounds})
        return [_charged(row) for row in rows]


def _span(tenant_id: str, seller_id: str, since_ms: int, until_ms: int) -> dict[str, Any]:
    return {"tenant_id": tenant_id, "seller_id": seller_id, "since": since_ms, "until": until_ms}


def _charged(row: Sequence[Any]) -> ChargedCalls:
    """A call without a record has NULL in all of the record's columns."""
    return ChargedCalls(row[0] or "", row[0] is not None, *(int(value or 0) for value in row[1:]))
