"""While a call lasts: the answer is recorded once, and funding grows only by what the account can pay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from capconduit.vocab import CallState, CapMetric, CapScope, EventKind, PlaceState
from tests.unit.estate_builder import DOLLAR, T0, PureTill, answer_of, extend_of, route_of, small_estate


def up(balance: int = 100 * DOLLAR, **campaign: Any) -> PureTill:
    """A till with one call that was answered at once."""
    builder = small_estate(**campaign)
    builder.accounts[0] = replace(builder.accounts[0], balance_micros=balance)
    till = PureTill(builder)
    till.ask(route_of())
    till.ask(answer_of(answered_ms=T0 + 3_000, rang_ms=T0 + 500))
    return till


def test_an_answer_makes_call_places_and_attempt_up() -> None:
    builder = small_estate()
    cap = builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.CONCURRENT, 5)
    till = PureTill(builder)
    call_id = till.ask(route_of()).call_id
    till.clock.pass_ms(4_000)
    answer = till.ask(answer_of(answered_ms=T0 + 3_000, rang_ms=T0 + 500))
    assert (answer.call_id, answer.funded_from_ms, answer.funded_s, answer.slice_s) == (call_id, T0 + 3_000, 60, 60)
    call = till.call()
    assert call is not None
    assert (call.state, call.answered_ms) == (CallState.UP, T0 + 3_000)
    attempt = till.books.attempts[call_id][1]
    assert (attempt.answered_ms, attempt.rang_ms, attempt.ended_ms) == (T0 + 3_000, T0 + 500, None)
    assert till.books.places[call_id][(0, cap.id)].state is PlaceState.HELD
    assert till.books.holds[call_id].expires_ms == T0 + 3_000 + 60_000
    assert till.count(cap) == (0, 1)


def test_an_answer_told_twice_changes_nothing() -> None:
    till = up()
    first = till.call()
    again = till.ask(answer_of(answered_ms=T0 + 9_000))
    assert again.funded_from_ms == T0 + 3_000
    assert till.call() == first
    assert not till.changes.events
    assert not till.changes.places


def test_an_answer_that_nobody_saw_is_up_and_funded_from_the_beginning_of_the_dial() -> None:
    till = PureTill(small_estate())
    till.ask(route_of())
    till.clock.pass_ms(2_000)
    assert till.ask(answer_of()).funded_from_ms == T0
    call = till.call()
    assert call is not None
    assert (call.state, call.answered_ms) == (CallState.UP, None)
    assert till.ask(answer_of()).funded_from_ms == T0


def test_an_answer_of_a_call_nobody_knows_is_nothing() -> None:
    till = PureTill(small_estate())
    assert till.ask(answer_of("unknown")) is None
    assert till.ask(extend_of("unknown")) is None


def test_an_extension_holds_one_more_slice() -> None:
    till = up()
    answer = till.ask(extend_of())
    assert (answer.extended, answer.funded_s) == (True, 120)
    assert till.account().held_micros == 400_000
    assert till.books.holds[answer.call_id].expires_ms == T0 + 3_000 + 120_000
    assert [e.kind for e in till.changes.events] == [EventKind.HOLD_EXTENDED]


def test_an_extension_takes_what_is_there_in_whole_increments() -> None:
    till = up(balance=700_000)
    till.books.accounts["acme"] = replace(till.account(), balance_micros=700_000)
    till.builder.setting("funding_slice_s", 600)
    till.rebuild()
    answer = till.ask(extend_of())
    assert (answer.extended, answer.funded_s) == (True, 180)
    assert till.account().held_micros == 600_000
    assert till.account().available_micros == 100_000


def test_an_extension_that_cannot_be_had_leaves_the_funding_as_it_is() -> None:
    till = up(balance=399_999)
    answer = till.ask(extend_of())
    assert (answer.extended, answer.funded_s) == (False, 60)
    assert till.account().held_micros == 200_000
    assert not till.changes.holds
    assert not till.changes.events


def test_a_refused_extension_still_keeps_the_call_s_lease() -> None:
    till = up(balance=200_000)
    till.clock.pass_ms(30_000)
    till.ask(extend_of())
    call = till.call()
    assert call is not None
    assert call.lease_until_ms == T0 + 30_000 + 120_000


def test_nothing_is_extended_beyond_the_ceiling_of_the_call() -> None:
    till = up(max_duration_ms=90_000)
    first = till.ask(extend_of())
    assert (first.extended, first.funded_s) == (True, 90)
    second = till.ask(extend_of())
    assert (second.extended, second.funded_s) == (False, 90)
    assert till.account().held_micros == 400_000


def test_a_campaign_that_is_gone_extends_nothing() -> None:
    till = up()
    till.builder.dids.clear()
    till.builder.rules.clear()
    till.builder.campaigns.clear()
    till.rebuild()
    assert till.ask(extend_of()).extended is False


def test_a_changed_rate_does_not_touch_a_live_call() -> None:
    till = up()
    till.builder.rates[0] = replace(till.builder.rates[0], per_minute_micros=10 * DOLLAR)
    till.rebuild()
    till.ask(extend_of())
    assert till.account().held_micros == 400_000


def test_two_calls_never_extend_into_the_same_money() -> None:
    builder = small_estate()
    builder.accounts[0] = replace(builder.accounts[0], balance_micros=DOLLAR)
    till = PureTill(builder)
    for uniqueid in ("u1", "u2"):
        till.ask(route_of(uniqueid))
        till.ask(answer_of(uniqueid))
    for _ in range(5):
        for uniqueid in ("u1", "u2"):
            till.ask(extend_of(uniqueid))
            assert till.account().available_micros >= 0
    assert till.account().held_micros == DOLLAR
    assert sorted(h.amount_micros for h in till.books.holds.values()) == [400_000, 600_000]
