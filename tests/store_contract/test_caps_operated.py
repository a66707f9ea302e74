"""Caps that are set, lowered and cleared while calls live, and whether their counts are true, on both databases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from capconduit.domain.calls import SettleReport
from capconduit.domain.model import Call, Cap, Counter
from capconduit.services.campaigns import pause_campaign
from capconduit.services.caps import (
    Limit,
    cap_usage,
    clear_caps,
    parse_limit,
    set_caps,
    verify_caps,
)
from capconduit.services.dids import assign_did, release_did, suspend_did
from capconduit.vocab import (
    RESERVED_METRICS,
    CapMetric,
    CapScope,
    DialStatus,
    DidStatus,
    RejectCode,
    WindowKind,
)
from tests.store_contract.capped import COUNTED, HOUR_MS, Shop, capped, utc
from tests.unit.estate_builder import (
    NODE,
    SCOPE_IDS,
    SCOPE_NAMES,
    T0,
    TENANT,
    Till,
    answer_of,
    attempt_of,
    route_of,
    settle_of,
    small_estate,
)


def test_a_suspension_outlives_a_release(shop: Till) -> None:
    suspend_did(shop.office(), "+18005550100", suspended=True)
    assert release_did(shop.office(), "+18005550100").did.status is DidStatus.SUSPENDED
    assert assign_did(shop.office(), "+18005550100", "solar").did.status is DidStatus.SUSPENDED
    assert shop.reject(route_of("a")).code is RejectCode.DID_SUSPENDED
    assert suspend_did(shop.office(), "+18005550100", suspended=False).did.status is DidStatus.ASSIGNED
    shop.dial(route_of("b"))


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
@pytest.mark.parametrize(
    ("metric", "window"),
    [
        (CapMetric.CONCURRENT, WindowKind.NONE),
        *((metric, WindowKind.DAY) for metric in (*COUNTED[1:], *sorted(RESERVED_METRICS))),
        *((metric, WindowKind.ROLLING) for metric in (*COUNTED[1:], *sorted(RESERVED_METRICS))),
    ],
)
def test_a_cap_that_is_set_later_counts_what_one_that_stood_from_the_start_counts(
    open_shop: Shop, scope: CapScope, metric: CapMetric, window: WindowKind
) -> None:
    builder = small_estate(billable_threshold_ms=30_000)
    builder.target("buyer2")
    length_ms = HOUR_MS if window is WindowKind.ROLLING else 0
    before = builder.cap(scope, SCOPE_IDS[scope], metric, 10**9, window, length_ms)
    till = open_shop(builder)
    till.clock.wall_ms = utc("2026-03-03T04:59:50")  # ten seconds before midnight in New York
    history(till)
    limit = Limit(metric, window, 10**9, length_ms)
    expected = cap_usage(till.office(), scope, SCOPE_NAMES[scope])[0]
    clear_caps(till.office(), scope, SCOPE_NAMES[scope])
    later = set_caps(till.office(), scope, SCOPE_NAMES[scope], [limit])[0]
    assert later.cap.id != before.id
    assert (later.used, later.in_flight) == (expected.used, expected.in_flight)
    till.verify()
    for uniqueid in ("dialing", "up", "moved-live", "failed-live"):
        till.ask(settle_of(uniqueid, talk_ms=30_000 if uniqueid != "failed-live" else None, attempt=2))
    till.verify()
    assert till.count(later.cap)[1] == 0
    usage = cap_usage(till.office(), scope, SCOPE_NAMES[scope])[0]
    again = set_after_clear(till, scope, limit)
    assert (again.used, again.in_flight) == (usage.used, 0)
    till.verify()


def set_after_clear(till: Till, scope: CapScope, limit: Limit) -> Any:
    clear_caps(till.office(), scope, SCOPE_NAMES[scope])
    return set_caps(till.office(), scope, SCOPE_NAMES[scope], [limit])[0]


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
