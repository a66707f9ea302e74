"""Calls per second and rolling windows on both databases: bursts, several daemons, clocks, and their past."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capconduit.clock import SystemClock
from capconduit.domain.calls import DialAnswer, RejectAnswer
from capconduit.domain.model import Call, Counter, Place
from capconduit.services.caps import Limit, cap_usage, clear_caps, parse_limit, set_caps, verify_caps
from capconduit.services.engine import Engine
from capconduit.vocab import CapMetric, CapScope, RejectCode, WindowKind
from tests.store_contract.beside import beside
from tests.store_contract.burst import fire
from tests.store_contract.capped import DAY_MS, HOUR_MS, Shop, capped, utc
from tests.store_contract.conftest import Opener, PostgresServer
from tests.unit.estate_builder import (
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

BUCKET_MS = HOUR_MS // 60
JOIN_S = 60
ROLLING = WindowKind.ROLLING


def rich(builder: EstateBuilder) -> EstateBuilder:
    builder.accounts[0] = replace(builder.accounts[0], balance_micros=10**15)
    return builder


def most_within(instants: Sequence[int], width_ms: int) -> int:
    """The most of `instants` that any interval of this length holds, both ends included."""
    return max((sum(at <= other <= at + width_ms for other in instants) for at in instants), default=0)


# --- calls per second ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", CapScope)
def test_a_burst_in_one_batch_lets_the_limit_in_and_the_next_second_as_many_again(
    open_shop: Shop, scope: CapScope
) -> None:
    builder = capped(scope, CapMetric.CPS, 3)
    till = open_shop(builder)
    for turn in range(3):
        answers = till.batch([route_of(f"u{turn}-{i}") for i in range(6)])
        assert [isinstance(a, DialAnswer) for a in answers] == [True] * 3 + [False] * 3
        code = RejectCode.TARGETS_ALL_CAPPED if scope in (CapScope.TARGET, CapScope.RULE) else RejectCode.CPS_LIMIT
        assert {a.code for a in answers[3:]} == {code}
        till.clock.pass_ms(1_049)
        till.reject(route_of(f"early{turn}"))
        till.clock.pass_ms(1)
    assert till.count(builder.caps[0]) == (9, 0)
    assert till.rows(Place) == []
    till.verify()


def test_instants_of_a_second_are_counted_one_by_one(open_shop: Shop) -> None:
    till = open_shop(capped(CapScope.CAMPAIGN, CapMetric.CPS, 2))
    admitted = []
    for i in range(120):
        till.clock.pass_ms((37 * i) % 211)
        if isinstance(till.ask(route_of(f"u{i}")), DialAnswer):
            admitted.append(till.clock.now_ms())
    assert most_within(admitted, 1_000) == 2
    assert len(admitted) > 10


def test_a_cap_by_calls_per_second_is_clean_after_it_was_cleared_and_set(open_shop: Shop) -> None:
    till = open_shop(capped(CapScope.CAMPAIGN, CapMetric.CPS, 1))
    till.dial(route_of("a"))
    clear_caps(till.office(), CapScope.CAMPAIGN, "solar")
    till.dial(route_of("b"))
    assert till.rows(Counter) == []
    set_caps(till.office(), CapScope.CAMPAIGN, "solar", [parse_limit(CapMetric.CPS, "1")])
    till.dial(route_of("c"))
    till.reject(route_of("d"))
    assert list(verify_caps(till.office())) == []


@pytest.mark.postgres
def test_two_daemons_that_wait_for_each_other_decide_at_the_instant_they_got_the_lock(
    opened: Opener, postgres_server: PostgresServer, postgres_url: str
) -> None:
    """The second asked in the first's second and was let in three seconds later: it is a call of then."""
    till = Till(opened(postgres_url), capped(CapScope.CAMPAIGN, CapMetric.CPS, 1))
    began_ms = till.clock.now_ms()
    one, two = beside(till, postgres_server, route_of("a"), route_of("b"), wait_ms=3_000)
    assert isinstance(one, DialAnswer)
    assert isinstance(two, DialAnswer)
    assert sorted(c.decided_ms - began_ms for c in till.rows(Call)) == [0, 3_000]
    till.reject(route_of("c"))


@pytest.mark.postgres
def test_a_lock_that_was_waited_for_over_midnight_is_a_call_of_the_day_in_which_it_was_got(
    opened: Opener, postgres_server: PostgresServer, postgres_url: str
) -> None:
    builder = capped(CapScope.CAMPAIGN, CapMetric.CPS, 5)
    cap = builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.ATTEMPTS, 1, WindowKind.DAY)
    till = Till(opened(postgres_url), builder)
    midnight = utc("2026-03-03T05:00:00")
    till.clock.wall_ms = midnight - 1_000
    _, two = beside(till, postgres_server, route_of("a"), route_of("b"), wait_ms=2_000)
    assert isinstance(two, DialAnswer)
    assert till.count(cap, midnight) == (0, 1)
    till.verify()


@pytest.mark.postgres
@pytest.mark.parametrize("scope", [CapScope.SYSTEM, CapScope.TARGET])
def test_several_daemons_together_keep_to_a_second(opened: Opener, postgres_url: str, scope: CapScope) -> None:
    limit = 7
    store = opened(postgres_url)
    till = Till(store, rich(capped(scope, CapMetric.CPS, limit)))
    engines = [Engine(store, SystemClock()) for _ in range(3)]
    failures: list[BaseException] = []

    def burst(number: int) -> None:
        try:
            fire(engines[number], [route_of(f"u{number}-{i}") for i in range(150)])
        except BaseException as error:
            failures.append(error)

    for engine in engines:
        engine.start()
    threads = [threading.Thread(target=burst, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(JOIN_S)
    assert all(engine.stop(JOIN_S) for engine in engines)
    assert failures == []
    instants = [call.decided_ms for call in till.rows(Call)]
    assert len(instants) >= limit
    assert most_within(instants, 1_000) <= limit
    till.verify()


# --- rolling windows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", CapScope)
@pytest.mark.parametrize("metric", [CapMetric.ATTEMPTS, CapMetric.CONNECTED, CapMetric.BILLABLE])
def test_tentative_places_are_given_back_and_the_others_are_free_after_the_window(
    open_shop: Shop, scope: CapScope, metric: CapMetric
) -> None:
    builder = capped(scope, metric, 2, ROLLING)
    till, cap = open_shop(builder), builder.caps[0]
    answers = till.batch([route_of(name) for name in "abc"])
    assert [isinstance(a, DialAnswer) for a in answers] == [True, True, False]
    till.ask(settle_of("a"))
    till.ask(settle_of("b", talk_ms=30_000))
    used = 2 if metric is CapMetric.ATTEMPTS else 1
    assert till.count(cap) == (used, 0)
    till.clock.pass_ms(HOUR_MS)
    till.batch([route_of(f"d{i}") for i in range(3)])
    assert len(till.rows(Call)) == 2 - used
    till.clock.pass_ms(BUCKET_MS)
    answers = till.batch([route_of(f"e{i}") for i in range(3)])
    assert sum(isinstance(a, DialAnswer) for a in answers) == used
    till.verify()


@pytest.mark.parametrize("window_ms", [10_000, 45_000, HOUR_MS, 35 * DAY_MS])
def test_windows_of_every_length_hold_no_more_than_their_limit_in_any_interval(open_shop: Shop, window_ms: int) -> None:
    builder = small_estate()
    builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.ATTEMPTS, 3, ROLLING, window_ms)
    till, admitted = open_shop(builder), []
    for i in range(60):
        till.clock.pass_ms(window_ms * ((i * 7) % 11) // 23 + i)
        if isinstance(till.ask(route_of(f"u{i}")), DialAnswer):
            admitted.append(till.clock.now_ms())
    assert most_within(admitted, window_ms) == 3
    till.verify()


@pytest.mark.parametrize("scope", CapScope)
def test_a_rolling_cap_that_is_set_counts_its_past_bucket_by_bucket(open_shop: Shop, scope: CapScope) -> None:
    till = open_shop(small_estate())
    for i, ago_ms in enumerate((HOUR_MS + 2 * BUCKET_MS, HOUR_MS // 2, HOUR_MS // 2, BUCKET_MS)):
        till.clock.wall_ms = utc("2026-03-02T12:00:00") - ago_ms
        till.dial(route_of(f"u{i}"))
        if i != 2:
            till.ask(settle_of(f"u{i}", talk_ms=1_000))
    till.clock.wall_ms = utc("2026-03-02T12:00:00")
    limit = Limit(CapMetric.ATTEMPTS, ROLLING, 3, HOUR_MS)
    view = set_caps(till.office(), scope, SCOPE_NAMES[scope], [limit])[0]
    assert (view.used, view.in_flight) == (2, 1)
    till.reject(route_of("full"))
    till.clock.pass_ms(HOUR_MS // 2 + BUCKET_MS)
    till.dial(route_of("a"))
    till.dial(route_of("b"))
    till.reject(route_of("c"))
    till.ask(settle_of("u2"))
    till.verify()


@pytest.mark.parametrize("metric", [CapMetric.MINUTES, CapMetric.SPEND])
def test_calls_that_extend_long_after_their_window_keep_to_it(open_shop: Shop, metric: CapMetric) -> None:
    builder = rich(capped(CapScope.SELLER, metric, 600 if metric is CapMetric.MINUTES else 2_000_000, ROLLING))
    till, cap = open_shop(builder), builder.caps[0]
    for name in ("a", "b"):
        till.dial(route_of(name))
        till.ask(answer_of(name, answered_ms=till.clock.now_ms()))
    till.clock.pass_ms(3 * HOUR_MS)
    till.dial(route_of("later"))
    for _ in range(8):
        last = till.batch([extend_of("a"), extend_of("later"), extend_of("b")])
    assert last[0].funded_s + last[2].funded_s == 600
    assert last[1].funded_s == 540  # the hour of its own admission has room
    till.ask(settle_of("a", talk_ms=2 * HOUR_MS))
    till.ask(settle_of("b", talk_ms=30_000))
    assert till.count(cap)[0] == (330 if metric is CapMetric.MINUTES else 1_200_000)
    till.verify()


def test_clocks_that_jump_leave_no_drift_and_no_interval_over_the_limit(open_shop: Shop) -> None:
    builder = small_estate(billable_threshold_ms=30_000)
    builder.target("buyer2")
    for scope in CapScope:
        builder.cap(scope, SCOPE_IDS[scope], CapMetric.ATTEMPTS, 4, ROLLING, 60_000)
        builder.cap(scope, SCOPE_IDS[scope], CapMetric.CPS, 2)
    till, admitted = open_shop(builder), []
    jumps = (0, 400, -300, 30_000, -90_000, 61_000, -1_000, 0, 3_600_000, -3_590_000, 59_000, 1_049, -60_000, 100_000)
    for i, jump_ms in enumerate(jumps * 3):
        till.clock.pass_ms(jump_ms)
        if isinstance(till.ask(route_of(f"u{i}")), DialAnswer):
            admitted.append(till.clock.now_ms())
            if i % 3:
                till.ask(attempt_of(f"u{i}"))
            if i % 2:
                till.ask(settle_of(f"u{i}", talk_ms=1_000, attempt=1 + bool(i % 3)))
        assert most_within(admitted, 60_000) <= 4
        assert most_within(admitted, 1_000) <= 2
        till.verify()
    assert len(admitted) > 6


def test_its_use_is_shown_by_the_window_that_ends_now(open_shop: Shop) -> None:
    till = open_shop(capped(CapScope.CAMPAIGN, CapMetric.ATTEMPTS, 9, ROLLING))
    till.dial(route_of("a"))
    till.ask(settle_of("a"))
    till.dial(route_of("b"))
    view = cap_usage(till.office(), CapScope.CAMPAIGN, "solar")[0]
    assert (view.used, view.in_flight, view.resets_ms) == (1, 1, None)
    till.clock.pass_ms(HOUR_MS + BUCKET_MS)
    view = cap_usage(till.office(), CapScope.CAMPAIGN, "solar")[0]
    assert (view.used, view.in_flight) == (0, 0)


def test_two_windows_of_one_metric_stand_side_by_side(open_shop: Shop) -> None:
    till = open_shop(small_estate())
    limits = [parse_limit(CapMetric.ATTEMPTS, text) for text in ("2/rolling:10s", "3/rolling:1h", "9/day")]
    set_caps(till.office(), CapScope.CAMPAIGN, "solar", limits)
    till.dial(route_of("a"))
    till.dial(route_of("b"))
    assert till.reject(route_of("c")).reason == "cap_reached:campaign:attempts:rolling:10s"
    till.clock.pass_ms(11_000)
    till.dial(route_of("d"))
    assert till.reject(route_of("e")).reason == "cap_reached:campaign:attempts:rolling:1h"
    till.verify()


@pytest.mark.postgres
def test_an_extension_and_an_admission_at_two_daemons_share_what_is_left(
    opened: Opener, postgres_server: PostgresServer, postgres_url: str
) -> None:
    builder = capped(CapScope.CAMPAIGN, CapMetric.MINUTES, 150, ROLLING)
    till = Till(opened(postgres_url), builder)
    till.dial(route_of("a"))
    till.ask(answer_of("a", answered_ms=till.clock.now_ms()))
    till.clock.pass_ms(BUCKET_MS)
    extended, other = beside(till, postgres_server, extend_of("a"), route_of("b"))
    assert extended.funded_s == 120
    assert isinstance(other, RejectAnswer)
    assert till.count(builder.caps[0]) == (0, 120)
    till.verify()


def test_the_sqlite_file_of_a_daemon_that_was_restarted_counts_on(opened: Opener, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.sqlite"
    till = Till(opened(url), capped(CapScope.CAMPAIGN, CapMetric.ATTEMPTS, 2, ROLLING))
    till.dial(route_of("a"))
    till.ask(settle_of("a"))
    again: Any = opened(url)
    till.engine = Engine(again, till.clock)
    till.store = again
    till.clock.pass_ms(BUCKET_MS * 3)
    till.dial(route_of("b"))
    till.reject(route_of("c"))
    till.verify()
