"""Screen 3: the accounts of the sellers, the soonest empty first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from capconduit.units import format_micros
from capconduit.vocab import Status
from capconduit_cli.tui.cells import NOTHING, Cell, cell, clock, date_and_time, safe, short_money
from capconduit_cli.tui.floor import Balance
from capconduit_cli.tui.screens.base import Column, Fact, Handles, Moment, View, count_column, text_column
from capconduit_cli.tui.themes import Role

SOON_MS: Final = 10 * 60_000  # an account that is empty within this is told as running dry
_RANK: Final = {"■ susp": 0, "✖ empty": 1, "▼ low": 2, "● ok": 3}


def _state(balance: Balance, _moment: Moment, _width: int = 0) -> Cell:
    if balance.status == Status.SUSPENDED:
        return cell("■ susp", Role.DIM)
    if balance.available_micros <= 0:
        return cell("✖ empty", Role.BAD)
    if balance.balance_micros < balance.low_balance_micros:
        return cell("▼ low", Role.WARN)
    return cell("● ok", Role.GOOD)


def _amount(micros: int, width: int, role: Role = Role.PLAIN) -> Cell:
    return cell(short_money(micros, width), role) if micros else cell("0", Role.DIM)


def _available(balance: Balance, moment: Moment, width: int) -> Cell:
    return cell(short_money(balance.available_micros, width), _state(balance, moment)[0][1])


def _left_ms(balance: Balance, moment: Moment) -> int | None:
    return None if balance.empty_at_ms is None else max(balance.empty_at_ms - moment.now_ms, 0)


def _empty(balance: Balance, moment: Moment, _width: int) -> Cell:
    left = _left_ms(balance, moment)
    return NOTHING if left is None else cell(clock(left), Role.WARN if left <= SOON_MS else Role.PLAIN)


def _facts(balance: Balance, moment: Moment) -> Iterable[Fact]:
    def amount(micros: int) -> Cell:
        return safe(f"{format_micros(micros, trim=True)} {balance.currency}")

    yield "seller", safe(balance.seller)
    yield "state", _state(balance, moment)
    yield "available", amount(balance.available_micros)
    yield "balance", amount(balance.balance_micros)
    yield "held", amount(balance.held_micros)
    yield "credit limit", amount(balance.credit_limit_micros)
    yield "low below", amount(balance.low_balance_micros)
    yield "burn a minute", amount(balance.burn_micros)
    if balance.empty_at_ms is not None:
        yield "empty at", cell(f"{date_and_time(balance.empty_at_ms)}, in {clock(_left_ms(balance, moment) or 0)}")
    yield "live calls", cell(str(moment.calls_of_seller(balance.seller)))
    for campaign in sorted(moment.floor.campaigns.values(), key=lambda c: c.name):
        if campaign.seller == balance.seller:
            yield "campaign", safe(f"{campaign.name} ({campaign.status})")


VIEW: Final = View[Balance](
    key="balances",
    title="Balances",
    table="balances",
    empty="No sellers: `capconduit seller add`.",
    columns=(
        text_column("seller", "SELLER", lambda b: b.seller, role=Role.STRONG, least=11, best=20, grow=2),
        Column("state", "STATE", _state, lambda b, m: _RANK[_state(b, m)[0][0]], least=7, best=9),
        Column(
            "available",
            "AVAILABLE",
            _available,
            lambda b, _m: b.available_micros,
            least=10,
            best=14,
            right=True,
            grow=1,
        ),
        Column(
            "held",
            "HELD",
            lambda b, _m, w: _amount(b.held_micros, w),
            lambda b, _m: b.held_micros,
            least=8,
            best=12,
            right=True,
            descending=True,
        ),
        Column(
            "balance",
            "BALANCE",
            lambda b, _m, w: _amount(b.balance_micros, w),
            lambda b, _m: b.balance_micros,
            least=10,
            best=14,
            right=True,
        ),
        text_column("currency", "CUR", lambda b: b.currency, role=Role.DIM, least=3, best=3),
        Column(
            "burn",
            "BURN/MIN",
            lambda b, _m, w: _amount(b.burn_micros, w),
            lambda b, _m: b.burn_micros,
            least=8,
            best=12,
            right=True,
            descending=True,
        ),
        Column("empty", "EMPTY IN", _empty, lambda b, _m: b.empty_at_ms, least=9, best=9, right=True, timed=True),
        count_column("calls", "CALLS", lambda b, m: m.calls_of_seller(b.seller), least=6, best=6),
        Column(
            "low",
            "LOW BELOW",
            lambda b, _m, w: _amount(b.low_balance_micros, w, Role.DIM),
            lambda b, _m: b.low_balance_micros,
            least=9,
            best=11,
            right=True,
            drop=3,
        ),
        Column(
            "credit",
            "CREDIT",
            lambda b, _m, w: _amount(b.credit_limit_micros, w, Role.DIM),
            lambda b, _m: b.credit_limit_micros,
            least=8,
            best=11,
            right=True,
            drop=4,
        ),
    ),
    rows=lambda floor: floor.balances,
    text=lambda b: " ".join((b.seller, b.status, b.currency)),
    facts=_facts,
    handles=lambda b, _m: Handles(seller=b.seller),
    order="empty",
)
