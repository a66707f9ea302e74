"""Caps by calls through the engine on both databases: places of calls and of attempts."""

from __future__ import annotations

from typing import Any

import pytest

from capconduit.domain.calls import DialAnswer, RejectAnswer
from capconduit.domain.model import Call, Cap, Cdr, Place
from capconduit.vocab import (
    CapMetric,
    CapScope,
    RejectCode,
    WindowKind,
)
from tests.store_contract.capped import COUNTED, Shop, capped
from tests.unit.estate_builder import (
    T0,
    TENANT,
    EstateBuilder,
    answer_of,
    attempt_of,
    route_of,
    settle_of,
    small_estate,
)

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
