"""Rolling windows and calls per second through decisions: tentative places, reservations, clocks that are set."""

from __future__ import annotations

import pytest

from capconduit.domain.model import Cap
from capconduit.vocab import CapMetric, CapScope, RejectCode, WindowKind
from tests.unit.estate_builder import (
    SCOPE_IDS,
    TENANT,
    PureTill,
    answer_of,
    attempt_of,
    extend_of,
    route_of,
    settle_of,
    small_estate,
)

HOUR_MS, BUCKET_MS = 3_600_000, 60_000
COUNTED = (CapMetric.ATTEMPTS, CapMetric.CONNECTED, CapMetric.BILLABLE)


def rolling(metric: CapMetric, limit: int, scope: CapScope = CapScope.CAMPAIGN) -> tuple[PureTill, Cap]:
    """The small estate with one cap over any hour."""
    builder = small_estate(billable_threshold_ms=30_000)
    cap = builder.cap(scope, SCOPE_IDS[scope], metric, limit, WindowKind.ROLLING, HOUR_MS)
    return PureTill(builder), cap


def per_second(limit: int, scope: CapScope = CapScope.CAMPAIGN) -> tuple[PureTill, Cap]:
    builder = small_estate()
    cap = builder.cap(scope, SCOPE_IDS[scope], CapMetric.CPS, limit)
    return PureTill(builder), cap


# --- calls per second ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", CapScope)
def test_calls_per_second_are_refused_with_their_own_code_on_our_side_and_skip_on_the_target_s(
    scope: CapScope,
) -> None:
    till, cap = per_second(2, scope)
    till.dial(route_of("a"))
    till.dial(route_of("b"))
    refused = till.reject(route_of("c"))
    if scope in (CapScope.TARGET, CapScope.RULE):
        assert refused.code is RejectCode.TARGETS_ALL_CAPPED
    else:
        assert (refused.code, refused.reason, refused.cause, refused.sip) == (
            RejectCode.CPS_LIMIT, "cps_limit", 31, 480,
        )  # fmt: skip
    till.clock.pass_ms(1_049)
    till.reject(route_of("d"))
    till.clock.pass_ms(1)
    till.dial(route_of("e"))
    assert till.count(cap) == (3, 0)
    assert [p for p in till.books.places.values() if p] == []


def test_a_burst_in_one_batch_is_counted_call_by_call() -> None:
    till, cap = per_second(3)
    answers = till.batch([route_of(f"u{i}") for i in range(8)])
    assert [getattr(a, "reason", "dial") for a in answers] == ["dial"] * 3 + ["cps_limit"] * 5
    assert till.count(cap) == (3, 0)


def test_a_call_that_is_refused_elsewhere_is_no_new_call() -> None:
    builder = small_estate()
    cap = builder.cap(CapScope.SYSTEM, TENANT, CapMetric.CPS, 1)
    builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.CONCURRENT, 0)
    till = PureTill(builder)
    for i in range(3):
        assert till.reject(route_of(f"u{i}")).reason == "cap_reached:campaign:concurrent"
    assert till.count(cap) == (0, 0)


def test_a_call_that_ends_within_its_second_was_a_new_call_all_the_same() -> None:
    till, _ = per_second(1)
    till.dial(route_of("a"))
    till.ask(settle_of("a"))
    till.reject(route_of("b"))


def test_a_failover_is_a_new_call_to_its_target_and_none_to_the_campaign() -> None:
    builder = small_estate()
    builder.target("buyer2")
    campaign = builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.CPS, 5)
    second = builder.cap(CapScope.TARGET, "buyer2", CapMetric.CPS, 1)
    till = PureTill(builder)
    till.dial(route_of("a"))
    till.dial(attempt_of("a"))
    assert (till.count(campaign), till.count(second)) == ((1, 0), (1, 0))
    till.dial(route_of("b"))
    assert till.reject(attempt_of("b")).code is RejectCode.TARGETS_ALL_FAILED


@pytest.mark.parametrize("back_ms", [500, 1_000, 1_001, 60_000, 365 * 86_400_000])
def test_a_clock_that_is_set_back_blocks_no_longer_than_a_second_on_either_side(back_ms: int) -> None:
    """Instants of the same second count, before and after; a clock set back farther is free at once."""
    till, _ = per_second(1)
    till.dial(route_of("a"))
    till.clock.pass_ms(-back_ms)
    if back_ms <= 1_000:
        till.reject(route_of("b"))
        till.clock.pass_ms(back_ms + 1_050)
    till.dial(route_of("c"))


# --- rolling windows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", CapScope)
@pytest.mark.parametrize("metric", COUNTED)
def test_a_rolling_window_lets_its_limit_ring_and_takes_back_what_does_not_count(
    scope: CapScope, metric: CapMetric
) -> None:
    till, cap = rolling(metric, 2, scope)
    till.dial(route_of("a"))
    till.dial(route_of("b"))
    refused = till.reject(route_of("c"))
    if scope not in (CapScope.TARGET, CapScope.RULE):
        assert refused.reason == f"cap_reached:{scope}:{metric}:rolling:1h"
    till.ask(settle_of("a"))
    till.ask(settle_of("b", talk_ms=29_999))
    used = {CapMetric.ATTEMPTS: 2, CapMetric.CONNECTED: 1}.get(metric, 0)
    assert till.count(cap) == (used, 0)
    for i in range(2 - used):
        till.dial(route_of(f"d{i}"))
    till.reject(route_of("e"))


def test_a_place_is_free_again_an_hour_and_at_most_a_bucket_after_its_admission() -> None:
    till, _ = rolling(CapMetric.ATTEMPTS, 1)
    till.dial(route_of("a"))
    till.ask(settle_of("a"))
    till.clock.pass_ms(HOUR_MS)
    till.reject(route_of("b"))
    till.clock.pass_ms(BUCKET_MS)
    till.dial(route_of("c"))


def test_a_call_that_lasts_longer_than_the_window_gives_its_own_bucket_back() -> None:
    till, cap = rolling(CapMetric.BILLABLE, 1)
    till.dial(route_of("long"))
    till.clock.pass_ms(2 * HOUR_MS)
    till.dial(route_of("next"))
    till.ask(settle_of("long"))
    till.reject(route_of("full"))
    till.ask(settle_of("next", talk_ms=30_000))
    assert till.count(cap) == (1, 0)


def test_an_extension_keeps_to_the_limit_of_the_windows_around_the_admission() -> None:
    """Two calls that were admitted in the same hour extend after it: together never more than the hour's minutes."""
    till, cap = rolling(CapMetric.MINUTES, 600)
    for name in ("a", "b"):
        till.dial(route_of(name))
        till.ask(answer_of(name, answered_ms=till.clock.now_ms()))
    till.clock.pass_ms(2 * HOUR_MS)
    last: dict[str, int] = {}
    for _ in range(20):
        for name in ("a", "b"):
            last[name] = till.ask(extend_of(name)).funded_s
    assert sum(last.values()) == 600
    assert till.count(cap) == (0, 600)


def test_a_call_that_extends_later_leaves_nothing_to_what_was_admitted_after_it_in_the_same_hour() -> None:
    till, cap = rolling(CapMetric.MINUTES, 180)
    till.dial(route_of("early"))
    till.ask(answer_of("early", answered_ms=till.clock.now_ms()))
    till.clock.pass_ms(HOUR_MS // 2)
    till.dial(route_of("later"))
    till.clock.pass_ms(HOUR_MS)
    assert [till.ask(extend_of("early")).funded_s for _ in range(2)] == [120, 120]
    assert till.count(cap) == (0, 180)


def test_an_overrun_long_after_the_window_is_counted_within_the_limit_of_its_admission() -> None:
    till, cap = rolling(CapMetric.SPEND, 500_000)
    till.dial(route_of("a"))
    till.dial(route_of("b"))
    till.clock.pass_ms(3 * HOUR_MS)
    till.ask(settle_of("a", talk_ms=2 * HOUR_MS))
    till.ask(settle_of("b", talk_ms=2 * HOUR_MS))
    assert till.count(cap) == (500_000, 0)
    assert till.cdr("a").amount_micros + till.cdr("b").amount_micros == 500_000


def test_commands_about_calls_of_different_hours_in_one_batch_see_all_of_their_windows() -> None:
    till, cap = rolling(CapMetric.MINUTES, 120)
    till.dial(route_of("old"))
    till.ask(answer_of("old", answered_ms=till.clock.now_ms()))
    till.clock.pass_ms(5 * HOUR_MS)
    till.dial(route_of("new"))
    till.ask(answer_of("new", answered_ms=till.clock.now_ms()))
    answers = till.batch([extend_of("new"), extend_of("old"), route_of("more"), extend_of("old")])
    assert [getattr(a, "funded_s", 0) for a in answers] == [120, 120, 0, 120]
    assert till.count(cap) == (0, 240)


@pytest.mark.parametrize("back_ms", [60_000, HOUR_MS])
def test_a_clock_set_back_within_the_window_makes_no_room(back_ms: int) -> None:
    till, _ = rolling(CapMetric.ATTEMPTS, 1)
    till.dial(route_of("a"))
    till.ask(settle_of("a"))
    till.clock.pass_ms(-back_ms)
    till.reject(route_of("b"))


def test_a_clock_set_back_beyond_the_window_blocks_nothing() -> None:
    till, _ = rolling(CapMetric.ATTEMPTS, 1)
    till.dial(route_of("a"))
    till.ask(settle_of("a"))
    till.clock.pass_ms(-HOUR_MS - BUCKET_MS)
    till.dial(route_of("b"))
