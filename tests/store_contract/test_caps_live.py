"""Caps through the engine on both databases: places, windows, caps that are set or lowered while calls live."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from capconduit.domain.calls import DialAnswer, RejectAnswer, SettleReport
from capconduit.domain.model import Account, Call, Cap, Cdr, Counter, Event, Place
from capconduit.errors import DatabaseError
from capconduit.services.balances import adjust
from capconduit.services.campaigns import pause_campaign
from capconduit.services.caps import (
    COUNTED,
    Limit,
    cap_usage,
    clear_caps,
    parse_limit,
    set_caps,
    verify_caps,
)
from capconduit.services.dids import assign_did, release_did, suspend_did
from capconduit.services.settings import set_setting
from capconduit.units import instant_ms
from capconduit.vocab import (
    CapMetric,
    CapScope,
    DialStatus,
    DidStatus,
    EventKind,
    PlaceState,
    RejectCode,
    WindowKind,
)
from tests.unit.estate_builder import (
    CALLER,
    DOLLAR,
    NODE,
    T0,
    TENANT,
    EstateBuilder,
    Till,
    answer_of,
    attempt_of,
    route_of,
    settle_of,
    small_estate,
)

DAY_MS = 86_400_000
IDS = {
    CapScope.SYSTEM: TENANT,
    CapScope.SELLER: "acme",
    CapScope.CAMPAIGN: "solar",
    CapScope.DID: "did+18005550100",
    CapScope.TRUNK: "carrier",
    CapScope.TARGET: "buyer1",
    CapScope.RULE: "solar/buyer1",
}
NAMES = {**IDS, CapScope.SYSTEM: "", CapScope.DID: "+18005550100"}
Shop = Callable[[EstateBuilder], Till]


def utc(text: str) -> int:
    return instant_ms(datetime.fromisoformat(text).replace(tzinfo=UTC))


def capped(scope: CapScope, metric: CapMetric, limit: int, window: WindowKind = WindowKind.DAY) -> EstateBuilder:
    builder = small_estate(billable_threshold_ms=30_000)
    window = WindowKind.NONE if metric is CapMetric.CONCURRENT else window
    builder.cap(scope, IDS[scope], metric, limit, window)
    return builder


# --- one place -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", CapScope)
@pytest.mark.parametrize("metric", COUNTED)
def test_a_cap_of_any_scope_and_metric_lets_its_limit_ring_and_no_more(
    open_shop: Shop, scope: CapScope, metric: CapMetric
) -> None:
    """A call that is cancelled, one below the threshold, one that is billable: each metric keeps its own."""
    builder = capped(scope, metric, 2)
    cap, till = builder.caps[0], open_shop(builder)
    till.dial(route_of("a"))
    till.dial(route_of("b"))
    assert till.count(cap) == (0, 2)
    refused = till.reject(route_of("c"))
    if scope in (CapScope.TARGET, CapScope.RULE):
        assert refused.reason == "targets_all_capped"
    else:
        assert refused.reason.startswith(f"cap_reached:{scope}:{metric}")
    assert (refused.cause, refused.sip) == (17, 486)
    till.ask(settle_of("a"))  # cancelled: an attempt
    assert till.count(cap) == (int(metric is CapMetric.ATTEMPTS), 1)
    till.ask(settle_of("b", talk_ms=29_999))  # connected, not billable
    used = {CapMetric.ATTEMPTS: 2, CapMetric.CONNECTED: 1}.get(metric, 0)
    assert till.count(cap) == (used, 0)
    if metric in (CapMetric.BILLABLE, CapMetric.CONCURRENT):
        till.dial(route_of("d"))
        till.dial(route_of("e"))
        till.ask(settle_of("d", talk_ms=30_000))
        used += metric is CapMetric.BILLABLE
        assert till.count(cap) == (used, 1)
    till.verify()


@pytest.mark.parametrize("scope", [CapScope.CAMPAIGN, CapScope.TARGET])
def test_a_daily_cap_of_100_with_99_done_lets_exactly_one_ring(open_shop: Shop, scope: CapScope) -> None:
    till = open_shop(capped(scope, CapMetric.BILLABLE, 100))
    cap = till.rows(Cap)[0]
    for start in range(0, 99, 33):
        commands: list[Any] = [route_of(f"u{i}") for i in range(start, start + 33)]
        till.batch(commands)
        till.batch([settle_of(f"u{i}", talk_ms=30_000) for i in range(start, start + 33)])
    assert till.count(cap) == (99, 0)
    answers = till.batch([route_of(f"v{i}") for i in range(5)])
    assert [isinstance(a, DialAnswer) for a in answers] == [True, False, False, False, False]
    till.reject(route_of("w"))
    till.ask(settle_of("v0", talk_ms=29_999))  # not billable: its place is free again
    till.dial(route_of("x"))
    till.ask(settle_of("x", talk_ms=30_000))
    assert till.count(cap) == (100, 0)
    till.reject(route_of("y"))
    till.verify()


def test_a_limit_of_zero_is_closed_and_no_cap_is_unlimited(open_shop: Shop) -> None:
    builder = small_estate()
    builder.campaign("open")
    builder.did("+18005550101", "open")
    builder.rule("open", "buyer1")
    builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.ATTEMPTS, 0, WindowKind.TOTAL)
    till = open_shop(builder)
    assert till.reject(route_of("a")).reason == "cap_reached:campaign:attempts:total"
    for i in range(20):
        till.dial(route_of(f"b{i}", dnid="+18005550101"))


def test_a_call_takes_all_its_places_or_none(open_shop: Shop) -> None:
    """The last cap of the path is full: nothing is taken in the ones before it."""
    builder = small_estate()
    first = builder.cap(CapScope.SYSTEM, TENANT, CapMetric.CONCURRENT, 5)
    builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.CONCURRENT, 0)
    till = open_shop(builder)
    till.reject(route_of())
    assert till.count(first) == (0, 0)
    assert till.rows(Place) == []
    assert till.account().held_micros == 0


# --- attempts --------------------------------------------------------------------------------------------------------


def failing_over() -> EstateBuilder:
    builder = small_estate()
    builder.target("buyer2")
    for name in ("buyer1", "buyer2"):
        builder.cap(CapScope.TARGET, name, CapMetric.CONCURRENT, 1)
        builder.cap(CapScope.RULE, f"solar/{name}", CapMetric.ATTEMPTS, 5, WindowKind.TOTAL)
    return builder


def test_a_failover_gives_the_target_s_place_back_at_once(open_shop: Shop) -> None:
    builder = failing_over()
    till = open_shop(builder)
    concurrent = {c.scope_id: c for c in builder.caps}
    assert till.dial(route_of("a")).target == "buyer1"
    assert till.dial(route_of("b")).target == "buyer2"  # buyer1 is full
    assert till.reject(route_of("c")).reason == "targets_all_capped"
    assert till.reject(attempt_of("a")).code is RejectCode.TARGETS_ALL_FAILED  # buyer2 is full
    assert till.count(concurrent["buyer1"]) == (0, 0)
    assert till.dial(route_of("d")).target == "buyer1"
    assert till.ask(attempt_of("b")).code is RejectCode.TARGETS_ALL_FAILED
    assert till.ask(attempt_of("d")).target == "buyer2"
    assert till.count(concurrent["solar/buyer1"]) == (2, 0)
    assert till.count(concurrent["solar/buyer2"]) == (1, 1)
    for uniqueid in "abd":
        till.ask(settle_of(uniqueid))
    assert all(till.count(cap)[1] == 0 for cap in builder.caps)
    till.verify()


def test_an_attempt_told_twice_frees_one_place(open_shop: Shop) -> None:
    builder = failing_over()
    till = open_shop(builder)
    till.dial(route_of("a"))
    second = till.dial(attempt_of("a"))
    third = till.dial(attempt_of("a"))
    assert second == third
    one, both = till.batch([attempt_of("a"), attempt_of("a")])
    assert one == both == second
    assert till.count(builder.caps[0]) == (0, 0)
    assert till.count(builder.caps[2]) == (0, 1)
    till.verify()


def test_a_whole_life_in_one_batch_is_the_same_as_in_many(open_shop: Shop) -> None:
    builder = failing_over()
    till = open_shop(builder)
    commands: list[Any] = [
        settle_of("early"),
        route_of("early"),
        route_of("a"),
        route_of("a"),
        attempt_of("a"),
        answer_of("a", answered_ms=T0),
        answer_of("a", answered_ms=T0 + 5),
        settle_of("a", talk_ms=1_000),
        settle_of("a", talk_ms=1_000),
        attempt_of("a"),
    ]
    answers = till.batch(commands)
    assert not any(isinstance(a, Exception) for a in answers)
    assert isinstance(answers[1], RejectAnswer)
    assert answers[2] == answers[3]
    assert [answers[7].first, answers[8].first] == [True, False]
    assert till.rows(Call) == []
    assert len(till.rows(Cdr)) == 1
    till.verify()
    assert all(till.count(cap)[1] == 0 for cap in builder.caps)


# --- windows ---------------------------------------------------------------------------------------------------------


def test_a_call_belongs_to_the_day_it_was_admitted_on_even_if_it_ends_later(open_shop: Shop) -> None:
    builder = capped(CapScope.CAMPAIGN, CapMetric.BILLABLE, 1)
    till, cap = open_shop(builder), builder.caps[0]
    midnight = utc("2026-03-09T04:00:00")  # New York, the night after the change
    till.clock.wall_ms = midnight - 1
    till.dial(route_of("yesterday"))
    till.reject(route_of("full"))
    till.clock.wall_ms = midnight
    till.dial(route_of("today"))
    till.reject(route_of("full-again"))
    till.ask(settle_of("yesterday", talk_ms=30_000))
    assert till.count(cap, utc("2026-03-08T05:00:00")) == (1, 0)  # the day of 23 hours began in standard time
    assert till.count(cap, midnight) == (0, 1)
    till.reject(route_of("still-full"))
    till.ask(settle_of("today"))
    till.dial(route_of("now-free"))
    till.verify()


@pytest.mark.parametrize(
    ("window", "last", "first"),
    [
        (WindowKind.HOUR, "2026-11-01T05:59:59.999", "2026-11-01T06:00:00"),  # 01:59:59 EDT → 01:00 EST
        (WindowKind.DAY, "2026-11-02T04:59:59.999", "2026-11-02T05:00:00"),  # a day of 25 hours
        (WindowKind.WEEK, "2026-03-09T03:59:59.999", "2026-03-09T04:00:00"),
        (WindowKind.MONTH, "2026-04-01T03:59:59.999", "2026-04-01T04:00:00"),
    ],
)
def test_a_window_ends_with_its_last_millisecond(open_shop: Shop, window: WindowKind, last: str, first: str) -> None:
    till = open_shop(capped(CapScope.CAMPAIGN, CapMetric.ATTEMPTS, 1, window))
    till.clock.wall_ms = utc(last)
    till.dial(route_of("a"))
    till.ask(settle_of("a"))
    assert till.reject(route_of("b")).reason == f"cap_reached:campaign:attempts:{window}"
    till.clock.wall_ms = utc(first)
    till.dial(route_of("c"))
    till.verify()


def test_a_total_is_never_free_again(open_shop: Shop) -> None:
    till = open_shop(capped(CapScope.CAMPAIGN, CapMetric.ATTEMPTS, 1, WindowKind.TOTAL))
    till.dial(route_of("a"))
    till.ask(settle_of("a"))
    till.clock.pass_ms(400 * DAY_MS)
    till.reject(route_of("b"))


def test_a_clock_that_goes_back_over_midnight_finds_the_day_as_it_was_left(open_shop: Shop) -> None:
    builder = capped(CapScope.CAMPAIGN, CapMetric.ATTEMPTS, 1)
    till = open_shop(builder)
    midnight = utc("2026-03-03T05:00:00")
    till.clock.wall_ms = midnight - 1_000
    till.dial(route_of("a"))
    till.clock.wall_ms = midnight + 1_000
    till.dial(route_of("b"))
    till.clock.wall_ms = midnight - 500
    till.reject(route_of("c"))
    till.ask(settle_of("a"))
    till.ask(settle_of("b"))
    till.reject(route_of("d"))
    till.verify()


@pytest.mark.parametrize("scope", [CapScope.SYSTEM, CapScope.TRUNK, CapScope.TARGET])
def test_changing_the_time_zone_makes_no_room_in_a_window_that_is_full(open_shop: Shop, scope: CapScope) -> None:
    """The day has another beginning now, and what was used in it still counts."""
    till = open_shop(capped(scope, CapMetric.ATTEMPTS, 2))
    till.dial(route_of("done"))
    till.ask(settle_of("done"))
    till.dial(route_of("live"))
    assert isinstance(till.ask(route_of("full")), RejectAnswer)
    set_setting(till.office(), "timezone", "Asia/Tokyo")
    assert isinstance(till.ask(route_of("full-still")), RejectAnswer)
    till.ask(settle_of("live"))
    assert isinstance(till.ask(route_of("full-anyway")), RejectAnswer)
    till.verify()


def test_a_did_that_changes_hands_keeps_what_its_day_has_used(open_shop: Shop) -> None:
    """Its day follows its seller's zone: New York here, Tokyo after the change."""
    builder = capped(CapScope.DID, CapMetric.ATTEMPTS, 2)
    builder.seller("tokyo", timezone="Asia/Tokyo")
    builder.campaign("kanto", seller="tokyo")
    builder.rule("kanto", "buyer1")
    till = open_shop(builder)
    till.dial(route_of("done"))
    till.ask(settle_of("done"))
    till.dial(route_of("live"))
    assign_did(till.office(), "+18005550100", "kanto")
    assert till.reject(route_of("full")).reason == "cap_reached:did:attempts:day"
    release_did(till.office(), "+18005550100")
    assign_did(till.office(), "+18005550100", "solar")
    assert till.reject(route_of("full-still")).reason == "cap_reached:did:attempts:day"
    view = cap_usage(till.office(), CapScope.DID, "+18005550100")[0]
    assert (view.used, view.in_flight) == (1, 1)
    till.ask(settle_of("live"))
    till.clock.pass_ms(2 * DAY_MS)
    till.dial(route_of("another-day"))
    till.verify()


@pytest.mark.parametrize(
    ("zone", "next_midnight"), [("Asia/Tokyo", "2026-03-02T15:00:00"), ("America/New_York", "2026-03-03T05:00:00")]
)
def test_a_changed_time_zone_has_its_own_next_window(open_shop: Shop, zone: str, next_midnight: str) -> None:
    till = open_shop(capped(CapScope.SYSTEM, CapMetric.ATTEMPTS, 2))
    till.clock.wall_ms = utc("2026-03-02T04:00:00")  # before midnight in New York, after it in London
    till.dial(route_of("early"))
    till.ask(settle_of("early"))
    till.clock.wall_ms = utc("2026-03-02T12:00:00")
    till.dial(route_of("live"))
    set_setting(till.office(), "timezone", zone)
    till.clock.wall_ms = utc(next_midnight) - 1
    till.reject(route_of("full"))
    till.clock.wall_ms += 1
    till.dial(route_of("new-day"))
    till.ask(settle_of("live"))
    till.dial(route_of("new-day-2"))
    till.reject(route_of("new-day-full"))
    till.verify()


def test_a_suspension_outlives_a_release(shop: Till) -> None:
    suspend_did(shop.office(), "+18005550100", suspended=True)
    assert release_did(shop.office(), "+18005550100").did.status is DidStatus.SUSPENDED
    assert assign_did(shop.office(), "+18005550100", "solar").did.status is DidStatus.SUSPENDED
    assert shop.reject(route_of("a")).code is RejectCode.DID_SUSPENDED
    assert suspend_did(shop.office(), "+18005550100", suspended=False).did.status is DidStatus.ASSIGNED
    shop.dial(route_of("b"))


# --- operators at work -----------------------------------------------------------------------------------------------


def test_a_lowered_cap_ends_no_call_and_admits_none(open_shop: Shop) -> None:
    builder = capped(CapScope.CAMPAIGN, CapMetric.CONCURRENT, 5)
    till, cap = open_shop(builder), builder.caps[0]
    for i in range(5):
        till.dial(route_of(f"u{i}"))
    set_caps(till.office(), CapScope.CAMPAIGN, "solar", [Limit(CapMetric.CONCURRENT, WindowKind.NONE, 2)])
    assert len(till.rows(Call)) == 5
    assert till.count(cap) == (0, 5)
    for i in range(3):
        till.reject(route_of(f"refused{i}"))
        assert till.ask(settle_of(f"u{i}", talk_ms=1_000)).first
    till.reject(route_of("at-the-limit"))
    till.ask(settle_of("u3"))
    till.dial(route_of("below"))
    assert till.count(cap) == (0, 2)
    till.verify()


def test_a_paused_campaign_ends_no_call_and_admits_none(shop: Till) -> None:
    shop.dial(route_of("a"))
    pause_campaign(shop.office(), "solar", paused=True)
    assert shop.reject(route_of("b")).code is RejectCode.CAMPAIGN_PAUSED
    assert shop.ask(answer_of("a", answered_ms=T0)) is not None
    pause_campaign(shop.office(), "solar", paused=False)
    shop.dial(route_of("b2"))
    assert shop.ask(settle_of("a", talk_ms=1_000)).first


def history(till: Till) -> None:
    """Before any cap: settled calls of every kind, a failover, a late admission, a reject; and calls that live."""
    till.dial(route_of("cancelled"))
    till.ask(settle_of("cancelled"))
    till.dial(route_of("short"))
    till.ask(settle_of("short", talk_ms=29_999))
    till.dial(route_of("billable"))
    till.ask(settle_of("billable", talk_ms=30_000))
    till.dial(route_of("moved"))
    till.dial(attempt_of("moved"))
    till.ask(settle_of("moved", talk_ms=30_000, attempt=2))
    till.dial(route_of("late"))
    till.ask(SettleReport(node=NODE, uniqueid="late", reject=RejectCode.ENGINE_TIMEOUT, witness="late"))
    till.reject(route_of("nobody", dnid="+18005559999"))
    till.ask(settle_of("buried"))
    till.dial(route_of("untold"))
    till.dial(attempt_of("untold"))
    till.ask(settle_of("untold", attempt=1, dialstatus=DialStatus.BUSY))
    till.dial(route_of("dialing"))
    till.dial(route_of("up"))
    till.ask(answer_of("up", answered_ms=till.clock.now_ms()))
    till.dial(route_of("moved-live"))
    till.dial(attempt_of("moved-live"))
    till.dial(route_of("failed-live"))
    till.dial(attempt_of("failed-live"))
    till.reject(attempt_of("failed-live", attempt=2))


@pytest.mark.parametrize("scope", CapScope)
@pytest.mark.parametrize("metric", COUNTED)
def test_a_cap_that_is_set_later_counts_what_one_that_stood_from_the_start_counts(
    open_shop: Shop, scope: CapScope, metric: CapMetric
) -> None:
    builder = small_estate(billable_threshold_ms=30_000)
    builder.target("buyer2")
    window = WindowKind.NONE if metric is CapMetric.CONCURRENT else WindowKind.DAY
    before = builder.cap(scope, IDS[scope], metric, 1_000, window)
    till = open_shop(builder)
    till.clock.wall_ms = utc("2026-03-03T04:59:50")  # ten seconds before midnight in New York
    history(till)
    limit = Limit(metric, window, 1_000)
    expected = cap_usage(till.office(), scope, NAMES[scope])[0]
    clear_caps(till.office(), scope, NAMES[scope])
    later = set_caps(till.office(), scope, NAMES[scope], [limit])[0]
    assert later.cap.id != before.id
    assert (later.used, later.in_flight) == (expected.used, expected.in_flight)
    till.verify()
    for uniqueid in ("dialing", "up", "moved-live", "failed-live"):
        till.ask(settle_of(uniqueid, talk_ms=30_000 if uniqueid != "failed-live" else None, attempt=2))
    till.verify()
    assert till.count(later.cap)[1] == 0
    usage = cap_usage(till.office(), scope, NAMES[scope])[0]
    again = set_after_clear(till, scope, limit)
    assert (again.used, again.in_flight) == (usage.used, 0)


def set_after_clear(till: Till, scope: CapScope, limit: Limit) -> Any:
    clear_caps(till.office(), scope, NAMES[scope])
    return set_caps(till.office(), scope, NAMES[scope], [limit])[0]


def test_a_failover_after_midnight_is_counted_later_as_it_was_counted_at_once(open_shop: Shop) -> None:
    """Admitted yesterday, answered by the second target today: its place was taken in the window of the Dial."""
    builder = small_estate()
    builder.target("buyer2")
    builder.setting("timezone", "America/New_York")
    metrics = (CapMetric.ATTEMPTS, CapMetric.CONNECTED, CapMetric.BILLABLE)
    for metric in metrics:
        builder.cap(CapScope.TARGET, "buyer2", metric, 1_000, WindowKind.DAY)
    till = open_shop(builder)
    till.clock.wall_ms = utc("2026-03-03T04:59:55")
    till.dial(route_of())
    till.clock.pass_ms(10_000)
    till.dial(attempt_of())
    till.ask(settle_of(talk_ms=1_000, attempt=2))
    at_once = {v.cap.metric: v.used for v in cap_usage(till.office(), CapScope.TARGET, "buyer2")}
    clear_caps(till.office(), CapScope.TARGET, "buyer2")
    limits = [Limit(metric, WindowKind.DAY, 1_000) for metric in metrics]
    later = {v.cap.metric: v.used for v in set_caps(till.office(), CapScope.TARGET, "buyer2", limits)}
    assert at_once == dict.fromkeys(metrics, 1)
    assert later == at_once


def test_a_cap_set_at_its_limit_by_calls_that_live_admits_none(shop: Till) -> None:
    shop.dial(route_of("a"))
    shop.dial(route_of("b"))
    set_caps(shop.office(), CapScope.CAMPAIGN, "solar", [parse_limit(CapMetric.BILLABLE, "2/day")])
    shop.reject(route_of("c"))
    shop.ask(settle_of("a"))
    shop.dial(route_of("d"))
    shop.verify()


def test_a_cap_that_is_cleared_and_set_keeps_its_count(open_shop: Shop) -> None:
    till = open_shop(capped(CapScope.CAMPAIGN, CapMetric.ATTEMPTS, 1))
    till.dial(route_of("a"))
    set_after_clear(till, CapScope.CAMPAIGN, Limit(CapMetric.ATTEMPTS, WindowKind.DAY, 1))
    till.reject(route_of("b"))
    till.ask(settle_of("a"))
    set_after_clear(till, CapScope.CAMPAIGN, Limit(CapMetric.ATTEMPTS, WindowKind.DAY, 1))
    till.reject(route_of("c"))
    till.verify()


def test_a_cap_of_the_trunk_counts_the_calls_without_a_trunk_on_its_dids(shop: Till) -> None:
    shop.dial(route_of("a", trunk=""))
    shop.ask(settle_of("a"))
    shop.dial(route_of("b", trunk=""))
    view = set_caps(shop.office(), CapScope.TRUNK, "carrier", [parse_limit(CapMetric.ATTEMPTS, "2/day")])[0]
    assert (view.used, view.in_flight) == (1, 1)
    shop.reject(route_of("c", trunk=""))


# --- the counts are true ---------------------------------------------------------------------------------------------


def test_counters_that_drifted_are_found_and_set_right(open_shop: Shop) -> None:
    builder = capped(CapScope.CAMPAIGN, CapMetric.ATTEMPTS, 100)
    till, cap = open_shop(builder), builder.caps[0]
    till.dial(route_of("a"))
    till.dial(route_of("b"))
    till.ask(settle_of("a"))
    counter = till.rows(Counter, cap_id=cap.id)[0]
    with till.store.transaction(write=True) as tx:
        tx.update(replace(counter, used=7, in_flight=-3))
    drift = verify_caps(till.office())
    assert [(d.used, d.in_flight, d.counted, d.open, d.subject) for d in drift] == [(7, -3, 1, 1, "solar")]
    assert verify_caps(till.office(dry_run=True), fix=True)
    assert verify_caps(till.office())
    verify_caps(till.office(), fix=True)
    assert till.count(cap) == (1, 1)
    till.verify()


def test_a_counter_that_is_lost_is_found_and_made_again(open_shop: Shop) -> None:
    builder = capped(CapScope.CAMPAIGN, CapMetric.ATTEMPTS, 100)
    till, cap = open_shop(builder), builder.caps[0]
    till.dial(route_of("a"))
    till.dial(route_of("b"))
    till.ask(settle_of("a"))
    with till.store.transaction(write=True) as tx:
        tx.delete(till_counter(tx, cap))
    assert [(d.used, d.in_flight, d.counted, d.open) for d in verify_caps(till.office())] == [(0, 0, 1, 1)]
    verify_caps(till.office(), fix=True)
    assert till.count(cap) == (1, 1)
    till.verify()


def till_counter(tx: Any, cap: Cap) -> Counter:
    return tx.rows(Counter, TENANT, cap_id=cap.id)[0]  # type: ignore[no-any-return]  # the store's rows are generic


# --- idempotence of everything, through the database -----------------------------------------------------------------


def test_a_second_settlement_in_another_transaction_changes_nothing(open_shop: Shop) -> None:
    builder = capped(CapScope.CAMPAIGN, CapMetric.BILLABLE, 10)
    till, cap = open_shop(builder), builder.caps[0]
    till.dial(route_of())
    assert till.ask(settle_of(talk_ms=30_000)).first
    account, cdr = till.account(), till.rows(Cdr)
    again = till.ask(settle_of(talk_ms=600_000))
    assert (again.first, again.disagreement) == (False, "talk_ms=600000 against 30000")
    assert (till.account(), till.rows(Cdr), till.count(cap)) == (account, cdr, (1, 0))
    told = [json.loads(e.data) for e in till.rows(Event) if e.kind is EventKind.SETTLEMENT_DISAGREED]
    assert [t["difference"] for t in told] == ["talk_ms=600000 against 30000"]


def test_a_settlement_before_its_route_leaves_a_tombstone_and_the_route_takes_nothing(open_shop: Shop) -> None:
    builder = capped(CapScope.CAMPAIGN, CapMetric.ATTEMPTS, 10)
    till, cap = open_shop(builder), builder.caps[0]
    assert till.ask(settle_of()).first
    assert not till.ask(settle_of()).first
    assert isinstance(till.ask(route_of()), RejectAnswer)
    assert isinstance(till.ask(route_of()), RejectAnswer)
    assert till.count(cap) == (0, 0)
    assert till.rows(Call) == []
    assert till.account() == replace(till.account(), held_micros=0, balance_micros=100 * DOLLAR)


def test_the_same_channel_of_another_node_is_another_call(shop: Till) -> None:
    shop.dial(route_of())
    shop.ask(settle_of(node="node-2"))
    assert shop.dial(route_of(node="node-3")).attempt == 1
    assert len(shop.rows(Call)) == 2


def test_what_is_thrown_in_the_middle_leaves_everything_as_it_was(open_shop: Shop) -> None:
    builder = capped(CapScope.CAMPAIGN, CapMetric.ATTEMPTS, 10)
    till, cap = open_shop(builder), builder.caps[0]
    till.dial(route_of("a"))

    def broken(tx: Any) -> None:
        till.engine.work([settle_of("a", talk_ms=5_000), route_of("b")], tx)
        raise DatabaseError("database-failed", "the plug was pulled")

    with pytest.raises(DatabaseError):
        till.store.run(broken)
    assert till.count(cap) == (0, 1)
    assert till.ask(settle_of("a", talk_ms=5_000)).first
    till.verify()


def test_money_and_places_of_a_call_outlive_the_removal_of_everything_it_used(open_shop: Shop) -> None:
    builder = capped(CapScope.TARGET, CapMetric.ATTEMPTS, 10)
    till = open_shop(builder)
    till.dial(route_of())
    with till.store.transaction(write=True) as tx:
        tx.estate_version(for_change=True)
        for row in (
            *builder.dids,
            *builder.rules,
            *builder.caps,
            *builder.targets,
            *builder.campaigns,
            *builder.trunks,
        ):
            tx.delete(row)
        tx.bump_estate()
    assert till.ask(settle_of(talk_ms=5_000)).first
    assert till.account().held_micros == 0
    assert all(p.state is PlaceState.RELEASED for p in till.rows(Place))
    till.verify()


def test_adjustments_between_admissions_are_seen_by_the_next(open_shop: Shop) -> None:
    builder = small_estate()
    builder.accounts[0] = replace(builder.accounts[0], balance_micros=200_000)
    till = open_shop(builder)
    till.dial(route_of("a"))
    assert till.reject(route_of("b")).code is RejectCode.BALANCE_HELD_BY_OTHER_CALLS
    adjust(till.office(), "acme", 200_000, reason="wire")
    till.dial(route_of("c"))
    assert till.rows(Account)[0].available_micros == 0
    till.verify()


def test_the_caller_s_number_is_kept_in_both_forms(shop: Till) -> None:
    shop.dial(route_of(ani="2125550147"))
    shop.ask(settle_of(dialstatus=DialStatus.NOANSWER))
    cdr = shop.rows(Cdr)[0]
    assert (cdr.caller, cdr.caller_e164) == ("2125550147", CALLER)
