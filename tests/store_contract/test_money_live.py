"""Prepaid money through the engine on both databases: the published example, the last cent, and adjustments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from capconduit.domain.model import Account, Cdr, Event, Hold, LedgerEntry, LedgerKey
from capconduit.errors import CapConduitError, Refused, UsageError
from capconduit.services import rates, sellers
from capconduit.services.balances import adjust, correct, ledger, verify_balances
from capconduit.services.calls import tell
from capconduit.units import MAX_MICROS
from capconduit.vocab import EventKind, HoldState, LedgerKind, RejectCode
from tests.unit.estate_builder import (
    DOLLAR,
    MINUTE_MS,
    T0,
    EstateBuilder,
    Till,
    answer_of,
    extend_of,
    route_of,
    settle_of,
    small_estate,
)

Shop = Callable[[EstateBuilder], Till]


def with_balance(balance: int, credit: int = 0, **campaign: Any) -> EstateBuilder:
    builder = small_estate(**campaign)
    builder.accounts[0] = replace(builder.accounts[0], balance_micros=balance, credit_limit_micros=credit)
    return builder


def mor(open_shop: Shop) -> Till:
    """Kolmisoft MOR, "Prepaid Logic": balance 8, 0.20 a minute, slices of 30 minutes, two calls that are up."""
    builder = with_balance(8 * DOLLAR)
    builder.setting("funding_slice_s", 1_800)
    till = open_shop(builder)
    first = till.dial(route_of("call-1"))
    assert (first.funded_s, till.account().held_micros) == (1_800, 6 * DOLLAR)
    second = till.dial(route_of("call-2"))
    assert (second.funded_s, till.account().held_micros) == (600, 8 * DOLLAR)
    third = till.reject(route_of("call-3"))
    assert third.code is RejectCode.BALANCE_HELD_BY_OTHER_CALLS
    for uniqueid in ("call-1", "call-2"):
        till.ask(answer_of(uniqueid, answered_ms=till.clock.now_ms()))
    till.clock.pass_ms(12 * MINUTE_MS)
    till.ask(settle_of("call-1", talk_ms=12 * MINUTE_MS))
    assert till.account().balance_micros == 5_600_000
    assert till.account().held_micros == 2 * DOLLAR
    return till


def test_the_published_example_comes_out_with_a_fourth_call(open_shop: Shop) -> None:
    till = mor(open_shop)
    fourth = till.dial(route_of("call-4"))
    assert fourth.funded_s == 18 * 60
    assert till.account().available_micros == 0
    assert till.reject(route_of("call-5")).code is RejectCode.BALANCE_HELD_BY_OTHER_CALLS
    till.verify()


def test_the_published_example_comes_out_without_a_fourth_call(open_shop: Shop) -> None:
    till = mor(open_shop)
    till.clock.wall_ms = T0 + 9 * MINUTE_MS
    till.ask(settle_of("call-2", talk_ms=9 * MINUTE_MS))
    assert till.account().balance_micros == 3_800_000
    assert till.account().held_micros == 0
    till.verify()


def test_a_slice_is_extended_until_the_money_is_gone_and_never_further(open_shop: Shop) -> None:
    till = open_shop(with_balance(DOLLAR))
    till.dial(route_of())
    till.ask(answer_of(answered_ms=T0))
    funded = [till.ask(extend_of()).funded_s for _ in range(6)]
    assert funded == [120, 180, 240, 300, 300, 300]
    assert till.account().available_micros == 0
    till.clock.pass_ms(300_000)
    till.ask(settle_of(talk_ms=300_000))
    assert till.account().balance_micros == 0
    assert till.reject(route_of("next")).code is RejectCode.BALANCE_EXHAUSTED
    till.verify()


def test_a_payment_while_the_call_lasts_extends_it(open_shop: Shop) -> None:
    till = open_shop(with_balance(200_000))
    till.dial(route_of())
    assert not till.ask(extend_of()).extended
    adjust(till.office(), "acme", 400_000, reason="wire")
    assert [till.ask(extend_of()).funded_s for _ in range(3)] == [120, 180, 180]
    till.verify()


def test_an_overrun_is_charged_to_what_is_there_and_the_rest_written_off(open_shop: Shop) -> None:
    till = open_shop(with_balance(300_000))
    till.dial(route_of())
    till.ask(settle_of(talk_ms=10 * MINUTE_MS))
    cdr = till.rows(Cdr)[0]
    assert (cdr.amount_micros, cdr.written_off_micros, cdr.balance_after_micros) == (300_000, 1_700_000, 0)
    assert till.account().balance_micros == 0
    till.verify()


def test_a_call_is_in_the_ledger_once_whatever_is_told_of_it(open_shop: Shop) -> None:
    till = open_shop(with_balance(DOLLAR))
    till.dial(route_of())
    till.batch([settle_of(talk_ms=5_000), settle_of(talk_ms=500_000), settle_of()])
    till.ask(settle_of(talk_ms=120_000))
    entries = [e for e in till.rows(LedgerEntry) if e.kind is LedgerKind.CALL]
    assert [(e.amount_micros, e.balance_after_micros) for e in entries] == [(-200_000, 800_000)]
    assert [h.state for h in till.rows(Hold)] == [HoldState.POSTED]
    story = tell(till.office(), "u1")
    kinds = [event.kind for event, _ in story.events]
    assert kinds.count(EventKind.CALL_ENDED) == 1
    assert kinds.count(EventKind.SETTLEMENT_DISAGREED) == 3
    till.verify()


def test_the_database_refuses_a_key_of_an_adjustment_twice(open_shop: Shop) -> None:
    """The second line of defence, over all months of the ledger. (A call's is its row: who settles it removes it.)"""
    till = open_shop(with_balance(DOLLAR))
    adjust(till.office(), "acme", 500_000, reason="wire", key="wire-1")
    key = till.rows(LedgerKey)[0]
    with pytest.raises(Refused), till.store.transaction(write=True) as tx:
        tx.insert(replace(key, ledger_id="another"))


# --- adjustments -----------------------------------------------------------------------------------------------------


def test_what_calls_hold_cannot_be_withdrawn(open_shop: Shop) -> None:
    till = open_shop(with_balance(DOLLAR))
    till.dial(route_of())
    with pytest.raises(Refused) as caught:
        adjust(till.office(), "acme", -800_001, reason="refund")
    assert caught.value.slug == "not-enough-money"
    assert "0.80 USD" in caught.value.message
    adjust(till.office(), "acme", -800_000, reason="refund")
    assert till.account().available_micros == 0
    with pytest.raises(Refused):
        adjust(till.office(), "acme", -1, reason="refund")
    till.ask(settle_of(talk_ms=MINUTE_MS))
    assert till.account().balance_micros == 0
    till.verify()


def test_credit_can_be_withdrawn_and_used_to_its_limit(open_shop: Shop) -> None:
    till = open_shop(with_balance(0, credit=400_000))
    adjust(till.office(), "acme", -200_000, reason="refund")
    till.dial(route_of())
    assert till.reject(route_of("b")).code is RejectCode.BALANCE_HELD_BY_OTHER_CALLS
    till.ask(settle_of(talk_ms=1_000))
    assert till.account() == replace(till.account(), balance_micros=-400_000, held_micros=0)
    assert till.reject(route_of("c")).code is RejectCode.BALANCE_EXHAUSTED
    till.verify()


def test_an_adjustment_with_a_key_is_booked_once(open_shop: Shop) -> None:
    till = open_shop(with_balance(0))
    first = adjust(till.office(), "acme", 500_000, reason="wire 1234", key="wire-1234")
    again = adjust(till.office(), "acme", 500_000, reason="wire 1234", key="wire-1234")
    assert again == first
    assert till.account().balance_micros == 500_000
    with pytest.raises(Refused) as caught:
        adjust(till.office(), "acme", 600_000, reason="wire 1234", key="wire-1234")
    assert caught.value.slug == "key-used"
    adjust(till.office(), "acme", 500_000, reason="another without a key")
    adjust(till.office(), "acme", 500_000, reason="another without a key")
    assert till.account().balance_micros == 1_500_000
    till.verify()


def test_a_correction_names_what_it_corrects_and_takes_back_only_what_is_there(open_shop: Shop) -> None:
    till = open_shop(with_balance(DOLLAR))
    till.dial(route_of("a"))
    till.ask(settle_of("a", talk_ms=5_000))
    charge = next(e for e in till.rows(LedgerEntry) if e.kind is LedgerKind.CALL)
    first = correct(till.office(), charge.id, 200_000, reason="the target was wrong", key="ticket-7")
    again = correct(till.office(), charge.id, 200_000, reason="the target was wrong", key="ticket-7")
    assert (first.posted.fresh, again.posted.fresh) == (True, False)
    entry = first.posted.entry
    assert (entry.kind, entry.corrects_id, entry.balance_after_micros) == (LedgerKind.CORRECTION, charge.id, DOLLAR)
    till.dial(route_of("b"))
    with pytest.raises(Refused) as caught:
        correct(till.office(), charge.id, -800_001, reason="too much")
    assert caught.value.slug == "not-enough-money"
    with pytest.raises(Refused):
        correct(till.office(), entry.id, -1, reason="a correction of a correction")
    assert correct(till.office(), charge.id, -800_000, reason="all of it").sum_micros == -600_000
    assert till.account().available_micros == 0
    till.ask(settle_of("b", talk_ms=5_000))
    till.verify()


def test_a_low_balance_is_told_by_whatever_crosses_the_threshold(open_shop: Shop) -> None:
    builder = with_balance(DOLLAR)
    builder.sellers[0] = replace(builder.sellers[0], low_balance_micros=900_000)
    till = open_shop(builder)

    def told() -> int:
        return [e.kind for e in till.rows(Event)].count(EventKind.BALANCE_LOW)

    till.dial(route_of())
    till.ask(settle_of(talk_ms=5_000))
    assert told() == 1
    adjust(till.office(), "acme", -100_000, reason="refund")
    assert told() == 1
    adjust(till.office(), "acme", 300_000, reason="wire")
    adjust(till.office(), "acme", -200_000, reason="refund")
    assert told() == 2


@pytest.mark.parametrize("amount", [0, MAX_MICROS + 1, -MAX_MICROS - 1])
def test_an_amount_that_cannot_be_kept_is_refused(open_shop: Shop, amount: int) -> None:
    till = open_shop(with_balance(0))
    with pytest.raises(UsageError):
        adjust(till.office(), "acme", amount, reason="x")
    assert till.rows(LedgerEntry) == []


def test_the_largest_balance_is_kept_exactly(open_shop: Shop) -> None:
    till = open_shop(with_balance(0))
    adjust(till.office(), "acme", MAX_MICROS, reason="all the money")
    with pytest.raises(UsageError):
        adjust(till.office(), "acme", 1, reason="one more")
    assert till.dial(route_of()).funded_s == 60
    till.ask(settle_of(talk_ms=1_000))
    assert till.account().balance_micros == MAX_MICROS - 200_000
    till.verify()


def test_a_reason_is_needed(open_shop: Shop) -> None:
    till = open_shop(with_balance(0))
    with pytest.raises(UsageError):
        adjust(till.office(), "acme", 1, reason="  ")


def test_a_dry_run_books_nothing(open_shop: Shop) -> None:
    till = open_shop(with_balance(0))
    assert adjust(till.office(dry_run=True), "acme", 500_000, reason="wire").balance_after_micros == 500_000
    assert till.account().balance_micros == 0
    assert ledger(till.office(), "acme")[1] == []


def test_a_credit_limit_in_use_is_not_taken_away(open_shop: Shop) -> None:
    till = open_shop(with_balance(0, credit=400_000))
    till.dial(route_of())
    with pytest.raises(Refused) as caught:
        sellers.set_seller(till.office(), "acme", credit_limit_micros=199_999)
    assert caught.value.slug == "credit-in-use"
    sellers.set_seller(till.office(), "acme", credit_limit_micros=200_000)
    assert till.account().available_micros == 0


@pytest.mark.parametrize("micros", [-1, MAX_MICROS + 1])
def test_credit_limits_and_prices_are_not_negative_and_can_be_kept(shop: Till, micros: int) -> None:
    """A negative price would credit the seller for calling; a negative limit leaves less than nothing available."""
    office = shop.office()
    for wrong in (
        lambda: sellers.add_seller(office, "new", credit_limit_micros=micros),
        lambda: sellers.set_seller(office, "acme", credit_limit_micros=micros),
        lambda: rates.add_rate(office, "new", per_minute_micros=micros),
        lambda: rates.add_rate(office, "new", per_minute_micros=1, connect_fee_micros=micros),
        lambda: rates.set_rate(office, "std", per_minute_micros=micros),
        lambda: rates.set_rate(office, "std", connect_fee_micros=micros),
    ):
        with pytest.raises(CapConduitError) as caught:
            wrong()
        assert caught.value.slug == "amount-invalid"
    assert all(a.available_micros >= 0 for a in shop.rows(Account))


# --- the books add up ------------------------------------------------------------------------------------------------


def test_money_that_drifted_is_found(open_shop: Shop) -> None:
    till = open_shop(with_balance(DOLLAR))
    till.dial(route_of())
    with till.store.transaction(write=True) as tx:
        tx.update(replace(till_account(tx), balance_micros=7, held_micros=3))
    drifts = {d.what: (d.stands_micros, d.sums_micros) for d in verify_balances(till.office())}
    assert drifts == {"balance": (7, DOLLAR), "held": (3, 200_000)}


def till_account(tx: Any) -> Account:
    return tx.rows(Account, "T")[0]  # type: ignore[no-any-return]  # the store's rows are generic


def test_ledger_and_record_tell_the_same_balance_after_each_call(open_shop: Shop) -> None:
    till = open_shop(with_balance(10 * DOLLAR))
    for i in range(5):
        till.dial(route_of(f"u{i}"))
    for i in (3, 1, 4, 0, 2):
        till.clock.pass_ms(1_000)
        till.ask(settle_of(f"u{i}", talk_ms=(i + 1) * MINUTE_MS))
    balance = 10 * DOLLAR
    cdrs = {c.call_id: c for c in till.rows(Cdr)}
    for entry in sorted((e for e in till.rows(LedgerEntry) if e.call_id), key=lambda e: e.created_ms):
        balance += entry.amount_micros
        assert entry.balance_after_micros == balance == cdrs[entry.call_id].balance_after_micros
    assert balance == till.account().balance_micros
    till.verify()
