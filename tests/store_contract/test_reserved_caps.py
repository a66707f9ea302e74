"""Caps by minutes and spend on both databases: reserved, extended, settled, moved, set and lowered while calls live."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from capconduit.domain.calls import DialAnswer, RejectAnswer
from capconduit.domain.model import Cap, Cdr, Counter, Place
from capconduit.domain.needs import Command
from capconduit.services.caps import Limit, cap_usage, clear_caps, parse_limit, set_caps
from capconduit.services.engine import Engine
from capconduit.services.settings import set_setting
from capconduit.vocab import CapMetric, CapScope, DialStatus, PlaceState, WindowKind
from tests.store_contract.beside import beside
from tests.store_contract.capped import HOUR_MS, Shop, capped, utc
from tests.store_contract.conftest import Opener, PostgresServer
from tests.unit.estate_builder import (
    DOLLAR,
    SCOPE_IDS,
    SCOPE_NAMES,
    EstateBuilder,
    Till,
    answer_of,
    attempt_of,
    extend_of,
    route_of,
    settle_of,
    small_estate,
)

MINUTES, SPEND = CapMetric.MINUTES, CapMetric.SPEND
JOIN_S = 60


def limit_of(metric: CapMetric, minutes: int) -> int:
    """So many minutes of the small estate's 0.20, by the metric."""
    return minutes * 60 if metric is MINUTES else minutes * 200_000


def up(till: Till, name: str, **fields: Any) -> None:
    till.dial(route_of(name, **fields))
    till.ask(answer_of(name, answered_ms=till.clock.now_ms()))


# --- a life ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", CapScope)
@pytest.mark.parametrize("metric", [MINUTES, SPEND])
def test_what_is_reserved_grows_with_the_funding_and_settles_to_what_was_used(
    open_shop: Shop, scope: CapScope, metric: CapMetric
) -> None:
    builder = capped(scope, metric, limit_of(metric, 5))
    till, cap = open_shop(builder), builder.caps[0]
    up(till, "a")
    up(till, "b")
    assert till.count(cap) == (0, limit_of(metric, 2))
    assert [till.ask(extend_of("a")).funded_s for _ in range(4)] == [120, 180, 240, 240]
    assert till.count(cap) == (0, limit_of(metric, 5))
    till.reject(route_of("full"))
    till.verify()
    till.clock.pass_ms(240_000)
    till.ask(settle_of("b", talk_ms=45_000))
    assert till.count(cap) == (45 if metric is MINUTES else 200_000, limit_of(metric, 4))
    till.ask(settle_of("a", talk_ms=10 * HOUR_MS))
    used = till.count(cap)
    assert used == (285 if metric is MINUTES else DOLLAR, 0)
    assert used[0] <= limit_of(metric, 5)
    till.verify()


@pytest.mark.parametrize("metric", [MINUTES, SPEND])
def test_a_batch_promises_nothing_twice(open_shop: Shop, metric: CapMetric) -> None:
    builder = capped(CapScope.SELLER, metric, limit_of(metric, 5))
    till, cap = open_shop(builder), builder.caps[0]
    answers = till.batch([route_of(f"u{i}") for i in range(7)])
    assert [isinstance(a, DialAnswer) for a in answers] == [True] * 5 + [False] * 2
    commands: list[Command] = [settle_of("u0"), extend_of("u1"), extend_of("u2"), route_of("v"), extend_of("u1")]
    done = till.batch(commands)
    assert [getattr(a, "funded_s", None) for a in done[1:]] == [120, 60, None, 120]
    assert till.count(cap) == (0, limit_of(metric, 5))
    till.verify()


@pytest.mark.parametrize("metric", [MINUTES, SPEND])
def test_the_whole_life_of_a_call_in_one_batch_reserves_and_settles_like_in_many(
    open_shop: Shop, metric: CapMetric
) -> None:
    builder = two_rates()
    caps = [builder.cap(s, SCOPE_IDS[s], metric, 10**8, WindowKind.DAY) for s in CapScope]
    caps.append(builder.cap(CapScope.TARGET, "buyer2", metric, 10**8, WindowKind.DAY))
    till = open_shop(builder)
    life: list[Command] = [
        route_of(), attempt_of(), answer_of(answered_ms=till.clock.now_ms() - 31_000), extend_of(),
        settle_of(talk_ms=31_000, attempt=2), settle_of(talk_ms=31_000, attempt=2),
    ]  # fmt: skip
    till.batch(life)
    of_whole, of_target = (31, 31) if metric is MINUTES else (DOLLAR, DOLLAR)
    at_first = {CapScope.TARGET, CapScope.RULE}
    assert [till.count(c) for c in caps] == [
        (0 if c.scope in at_first and c.scope_id != "buyer2" else of_whole, 0) for c in caps[:-1]
    ] + [(of_target, 0)]
    till.verify()


# --- failover --------------------------------------------------------------------------------------------------------


def two_rates() -> EstateBuilder:
    """buyer1 at 0.20 a minute 60/60, buyer2 at 1.00 and 30/30."""
    builder = small_estate()
    builder.rate("dear", per_minute_micros=DOLLAR, first_s=30, step_s=30)
    builder.target("buyer2", rate_id="dear")
    return builder


def test_a_failover_moves_the_reservation_to_the_next_target_at_its_rate(open_shop: Shop) -> None:
    builder = two_rates()
    seller = builder.cap(CapScope.SELLER, "acme", SPEND, 700_000, WindowKind.DAY)
    first = builder.cap(CapScope.TARGET, "buyer1", MINUTES, 600, WindowKind.DAY)
    second = builder.cap(CapScope.RULE, "solar/buyer2", SPEND, DOLLAR, WindowKind.MONTH)
    till = open_shop(builder)
    till.dial(route_of("a"))
    assert [till.count(c) for c in (seller, first, second)] == [(0, 200_000), (0, 60), (0, 0)]
    assert till.dial(attempt_of("a")).funded_s == 30
    assert [till.count(c) for c in (seller, first, second)] == [(0, 500_000), (0, 0), (0, 500_000)]
    assert till.account().held_micros == 500_000
    till.verify()
    till.dial(route_of("b"))
    assert isinstance(till.ask(attempt_of("b")), RejectAnswer)  # 0.20 are left, and its own 0.20
    till.ask(settle_of("b", dialstatus=DialStatus.BUSY))
    till.ask(settle_of("a", talk_ms=29_000, attempt=2))
    assert [till.count(c) for c in (seller, first, second)] == [(500_000, 0), (0, 0), (500_000, 0)]
    till.verify()


# --- windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "last", "first"),
    [
        (WindowKind.HOUR, "2026-11-01T05:59:59", "2026-11-01T06:00:00"),  # 01:59 EDT → 01:00 EST
        (WindowKind.DAY, "2026-03-09T03:59:59", "2026-03-09T04:00:00"),  # the end of the day of 23 hours
        (WindowKind.DAY, "2026-11-02T04:59:59", "2026-11-02T05:00:00"),  # and of that of 25
        (WindowKind.MONTH, "2026-04-01T03:59:59", "2026-04-01T04:00:00"),
    ],
)
def test_a_call_reserves_extends_and_settles_in_the_window_of_its_admission(
    open_shop: Shop, window: WindowKind, last: str, first: str
) -> None:
    builder = capped(CapScope.CAMPAIGN, MINUTES, 120, window)
    till, cap = open_shop(builder), builder.caps[0]
    till.clock.wall_ms = utc(last)
    up(till, "before")
    before = next(c.window_start_ms for c in till.rows(Counter, cap_id=cap.id))
    till.clock.wall_ms = utc(first)
    up(till, "after-1")
    up(till, "after-2")
    till.reject(route_of("full"))
    assert [till.ask(extend_of("before")).funded_s for _ in range(2)] == [120, 120]
    till.clock.pass_ms(150_000)
    till.ask(settle_of("before", talk_ms=150_000))
    assert till.count(cap, before) == (120, 0)
    assert till.count(cap, utc(first)) == (0, 120)
    till.verify()


def test_a_changed_time_zone_takes_reservations_and_use_along(open_shop: Shop) -> None:
    till = open_shop(capped(CapScope.SYSTEM, MINUTES, 300))
    up(till, "done")
    till.clock.pass_ms(60_000)
    till.ask(settle_of("done", talk_ms=60_000))
    up(till, "live")
    assert till.ask(extend_of("live")).funded_s == 120
    set_setting(till.office(), "timezone", "Asia/Tokyo")
    view = cap_usage(till.office())[0]
    assert (view.used, view.in_flight) == (60, 120)
    assert [till.ask(extend_of("live")).funded_s for _ in range(3)] == [180, 240, 240]
    till.reject(route_of("full"))
    till.verify()
    till.ask(settle_of("live"))
    till.verify()


# --- operators at work -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", CapScope)
@pytest.mark.parametrize("metric", [MINUTES, SPEND])
def test_a_cap_that_is_set_while_calls_live_counts_what_they_reserve(
    open_shop: Shop, scope: CapScope, metric: CapMetric
) -> None:
    till = open_shop(small_estate())
    up(till, "a")
    up(till, "b")
    assert till.ask(extend_of("a")).funded_s == 120
    limit = Limit(metric, WindowKind.DAY, limit_of(metric, 4))
    view = set_caps(till.office(), scope, SCOPE_NAMES[scope], [limit])[0]
    assert (view.used, view.in_flight) == (0, limit_of(metric, 3))
    till.dial(route_of("c"))
    assert not till.ask(extend_of("a")).extended
    till.verify()
    till.clock.pass_ms(100_000)
    till.batch([settle_of("a", talk_ms=100_000), settle_of("c"), extend_of("b")])
    view = cap_usage(till.office(), scope, SCOPE_NAMES[scope])[0]
    assert (view.used, view.in_flight) == (100 if metric is MINUTES else 400_000, limit_of(metric, 2))
    till.verify()


@pytest.mark.parametrize("metric", [MINUTES, SPEND])
def test_a_cap_below_what_lives_ends_no_call_extends_none_and_admits_none(open_shop: Shop, metric: CapMetric) -> None:
    till = open_shop(small_estate())
    up(till, "a")
    assert till.ask(extend_of("a")).funded_s == 120
    set_caps(till.office(), CapScope.SELLER, "acme", [Limit(metric, WindowKind.DAY, limit_of(metric, 1))])
    till.reject(route_of("b"))
    assert not till.ask(extend_of("a")).extended
    till.clock.pass_ms(120_000)
    till.ask(settle_of("a", talk_ms=120_000))
    assert till.rows(Cdr, uniqueid="a")[0].amount_micros == 400_000
    view = cap_usage(till.office(), CapScope.SELLER, "acme")[0]
    assert (view.used, view.in_flight) == (limit_of(metric, 2), 0)
    till.reject(route_of("c"))
    till.verify()


def test_a_cap_that_is_cleared_and_set_while_a_call_lives_reserves_it_anew(open_shop: Shop) -> None:
    till = open_shop(capped(CapScope.CAMPAIGN, MINUTES, 60))
    up(till, "a")
    assert not till.ask(extend_of("a")).extended
    clear_caps(till.office(), CapScope.CAMPAIGN, "solar")
    assert till.ask(extend_of("a")).funded_s == 120
    set_caps(till.office(), CapScope.CAMPAIGN, "solar", [parse_limit(MINUTES, "3/day")])
    assert [till.ask(extend_of("a")).funded_s for _ in range(2)] == [180, 180]
    till.reject(route_of("b"))
    till.ask(settle_of("a"))
    till.verify()
    assert all(p.state is PlaceState.RELEASED for p in till.rows(Place))


# --- several daemons -------------------------------------------------------------------------------------------------


@pytest.mark.postgres
@pytest.mark.parametrize("metric", [MINUTES, SPEND])
def test_extensions_of_two_daemons_share_what_is_left(
    opened: Opener, postgres_server: PostgresServer, postgres_url: str, metric: CapMetric
) -> None:
    builder = capped(CapScope.SYSTEM, metric, limit_of(metric, 3))
    builder.seller("zenith")
    builder.campaign("wind", seller="zenith")
    builder.did("+18005550101", "wind")
    builder.rule("wind", "buyer1")
    till = Till(opened(postgres_url), builder)
    up(till, "a")
    up(till, "b", dnid="+18005550101")
    one, two = beside(till, postgres_server, extend_of("a"), extend_of("b"))
    assert (one.funded_s, two.funded_s) == (120, 60)
    assert till.count(builder.caps[0]) == (0, limit_of(metric, 3))
    till.verify()


@pytest.mark.postgres
def test_many_calls_of_two_daemons_never_use_more_than_the_cap(opened: Opener, postgres_url: str) -> None:
    """Admissions, extensions, failovers and overruns by two engines, on caps by minutes and spend of several scopes."""
    builder = two_rates()
    caps = [
        builder.cap(CapScope.CAMPAIGN, "solar", MINUTES, 2_000, WindowKind.DAY),
        builder.cap(CapScope.SELLER, "acme", SPEND, 9_000_000, WindowKind.TOTAL),
        builder.cap(CapScope.TARGET, "buyer2", SPEND, 2_500_000, WindowKind.ROLLING, HOUR_MS),
    ]
    store = opened(postgres_url)
    till = Till(store, builder)
    engines = [Engine(store, till.clock) for _ in range(2)]
    failures: list[BaseException] = []

    def life(name: str, i: int) -> Sequence[Command]:
        moved = [attempt_of(name)] if i % 3 == 0 else []
        talk_ms = None if i % 7 == 0 else 10_000 * (i % 40)
        end = settle_of(name, talk_ms=talk_ms, attempt=1 + len(moved))
        return [route_of(name), *moved, extend_of(name), extend_of(name), end, end]

    def daemon(number: int) -> None:
        try:
            for i in range(40):
                for command in life(f"u{number}-{i}", i):
                    engines[number].ask(command, JOIN_S)
        except BaseException as error:
            failures.append(error)

    for engine in engines:
        engine.start()
    threads = [threading.Thread(target=daemon, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(JOIN_S)
    assert all(engine.stop(JOIN_S) for engine in engines)
    assert failures == []
    for cap in caps:
        used, in_flight = till.count(cap)
        assert used <= cap.limit_value
        assert in_flight == 0
    assert till.count(caps[1])[0] == sum(c.amount_micros for c in till.rows(Cdr))
    assert len(till.rows(Cap)) == 3
    till.verify()
