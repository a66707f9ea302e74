"""Prepaid money: adding and taking back, the ledger, and whether everything adds up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from capconduit.domain.admission import event
from capconduit.domain.books import Books, Changes
from capconduit.domain.model import Account, LedgerEntry, Seller
from capconduit.errors import Refused, UsageError
from capconduit.services.office import Desk, Office
from capconduit.services.sellers import SellerView, show_seller
from capconduit.units import MAX_MICROS, format_micros
from capconduit.vocab import EventKind, LedgerKind

MAX_TEXT: Final = 500  # characters of a reason or an idempotency key


@dataclass(frozen=True, slots=True)
class Drift:
    """An account whose numbers do not add up: what stands there, and what its rows sum to (micros)."""

    seller: str
    currency: str
    what: str
    stands_micros: int
    sums_micros: int


def show_balance(office: Office, seller: str) -> SellerView:
    """A seller's money. Raises NotFound."""
    return show_seller(office, seller)


def adjust(office: Office, seller_name: str, amount_micros: int, *, reason: str, key: str = "") -> LedgerEntry:
    """Add money, or take it back (negative): at most what is available. `key` makes a repeated command harmless.

    Raises Refused: not enough available money, or the key was used for another amount.
    """
    if not reason.strip():
        raise UsageError("reason-missing", "an adjustment needs a reason", "add --reason 'wire 1234'")
    if len(reason) > MAX_TEXT or len(key) > MAX_TEXT:
        raise UsageError("text-too-long", f"a reason or key of more than {MAX_TEXT} characters", "say it shorter")
    if amount_micros == 0 or abs(amount_micros) > MAX_MICROS:
        raise UsageError("amount-invalid", f"{format_micros(amount_micros)} cannot be booked", "give another amount")

    def work(desk: Desk) -> LedgerEntry:
        seller = desk.named(Seller, seller_name)
        books = Books()
        desk.tx.lock_accounts([seller.id], books)
        idempotency_key = f"adjustment:{key or desk.new_id()}"
        earlier = desk.tx.find(LedgerEntry, desk.tenant_id, idempotency_key=idempotency_key)
        if earlier is not None:
            if (earlier.seller_id, earlier.amount_micros) != (seller.id, amount_micros):
                raise Refused("key-used", f"key {key!r} was used for another adjustment", "use a new key")
            return earlier
        return _post(desk, books, seller, amount_micros, reason, idempotency_key)

    return office.change(work, estate=False)


def _post(
    desk: Desk, books: Books, seller: Seller, amount_micros: int, reason: str, idempotency_key: str
) -> LedgerEntry:
    account = books.accounts[seller.id]
    if amount_micros < 0 and account.available_micros + amount_micros < 0:
        raise Refused(
            "not-enough-money",
            f"seller {seller.name!r} has {format_micros(account.available_micros)} {seller.currency} available",
            "live calls hold the rest; take back less, or wait for them to end",
        )
    if account.balance_micros + amount_micros > MAX_MICROS:
        raise UsageError("amount-invalid", "the balance would be larger than can be kept", "give a smaller amount")
    entry = LedgerEntry(
        id=desk.new_id(),
        tenant_id=desk.tenant_id,
        seller_id=seller.id,
        amount_micros=amount_micros,
        kind=LedgerKind.ADJUSTMENT,
        idempotency_key=idempotency_key,
        actor=desk.actor,
        reason=reason,
        call_id=None,
        corrects_id=None,
        balance_after_micros=account.balance_micros + amount_micros,
        created_ms=desk.now_ms,
    )
    told = event(
        desk.new_id, desk.tenant_id, desk.now_ms, EventKind.BALANCE_CHANGED, seller.id,
        amount_micros=amount_micros, balance_micros=entry.balance_after_micros, reason=reason,
    )  # fmt: skip
    books.apply(Changes(ledger=[entry], events=[told]))
    desk.tx.write(books)
    desk.changed("balance.add", seller.name, account, books.accounts[seller.id], estate=False)
    return entry


def ledger(
    office: Office,
    seller_name: str,
    *,
    since_ms: int | None = None,
    until_ms: int | None = None,
    limit: int | None = None,
) -> tuple[Seller, Sequence[LedgerEntry]]:
    """A seller's ledger, newest first. Raises NotFound."""

    def work(desk: Desk) -> tuple[Seller, Sequence[LedgerEntry]]:
        seller = desk.named(Seller, seller_name)
        rows = desk.tx.rows(
            LedgerEntry,
            desk.tenant_id,
            since=("created_ms", since_ms) if since_ms is not None else None,
            until=("created_ms", until_ms) if until_ms is not None else None,
            newest_first="created_ms",
            limit=limit,
            seller_id=seller.id,
        )
        return seller, rows

    return office.read(work)


def verify_balances(office: Office) -> Sequence[Drift]:
    """Accounts whose balance is not the sum of their ledger, or whose held is not that of their open holds."""

    def work(desk: Desk) -> Sequence[Drift]:
        sellers = {s.id: s for s in desk.tx.rows(Seller, desk.tenant_id)}
        ledgers, holds = desk.tx.ledger_sums(desk.tenant_id), desk.tx.hold_sums(desk.tenant_id)
        drifts = []
        for account in desk.tx.rows(Account, desk.tenant_id):
            seller = sellers[account.seller_id]
            for what, stands, sums in (
                ("balance", account.balance_micros, ledgers.get(account.seller_id, 0)),
                ("held", account.held_micros, holds.get(account.seller_id, 0)),
            ):
                if stands != sums:
                    drifts.append(Drift(seller.name, seller.currency, what, stands, sums))
        return drifts

    return office.read(work)
