"""Books follow every change of places, holds and ledger, and a release counts once."""

from __future__ import annotations

from dataclasses import replace

from capconduit.domain.books import Books, Changes
from capconduit.domain.model import Account, Counter, Hold, LedgerEntry, Place
from capconduit.vocab import HoldState, LedgerKind, PlaceState
from tests.unit.estate_builder import PureTill, route_of, settle_of, small_estate

KEY = ("cap", 0)
PLACE = Place(
    call_id="c1",
    attempt=0,
    cap_id="cap",
    tenant_id="T",
    window_start_ms=0,
    amount=1,
    state=PlaceState.HELD,
    counted=0,
    reason="",
    node="n",
    boot_id="b",
)
RELEASED = replace(PLACE, state=PlaceState.RELEASED, counted=1)
HOLD = Hold(
    call_id="c1", tenant_id="T", seller_id="s", amount_micros=100, state=HoldState.OPEN, opened_ms=0, expires_ms=0
)
ACCOUNT = Account(seller_id="s", tenant_id="T", balance_micros=1_000, held_micros=0, credit_limit_micros=50)


def books() -> Books:
    return Books(accounts={"s": ACCOUNT})


def counts(b: Books) -> tuple[int, int]:
    counter = b.counter("T", KEY)
    return counter.used, counter.in_flight


def test_a_place_counts_in_flight_until_it_is_released() -> None:
    b = books()
    b.apply(Changes(places=[PLACE]))
    assert counts(b) == (0, 1)
    b.apply(Changes(places=[replace(PLACE, reason="again")]))
    assert counts(b) == (0, 1)
    b.apply(Changes(places=[RELEASED]))
    assert counts(b) == (1, 0)


def test_released_twice_is_the_same_as_once() -> None:
    b = books()
    b.apply(Changes(places=[PLACE]))
    b.apply(Changes(places=[RELEASED]))
    b.apply(Changes(places=[RELEASED]))
    b.apply(Changes(places=[replace(PLACE, reason="again")]))
    assert counts(b) == (1, 0)
    assert b.places["c1"][(0, "cap")].state is PlaceState.RELEASED


def test_the_base_of_a_counter_is_kept() -> None:
    b = books()
    b.counters[KEY] = Counter(tenant_id="T", cap_id="cap", window_start_ms=0, used=7, in_flight=0, base=7)
    b.apply(Changes(places=[PLACE]))
    b.apply(Changes(places=[RELEASED]))
    assert b.counters[KEY].base == 7
    assert counts(b) == (8, 0)


def test_holds_move_what_is_held() -> None:
    b = books()
    b.apply(Changes(holds=[HOLD]))
    assert b.accounts["s"].held_micros == 100
    b.apply(Changes(holds=[replace(HOLD, amount_micros=250)]))
    assert b.accounts["s"].held_micros == 250
    b.apply(Changes(holds=[replace(HOLD, amount_micros=250, state=HoldState.POSTED)]))
    assert b.accounts["s"].held_micros == 0
    b.apply(Changes(holds=[replace(HOLD, amount_micros=250, state=HoldState.VOID)]))
    assert b.accounts["s"].held_micros == 0


def test_the_ledger_moves_the_balance() -> None:
    b = books()
    entry = LedgerEntry(
        id="l1",
        tenant_id="T",
        seller_id="s",
        amount_micros=-300,
        kind=LedgerKind.CALL,
        idempotency_key="k",
        actor="a",
        reason="",
        call_id=None,
        corrects_id=None,
        balance_after_micros=700,
        created_ms=0,
    )
    b.apply(Changes(ledger=[entry]))
    assert b.accounts["s"].balance_micros == 700
    assert b.accounts["s"].available_micros == 750
    assert b.dirty_accounts == {"s"}


def test_a_call_that_came_and_went_in_one_batch_leaves_no_row_of_a_live_call() -> None:
    till = PureTill(small_estate())
    call_id = till.ask(route_of()).call_id
    till.ask(settle_of(talk_ms=1_000))
    assert call_id not in till.books.new_calls
    assert call_id not in till.books.dirty_calls
    assert call_id not in till.books.ended_calls
    assert till.books.holds[call_id].state is HoldState.POSTED
