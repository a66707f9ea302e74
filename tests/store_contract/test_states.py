"""What is kept of targets, rules and callers, on both databases: locked, counted once, and there after a restart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from capconduit.domain.calls import DialAnswer, RejectAnswer
from capconduit.domain.model import Call, Event, RecentCaller, RuleState, TargetState
from capconduit.services.engine import Engine
from capconduit.services.targets import rest_target, revive_target
from capconduit.vocab import DialStatus, EventKind, RejectCode, Strategy
from tests.store_contract.beside import beside
from tests.store_contract.capped import HOUR_MS, Shop
from tests.store_contract.conftest import Opener, PostgresServer
from tests.unit.estate_builder import (
    EstateBuilder,
    Till,
    answer_of,
    attempt_of,
    extend_of,
    route_of,
    settle_of,
    small_estate,
)

REST_MS = 60_000


def two_sellers() -> EstateBuilder:
    """Two sellers, a campaign each, and one target for both."""
    builder = small_estate()
    builder.seller("zenith")
    builder.campaign("wind", seller="zenith")
    builder.did("+18005550101", "wind")
    builder.rule("wind", "buyer1")
    return builder


# --- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.postgres
def test_the_first_dials_of_a_target_by_two_daemons_are_both_counted(
    opened: Opener, postgres_server: PostgresServer, postgres_url: str
) -> None:
    """Of a target that was never dialled there is no row yet: the second daemon waits all the same."""
    till = Till(opened(postgres_url), two_sellers())
    one, two = beside(till, postgres_server, route_of("a"), route_of("b", dnid="+18005550101"))
    assert isinstance(one, DialAnswer)
    assert isinstance(two, DialAnswer)
    assert [s.active for s in till.rows(TargetState)] == [2]
    till.verify()
    till.ask(settle_of("a"))
    assert [s.active for s in till.rows(TargetState)] == [1]
    till.verify()


@pytest.mark.postgres
def test_after_a_rest_one_of_two_daemons_tries_the_target(
    opened: Opener, postgres_server: PostgresServer, postgres_url: str
) -> None:
    builder = two_sellers()
    builder.setting("breaker_failures", 1)
    till = Till(opened(postgres_url), builder)
    fail(till, "a")
    till.clock.pass_ms(REST_MS)
    one, two = beside(till, postgres_server, route_of("b"), route_of("c", dnid="+18005550101"))
    assert isinstance(one, DialAnswer)
    assert isinstance(two, RejectAnswer)
    assert two.code is RejectCode.TARGETS_ALL_CLOSED


def fail(till: Till, name: str) -> None:
    till.dial(route_of(name))
    till.ask(attempt_of(name, dialstatus=DialStatus.CHANUNAVAIL, cause=20))
    till.ask(settle_of(name, dialstatus=DialStatus.CHANUNAVAIL))


def resting(open_shop: Shop) -> Till:
    builder = small_estate()
    builder.setting("breaker_failures", 2)
    till = open_shop(builder)
    fail(till, "a")
    fail(till, "b")
    return till


def kinds(till: Till, *wanted: EventKind) -> list[str]:
    events = sorted(till.rows(Event), key=lambda e: e.id)
    return [e.kind for e in events if e.kind in wanted]


BREAKER = (EventKind.TARGET_RESTED, EventKind.TARGET_REVIVED)


def test_a_rest_outlives_the_daemon_and_its_probe_is_one_for_all(open_shop: Shop) -> None:
    till = resting(open_shop)
    till.engine = Engine(till.store, till.clock)
    till.reject(route_of("c"))
    till.clock.pass_ms(REST_MS)
    till.dial(route_of("probe"))
    till.engine = Engine(till.store, till.clock)
    till.reject(route_of("d"))
    till.ask(answer_of("probe", answered_ms=till.clock.now_ms()))
    till.dial(route_of("e"))
    assert kinds(till, *BREAKER) == ["target.rested", "target.revived"]
    till.verify()


def test_an_operator_revives_a_target_and_the_next_call_goes_there(open_shop: Shop) -> None:
    till = resting(open_shop)
    till.reject(route_of("c"))
    _, undone = revive_target(till.office(), "buyer1")
    assert undone
    till.batch([route_of("d"), route_of("e")])
    assert len(till.rows(Call)) == 2
    assert kinds(till, *BREAKER) == ["target.rested", "target.revived"]
    assert not revive_target(till.office(), "buyer1")[1]


def test_an_operator_rests_a_target_and_one_call_tries_it_afterwards(open_shop: Shop) -> None:
    till = open_shop(small_estate())
    till.dial(route_of("before"))
    rest_target(till.office(), "buyer1", rest_ms=30_000)
    till.reject(route_of("a"))
    till.clock.pass_ms(30_000)
    till.dial(route_of("probe"))
    till.reject(route_of("b"))
    till.ask(settle_of("before", talk_ms=1_000))  # it took a call: it is well
    till.dial(route_of("c"))
    till.verify()


def test_attempts_under_way_are_counted_through_a_whole_life_in_one_batch_and_in_many(open_shop: Shop) -> None:
    builder = small_estate()
    builder.target("buyer2")
    till = open_shop(builder)
    till.batch([route_of("a"), attempt_of("a"), attempt_of("a"), answer_of("a"), extend_of("a"), route_of("b")])
    assert {s.target_id: s.active for s in till.rows(TargetState)} == {"buyer1": 1, "buyer2": 1}
    till.verify()
    till.batch([settle_of("a", talk_ms=1_000, attempt=2), settle_of("a"), settle_of("b"), attempt_of("b")])
    assert {s.target_id: s.active for s in till.rows(TargetState)} == {"buyer1": 0, "buyer2": 0}
    till.verify()


def test_a_target_that_is_removed_while_it_talks_ends_no_call(open_shop: Shop) -> None:
    builder = small_estate()
    till = open_shop(builder)
    till.dial(route_of("a"))
    with till.store.transaction(write=True) as tx:
        tx.estate_version(for_change=True)
        tx.delete(builder.rules[0])
        tx.delete(builder.targets[0])
        tx.bump_estate()
    assert till.ask(settle_of("a", talk_ms=1_000)).first
    till.verify()


# --- rules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [Strategy.ROUND_ROBIN, Strategy.PERCENTAGE])
def test_a_rotation_goes_on_where_it_stopped_when_the_daemon_restarts(open_shop: Shop, strategy: Strategy) -> None:
    builder = small_estate(strategy=strategy)
    builder.rules[0] = replace(builder.rules[0], priority=1, weight=3)
    builder.target("buyer2", rule={"priority": 1, "weight": 2})
    builder.target("buyer3", rule={"priority": 1, "weight": 1})
    till = open_shop(builder)
    targets = []
    for i in range(24):
        till.engine = Engine(till.store, till.clock)
        targets.append(till.dial(route_of(f"u{i}")).target)
    for turn in range(4):
        assert sorted(targets[turn * 6 : turn * 6 + 6]) == ["buyer1"] * 3 + ["buyer2"] * 2 + ["buyer3"]
    assert sum(s.cursor for s in till.rows(RuleState)) == 0


@pytest.mark.postgres
def test_two_daemons_turn_one_wheel(opened: Opener, postgres_server: PostgresServer, postgres_url: str) -> None:
    builder = small_estate(strategy=Strategy.ROUND_ROBIN)
    builder.rules[0] = replace(builder.rules[0], priority=1)
    builder.target("buyer2", rule={"priority": 1})
    till = Till(opened(postgres_url), builder)
    for i in range(5):
        answers = beside(till, postgres_server, route_of(f"a{i}"), route_of(f"b{i}"))
        assert sorted(a.target for a in answers) == ["buyer1", "buyer2"]


# --- callers ---------------------------------------------------------------------------------------------------------


@pytest.mark.postgres
def test_one_caller_at_two_daemons_at_once_is_one_call(
    opened: Opener, postgres_server: PostgresServer, postgres_url: str
) -> None:
    till = Till(opened(postgres_url), small_estate(duplicate_window_ms=HOUR_MS))
    one, two = beside(till, postgres_server, route_of("a"), route_of("b"))
    assert isinstance(one, DialAnswer)
    assert isinstance(two, RejectAnswer)
    assert two.code is RejectCode.DUPLICATE_CALLER


@pytest.mark.postgres
@pytest.mark.parametrize("talk_ms", [None, 1_000])
def test_an_end_at_one_daemon_and_a_new_call_of_the_caller_at_another_are_told_apart(
    opened: Opener, postgres_server: PostgresServer, postgres_url: str, talk_ms: int | None
) -> None:
    till = Till(opened(postgres_url), small_estate(duplicate_window_ms=HOUR_MS))
    till.dial(route_of("a"))
    _, later = beside(till, postgres_server, settle_of("a", talk_ms=talk_ms), route_of("b"))
    assert isinstance(later, DialAnswer | RejectAnswer)  # either order is one that could have been
    if talk_ms is not None:
        assert isinstance(later, RejectAnswer)
    till.verify()


def test_callers_are_remembered_by_the_database_and_forgotten_where_nobody_was_connected(open_shop: Shop) -> None:
    till = open_shop(small_estate(duplicate_window_ms=HOUR_MS))
    till.dial(route_of("a"))
    till.engine = Engine(till.store, till.clock)
    assert till.reject(route_of("b")).code is RejectCode.DUPLICATE_CALLER
    till.ask(settle_of("a"))
    assert till.rows(RecentCaller) == []
    answers = till.batch([route_of("c"), route_of("d"), settle_of("c"), route_of("e"), settle_of("e", talk_ms=1_000)])
    assert [isinstance(answers[i], DialAnswer) for i in (0, 1, 3)] == [True, False, True]
    assert [r.campaign_id for r in till.rows(RecentCaller)] == ["solar"]
    assert till.reject(route_of("f")).code is RejectCode.DUPLICATE_CALLER
    till.clock.pass_ms(HOUR_MS)
    till.dial(route_of("g"))
    assert len(till.rows(RecentCaller)) == 1
