"""Strategies that look at what happened: shares over many calls, cursors, idle times, calls under way, prices."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from capconduit.domain.strategies import CATCH_UP_TURNS
from capconduit.vocab import CapMetric, CapScope, DialStatus, Strategy, WindowKind
from tests.unit.estate_builder import (
    DOLLAR,
    EstateBuilder,
    PureTill,
    answer_of,
    attempt_of,
    route_of,
    settle_of,
    small_estate,
)

ROUND_ROBIN, PERCENTAGE = Strategy.ROUND_ROBIN, Strategy.PERCENTAGE


def weighted(strategy: Strategy, weights: Sequence[int], **campaign: Any) -> EstateBuilder:
    """Targets buyer1, buyer2, … with these weights and one priority."""
    builder = small_estate(strategy=strategy, **campaign)
    builder.rules[0] = replace(builder.rules[0], priority=1, weight=weights[0])
    for i, weight in enumerate(weights[1:], 2):
        builder.target(f"buyer{i}", rule={"priority": 1, "weight": weight})
    return builder


def switch(till: PureTill, target: str, *, on: bool) -> None:
    """Close or open a target, as its schedule or a full cap does: its rule stays enabled."""
    builder = till.builder
    builder.caps = [c for c in builder.caps if c.scope_id != target]
    if not on:
        builder.cap(CapScope.TARGET, target, CapMetric.CONCURRENT, 0)
    till.rebuild()


def dialled(till: PureTill, calls: int) -> list[str]:
    """The targets of so many calls, each over before the next."""
    targets = []
    for _ in range(calls):
        name = f"u{len(till.books.settled)}"
        targets.append(till.dial(route_of(name)).target)
        till.ask(settle_of(name))
    return targets


# --- shares ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [ROUND_ROBIN, PERCENTAGE])
@pytest.mark.parametrize("weights", [(1, 1), (1, 1, 1), (5, 1, 1), (70, 30), (50, 30, 20), (7, 0, 3)])
def test_every_whole_turn_has_exactly_its_shares(strategy: Strategy, weights: tuple[int, ...]) -> None:
    till, turn = PureTill(weighted(strategy, weights)), sum(weights)
    for _ in range(3):
        shares = Tally(dialled(till, turn))
        assert shares == {f"buyer{i}": w for i, w in enumerate(weights, 1) if w}


@pytest.mark.parametrize("strategy", [ROUND_ROBIN, PERCENTAGE])
def test_shares_are_never_off_by_a_whole_turn_at_any_call(strategy: Strategy) -> None:
    weights = (5, 3, 2)
    till, shares = PureTill(weighted(strategy, weights)), Tally[str]()
    for n, target in enumerate(dialled(till, 100), 1):
        shares[target] += 1
        for i, weight in enumerate(weights, 1):
            assert abs(shares[f"buyer{i}"] * 10 - n * weight) <= 10


def test_round_robin_is_smooth() -> None:
    """nginx's classic: 5, 1, 1 is not five in a row. Which of the equals comes first is drawn."""
    order = dialled(PureTill(weighted(ROUND_ROBIN, (5, 1, 1))), 7)
    places = [i for i, target in enumerate(order) if target != "buyer1"]
    assert places[1] - places[0] > 1
    assert max(len(run) for run in "".join("1" if t == "buyer1" else " " for t in order).split()) <= 3


def test_round_robin_does_not_make_up_for_calls_that_a_target_could_not_take() -> None:
    till = PureTill(weighted(ROUND_ROBIN, (1, 1, 1)))
    dialled(till, 30)
    switch(till, "buyer3", on=False)
    assert Tally(dialled(till, 100)) == {"buyer1": 50, "buyer2": 50}
    switch(till, "buyer3", on=True)
    back = Tally(dialled(till, 30))
    assert all(abs(back[f"buyer{i}"] - 10) <= 1 for i in (1, 2, 3))


def test_percentage_makes_up_for_them_within_its_limit() -> None:
    till = PureTill(weighted(PERCENTAGE, (50, 50)))
    switch(till, "buyer2", on=False)
    assert Tally(dialled(till, 10)) == {"buyer1": 10}
    switch(till, "buyer2", on=True)
    assert Tally(dialled(till, 10)) == {"buyer2": 10}
    assert Tally(dialled(till, 10)) == {"buyer1": 5, "buyer2": 5}
    switch(till, "buyer2", on=False)
    dialled(till, 5 * CATCH_UP_TURNS)
    switch(till, "buyer2", on=True)
    made_up = dialled(till, 10 * CATCH_UP_TURNS)
    assert made_up.index("buyer1") <= 2 * CATCH_UP_TURNS + 2
    assert Tally(dialled(till, 100)) == {"buyer1": 50, "buyer2": 50}


def test_percentage_is_exact_over_time_while_targets_come_and_go() -> None:
    weights = (60, 30, 10)
    till, shares, calls = PureTill(weighted(PERCENTAGE, weights)), Tally[str](), 0
    for i in range(60):
        away = f"buyer{i % 3 + 1}"
        switch(till, away, on=False)
        shares.update(dialled(till, 3))
        switch(till, away, on=True)
        shares.update(dialled(till, 17))
        calls += 20
    assert sum(shares.values()) == calls
    for i, weight in enumerate(weights, 1):
        assert abs(shares[f"buyer{i}"] - calls * weight / 100) <= 2, shares


@pytest.mark.parametrize("strategy", [ROUND_ROBIN, PERCENTAGE])
def test_weight_zero_is_the_last_resort_also_when_targets_come_and_go(strategy: Strategy) -> None:
    builder = weighted(strategy, (3, 1, 0))
    builder.rules[2] = replace(builder.rules[2], priority=0)
    till = PureTill(builder)
    for i in range(40):
        away = f"buyer{i % 2 + 1}"
        assert "buyer3" not in dialled(till, i % 7)
        switch(till, away, on=False)
        assert set(dialled(till, i % 5)) <= {f"buyer{2 - i % 2}"}
        switch(till, away, on=True)
    for target in ("buyer1", "buyer2"):
        switch(till, target, on=False)
    assert set(dialled(till, 9)) == {"buyer3"}


def test_a_target_that_is_switched_off_for_good_leaves_its_share_to_the_others() -> None:
    till = PureTill(weighted(PERCENTAGE, (50, 25, 25)))
    till.builder.targets[0] = replace(till.builder.targets[0], enabled=False)
    till.rebuild()
    assert Tally(dialled(till, 40)) == {"buyer2": 20, "buyer3": 20}


@pytest.mark.parametrize("strategy", [ROUND_ROBIN, PERCENTAGE])
def test_a_whole_batch_is_shared_like_single_calls(strategy: Strategy) -> None:
    till = PureTill(weighted(strategy, (2, 1, 1)))
    targets = [a.target for a in till.batch([route_of(f"u{i}") for i in range(40)])]
    assert Tally(targets) == {"buyer1": 20, "buyer2": 10, "buyer3": 10}


@pytest.mark.parametrize("strategy", [ROUND_ROBIN, PERCENTAGE])
def test_a_call_that_asks_again_or_is_refused_does_not_turn_the_wheel(strategy: Strategy) -> None:
    till = PureTill(weighted(strategy, (1, 1)))
    first = till.dial(route_of("a"))
    cursors = dict(till.books.rules)
    till.ask(route_of("a"))
    till.reject(route_of("b", dnid="+18005559999"))
    assert till.books.rules == cursors
    assert {first.target, till.dial(route_of("c")).target} == {"buyer1", "buyer2"}


@pytest.mark.parametrize("strategy", [ROUND_ROBIN, PERCENTAGE])
def test_a_failover_is_a_turn_of_the_target_it_goes_to(strategy: Strategy) -> None:
    till = PureTill(weighted(strategy, (1, 1, 1)))
    shares = Tally[str]()
    for i in range(300):
        shares[till.dial(route_of(f"u{i}")).target] += 1
        shares[till.dial(attempt_of(f"u{i}")).target] += 1
        till.ask(settle_of(f"u{i}", attempt=2))
    off = 1 if strategy is PERCENTAGE else 10  # round-robin shares a failover among those that were not tried yet
    assert all(abs(shares[f"buyer{i}"] - 200) <= off for i in (1, 2, 3)), shares


def test_weights_of_nothing_but_zero_are_tried_in_their_order() -> None:
    for strategy in (ROUND_ROBIN, PERCENTAGE):
        assert set(dialled(PureTill(weighted(strategy, (0, 0))), 5)) == {"buyer1"}


# --- idle, active ----------------------------------------------------------------------------------------------------


def talk(till: PureTill, name: str, attempt: int = 1) -> None:
    till.ask(answer_of(name, answered_ms=till.clock.now_ms()))
    till.clock.pass_ms(1_000)
    till.ask(settle_of(name, talk_ms=1_000, attempt=attempt))


def test_the_longest_idle_is_the_one_whose_last_answered_call_ended_first() -> None:
    till = PureTill(weighted(Strategy.LONGEST_IDLE, (1, 1, 1)))
    first = []
    for i in range(3):
        first.append(till.dial(route_of(f"a{i}")).target)
        talk(till, f"a{i}")
    assert sorted(first) == ["buyer1", "buyer2", "buyer3"]
    for i in range(6):
        assert till.dial(route_of(f"b{i}")).target == first[i % 3]
        talk(till, f"b{i}")


def test_a_dial_that_failed_does_not_end_a_target_s_idle_time() -> None:
    till = PureTill(weighted(Strategy.LONGEST_IDLE, (1, 1)))
    for name in ("a", "b"):
        till.dial(route_of(name))
        talk(till, name)
    oldest = till.dial(route_of("c")).target
    other = till.dial(attempt_of("c", dialstatus=DialStatus.NOANSWER)).target
    assert other != oldest
    till.ask(settle_of("c", attempt=2))
    assert till.dial(route_of("d")).target == oldest


def test_the_fewest_active_counts_what_rings_and_what_talks() -> None:
    till = PureTill(weighted(Strategy.FEWEST_ACTIVE, (1, 1, 1)))
    assert Tally(till.dial(route_of(f"u{i}")).target for i in range(9)) == {"buyer1": 3, "buyer2": 3, "buyer3": 3}
    of = {
        name: till.books.attempts[till.books.call_ids[("node-1", name)]][1].target_id
        for name in map("u{}".format, range(9))
    }
    gone = [name for name, target in of.items() if target == "buyer2"][:2]
    for name in gone:
        till.ask(settle_of(name))
    assert [till.dial(route_of(f"v{i}")).target for i in range(2)] == ["buyer2", "buyer2"]


def test_a_failover_moves_what_is_active() -> None:
    till = PureTill(weighted(Strategy.FEWEST_ACTIVE, (1, 1)))
    first = till.dial(route_of("a")).target
    till.dial(attempt_of("a"))
    assert till.dial(route_of("b")).target == first


# --- prices ----------------------------------------------------------------------------------------------------------


def priced(strategy: Strategy) -> EstateBuilder:
    builder = weighted(strategy, (1, 1, 1))
    builder.rate("dear", per_minute_micros=500_000)
    builder.rate("fee", per_minute_micros=0, connect_fee_micros=150_000)
    builder.rate("low", per_minute_micros=100_000)
    builder.rate("high", per_minute_micros=400_000)
    return builder


def test_least_cost_is_what_the_seller_pays_at_that_target_for_a_minute() -> None:
    """buyer1 at its own dear rate, buyer2 with a fee of 0.15 and nothing else, buyer3 at the campaign's 0.20."""
    builder = priced(Strategy.LEAST_COST)
    builder.targets[0] = replace(builder.targets[0], rate_id="dear")
    builder.targets[1] = replace(builder.targets[1], rate_id="fee")
    till = PureTill(builder)
    assert [till.dial(route_of("a")).target] == ["buyer2"]
    assert till.dial(attempt_of("a")).target == "buyer3"
    assert till.dial(attempt_of("a", attempt=2)).target == "buyer1"
    builder.rules[1] = replace(builder.rules[1], rate_id="dear")  # the rule's stands before the target's
    till.rebuild()
    assert till.dial(route_of("b")).target == "buyer3"


def test_highest_payout_prefers_what_pays_most_and_what_pays_nothing_comes_last() -> None:
    builder = priced(Strategy.HIGHEST_PAYOUT)
    builder.targets[1] = replace(builder.targets[1], payout_rate_id="low")
    builder.targets[2] = replace(builder.targets[2], payout_rate_id="low")
    builder.rules[2] = replace(builder.rules[2], payout_rate_id="high")
    till = PureTill(builder)
    assert till.dial(route_of("a")).target == "buyer3"
    assert till.dial(attempt_of("a")).target == "buyer2"
    assert till.dial(attempt_of("a", attempt=2)).target == "buyer1"


def test_a_payout_in_another_currency_is_no_payout_and_a_rate_in_another_is_passed_by() -> None:
    builder = priced(Strategy.HIGHEST_PAYOUT)
    builder.rate("euros", currency="EUR", per_minute_micros=50 * DOLLAR)
    builder.targets[0] = replace(builder.targets[0], payout_rate_id="euros", rate_id="euros")
    builder.targets[1] = replace(builder.targets[1], payout_rate_id="low")
    till = PureTill(builder)
    assert till.dial(route_of("a")).target == "buyer2"
    till.ask(settle_of("a"))
    offer = next(o for o in till.estate.offers(till.estate.campaigns["solar"]).all if o.target.id == "buyer1")
    assert (offer.rate_id, offer.payout) == ("std", None)


@pytest.mark.parametrize("strategy", [Strategy.LEAST_COST, Strategy.HIGHEST_PAYOUT, Strategy.LONGEST_IDLE])
def test_equals_are_tried_by_priority(strategy: Strategy) -> None:
    builder = priced(strategy)
    builder.rules[0] = replace(builder.rules[0], priority=2)
    builder.rules[1] = replace(builder.rules[1], priority=0)
    assert PureTill(builder).dial(route_of()).target == "buyer2"


def test_the_window_of_a_target_that_is_full_turns_the_wheel_past_it() -> None:
    builder = weighted(ROUND_ROBIN, (1, 1))
    builder.cap(CapScope.TARGET, "buyer1", CapMetric.ATTEMPTS, 3, WindowKind.DAY)
    till = PureTill(builder)
    assert Tally(dialled(till, 20)) == {"buyer1": 3, "buyer2": 17}
