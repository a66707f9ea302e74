"""Caps by minutes and spend: what a call reserves of them, how they bound its funding, and what stays used."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from capconduit.domain.calls import DialAnswer
from capconduit.domain.model import Cap
from capconduit.domain.trace import load_trace
from capconduit.vocab import CapMetric, CapScope, DialStatus, EventKind, RejectCode, WindowKind
from tests.unit.estate_builder import (
    DOLLAR,
    SCOPE_IDS,
    EstateBuilder,
    PureTill,
    answer_of,
    attempt_of,
    extend_of,
    route_of,
    settle_of,
    small_estate,
)

DAY, TOTAL = WindowKind.DAY, WindowKind.TOTAL
MINUTES, SPEND = CapMetric.MINUTES, CapMetric.SPEND
ON_TARGETS = (CapScope.TARGET, CapScope.RULE)


def capped(scope: CapScope, metric: CapMetric, limit: int, **rate: Any) -> tuple[PureTill, Cap]:
    """The small estate (0.20 a minute, 60/60, slices of 60 s) with one cap for a day."""
    builder = small_estate()
    builder.rates[0] = replace(builder.rates[0], **rate)
    cap = builder.cap(scope, SCOPE_IDS[scope], metric, limit, DAY)
    return PureTill(builder), cap


def full(scope: CapScope, metric: CapMetric) -> str:
    return "targets_all_capped" if scope in ON_TARGETS else f"cap_reached:{scope}:{metric}:day"


# --- reserving and settling ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", CapScope)
def test_minutes_reserve_what_is_funded_and_keep_what_was_talked(scope: CapScope) -> None:
    till, cap = capped(scope, MINUTES, 150)
    till.dial(route_of("a"))
    assert till.count(cap) == (0, 60)
    till.dial(route_of("b"))
    assert till.count(cap) == (0, 120)
    refused = till.reject(route_of("c"))  # 30 s are left, an increment has 60
    assert (refused.reason, refused.cause, refused.sip) == (full(scope, MINUTES), 17, 486)
    till.ask(settle_of("a", talk_ms=20_001))
    assert till.count(cap) == (21, 60)
    till.dial(route_of("d"))
    till.ask(settle_of("b"))
    till.ask(settle_of("d", talk_ms=60_000))
    assert till.count(cap) == (81, 0)


@pytest.mark.parametrize("scope", CapScope)
def test_spend_reserves_the_hold_and_keeps_the_charge(scope: CapScope) -> None:
    till, cap = capped(scope, SPEND, 500_000, connect_fee_micros=50_000)
    till.dial(route_of("a"))
    assert till.count(cap) == (0, 250_000)
    till.dial(route_of("b"))
    refused = till.reject(route_of("c"))
    assert (refused.reason, refused.cause, refused.sip) == (full(scope, SPEND), 17, 486)
    till.ask(settle_of("a"))
    assert till.count(cap) == (0, 250_000)
    till.ask(settle_of("b", talk_ms=1_000))
    assert till.count(cap) == (250_000, 0)
    till.dial(route_of("d"))


@pytest.mark.parametrize("scope", CapScope)
@pytest.mark.parametrize(("metric", "limit"), [(MINUTES, 100), (SPEND, 300_000)])
def test_the_first_slice_is_what_the_cap_leaves_in_whole_seconds_or_increments(
    scope: CapScope, metric: CapMetric, limit: int
) -> None:
    till, cap = capped(scope, metric, limit, first_s=30, step_s=6)
    till.builder.setting("funding_slice_s", 180)
    till.rebuild()
    answer = till.dial(route_of())
    assert answer.funded_s == (100 if metric is MINUTES else 90)
    assert till.count(cap) == (0, limit)
    assert till.account().held_micros == (340_000 if metric is MINUTES else 300_000)


@pytest.mark.parametrize("scope", CapScope)
@pytest.mark.parametrize(("metric", "enough"), [(MINUTES, 30), (SPEND, 100_000)])
def test_less_than_the_first_increment_is_refused_and_exactly_that_is_admitted(
    scope: CapScope, metric: CapMetric, enough: int
) -> None:
    till, _ = capped(scope, metric, enough - 1, first_s=30, step_s=6)
    assert till.reject(route_of()).reason == full(scope, metric)
    till, cap = capped(scope, metric, enough, first_s=30, step_s=6)
    assert till.dial(route_of()).funded_s == 30
    assert till.count(cap) == (0, enough)


@pytest.mark.parametrize("metric", [MINUTES, SPEND])
def test_the_trace_tells_the_numbers_of_the_cap(metric: CapMetric) -> None:
    till, _ = capped(CapScope.CAMPAIGN, metric, 0)
    till.ask(route_of())
    check = load_trace(till.cdr().trace)[-1]
    assert (check.name, check.ok) == ("cap.campaign", False)
    assert {k: check.detail[k] for k in ("metric", "window", "used", "in_flight", "limit")} == {
        "metric": metric.value, "window": "day", "used": 0, "in_flight": 0, "limit": 0,
    }  # fmt: skip


def test_a_call_that_costs_nothing_is_funded_by_slices_where_minutes_are_counted() -> None:
    """Money does not limit it; one call must not reserve all the minutes there are."""
    till, cap = capped(CapScope.CAMPAIGN, MINUTES, 600, per_minute_micros=0)
    for i in range(10):
        assert till.dial(route_of(f"u{i}")).funded_s == 60
    assert till.count(cap) == (0, 600)
    till.reject(route_of("full"))
    till.ask(settle_of("u9"))
    till.ask(answer_of("u0", answered_ms=till.clock.now_ms()))
    assert till.ask(extend_of("u0")).funded_s == 120


def test_a_call_that_costs_nothing_is_refused_by_spend_only_where_it_is_closed() -> None:
    till, cap = capped(CapScope.CAMPAIGN, SPEND, 1, per_minute_micros=0)
    assert till.dial(route_of()).funded_s == 4 * 3_600
    assert till.count(cap) == (0, 0)
    till, _ = capped(CapScope.CAMPAIGN, SPEND, 0, per_minute_micros=0)
    till.reject(route_of())


def test_the_filling_of_a_cap_is_told_also_where_an_extension_fills_it() -> None:
    till, cap = capped(CapScope.CAMPAIGN, MINUTES, 120)
    till.dial(route_of())
    assert till.told(EventKind.CAP_REACHED) == []
    till.ask(extend_of())
    assert [told["metric"] for told in till.told(EventKind.CAP_REACHED)] == ["minutes"]
    till.ask(extend_of())
    assert till.count(cap) == (0, 120)
    assert len(till.told(EventKind.CAP_REACHED)) == 1


# --- extending -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", CapScope)
@pytest.mark.parametrize(("metric", "limit"), [(MINUTES, 150), (SPEND, 599_999)])
def test_extensions_end_where_the_cap_does(scope: CapScope, metric: CapMetric, limit: int) -> None:
    till, cap = capped(scope, metric, limit)
    till.dial(route_of())
    till.ask(answer_of(answered_ms=till.clock.now_ms()))
    funded = [(a.funded_s, a.extended) for a in (till.ask(extend_of()) for _ in range(4))]
    most = 150 if metric is MINUTES else 120
    assert funded == [(120, True), (most, most > 120), (most, False), (most, False)]
    assert till.count(cap) == (0, 150 if metric is MINUTES else 400_000)
    till.clock.pass_ms(most * 1_000)
    till.ask(settle_of(talk_ms=most * 1_000))
    assert till.count(cap) == (150 if metric is MINUTES else 400_000, 0)


def test_two_calls_share_what_a_cap_leaves_and_one_that_ends_gives_back() -> None:
    till, cap = capped(CapScope.SELLER, MINUTES, 240)
    for name in ("a", "b"):
        till.dial(route_of(name))
        till.ask(answer_of(name, answered_ms=till.clock.now_ms()))
        assert till.ask(extend_of(name)).funded_s == 120
    assert not till.ask(extend_of("a")).extended
    till.clock.pass_ms(30_000)
    till.ask(settle_of("b", talk_ms=30_000))
    assert till.count(cap) == (30, 120)
    assert [till.ask(extend_of("a")).funded_s for _ in range(3)] == [180, 210, 210]
    assert till.count(cap) == (30, 210)


def test_several_extensions_in_one_batch_never_promise_the_same_minutes() -> None:
    till, cap = capped(CapScope.CAMPAIGN, MINUTES, 300)
    till.batch([route_of(name) for name in "abc"])
    till.batch([answer_of(name, answered_ms=till.clock.now_ms()) for name in "abc"])
    funded = [a.funded_s for a in till.batch([extend_of(name) for name in "abc"])]
    assert funded == [120, 120, 60]
    assert till.count(cap) == (0, 300)


def test_an_extension_that_no_cap_and_no_money_allows_leaves_everything_as_it_is() -> None:
    till, cap = capped(CapScope.CAMPAIGN, SPEND, 200_000)
    till.dial(route_of())
    till.ask(answer_of(answered_ms=till.clock.now_ms()))
    assert not till.ask(extend_of()).extended
    assert till.changes.holds == []
    assert till.changes.places == []
    assert till.account().held_micros == 200_000
    assert till.count(cap) == (0, 200_000)


# --- overrun ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", CapScope)
def test_a_spend_cap_is_not_exceeded_by_an_overrun_the_rest_is_written_off(scope: CapScope) -> None:
    till, cap = capped(scope, SPEND, 500_000)
    till.dial(route_of())
    till.ask(settle_of(talk_ms=600_000))
    assert till.count(cap) == (500_000, 0)
    cdr = till.cdr()
    assert (cdr.amount_micros, cdr.written_off_micros) == (500_000, 1_500_000)
    assert till.account().balance_micros == 100 * DOLLAR - 500_000


@pytest.mark.parametrize("scope", CapScope)
def test_a_minutes_cap_is_not_exceeded_by_an_overrun(scope: CapScope) -> None:
    till, cap = capped(scope, MINUTES, 100)
    till.dial(route_of())
    till.ask(settle_of(talk_ms=600_000))
    assert till.count(cap) == (100, 0)
    assert till.cdr().amount_micros == 2_000_000  # what was talked is charged: the cap is not of money


def test_an_overrun_takes_nothing_that_another_call_has_reserved() -> None:
    till, cap = capped(CapScope.CAMPAIGN, SPEND, 500_000)
    till.dial(route_of("a"))
    till.dial(route_of("b"))
    till.ask(settle_of("a", talk_ms=600_000))
    assert till.cdr("a").amount_micros == 300_000
    assert till.count(cap) == (300_000, 200_000)
    till.ask(settle_of("b", talk_ms=600_000))
    assert till.cdr("b").amount_micros == 200_000
    assert till.count(cap) == (500_000, 0)


def test_a_cut_at_the_funded_time_that_lands_late_counts_no_further_second() -> None:
    till, cap = capped(CapScope.CAMPAIGN, MINUTES, 600)
    till.dial(route_of())
    till.ask(settle_of(talk_ms=60_012))
    assert till.count(cap) == (60, 0)


# --- caps that change while calls live -------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "low"), [(MINUTES, 30), (SPEND, 100_000)])
def test_a_lowered_cap_ends_no_call_extends_none_and_admits_none(metric: CapMetric, low: int) -> None:
    till, cap = capped(CapScope.CAMPAIGN, metric, 10 * DOLLAR)
    till.dial(route_of("a"))
    till.ask(answer_of("a", answered_ms=till.clock.now_ms()))
    till.builder.caps[0] = replace(cap, limit_value=low)
    till.rebuild()
    till.reject(route_of("b"))
    assert not till.ask(extend_of("a")).extended
    till.clock.pass_ms(60_000)
    till.ask(settle_of("a", talk_ms=60_000))
    assert till.cdr("a").amount_micros == 200_000  # it was reserved
    assert till.count(cap) == (60 if metric is MINUTES else 200_000, 0)


def test_a_cap_that_is_cleared_while_a_call_lives_bounds_it_no_more_and_is_given_back() -> None:
    till, cap = capped(CapScope.CAMPAIGN, MINUTES, 60)
    till.dial(route_of())
    till.ask(answer_of(answered_ms=till.clock.now_ms()))
    assert not till.ask(extend_of()).extended
    till.builder.caps.clear()
    till.rebuild()
    assert till.ask(extend_of()).funded_s == 120
    till.ask(settle_of(talk_ms=100_000))
    assert till.count(cap)[1] == 0


def test_a_window_keeps_its_calls_when_they_are_extended_and_settled_on_another_day() -> None:
    till, cap = capped(CapScope.CAMPAIGN, MINUTES, 120)
    till.dial(route_of("late"))
    first_day = next(c.window_start_ms for c in till.books.counters.values())
    till.ask(answer_of("late", answered_ms=till.clock.now_ms()))
    till.clock.pass_ms(24 * 3_600_000)
    till.dial(route_of("a"))
    till.dial(route_of("b"))
    till.reject(route_of("c"))
    assert till.ask(extend_of("late")).funded_s == 120  # the room of its own day
    assert not till.ask(extend_of("late")).extended
    till.ask(settle_of("late", talk_ms=120_000))
    assert till.count(cap, first_day) == (120, 0)
    assert till.count(cap) == (120, 120)


# --- failover --------------------------------------------------------------------------------------------------------


def two_rates(**dear: Any) -> EstateBuilder:
    """buyer1 at 0.20 a minute, buyer2 at a rate of its own: 1.00 a minute, 30/30."""
    builder = small_estate()
    builder.rate("dear", **{"per_minute_micros": DOLLAR, "first_s": 30, "step_s": 30, **dear})
    builder.target("buyer2", rate_id="dear")
    return builder


def test_a_failover_moves_hold_and_reservations_to_the_rate_of_the_next_target() -> None:
    builder = two_rates()
    seller = builder.cap(CapScope.SELLER, "acme", SPEND, 10 * DOLLAR, DAY)
    first = builder.cap(CapScope.TARGET, "buyer1", SPEND, 10 * DOLLAR, DAY)
    second = builder.cap(CapScope.TARGET, "buyer2", SPEND, 10 * DOLLAR, DAY)
    till = PureTill(builder)
    till.dial(route_of())
    assert [till.count(c) for c in (seller, first, second)] == [(0, 200_000), (0, 200_000), (0, 0)]
    assert till.dial(attempt_of()).funded_s == 60
    assert [till.count(c) for c in (seller, first, second)] == [(0, DOLLAR), (0, 0), (0, DOLLAR)]
    assert till.account().held_micros == DOLLAR
    till.ask(settle_of(talk_ms=31_000, attempt=2))
    assert [till.count(c) for c in (seller, first, second)] == [(DOLLAR, 0), (0, 0), (DOLLAR, 0)]
    assert till.cdr().per_minute_micros == DOLLAR


@pytest.mark.parametrize(
    ("scope", "metric", "limit", "funded_s"),
    [
        (CapScope.SELLER, SPEND, 700_000, 30),
        (CapScope.TARGET, SPEND, 700_000, 30),
        (CapScope.SELLER, MINUTES, 65, 60),
        (CapScope.TARGET, MINUTES, 45, 45),
    ],
)
def test_a_failover_is_funded_within_caps_at_the_next_target_s_rate(
    scope: CapScope, metric: CapMetric, limit: int, funded_s: int
) -> None:
    builder = two_rates()
    name = "buyer2" if scope is CapScope.TARGET else "acme"
    cap = builder.cap(scope, name, metric, limit, DAY)
    till = PureTill(builder)
    till.dial(route_of())
    assert till.dial(attempt_of()).funded_s == funded_s
    assert till.count(cap)[1] == (500_000 if metric is SPEND else funded_s)


@pytest.mark.parametrize(("metric", "limit"), [(SPEND, 499_999), (MINUTES, 29)])
def test_a_target_whose_first_increment_no_cap_leaves_is_passed_by(metric: CapMetric, limit: int) -> None:
    builder = two_rates()
    cap = builder.cap(CapScope.TARGET, "buyer2", metric, limit, DAY)
    builder.target("buyer3")
    till = PureTill(builder)
    till.dial(route_of())
    assert till.dial(attempt_of()).target == "buyer3"
    assert till.count(cap) == (0, 0)


def test_a_target_that_is_dearer_than_the_seller_s_cap_leaves_is_passed_by_with_the_reason() -> None:
    builder = two_rates()
    builder.rules[0], builder.rules[1] = (
        replace(builder.rules[0], priority=2),
        replace(builder.rules[1], priority=1),
    )
    builder.cap(CapScope.SELLER, "acme", SPEND, 499_999, DAY)
    till = PureTill(builder)
    assert till.dial(route_of()).target == "buyer1"
    call = till.call()
    assert call is not None
    skips = [c.detail for c in load_trace(call.trace) if c.name == "target"]
    assert skips == [{"target": "buyer2", "why": "its first increment is more than a cap leaves"}]
    assert isinstance(till.ask(attempt_of()), DialAnswer) is False


def test_a_call_s_own_reservation_is_room_for_its_failover() -> None:
    """The cap is full with what the call itself has reserved."""
    builder = two_rates(per_minute_micros=100_000)
    cap = builder.cap(CapScope.SELLER, "acme", SPEND, 200_000, DAY)
    till = PureTill(builder)
    till.dial(route_of())
    assert till.count(cap) == (0, 200_000)
    assert till.dial(attempt_of()).target == "buyer2"
    assert till.count(cap) == (0, 100_000)


def test_nothing_is_reserved_any_more_when_every_target_failed_and_the_call_is_settled() -> None:
    builder = two_rates()
    caps = [
        builder.cap(scope, SCOPE_IDS[scope], metric, 10 * DOLLAR, DAY)
        for scope in CapScope
        for metric in (MINUTES, SPEND)
    ]
    till = PureTill(builder)
    till.dial(route_of())
    till.dial(attempt_of())
    assert till.reject(attempt_of(attempt=2)).code is RejectCode.TARGETS_ALL_FAILED
    till.ask(settle_of(attempt=2, dialstatus=DialStatus.BUSY))
    assert [till.count(cap) for cap in caps] == [(0, 0)] * len(caps)
    assert till.account().held_micros == 0
