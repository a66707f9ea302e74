"""Prepaid money: adding and taking back, corrections, the ledger, who runs low, and whether everything adds up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from capconduit.domain.books import Books, Changes
from capconduit.domain.events import event
from capconduit.domain.model import Account, Event, LedgerEntry, LedgerKey, Seller
from capconduit.errors import Refused, UsageError
from capconduit.services.office import Desk, Office
from capconduit.services.sellers import SellerView, low_balance_event, show_seller
from capconduit.units import MAX_MICROS, format_micros
from capconduit.vocab import EventKind, LedgerKind, Status

MAX_TEXT: Final = 500  # characters of a reason or an idempotency key


@dataclass(frozen=True, slots=True)
class Drift:
    """An account whose numbers do not add up: what stands there, and what its rows sum to (micros)."""

    seller: str
    currency: str
    what: str
    stands_micros: int
    sums_micros: int


@dataclass(frozen=True, slots=True)
class Posted:
    """A ledger entry that a command made, or had made before (`fresh` False: its key was used, nothing was added)."""

    entry: LedgerEntry
    fresh: bool


@dataclass(frozen=True, slots=True)
class Correction:
    """A correction: the entry that it corrects, and the sum of all corrections of that."""

    posted: Posted
    corrected: LedgerEntry
    sum_micros: int
    view: SellerView


@dataclass(frozen=True, slots=True)
class LedgerView:
    """A seller's entries, newest first, and the sum of the corrections of those that have any, by the entry's id."""

    seller: Seller
    entries: Sequence[LedgerEntry]
    corrections: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class LowBalance:
    """A seller with less available money than `threshold_micros`."""

    view: SellerView
    threshold_micros: int


def show_balance(office: Office, seller: str) -> SellerView:
    """A seller's money. Raises NotFound."""
    return show_seller(office, seller)


def adjust(office: Office, seller_name: str, amount_micros: int, *, reason: str, key: str = "") -> LedgerEntry:
    """Add money, or take it back, and the entry that did; see `post_adjustment`."""
    return post_adjustment(office, seller_name, amount_micros, reason=reason, key=key).entry


def post_adjustment(office: Office, seller_name: str, amount_micros: int, *, reason: str, key: str = "") -> Posted:
    """Add money, or take it back (negative): at most what is available. `key` makes a repeated command harmless.

    Raises UsageError, NotFound, Refused: not enough available money, or the key was used for another amount.
    """
    _check_texts("an adjustment", reason, key)
    _check_amount(amount_micros)

    def work(desk: Desk) -> Posted:
        seller = desk.named(Seller, seller_name)
        books = Books()
        desk.tx.lock_accounts([seller.id], books)
        earlier = _earlier(desk, f"adjustment:{key}") if key else None
        if earlier is not None:
            if (earlier.seller_id, earlier.amount_micros) != (seller.id, amount_micros):
                raise Refused("key-used", f"key {key!r} was used for another adjustment", "use a new key")
            return Posted(earlier, fresh=False)
        entry = _entry(desk, books, seller, amount_micros, reason, LedgerKind.ADJUSTMENT, f"adjustment:{key}", key)
        _post(desk, books, seller, entry, "balance.add")
        return Posted(entry, fresh=True)

    return office.change(work, estate=False)


def correct(
    office: Office, entry_id: str, amount_micros: int, *, reason: str, key: str = "", beyond: bool = False
) -> Correction:
    """Correct a ledger entry by a new one of `amount_micros` that names it; the old one stays as it is.

    What is taken back is at most what is available. A correction is not corrected: another one of the same entry does
    that. Together they undo no more than the entry did, unless `beyond` says that its sign was wrong, too. Raises
    UsageError, Refused.
    """
    _check_texts("a correction", reason, key)
    _check_amount(amount_micros)

    def work(desk: Desk) -> Correction:
        wrong = desk.tx.find(LedgerEntry, desk.tenant_id, id=entry_id.strip().upper())
        if wrong is None:
            raise Refused(
                "entry-not-found", f"no ledger entry {entry_id!r}", "`capconduit balance ledger SELLER` shows their ids"
            )
        if wrong.kind is LedgerKind.CORRECTION:
            raise Refused(
                "correction-of-correction",
                f"{wrong.id} is a correction itself",
                f"correct the entry that it names once more: {wrong.corrects_id}",
            )
        seller = desk.tx.find(Seller, desk.tenant_id, id=wrong.seller_id)
        assert seller is not None  # one with ledger entries is never removed
        books = Books()
        desk.tx.lock_accounts([seller.id], books)
        posted = _correction(desk, books, seller, wrong, amount_micros, reason, key, beyond=beyond)
        own = desk.tx.rows(LedgerEntry, desk.tenant_id, seller_id=seller.id, corrects_id=wrong.id)
        total = sum(row.amount_micros for row in own)
        return Correction(posted, wrong, total, SellerView(seller, books.accounts[seller.id]))

    return office.change(work, estate=False)


def entry_currency(office: Office, entry_id: str) -> str:
    """The currency of a ledger entry; empty where there is no such entry."""

    def work(desk: Desk) -> str:
        entry = desk.tx.find(LedgerEntry, desk.tenant_id, id=entry_id.strip().upper())
        seller = desk.tx.find(Seller, desk.tenant_id, id=entry.seller_id) if entry else None
        return seller.currency if seller else ""

    return office.read(work)


def _correction(
    desk: Desk,
    books: Books,
    seller: Seller,
    wrong: LedgerEntry,
    amount_micros: int,
    reason: str,
    key: str,
    *,
    beyond: bool,
) -> Posted:
    earlier = _earlier(desk, f"correction:{key}") if key else None
    if earlier is not None:
        if (earlier.corrects_id, earlier.amount_micros) != (wrong.id, amount_micros):
            raise Refused("key-used", f"key {key!r} was used for another correction", "use a new key")
        return Posted(earlier, fresh=False)
    if not beyond:
        _within_entry(desk, seller, wrong, amount_micros)
    entry = _entry(
        desk, books, seller, amount_micros, reason, LedgerKind.CORRECTION, f"correction:{key}", key, wrong.id
    )
    _post(desk, books, seller, entry, "balance.correct")
    return Posted(entry, fresh=True)


def _within_entry(desk: Desk, seller: Seller, wrong: LedgerEntry, amount_micros: int) -> None:
    """Refuse a correction that would turn what an entry did into its opposite: mostly a digit too many."""
    before = sum(
        row.amount_micros
        for row in desk.tx.rows(
            LedgerEntry, desk.tenant_id, seller_id=seller.id, since=("id", wrong.id), corrects_id=wrong.id
        )
    )
    left = wrong.amount_micros + before
    if wrong.amount_micros * (left + amount_micros) < 0:
        raise Refused(
            "correction-exceeds-entry",
            f"{format_micros(amount_micros, trim=True)} is more than is left of {wrong.id}:"
            f" {format_micros(left, trim=True)} {seller.currency}",
            f"give at most {format_micros(-left, trim=True)}, or --beyond where its sign was wrong",
        )


def _check_texts(what: str, reason: str, key: str) -> None:
    if not reason.strip():
        raise UsageError("reason-missing", f"{what} needs a reason", "add --reason 'wire 1234'")
    if len(reason) > MAX_TEXT or len(key) > MAX_TEXT:
        raise UsageError("text-too-long", f"a reason or key of more than {MAX_TEXT} characters", "say it shorter")


def _check_amount(amount_micros: int) -> None:
    if amount_micros == 0 or abs(amount_micros) > MAX_MICROS:
        raise UsageError(
            "amount-invalid", f"{format_micros(amount_micros, trim=True)} cannot be booked", "give another amount"
        )


def _earlier(desk: Desk, idempotency_key: str) -> LedgerEntry | None:
    """The entry that was made with this key."""
    known = desk.tx.find(LedgerKey, desk.tenant_id, idempotency_key=idempotency_key)
    return desk.tx.find(LedgerEntry, desk.tenant_id, id=known.ledger_id) if known else None


def _entry(
    desk: Desk,
    books: Books,
    seller: Seller,
    amount_micros: int,
    reason: str,
    kind: LedgerKind,
    idempotency_key: str,
    key: str,
    corrects_id: str | None = None,
) -> LedgerEntry:
    """The entry of an amount that the account bears; a key of the operator's own is kept, unique over all entries.

    Raises Refused, UsageError.
    """
    account = books.accounts[seller.id]
    if amount_micros < 0 and account.available_micros + amount_micros < 0:
        available = format_micros(account.available_micros, trim=True)
        raise Refused(
            "not-enough-money",
            f"seller {seller.name!r} has {available} {seller.currency} available",
            "live calls hold the rest; take back less, or wait for them to end"
            if account.held_micros
            else f"take back less, or let it go below zero: capconduit seller set {seller.name} --credit-limit AMOUNT",
        )
    if account.balance_micros + amount_micros > MAX_MICROS:
        raise UsageError("amount-invalid", "the balance would be larger than can be kept", "give a smaller amount")
    entry_id = desk.new_id()
    if key:
        kept = LedgerKey(tenant_id=desk.tenant_id, idempotency_key=idempotency_key, ledger_id=entry_id)
        try:
            desk.tx.insert(kept)
        except Refused:  # another command used it just now, for another account
            raise Refused("key-used", f"key {key!r} was used for another seller", "use a new key") from None
    return LedgerEntry(
        id=entry_id,
        tenant_id=desk.tenant_id,
        seller_id=seller.id,
        amount_micros=amount_micros,
        kind=kind,
        idempotency_key=idempotency_key if key else f"{kind}:{entry_id}",
        actor=desk.actor,
        reason=reason,
        call_id=None,
        corrects_id=corrects_id,
        balance_after_micros=account.balance_micros + amount_micros,
        created_ms=desk.now_ms,
    )


def _post(desk: Desk, books: Books, seller: Seller, entry: LedgerEntry, action: str) -> None:
    """The money moves, audited and told."""
    account = books.accounts[seller.id]
    told = event(
        desk.new_id, desk.tenant_id, desk.now_ms, EventKind.BALANCE_CHANGED, seller.id,
        amount_micros=entry.amount_micros, balance_micros=entry.balance_after_micros, reason=entry.reason,
    )  # fmt: skip
    books.apply(Changes(ledger=[entry], events=[told, *_low(desk, seller, account, entry)]))
    desk.tx.write(books)
    desk.changed(action, seller.name, account, books.accounts[seller.id], estate=False)


def _low(desk: Desk, seller: Seller, before: Account, entry: LedgerEntry) -> list[Event]:
    """A balance that falls below the seller's threshold is told once, as at the end of a call."""
    if not entry.balance_after_micros < seller.low_balance_micros <= before.balance_micros:
        return []
    return [low_balance_event(desk, seller, entry.balance_after_micros)]


def check_balances(office: Office, *, below_micros: int | None = None, currency: str = "") -> Sequence[LowBalance]:
    """The active sellers with less available money than `below_micros` (in `currency`, where it is named), or without
    it than their own low-balance mark; the emptiest first."""

    def work(desk: Desk) -> Sequence[LowBalance]:
        accounts = {a.seller_id: a for a in desk.tx.rows(Account, desk.tenant_id)}
        low = []
        for seller in desk.tx.rows(Seller, desk.tenant_id):
            if seller.status is not Status.ACTIVE or (currency and seller.currency != currency):
                continue
            threshold = seller.low_balance_micros if below_micros is None else below_micros
            if accounts[seller.id].available_micros < threshold:
                low.append(LowBalance(SellerView(seller, accounts[seller.id]), threshold))
        return sorted(low, key=lambda one: (one.view.account.available_micros, one.view.seller.name))

    return office.read(work)


def ledger(
    office: Office,
    seller_name: str,
    *,
    since_ms: int | None = None,
    until_ms: int | None = None,
    limit: int | None = None,
) -> tuple[Seller, Sequence[LedgerEntry]]:
    """A seller's ledger, newest first. Raises NotFound."""
    view = view_ledger(office, seller_name, since_ms=since_ms, until_ms=until_ms, limit=limit)
    return view.seller, view.entries


def view_ledger(
    office: Office,
    seller_name: str,
    *,
    since_ms: int | None = None,
    until_ms: int | None = None,
    limit: int | None = None,
) -> LedgerView:
    """The same with what the entries were corrected by. Raises NotFound."""

    def work(desk: Desk) -> LedgerView:
        seller = desk.named(Seller, seller_name)
        rows = desk.tx.rows(
            LedgerEntry,
            desk.tenant_id,
            since=("created_ms", since_ms) if since_ms is not None else None,
            until=("created_ms", until_ms) if until_ms is not None else None,
            newest_first="id",
            limit=limit,
            seller_id=seller.id,
        )
        later: Sequence[LedgerEntry] = rows  # a correction is newer than what it corrects, so all of them are here
        if until_ms is not None and rows:
            oldest_ms = rows[-1].created_ms
            later = desk.tx.rows(LedgerEntry, desk.tenant_id, since=("created_ms", oldest_ms), seller_id=seller.id)
        sums: dict[str, int] = {}
        for entry in later:
            if entry.corrects_id is not None:
                sums[entry.corrects_id] = sums.get(entry.corrects_id, 0) + entry.amount_micros
        return LedgerView(seller, rows, sums)

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
