"""Sellers: who they are, and the account that comes with each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Final
from zoneinfo import available_timezones

from capconduit.domain.books import Books
from capconduit.domain.model import Account, Event, LedgerEntry, Seller
from capconduit.errors import Refused, UsageError
from capconduit.services.blocks import remove_blocks_of
from capconduit.services.caps import remove_caps_of
from capconduit.services.office import Desk, Office, check_name
from capconduit.units import MAX_MICROS, format_micros
from capconduit.vocab import CapScope, EventKind, Status

_CURRENCY = re.compile(r"^[A-Z]{3}$")
_ZONES: Final[set[str]] = set()
_NO_ZONES: Final = {"localtime", "Factory"}  # each machine's own, or none: nodes would count by different days


@dataclass(frozen=True, slots=True)
class SellerView:
    """A seller with its money."""

    seller: Seller
    account: Account


def check_timezone(name: str) -> str:
    """An IANA time zone name. Raises UsageError with the nearest one."""
    if not _ZONES:
        _ZONES.update(available_timezones() - _NO_ZONES)
    if name not in _ZONES:
        near = get_close_matches(name, sorted(_ZONES), 1)
        hint = f"did you mean {near[0]!r}?" if near else "use an IANA name like America/New_York"
        raise UsageError("timezone-invalid", f"{name!r} is no time zone", hint)
    return name


def check_currency(code: str) -> str:
    """An ISO 4217 code in capitals. Raises UsageError."""
    if not _CURRENCY.fullmatch(code.upper()):
        raise UsageError("currency-invalid", f"{code!r} is no currency", "use an ISO 4217 code like USD")
    return code.upper()


def check_amounts(fields: Mapping[str, Any]) -> None:
    """Every `…_micros` is a price or a limit: not negative, and small enough to be kept. Raises UsageError."""
    for name, micros in fields.items():
        if name.endswith("_micros") and micros is not None and not 0 <= micros <= MAX_MICROS:
            what = name.removesuffix("_micros").replace("_", " ")
            raise UsageError(
                "amount-invalid", f"{format_micros(micros)} is no {what}", f"give 0 to {format_micros(MAX_MICROS)}"
            )


def add_seller(
    office: Office,
    name: str,
    *,
    currency: str = "USD",
    timezone: str = "UTC",
    credit_limit_micros: int = 0,
    low_balance_micros: int = 0,
) -> SellerView:
    """A new seller with an empty account. Raises Refused where the name is taken."""
    check_name("seller", name)
    check_timezone(timezone)
    code = check_currency(currency)
    check_amounts({"credit_limit_micros": credit_limit_micros, "low_balance_micros": low_balance_micros})

    def work(desk: Desk) -> SellerView:
        seller = Seller(
            **desk.stamp(),
            name=name,
            currency=code,
            timezone=timezone,
            status=Status.ACTIVE,
            low_balance_micros=low_balance_micros,
        )
        desk.add("seller", seller)
        account = Account(
            seller_id=seller.id,
            tenant_id=desk.tenant_id,
            balance_micros=0,
            held_micros=0,
            credit_limit_micros=credit_limit_micros,
        )
        desk.tx.insert(account)
        return SellerView(seller, account)

    return office.change(work)


def list_sellers(office: Office) -> Sequence[SellerView]:
    """All sellers by name, with their money."""

    def work(desk: Desk) -> Sequence[SellerView]:
        accounts = {a.seller_id: a for a in desk.tx.rows(Account, desk.tenant_id)}
        sellers = sorted(desk.tx.rows(Seller, desk.tenant_id), key=lambda s: s.name)
        return [SellerView(s, accounts[s.id]) for s in sellers]

    return office.read(work)


def show_seller(office: Office, name: str) -> SellerView:
    """One seller. Raises NotFound."""
    return office.read(lambda desk: _view(desk, desk.named(Seller, name)))


def set_seller(office: Office, name: str, *, credit_limit_micros: int | None = None, **fields: Any) -> SellerView:
    """Change a seller: `status`, `low_balance_micros`, and the credit limit. Raises Refused.

    A credit limit that would leave live calls without cover is refused. The time zone stays: its caps count by it.
    """
    check_amounts({"credit_limit_micros": credit_limit_micros, **fields})

    def work(desk: Desk) -> SellerView:
        seller = desk.named(Seller, name)
        changed = replace(seller, **fields, updated_ms=desk.now_ms)
        desk.change("seller", seller, changed)
        balance_micros = _view(desk, changed).account.balance_micros
        if seller.low_balance_micros <= balance_micros < changed.low_balance_micros:
            desk.tx.insert(low_balance_event(desk, changed, balance_micros))
        if credit_limit_micros is not None:
            books = Books()
            desk.tx.lock_accounts([seller.id], books)
            before = books.accounts[seller.id]
            after = replace(before, credit_limit_micros=credit_limit_micros)
            if after.available_micros < 0:
                raise Refused(
                    "credit-in-use",
                    f"seller {name!r} uses more than that credit limit leaves",
                    "add balance first, or wait for its calls to end",
                )
            desk.tx.update(after)
            desk.changed("seller.credit-limit", name, before, after)
        return _view(desk, changed)

    return office.change(work)


def low_balance_event(desk: Desk, seller: Seller, balance_micros: int) -> Event:
    """That a balance fell below the seller's mark, or the mark was set above the balance."""
    from capconduit.domain.events import event  # commands that only read start without it

    return event(
        desk.new_id, desk.tenant_id, desk.now_ms, EventKind.BALANCE_LOW, seller.id,
        seller=seller.name, balance_micros=balance_micros, threshold_micros=seller.low_balance_micros,
    )  # fmt: skip


def suspend_seller(office: Office, name: str, *, suspended: bool) -> SellerView:
    """Stop a seller's campaigns from taking new calls, or let them again; live calls go on. Raises NotFound."""
    return set_seller(office, name, status=Status.SUSPENDED if suspended else Status.ACTIVE)


def remove_seller(office: Office, name: str) -> None:
    """Remove a seller that never had money or calls. Raises Refused."""
    from capconduit.services.requests import remove_requests_of  # only here

    def work(desk: Desk) -> None:
        seller = desk.named(Seller, name)
        if desk.tx.rows(LedgerEntry, desk.tenant_id, limit=1, seller_id=seller.id):
            raise Refused(
                "seller-has-ledger",
                f"seller {name!r} has ledger entries, which are kept",
                f"suspend it: capconduit seller suspend {name}",
            )
        account = desk.tx.find(Account, desk.tenant_id, seller_id=seller.id)
        remove_caps_of(desk, CapScope.SELLER, seller.id)
        remove_blocks_of(desk, CapScope.SELLER, seller.id)
        remove_requests_of(desk, seller.id)
        if account is not None:
            desk.tx.delete(account)
        desk.remove("seller", seller, "remove its campaigns and users and release its DIDs first")

    office.change(work)


def _view(desk: Desk, seller: Seller) -> SellerView:
    account = desk.tx.find(Account, desk.tenant_id, seller_id=seller.id)
    assert account is not None  # made with the seller, in the same transaction
    return SellerView(seller, account)
