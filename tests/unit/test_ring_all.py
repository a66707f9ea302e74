"""Ring-all: a place for each leg, the dearest is funded, the winner's prices, losers that give back, and its ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from capconduit.domain.calls import AnswerReport, LegTimes
from capconduit.vocab import (
    CAUSE_ANSWERED_ELSEWHERE,
    CallState,
    CapMetric,
    CapScope,
    DialStatus,
    PlaceState,
    RejectCode,
    Strategy,
    WindowKind,
)
from tests.unit.estate_builder import (
    DOLLAR,
    NODE,
    EstateBuilder,
    PureTill,
    answer_of,
    attempt_of,
    extend_of,
    route_of,
    settle_of,
    small_estate,
)

TOTAL = WindowKind.TOTAL
DIAL = {f"buyer{i}": f"PJSIP/capconduit-out/sip:buyer{i}@127.0.0.1:5080" for i in range(1, 6)}


def ringing(targets: int = 3, **campaign: Any) -> EstateBuilder:
    builder = small_estate(strategy=Strategy.RING_ALL, **campaign)
    for i in range(2, targets + 1):
        builder.target(f"buyer{i}")
    return builder


def of_prices() -> EstateBuilder:
    """buyer1 at 0.20 a minute 60/60, buyer2 at 1.00 with a fee of 0.10 (30/30), buyer3 free."""
    builder = ringing(1)
    builder.rate("dear", per_minute_micros=DOLLAR, connect_fee_micros=100_000, first_s=30, step_s=30)
    builder.rate("free", per_minute_micros=0)
    builder.target("buyer2", rate_id="dear")
    builder.target("buyer3", rate_id="free")
    return builder


def answered_by(target: str, uniqueid: str = "u1", at_ms: int | None = None) -> AnswerReport:
    return AnswerReport(node=NODE, uniqueid=uniqueid, leg=LegTimes(answered_ms=at_ms, dial=DIAL[target]))


# --- the Dial --------------------------------------------------------------------------------------------------------


def test_all_targets_ring_at_once_each_as_an_attempt_of_one_dial() -> None:
    builder = ringing()
    builder.targets[1] = replace(builder.targets[1], ring_ms=35_000)
    till = PureTill(builder)
    answer = till.dial(route_of())
    assert answer.dial == "&".join(DIAL[t] for t in ("buyer1", "buyer2", "buyer3"))
    assert (answer.target, answer.attempt, answer.ring_s) == ("buyer1&buyer2&buyer3", 1, 35)
    attempts = till.books.attempts[answer.call_id]
    assert [(n, a.target_id, a.round) for n, a in attempts.items()] == [
        (1, "buyer1", 1), (2, "buyer2", 1), (3, "buyer3", 1),
    ]  # fmt: skip
    assert till.ask(route_of()) == answer


def test_no_more_legs_ring_than_targets_may_be_tried_the_first_priorities_first() -> None:
    till = PureTill(ringing(5, max_attempts=2))
    assert till.dial(route_of()).target == "buyer1&buyer2"
    assert till.reject(attempt_of()).code is RejectCode.TARGETS_ALL_FAILED


def test_what_failed_is_followed_by_those_that_did_not_ring_yet() -> None:
    builder = ringing(5)
    cap = builder.cap(CapScope.TARGET, "buyer4", CapMetric.CONCURRENT, 0)
    till = PureTill(builder)
    assert till.dial(route_of()).target == "buyer1&buyer2&buyer3&buyer5"
    builder.caps[0] = replace(cap, limit_value=1)
    till.rebuild()
    second = till.dial(attempt_of(dialstatus=DialStatus.NOANSWER))
    assert (second.target, second.attempt) == ("buyer4", 5)
    assert till.reject(attempt_of(attempt=5)).code is RejectCode.TARGETS_ALL_FAILED


def opened_later(**campaign: Any) -> PureTill:
    """buyer1 to buyer3 ring; buyer4 and buyer5 are free when they have failed."""
    builder = ringing(5, **campaign)
    closed = [builder.cap(CapScope.TARGET, name, CapMetric.CONCURRENT, 0) for name in ("buyer4", "buyer5")]
    till = PureTill(builder)
    assert till.dial(route_of()).target == "buyer1&buyer2&buyer3"
    builder.caps = [replace(cap, limit_value=1) for cap in closed]
    till.rebuild()
    till.clock.pass_ms(20_000)
    return till


def test_the_legs_of_all_dials_together_are_no_more_than_the_targets_that_may_be_tried() -> None:
    till = opened_later(max_attempts=4)
    assert till.dial(attempt_of(dialstatus=DialStatus.NOANSWER)).target == "buyer4"
    assert till.reject(attempt_of(attempt=4, dialstatus=DialStatus.NOANSWER)).code is RejectCode.TARGETS_ALL_FAILED


def test_legs_that_rang_at_once_took_of_the_ring_budget_once() -> None:
    till = opened_later(ring_budget_ms=35_000)
    answer = till.dial(attempt_of(dialstatus=DialStatus.NOANSWER))
    assert (answer.target, answer.ring_s) == ("buyer4&buyer5", 15)


def test_a_target_that_is_full_does_not_ring() -> None:
    builder = ringing()
    builder.cap(CapScope.TARGET, "buyer2", CapMetric.CONCURRENT, 1)
    till = PureTill(builder)
    assert till.dial(route_of("a")).target == "buyer1&buyer2&buyer3"
    assert till.dial(route_of("b")).target == "buyer1&buyer3"


# --- places ----------------------------------------------------------------------------------------------------------


def capped(metric: CapMetric) -> tuple[PureTill, list[Any]]:
    builder = ringing()
    window = WindowKind.NONE if metric is CapMetric.CONCURRENT else TOTAL
    caps = [builder.cap(CapScope.TARGET, f"buyer{i}", metric, 10 * DOLLAR, window) for i in (1, 2, 3)]
    caps.append(builder.cap(CapScope.CAMPAIGN, "solar", metric, 10 * DOLLAR, window))
    return PureTill(builder), caps


USED = {  # by the winner's target, by a loser's, by the campaign
    CapMetric.CONCURRENT: (0, 0, 0),
    CapMetric.ATTEMPTS: (1, 1, 1),
    CapMetric.CONNECTED: (1, 0, 1),
    CapMetric.BILLABLE: (1, 0, 1),
    CapMetric.MINUTES: (5, 0, 5),
    CapMetric.SPEND: (200_000, 0, 200_000),
}


@pytest.mark.parametrize("metric", USED)
def test_each_leg_has_its_place_and_losers_give_theirs_back_at_the_answer(metric: CapMetric) -> None:
    till, caps = capped(metric)
    amount = {CapMetric.MINUTES: 60, CapMetric.SPEND: 200_000}.get(metric, 1)
    till.dial(route_of())
    assert [till.count(c) for c in caps] == [(0, amount)] * 4
    till.ask(answered_by("buyer2", at_ms=till.clock.now_ms()))
    _, lost, _ = USED[metric]
    assert [till.count(c) for c in caps] == [(lost, 0), (0, amount), (lost, 0), (0, amount)]
    till.clock.pass_ms(5_000)
    till.ask(settle_of(talk_ms=5_000))
    won, lost, whole = USED[metric]
    assert [till.count(c) for c in caps] == [(lost, 0), (won, 0), (lost, 0), (whole, 0)]


@pytest.mark.parametrize("metric", USED)
def test_a_settlement_without_a_word_of_the_answer_gives_every_place_back(metric: CapMetric) -> None:
    till, caps = capped(metric)
    till.dial(route_of())
    till.clock.pass_ms(5_000)
    till.ask(settle_of(talk_ms=5_000, leg=LegTimes(dial=DIAL["buyer3"])))
    won, lost, whole = USED[metric]
    assert [till.count(c) for c in caps] == [(lost, 0), (lost, 0), (won, 0), (whole, 0)]
    assert till.cdr().target == "buyer3"


@pytest.mark.parametrize("metric", USED)
def test_a_caller_who_leaves_while_all_ring_leaves_attempts_only(metric: CapMetric) -> None:
    till, caps = capped(metric)
    till.dial(route_of())
    till.ask(settle_of())
    used = int(metric is CapMetric.ATTEMPTS)
    assert [till.count(c) for c in caps] == [(used, 0)] * 4
    assert till.cdr().attempts == 3


@pytest.mark.parametrize("metric", USED)
def test_a_dial_that_nobody_answered_gives_every_leg_s_place_back(metric: CapMetric) -> None:
    till, caps = capped(metric)
    till.dial(route_of())
    till.ask(attempt_of(dialstatus=DialStatus.NOANSWER))
    used = int(metric is CapMetric.ATTEMPTS)
    assert [till.count(c) for c in caps[:3]] == [(used, 0)] * 3
    till.ask(attempt_of(dialstatus=DialStatus.NOANSWER))
    till.ask(settle_of(dialstatus=DialStatus.NOANSWER))
    assert [till.count(c) for c in caps] == [(used, 0)] * 4
    assert [till.state(f"buyer{i}").active for i in (1, 2, 3)] == [0, 0, 0]


def test_an_admission_that_came_too_late_counts_no_attempt_of_any_leg() -> None:
    till, caps = capped(CapMetric.ATTEMPTS)
    till.dial(route_of())
    till.ask(settle_of(attempt=0, dialstatus=None, reject=RejectCode.ENGINE_TIMEOUT, witness="late"))
    assert [till.count(c) for c in caps] == [(0, 0)] * 4


# --- which leg answered ----------------------------------------------------------------------------------------------


def test_the_winner_s_leg_is_the_call_s_and_the_others_end_with_their_cause() -> None:
    till = PureTill(ringing())
    answer = till.dial(route_of())
    assert [till.state(f"buyer{i}").active for i in (1, 2, 3)] == [1, 1, 1]
    at_ms = till.clock.now_ms()
    till.ask(answered_by("buyer2", at_ms=at_ms))
    call = till.call()
    assert call is not None
    assert (call.leg, call.attempt, call.state, call.answered_ms) == (2, 1, CallState.UP, at_ms)
    attempts = till.books.attempts[answer.call_id]
    assert [attempts[n].hangup_cause for n in (1, 2, 3)] == [CAUSE_ANSWERED_ELSEWHERE, None, CAUSE_ANSWERED_ELSEWHERE]
    assert [attempts[n].answered_ms for n in (1, 2, 3)] == [None, at_ms, None]
    assert [till.state(f"buyer{i}").active for i in (1, 2, 3)] == [0, 1, 0]
    till.clock.pass_ms(1_000)
    till.ask(settle_of(talk_ms=1_000))
    assert [till.state(f"buyer{i}").active for i in (1, 2, 3)] == [0, 0, 0]
    assert [till.state(f"buyer{i}").idle_since_ms > 0 for i in (1, 2, 3)] == [False, True, False]
    assert (till.cdr().target, till.cdr().attempt, till.cdr().attempts) == ("buyer2", 2, 3)


def test_told_twice_and_told_otherwise_changes_nothing() -> None:
    till = PureTill(ringing())
    till.dial(route_of())
    first = till.ask(answered_by("buyer2", at_ms=till.clock.now_ms()))
    for again in ("buyer2", "buyer1", "buyer3"):
        assert till.ask(answered_by(again, at_ms=till.clock.now_ms())) in (first, None)
        assert not [*till.changes.places, *till.changes.attempts, *till.changes.targets]
    call = till.call()
    assert call is not None
    assert call.leg == 2


def test_while_nobody_tells_which_leg_answered_all_places_stay() -> None:
    till, caps = capped(CapMetric.CONCURRENT)
    till.dial(route_of())
    assert till.ask(answer_of(answered_ms=till.clock.now_ms())) is not None
    call = till.call()
    assert call is not None
    assert (call.state, call.leg) == (CallState.UP, 0)
    assert [till.count(c) for c in caps] == [(0, 1)] * 4


def test_a_leg_that_is_told_later_is_the_winner_from_then_on() -> None:
    till, caps = capped(CapMetric.CONCURRENT)
    till.dial(route_of())
    at_ms = till.clock.now_ms()
    till.ask(answer_of(answered_ms=at_ms))
    till.clock.pass_ms(3_000)
    till.ask(answered_by("buyer3", at_ms=till.clock.now_ms()))
    call = till.call()
    assert call is not None
    assert (call.leg, call.answered_ms) == (3, at_ms)
    assert [till.count(c)[1] for c in caps] == [0, 0, 1, 1]
    assert till.books.attempts[call.id][3].answered_ms == at_ms
    assert len([e for e in till.events if e.kind == "call.answered"]) == 1


def test_an_answer_after_the_settlement_changes_nothing() -> None:
    till, caps = capped(CapMetric.CONNECTED)
    till.dial(route_of())
    till.ask(settle_of(talk_ms=5_000))
    before = [till.count(c) for c in caps]
    assert till.ask(answered_by("buyer2", at_ms=till.clock.now_ms())) is None
    assert [till.count(c) for c in caps] == before


def test_the_settlement_knows_the_leg_by_its_channel_where_nobody_told() -> None:
    builder = ringing(1)
    builder.target("buyer2", address="room@bureau")
    till = PureTill(builder)
    till.dial(route_of())
    till.ask(settle_of(talk_ms=5_000, hangup_source="PJSIP/bureau-00000017"))
    assert till.cdr().target == "buyer2"


def test_an_answer_of_a_leg_that_failed_before_is_none_of_the_next_dial() -> None:
    """Its word comes late: the call rings elsewhere by now."""
    builder = small_estate()
    builder.target("buyer2")
    till = PureTill(builder)
    till.dial(route_of())
    till.dial(attempt_of(dialstatus=DialStatus.NOANSWER))
    assert till.ask(answered_by("buyer1", at_ms=till.clock.now_ms())) is None
    call = till.call()
    assert call is not None
    assert call.state is CallState.DIALING
    assert till.ask(answered_by("buyer2", at_ms=till.clock.now_ms())) is not None


def test_a_single_leg_that_is_told_in_other_words_is_the_one_that_answered() -> None:
    till = PureTill(small_estate())
    till.dial(route_of())
    report = AnswerReport(node=NODE, uniqueid="u1", leg=LegTimes(answered_ms=till.clock.now_ms(), dial="PJSIP/x"))
    assert till.ask(report) is not None
    call = till.call()
    assert call is not None
    assert call.leg == 1


# --- money -----------------------------------------------------------------------------------------------------------


def test_the_hold_pays_for_the_dearest_leg() -> None:
    till = PureTill(of_prices())
    answer = till.dial(route_of())
    assert answer.funded_s == 60
    assert till.account().held_micros == 1_100_000


def test_the_seconds_are_those_that_every_leg_can_be_paid_for() -> None:
    builder = of_prices()
    builder.accounts[0] = replace(builder.accounts[0], balance_micros=700_000)
    till = PureTill(builder)
    assert till.dial(route_of()).funded_s == 30
    assert till.account().held_micros == 600_000


@pytest.mark.parametrize(("target", "price"), [("buyer1", 200_000), ("buyer2", 600_000), ("buyer3", 0)])
def test_the_winner_s_own_rate_is_charged_and_recorded(target: str, price: int) -> None:
    till = PureTill(of_prices())
    till.dial(route_of())
    till.ask(answered_by(target, at_ms=till.clock.now_ms()))
    till.clock.pass_ms(20_000)
    till.ask(settle_of(talk_ms=20_000))
    assert (till.cdr().amount_micros, till.cdr().target) == (price, target)
    assert till.account().balance_micros == 100 * DOLLAR - price
    assert till.account().held_micros == 0


def test_an_unknown_winner_is_extended_as_the_dearest_and_a_known_one_at_its_own_price() -> None:
    till = PureTill(of_prices())
    till.dial(route_of())
    till.ask(answer_of(answered_ms=till.clock.now_ms()))
    assert till.ask(extend_of()).funded_s == 120
    assert till.account().held_micros == 2_100_000
    till.ask(answered_by("buyer1"))
    assert till.ask(extend_of()).funded_s == 180
    assert till.account().held_micros == 2_100_000  # what is held already pays for it
    for _ in range(8):
        last = till.ask(extend_of())
    assert last.funded_s == 660
    assert till.account().held_micros == 2_200_000


def test_each_leg_reserves_of_its_own_cap_what_it_may_cost_itself() -> None:
    builder = of_prices()
    cheap = builder.cap(CapScope.TARGET, "buyer1", CapMetric.SPEND, 200_000, TOTAL)
    dear = builder.cap(CapScope.TARGET, "buyer2", CapMetric.SPEND, 5 * DOLLAR, TOTAL)
    seller = builder.cap(CapScope.SELLER, "acme", CapMetric.SPEND, 5 * DOLLAR, TOTAL)
    till = PureTill(builder)
    answer = till.dial(route_of())
    assert (answer.target, answer.funded_s) == ("buyer1&buyer2&buyer3", 60)
    assert [till.count(c) for c in (cheap, dear, seller)] == [(0, 200_000), (0, 1_100_000), (0, 1_100_000)]
    till.ask(answer_of(answered_ms=till.clock.now_ms()))
    assert not till.ask(extend_of()).extended  # buyer1 may be the one, and its cap is full
    till.ask(answered_by("buyer2"))
    assert till.ask(extend_of()).funded_s == 120
    assert [till.count(c) for c in (cheap, dear, seller)] == [(0, 0), (0, 2_100_000), (0, 2_100_000)]


def test_an_extension_reserves_of_each_leg_s_cap_what_it_may_cost_itself() -> None:
    builder = of_prices()
    cheap = builder.cap(CapScope.TARGET, "buyer1", CapMetric.SPEND, 5 * DOLLAR, TOTAL)
    dear = builder.cap(CapScope.TARGET, "buyer2", CapMetric.SPEND, 5 * DOLLAR, TOTAL)
    seller = builder.cap(CapScope.SELLER, "acme", CapMetric.SPEND, 5 * DOLLAR, TOTAL)
    till = PureTill(builder)
    till.dial(route_of())
    till.ask(answer_of(answered_ms=till.clock.now_ms()))
    assert till.ask(extend_of()).funded_s == 120
    assert [till.count(c) for c in (cheap, dear, seller)] == [(0, 400_000), (0, 2_100_000), (0, 2_100_000)]
    till.ask(answered_by("buyer1"))
    assert till.ask(extend_of()).funded_s == 180
    assert [till.count(c) for c in (cheap, dear, seller)] == [(0, 600_000), (0, 0), (0, 2_100_000)]


def test_a_full_cap_of_one_leg_bounds_that_leg_and_not_what_another_may_cost() -> None:
    """buyer1's cap is full with its own two minutes; buyer2 costs far more than that."""
    builder = of_prices()
    cap = builder.cap(CapScope.TARGET, "buyer1", CapMetric.SPEND, 400_000, TOTAL)
    till = PureTill(builder)
    till.dial(route_of())
    till.ask(answer_of(answered_ms=till.clock.now_ms()))
    assert till.ask(extend_of()).funded_s == 120
    assert till.count(cap) == (0, 400_000)
    till.clock.pass_ms(100_000)
    till.ask(settle_of(talk_ms=100_000, leg=LegTimes(dial=DIAL["buyer2"])))
    assert (till.cdr().target, till.cdr().amount_micros, till.cdr().written_off_micros) == ("buyer2", 2_100_000, 0)
    assert till.count(cap) == (0, 0)


def test_the_minutes_that_the_tightest_leg_has_left_fund_them_all() -> None:
    builder = ringing(2)
    tight = builder.cap(CapScope.TARGET, "buyer2", CapMetric.MINUTES, 75, TOTAL)
    till = PureTill(builder)
    builder.setting("funding_slice_s", 300)
    till.rebuild()
    answer = till.dial(route_of())
    assert (answer.target, answer.funded_s) == ("buyer1&buyer2", 75)
    till.ask(answer_of(answered_ms=till.clock.now_ms()))
    assert not till.ask(extend_of()).extended
    till.ask(answered_by("buyer1"))
    assert till.ask(extend_of()).funded_s == 420
    assert till.count(tight) == (0, 0)


@pytest.mark.parametrize("metric", [CapMetric.MINUTES, CapMetric.SPEND])
def test_a_leg_whose_cap_leaves_no_first_increment_does_not_ring(metric: CapMetric) -> None:
    builder = of_prices()
    builder.cap(CapScope.TARGET, "buyer2", metric, 29 if metric is CapMetric.MINUTES else 599_999, TOTAL)
    till = PureTill(builder)
    assert till.dial(route_of()).target == "buyer1&buyer3"


# --- odd orders ------------------------------------------------------------------------------------------------------


def test_a_whole_life_in_one_batch_leaves_nothing_behind() -> None:
    till, caps = capped(CapMetric.CONNECTED)
    at_ms = till.clock.now_ms()
    till.batch(
        [
            route_of(), route_of(), answered_by("buyer2", at_ms=at_ms), answered_by("buyer1", at_ms=at_ms),
            attempt_of(), extend_of(), settle_of(talk_ms=5_000), answered_by("buyer3", at_ms=at_ms), attempt_of(),
            settle_of(), route_of(),
        ]
    )  # fmt: skip
    assert [till.count(c) for c in caps] == [(0, 0), (1, 0), (0, 0), (1, 0)]
    assert till.account().held_micros == 0
    assert [till.state(f"buyer{i}").active for i in (1, 2, 3)] == [0, 0, 0]
    assert all(p.state is PlaceState.RELEASED for own in till.books.places.values() for p in own.values())


def test_a_second_dial_that_was_never_told_counts_only_the_first() -> None:
    """The hangup handler names the first Dial: the verdict that names the second came too late for it."""
    builder = ringing(4, max_attempts=10)
    closed = builder.cap(CapScope.TARGET, "buyer4", CapMetric.CONCURRENT, 0)
    caps = [builder.cap(CapScope.TARGET, f"buyer{i}", CapMetric.ATTEMPTS, 9, TOTAL) for i in (1, 2, 3, 4)]
    till = PureTill(builder)
    till.dial(route_of())
    builder.caps[0] = replace(closed, limit_value=1)
    till.rebuild()
    till.dial(attempt_of(dialstatus=DialStatus.NOANSWER))
    till.ask(settle_of(attempt=1, dialstatus=DialStatus.NOANSWER))
    assert [till.count(c) for c in caps] == [(1, 0), (1, 0), (1, 0), (0, 0)]
    assert till.cdr().attempts == 3
    assert till.state("buyer4").active == 0


def test_a_call_whose_targets_all_failed_is_funded_no_further() -> None:
    till = PureTill(ringing())
    till.dial(route_of())
    till.reject(attempt_of(dialstatus=DialStatus.NOANSWER))
    assert not till.ask(extend_of()).extended
    assert till.account().held_micros == 200_000
