"""What a call costs and pays out where it goes: whose rate, two prices, and the low balance that is told once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from capconduit.domain.rating import Tariff
from capconduit.domain.tariffs import dump_tariff, load_tariff
from capconduit.domain.trace import load_trace
from capconduit.vocab import EventKind
from tests.unit.estate_builder import (
    DOLLAR,
    EstateBuilder,
    PureTill,
    answer_of,
    attempt_of,
    extend_of,
    route_of,
    settle_of,
    small_estate,
)


def rates() -> EstateBuilder:
    builder = small_estate()
    builder.rate("target", per_minute_micros=300_000)
    builder.rate("rule", per_minute_micros=400_000)
    builder.rate("paid", per_minute_micros=50_000)
    builder.rate("paid-more", per_minute_micros=70_000)
    return builder


def settled(till: PureTill, talk_ms: int = 60_000) -> Any:
    till.dial(route_of())
    till.clock.pass_ms(talk_ms)
    till.ask(settle_of(talk_ms=talk_ms))
    return till.cdr()


# --- whose rate ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "rule", "rate", "price"),
    [
        (None, None, "std", 200_000),
        ("target", None, "target", 300_000),
        (None, "rule", "rule", 400_000),
        ("target", "rule", "rule", 400_000),
    ],
)
def test_the_rule_s_rate_stands_before_the_target_s_and_that_before_the_campaign_s(
    target: str | None, rule: str | None, rate: str, price: int
) -> None:
    builder = rates()
    builder.targets[0] = replace(builder.targets[0], rate_id=target)
    builder.rules[0] = replace(builder.rules[0], rate_id=rule)
    till = PureTill(builder)
    answer = till.dial(route_of())
    assert till.account().held_micros == price
    assert till.books.attempts[answer.call_id][1].rate_id == rate
    till.ask(settle_of(talk_ms=60_000))
    assert (till.cdr().amount_micros, till.cdr().per_minute_micros) == (price, price)


@pytest.mark.parametrize(
    ("target", "rule", "payout"),
    [(None, None, 0), ("paid", None, 50_000), (None, "paid-more", 70_000), ("paid", "paid-more", 70_000)],
)
def test_the_payout_is_the_rule_s_before_the_target_s_and_without_one_nothing(
    target: str | None, rule: str | None, payout: int
) -> None:
    builder = rates()
    builder.targets[0] = replace(builder.targets[0], payout_rate_id=target)
    builder.rules[0] = replace(builder.rules[0], payout_rate_id=rule)
    cdr = settled(PureTill(builder))
    assert (cdr.payout_micros, cdr.amount_micros) == (payout, 200_000)
    assert bool(cdr.payout_tariff) is bool(payout)


def test_what_is_not_billable_pays_nothing_out_and_at_the_threshold_it_does() -> None:
    builder = small_estate(billable_threshold_ms=30_000)
    builder.rate("paid", per_minute_micros=50_000)
    builder.targets[0] = replace(builder.targets[0], payout_rate_id="paid")
    assert settled(PureTill(builder), 29_999).payout_micros == 0
    assert settled(PureTill(builder), 30_000).payout_micros == 50_000


def test_a_payout_is_of_the_target_that_answered_and_a_call_that_nobody_took_pays_nothing() -> None:
    builder = rates()
    builder.targets[0] = replace(builder.targets[0], payout_rate_id="paid")
    builder.target("buyer2", payout_rate_id="paid-more")
    till = PureTill(builder)
    till.dial(route_of("a"))
    till.dial(attempt_of("a"))
    till.ask(settle_of("a", talk_ms=60_000, attempt=2))
    assert till.cdr("a").payout_micros == 70_000
    till.dial(route_of("b"))
    till.ask(settle_of("b"))
    assert till.cdr("b").payout_micros == 0


def test_rates_that_change_while_a_call_lives_do_not_touch_it() -> None:
    builder = rates()
    builder.targets[0] = replace(builder.targets[0], payout_rate_id="paid")
    till = PureTill(builder)
    till.dial(route_of())
    till.ask(answer_of(answered_ms=till.clock.now_ms()))
    builder.rates = [replace(r, per_minute_micros=9 * DOLLAR) for r in builder.rates]
    till.rebuild()
    assert till.ask(extend_of()).funded_s == 120
    assert till.account().held_micros == 400_000
    till.clock.pass_ms(61_000)
    till.ask(settle_of(talk_ms=61_000))
    assert (till.cdr().amount_micros, till.cdr().payout_micros) == (400_000, 100_000)


def test_the_cheapest_enabled_target_decides_what_a_balance_must_pay() -> None:
    builder = rates()
    builder.targets[0] = replace(builder.targets[0], rate_id="rule")
    builder.target("buyer2", rate_id="target")
    builder.target("buyer3", rate_id="paid", enabled=False)
    builder.accounts[0] = replace(builder.accounts[0], balance_micros=300_000)
    till = PureTill(builder)
    assert till.dial(route_of("a")).target == "buyer2"
    till.ask(settle_of("a"))
    till.books.accounts["acme"] = replace(till.books.accounts["acme"], balance_micros=299_999)
    assert till.reject(route_of("b")).reason == "balance_below_first_increment"
    check = load_trace(till.cdr("b").trace)[-1]
    assert (check.name, check.detail["minimum"]) == ("balance", 300_000)


# --- two prices ------------------------------------------------------------------------------------------------------


def two_step() -> EstateBuilder:
    """0.60 a minute for the first minute, 0.12 after it; first 30 s, then steps of 6."""
    builder = small_estate()
    builder.rates[0] = replace(
        builder.rates[0],
        per_minute_micros=600_000, first_s=30, step_s=6, then_after_s=60, then_per_minute_micros=120_000,
    )  # fmt: skip
    return builder


@pytest.mark.parametrize(
    ("talk_ms", "price"), [(1_000, 300_000), (60_000, 600_000), (61_000, 612_000), (120_000, 720_000)]
)
def test_two_prices_from_hold_to_charge(talk_ms: int, price: int) -> None:
    till = PureTill(two_step())
    till.dial(route_of())
    assert till.account().held_micros == 600_000
    till.ask(answer_of(answered_ms=till.clock.now_ms()))
    assert till.ask(extend_of()).funded_s == 120
    assert till.account().held_micros == 720_000
    till.clock.pass_ms(talk_ms)
    till.ask(settle_of(talk_ms=talk_ms))
    assert till.cdr().amount_micros == price
    assert (till.cdr().then_after_s, till.cdr().then_per_minute_micros) == (60, 120_000)


def test_tariffs_are_kept_and_read_again_as_they_were() -> None:
    tariff = Tariff(1, 2, 3, 4, 5, 6, 7)
    assert load_tariff(dump_tariff(tariff)) == tariff


# --- the low balance -------------------------------------------------------------------------------------------------


def test_a_balance_that_falls_below_the_threshold_is_told_once_for_each_time() -> None:
    builder = small_estate()
    builder.sellers[0] = replace(builder.sellers[0], low_balance_micros=500_000)
    builder.accounts[0] = replace(builder.accounts[0], balance_micros=900_000)
    till = PureTill(builder)
    told = []
    for i in range(4):
        till.dial(route_of(f"u{i}"))
        till.ask(settle_of(f"u{i}", talk_ms=1_000))
        told.append(len(till.told(EventKind.BALANCE_LOW)))
    assert told == [0, 0, 1, 1]
    assert till.told(EventKind.BALANCE_LOW) == [
        {"seller": "acme", "balance_micros": 300_000, "threshold_micros": 500_000}
    ]
    till.books.accounts["acme"] = replace(till.books.accounts["acme"], balance_micros=600_000)
    till.dial(route_of("again"))
    till.ask(settle_of("again", talk_ms=1_000))
    assert len(till.told(EventKind.BALANCE_LOW)) == 2


def test_calls_of_one_batch_tell_one_low_balance() -> None:
    builder = small_estate()
    builder.sellers[0] = replace(builder.sellers[0], low_balance_micros=500_000)
    builder.accounts[0] = replace(builder.accounts[0], balance_micros=900_000)
    till = PureTill(builder)
    till.batch([route_of(f"u{i}") for i in range(4)])
    till.batch([settle_of(f"u{i}", talk_ms=1_000) for i in range(4)])
    assert [told["balance_micros"] for told in till.told(EventKind.BALANCE_LOW)] == [300_000]


def test_a_call_that_costs_nothing_tells_no_low_balance() -> None:
    builder = small_estate()
    builder.sellers[0] = replace(builder.sellers[0], low_balance_micros=500 * DOLLAR)
    till = PureTill(builder)
    till.dial(route_of())
    till.ask(settle_of())
    assert till.told(EventKind.BALANCE_LOW) == []
