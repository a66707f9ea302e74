"""What a call costs and how long money lasts: boundaries, and a slow reference that counts in fractions."""

from __future__ import annotations

import random
from fractions import Fraction
from math import ceil

import pytest

from capconduit.domain.rating import (
    Charge,
    Funding,
    Tariff,
    charge,
    fund,
    minimum_micros,
    price_of_seconds,
    round_up_to_increment,
)


def tariff(first_s: int = 60, step_s: int = 60, per_minute: int = 200_000, fee: int = 0, threshold: int = 0) -> Tariff:
    return Tariff(
        connect_fee_micros=fee,
        per_minute_micros=per_minute,
        first_s=first_s,
        step_s=step_s,
        billable_threshold_ms=threshold,
    )


def slow_billed_s(t: Tariff, talk_ms: int) -> int:
    """Billed seconds by adding increments one by one."""
    talk = Fraction(talk_ms, 1000)
    billed = t.first_s
    while billed < talk:
        billed += t.step_s
    return billed


def slow_price(t: Tariff, billed_s: int) -> int:
    return t.connect_fee_micros + ceil(Fraction(billed_s) * t.per_minute_micros / 60)


@pytest.mark.parametrize(
    ("increment", "talk_ms", "billed_s"),
    [
        ((60, 60), 0, 60),
        ((60, 60), 1, 60),
        ((60, 60), 60_000, 60),
        ((60, 60), 60_001, 120),
        ((60, 60), 120_000, 120),
        ((60, 60), 120_001, 180),
        ((30, 6), 0, 30),
        ((30, 6), 29_999, 30),
        ((30, 6), 30_000, 30),
        ((30, 6), 30_001, 36),
        ((30, 6), 36_000, 36),
        ((30, 6), 36_001, 42),
        ((6, 6), 0, 6),
        ((6, 6), 6_000, 6),
        ((6, 6), 6_001, 12),
        ((1, 1), 0, 1),
        ((1, 1), 1, 1),
        ((1, 1), 1_000, 1),
        ((1, 1), 1_001, 2),
        ((1, 1), 59_999, 60),
        ((1, 60), 1_001, 61),
    ],
)
def test_talk_is_rounded_up_to_the_increment(increment: tuple[int, int], talk_ms: int, billed_s: int) -> None:
    result = charge(tariff(*increment), talk_ms)
    assert (result.billable, result.billed_seconds) == (True, billed_s)
    assert result.price_micros == slow_price(tariff(*increment), billed_s)


@pytest.mark.parametrize(
    ("talk_ms", "billable"), [(0, False), (29_999, False), (30_000, True), (30_001, True), (90_000, True)]
)
def test_the_billable_threshold_is_inclusive(talk_ms: int, billable: bool) -> None:
    assert charge(tariff(threshold=30_000), talk_ms).billable is billable


def test_below_the_threshold_nothing_is_billed_not_even_the_connect_fee() -> None:
    assert charge(tariff(fee=50_000, threshold=30_000), 29_999) == Charge(False, 0, 0)


def test_the_connect_fee_is_part_of_every_billable_call() -> None:
    assert charge(tariff(1, 1, per_minute=60_000, fee=50_000), 1_000).price_micros == 51_000


def test_a_price_of_zero_bills_time_and_no_money() -> None:
    assert charge(tariff(per_minute=0), 61_000) == Charge(True, 120, 0)


def test_a_started_micro_is_charged_whole() -> None:
    assert price_of_seconds(tariff(1, 1, per_minute=1), 1) == 1
    assert price_of_seconds(tariff(1, 1, per_minute=1), 60) == 1
    assert price_of_seconds(tariff(1, 1, per_minute=1), 61) == 2
    assert price_of_seconds(tariff(1, 1, per_minute=100), 1) == 2  # 1.67


def test_ten_to_the_fifteenth_micros_a_minute_loses_nothing() -> None:
    assert price_of_seconds(tariff(per_minute=10**15), 61) == -(-61 * 10**15 // 60)


def test_a_longer_call_never_costs_less() -> None:
    rng = random.Random(7)
    for _ in range(2_000):
        t = random_tariff(rng)
        shorter = rng.randrange(0, 400_000)
        assert charge(t, shorter).price_micros <= charge(t, shorter + rng.randrange(0, 5_000)).price_micros


def random_tariff(rng: random.Random) -> Tariff:
    return tariff(
        first_s=rng.choice([1, 6, 30, 60, rng.randrange(1, 200)]),
        step_s=rng.choice([1, 6, 60, rng.randrange(1, 200)]),
        per_minute=rng.choice([0, 1, 59, 61, 200_000, rng.randrange(0, 10**7), rng.randrange(0, 10**15)]),
        fee=rng.choice([0, 0, 1, 50_000, rng.randrange(0, 10**9)]),
        threshold=rng.choice([0, 0, 1, 30_000]),
    )


def test_the_price_is_that_of_a_slow_reference_in_fractions() -> None:
    rng = random.Random(1)
    for _ in range(50_000):
        t, talk_ms = random_tariff(rng), rng.randrange(0, 90_000)
        result = charge(t, talk_ms)
        if talk_ms < t.billable_threshold_ms:
            assert result == Charge(False, 0, 0)
        else:
            billed = slow_billed_s(t, talk_ms)
            assert result == Charge(True, billed, slow_price(t, billed)), (t, talk_ms)


def slow_fund(t: Tariff, available: int, want_s: int, max_s: int) -> Funding | None:
    """The largest whole number of increments up to what is wanted that the money pays for, found by counting up."""
    seconds = t.first_s
    if slow_price(t, seconds) > available:
        return None
    while seconds < min(want_s, max_s) and slow_price(t, seconds + t.step_s) <= available:
        seconds += t.step_s
    return Funding(
        hold_micros=slow_price(t, seconds), funded_s=max_s if not t.per_minute_micros else min(seconds, max_s)
    )


def test_funding_is_that_of_a_slow_reference_maximal_and_within_what_is_available() -> None:
    rng = random.Random(2)
    for _ in range(50_000):
        t = random_tariff(rng)
        want_s, max_s = rng.randrange(1, 300), rng.choice([rng.randrange(1, 300), 14_400])
        near = slow_price(t, t.first_s + rng.randrange(0, 6) * t.step_s)
        available = max(near + rng.choice([-1, 0, 1, rng.randrange(0, 10**6)]), 0)
        got, expected = fund(t, available, want_s, max_s), slow_fund(t, available, want_s, max_s)
        if t.per_minute_micros == 0 and got is not None and expected is not None:
            assert (got.hold_micros, got.funded_s) == (t.connect_fee_micros, max_s)
            continue
        assert got == expected, (t, available, want_s, max_s)


def test_what_is_funded_is_never_billed_for_more_than_was_held() -> None:
    rng = random.Random(3)
    for _ in range(20_000):
        t = random_tariff(rng)
        got = fund(t, rng.randrange(0, 10**9), rng.randrange(1, 300), rng.randrange(1, 14_400))
        if got is not None:
            assert charge(t, got.funded_s * 1000).price_micros <= got.hold_micros


def test_money_for_exactly_the_minimum_funds_the_first_increment() -> None:
    t = tariff(60, 60, per_minute=200_000, fee=50_000)
    assert minimum_micros(t) == 250_000
    assert fund(t, 250_000, 60, 14_400) == Funding(250_000, 60)
    assert fund(t, 249_999, 60, 14_400) is None
    assert fund(t, 0, 60, 14_400) is None


def test_money_for_part_of_the_slice_funds_whole_increments_only() -> None:
    t = tariff(30, 6, per_minute=600_000)  # 10,000 micros a second
    assert fund(t, 479_999, 60, 14_400) == Funding(420_000, 42)
    assert fund(t, 480_000, 60, 14_400) == Funding(480_000, 48)
    assert fund(t, 10**9, 60, 14_400) == Funding(600_000, 60)


def test_never_more_is_funded_than_the_ceiling_of_the_call() -> None:
    t = tariff(60, 60, per_minute=200_000)
    assert fund(t, 10**9, 1_800, 90) == Funding(400_000, 90)  # held for two minutes, cut after a minute and a half
    assert fund(t, 10**9, 60, 10) == Funding(200_000, 10)


def test_a_free_call_is_funded_to_its_ceiling_at_once() -> None:
    assert fund(tariff(per_minute=0), 0, 60, 14_400) == Funding(0, 14_400)
    assert fund(tariff(per_minute=0, fee=50_000), 49_999, 60, 14_400) is None
    assert fund(tariff(per_minute=0, fee=50_000), 50_000, 60, 14_400) == Funding(50_000, 14_400)


def test_increments_are_counted_from_the_first() -> None:
    t = tariff(7, 5)
    assert [round_up_to_increment(t, s) for s in (0, 1, 7, 8, 12, 13)] == [7, 7, 7, 12, 12, 17]


# --- two steps: one price at first, another beyond -------------------------------------------------------------------


def two_steps(
    after_s: int, per_minute: int, then: int, *, first_s: int = 60, step_s: int = 60, fee: int = 0, threshold: int = 0
) -> Tariff:
    return Tariff(fee, per_minute, first_s, step_s, threshold, then_after_s=after_s, then_per_minute_micros=then)


@pytest.mark.parametrize(
    ("billed_s", "micros"),
    [(1, 10_000), (59, 590_000), (60, 600_000), (61, 602_000), (120, 720_000), (3_660, 7_800_000)],
)
def test_seconds_beyond_the_first_step_cost_the_other_price(billed_s: int, micros: int) -> None:
    assert price_of_seconds(two_steps(60, 600_000, 120_000), billed_s) == micros


def test_an_increment_that_straddles_the_steps_is_split_between_the_prices() -> None:
    t = two_steps(90, 600_000, 60_000)
    assert charge(t, 60_001) == Charge(True, 120, 900_000 + 30_000)
    first = two_steps(10, 600_000, 60_000, first_s=60, step_s=60)
    assert charge(first, 1) == Charge(True, 60, 100_000 + 50_000)
    assert minimum_micros(first) == 150_000


def test_two_steps_are_rounded_once_and_not_each() -> None:
    t = two_steps(1, 20, 20, first_s=1, step_s=1)  # a third of a micro for each second
    assert [price_of_seconds(t, s) for s in (1, 2, 3, 4)] == [1, 1, 1, 2]


def test_a_second_price_without_a_second_step_is_no_price() -> None:
    assert price_of_seconds(two_steps(0, 200_000, 999_999), 600) == 2_000_000
    assert fund(two_steps(0, 0, 999_999), 0, 60, 14_400) == Funding(0, 14_400)
    assert fund(two_steps(0, 200_000, 0), 10**9, 60, 14_400) == Funding(200_000, 60)


def test_connect_fee_and_threshold_are_those_of_any_call() -> None:
    t = two_steps(60, 600_000, 120_000, fee=50_000, threshold=30_000)
    assert charge(t, 29_999) == Charge(False, 0, 0)
    assert charge(t, 30_000) == Charge(True, 60, 650_000)
    assert charge(t, 60_001) == Charge(True, 120, 770_000)


@pytest.mark.parametrize(("per_minute", "then"), [(600_000, 120_000), (120_000, 600_000)])
def test_money_runs_out_in_either_step(per_minute: int, then: int) -> None:
    t = two_steps(120, per_minute, then, fee=50_000)
    minutes = [50_000 + per_minute, 50_000 + 2 * per_minute, 50_000 + 2 * per_minute + then]
    assert fund(t, minutes[0] - 1, 600, 14_400) is None
    for number, money in enumerate(minutes, start=1):
        assert fund(t, money, 600, 14_400) == Funding(money, number * 60)
    for number, money in enumerate(minutes[1:], start=1):
        assert fund(t, money - 1, 600, 14_400) == Funding(minutes[number - 1], number * 60)


def test_money_for_a_part_of_a_straddling_increment_funds_none_of_it() -> None:
    t = two_steps(90, 600_000, 60_000)
    assert fund(t, 929_999, 600, 14_400) == Funding(600_000, 60)
    assert fund(t, 930_000, 600, 14_400) == Funding(930_000, 120)


def test_a_free_first_step_needs_no_money_until_it_is_over() -> None:
    t = two_steps(120, 0, 200_000)
    assert fund(t, 0, 60, 14_400) == Funding(0, 60)
    assert fund(t, 0, 600, 14_400) == Funding(0, 120)
    assert fund(t, 199_999, 600, 14_400) == Funding(0, 120)
    assert fund(t, 200_000, 600, 14_400) == Funding(200_000, 180)


def test_a_free_first_step_that_ends_within_the_first_increment_needs_money() -> None:
    t = two_steps(30, 0, 200_000)
    assert fund(t, 99_999, 60, 14_400) is None
    assert fund(t, 100_000, 60, 14_400) == Funding(100_000, 60)


def test_money_for_the_first_step_funds_all_of_a_call_that_is_free_beyond() -> None:
    t = two_steps(90, 200_000, 0)
    assert fund(t, 10**9, 60, 14_400) == Funding(200_000, 60)  # what was wanted, for the second minute still costs
    assert fund(t, 299_999, 120, 14_400) == Funding(200_000, 60)
    assert fund(t, 300_000, 120, 14_400) == Funding(300_000, 14_400)
    assert fund(t, 10**9, 120, 100) == Funding(300_000, 100)
    assert fund(t, 300_000, 120, 60) == Funding(200_000, 60)  # the ceiling is within the first step


def test_a_call_whose_steps_are_both_free_is_funded_to_its_ceiling_at_once() -> None:
    assert fund(two_steps(90, 0, 0, fee=50_000), 50_000, 60, 14_400) == Funding(50_000, 14_400)


# --- the published example: Kolmisoft MOR, "Prepaid Logic" -----------------------------------------------------------


@pytest.mark.parametrize("increment", [(60, 60), (1, 1)])
def test_the_published_example_comes_out_to_the_micro(increment: tuple[int, int]) -> None:
    t, slice_s, max_s = tariff(*increment, per_minute=200_000), 30 * 60, 4 * 3_600
    balance = 8_000_000
    first = fund(t, balance, slice_s, max_s)
    assert first == Funding(6_000_000, slice_s)
    second = fund(t, balance - first.hold_micros, slice_s, max_s)
    assert second == Funding(2_000_000, 10 * 60)
    assert fund(t, balance - first.hold_micros - second.hold_micros, slice_s, max_s) is None
    balance -= charge(t, 12 * 60_000).price_micros
    assert balance == 5_600_000
    fourth = fund(t, balance - second.hold_micros, slice_s, max_s)
    assert fourth == Funding(3_600_000, 18 * 60)
    assert balance - charge(t, 9 * 60_000).price_micros == 3_800_000
