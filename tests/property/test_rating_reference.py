"""Pricing and funding against the specification's own words: a slow reference in fractions, and what must always hold.

The reference shares nothing with the code it judges but the tariff's fields: it counts in `fractions.Fraction`.
"""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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

SHARDS = 4
SETTLEMENTS = 1_000_000
FUNDINGS = 100_000

INCREMENTS = ((60, 60), (30, 6), (6, 6), (1, 1), (60, 1), (1, 60), (30, 30), (180, 60))
PRICES = (0, 0, 1, 59, 60, 61, 12_345, 200_000, 10**15)
STEPS_AT = (1, 29, 30, 59, 60, 61, 90, 120, 180, 600)
THRESHOLDS_MS = (1, 999, 1_000, 6_000, 30_000, 60_000, 90_500)
FEES = (0, 0, 1, 50_000, 10**12)


# --- the reference ---------------------------------------------------------------------------------------------------


def specified_price(tariff: Tariff, billed_s: int) -> int:
    """Connect fee + the minutes at their price, rounded up once. With two steps, `then_after_s` billed seconds cost one
    price and those beyond the other."""
    fee, price, limit_s = tariff.connect_fee_micros, tariff.per_minute_micros, tariff.then_after_s
    if limit_s == 0 or billed_s <= limit_s:
        return fee + ceil(Fraction(billed_s, 60) * price)
    then_price = tariff.then_per_minute_micros
    return fee + ceil(Fraction(limit_s, 60) * price + Fraction(billed_s - limit_s, 60) * then_price)


def specified_charge(tariff: Tariff, talk_ms: int) -> tuple[bool, int, int]:
    """Billable, billed seconds and price: "billed = 0 if talk time is below the billable threshold; boundary inclusive.
    Otherwise first + ceil((talk - first)/step)*step when talk > first, else first; talk seconds are rounded up from
    milliseconds." What is not billable costs nothing."""
    if Fraction(talk_ms, 1_000) < Fraction(tariff.billable_threshold_ms, 1_000):
        return False, 0, 0
    talk_s, billed_s = ceil(Fraction(talk_ms, 1_000)), tariff.first_s
    if talk_s > tariff.first_s:
        billed_s += ceil(Fraction(talk_s - tariff.first_s, tariff.step_s)) * tariff.step_s
    return True, billed_s, specified_price(tariff, billed_s)


def specified_funding(tariff: Tariff, available: int, want_s: int, max_s: int) -> Funding | None:
    """Increments are added one by one until what is wanted is reached or the next cannot be paid. What pays for the
    longest possible call, where the seconds at the end are free, pays to the ceiling."""
    seconds = tariff.first_s
    if specified_price(tariff, seconds) > available:
        return None
    while seconds < min(want_s, max_s) and specified_price(tariff, seconds + tariff.step_s) <= available:
        seconds += tariff.step_s
    hold = specified_price(tariff, seconds)
    free_at_the_end = (tariff.then_per_minute_micros if tariff.then_after_s else tariff.per_minute_micros) == 0
    if free_at_the_end and specified_price(tariff, 10**9) == hold:
        return Funding(hold, max_s)
    return Funding(hold, min(seconds, max_s))


# --- random calls ----------------------------------------------------------------------------------------------------


def any_price(rng: random.Random) -> int:
    return rng.choice(PRICES) if rng.random() < 0.5 else rng.getrandbits(rng.randrange(1, 31))


def any_tariff(rng: random.Random) -> Tariff:
    """Common and odd increments, one step and two, with and without fee and threshold; a price may be zero."""
    usual = rng.random() < 0.5
    first_s, step_s = rng.choice(INCREMENTS) if usual else (int(rng.random() * 120) + 1, int(rng.random() * 120) + 1)
    kind = rng.random()
    if kind < 0.4:
        then_after_s, then_price = 0, any_price(rng) if kind < 0.1 else 0
    else:
        then_after_s, then_price = rng.choice(STEPS_AT) if kind < 0.8 else int(rng.random() * 300) + 1, any_price(rng)
    return Tariff(
        rng.choice(FEES),
        any_price(rng),
        first_s,
        step_s,
        rng.choice(THRESHOLDS_MS) if rng.random() < 0.4 else 0,
        then_after_s,
        then_price,
    )


def any_talk_ms(rng: random.Random, tariff: Tariff) -> int:
    """About the threshold, an increment's end, the second step, or anywhere in some minutes."""
    where = rng.random()
    if where < 0.2:
        near = tariff.billable_threshold_ms
    elif where < 0.4:
        near = (tariff.first_s + int(rng.random() * 5) * tariff.step_s) * 1_000
    elif where < 0.5:
        near = tariff.then_after_s * 1_000
    else:
        return int(rng.random() * 400_000)
    return max(near + int(rng.random() * 5) - 2, 0)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_million_settlements_cost_what_the_specification_says(shard: int) -> None:
    rng = random.Random(shard)
    below = at_threshold = beyond = 0
    for number in range(SETTLEMENTS // SHARDS):
        tariff = any_tariff(rng)
        talk_ms = any_talk_ms(rng, tariff)
        got, specified = charge(tariff, talk_ms), specified_charge(tariff, talk_ms)
        if (got.billable, got.billed_seconds, got.price_micros) != specified:
            pytest.fail(f"seed {shard}, settlement {number}: {tariff}, {talk_ms=}: {got}, specified {specified}")
        below += not got.billable
        at_threshold += 0 < talk_ms == tariff.billable_threshold_ms
        beyond += 0 < tariff.then_after_s < got.billed_seconds
    enough = SETTLEMENTS // SHARDS // 100
    assert min(below, at_threshold, beyond) > enough, f"hardly looked at: {below=}, {at_threshold=}, {beyond=}"


def test_what_is_funded_is_what_counting_increments_finds() -> None:
    rng = random.Random(11)
    kinds = {"none": 0, "all": 0, "part": 0, "ceiling": 0}
    for number in range(FUNDINGS):
        tariff = any_tariff(rng)
        want_s, max_s = int(rng.random() * 400) + 1, rng.choice((int(rng.random() * 400) + 1, 14_400))
        near = specified_price(tariff, tariff.first_s + int(rng.random() * 6) * tariff.step_s)
        available = max(near + rng.choice((-1, 0, 1, int(rng.random() * 10**6), -near)), 0)
        got, specified = fund(tariff, available, want_s, max_s), specified_funding(tariff, available, want_s, max_s)
        if got != specified:
            case = f"{tariff}, {available=}, {want_s=}, {max_s=}"
            pytest.fail(f"seed 11, funding {number}: {case}: {got}, specified {specified}")
        if got is None:
            kinds["none"] += 1
        else:
            short = got.funded_s < min(want_s, max_s)
            kinds["part" if short else "ceiling" if got.funded_s == max_s else "all"] += 1
    assert min(kinds.values()) > FUNDINGS // 50, f"a kind of answer hardly came up: {kinds}"


# --- what must always hold -------------------------------------------------------------------------------------------

SECONDS = st.one_of(st.integers(1, 130), st.integers(1, 20_000))
MICROS = st.one_of(st.just(0), st.integers(1, 130), st.integers(1, 10**7), st.integers(1, 10**15))
ONE_PRICE = st.builds(Tariff, MICROS, MICROS, st.integers(1, 200), st.integers(1, 200))
TWO_PRICES = st.builds(
    Tariff, MICROS, MICROS, st.integers(1, 200), st.integers(1, 200), st.just(0), st.integers(1, 400), MICROS
)
TARIFFS = st.one_of(ONE_PRICE, TWO_PRICES)
always = settings(max_examples=1_000, deadline=None, derandomize=True)


@st.composite
def budgets(draw: st.DrawFn, tariffs: st.SearchStrategy[Tariff] = TARIFFS) -> tuple[Tariff, int]:
    """A tariff and an amount: any, or about the price of some increments, where answers change."""
    tariff = draw(tariffs)
    price = price_of_seconds(tariff, tariff.first_s + draw(st.integers(0, 20)) * tariff.step_s)
    return tariff, draw(st.one_of(MICROS, st.integers(max(price - 2, 0), price + 2)))


def last_per_minute_micros(tariff: Tariff) -> int:
    return tariff.then_per_minute_micros if tariff.then_after_s else tariff.per_minute_micros


@always
@given(budget=budgets(), want_s=SECONDS, max_s=SECONDS)
def test_a_hold_is_never_more_than_is_available_and_none_means_not_even_the_minimum(
    budget: tuple[Tariff, int], want_s: int, max_s: int
) -> None:
    tariff, available = budget
    got = fund(tariff, available, want_s, max_s)
    if got is None:
        assert minimum_micros(tariff) > available
    else:
        assert minimum_micros(tariff) <= got.hold_micros <= available
        assert got.funded_s <= max_s


@always
@given(budget=budgets(), want_s=SECONDS, max_s=SECONDS, share=st.integers(0, 1_000))
def test_no_talk_within_the_funded_time_costs_more_than_was_held(
    budget: tuple[Tariff, int], want_s: int, max_s: int, share: int
) -> None:
    tariff, available = budget
    got = fund(tariff, available, want_s, max_s)
    if got is not None:
        assert charge(tariff, got.funded_s * share).price_micros <= got.hold_micros
        assert charge(tariff, got.funded_s * 1_000).price_micros == got.hold_micros, "no more is held than is needed"


@always
@given(budget=budgets(), want_s=SECONDS, max_s=SECONDS)
def test_funding_is_whole_increments_up_to_what_is_wanted_or_payable(
    budget: tuple[Tariff, int], want_s: int, max_s: int
) -> None:
    tariff, available = budget
    got = fund(tariff, available, want_s, max_s)
    if got is None:
        return
    billed = round_up_to_increment(tariff, got.funded_s)
    assert got.funded_s in (billed, max_s)
    if got.funded_s < min(want_s, max_s):
        assert price_of_seconds(tariff, billed + tariff.step_s) > available, "one more increment was payable"
    if got.funded_s > round_up_to_increment(tariff, want_s):
        assert got.funded_s == max_s
        assert last_per_minute_micros(tariff) == 0, "more than was wanted is funded only where it is free"
    if last_per_minute_micros(tariff) == 0 and price_of_seconds(tariff, 10**9) == got.hold_micros:
        assert got.funded_s == max_s, "all that may come is paid for"


@always
@given(budget=budgets(), more=MICROS, want_s=SECONDS, longer_s=st.integers(0, 300), max_s=SECONDS)
def test_more_money_a_longer_wish_and_a_higher_ceiling_never_fund_less(
    budget: tuple[Tariff, int], more: int, want_s: int, longer_s: int, max_s: int
) -> None:
    tariff, available = budget
    got = fund(tariff, available, want_s, max_s)
    if got is None:
        assert fund(tariff, available, want_s + longer_s, max_s + longer_s) is None, "only money helps"
        return
    for other in (
        fund(tariff, available + more, want_s, max_s),
        fund(tariff, available, want_s + longer_s, max_s),
        fund(tariff, available, want_s, max_s + longer_s),
    ):
        assert other is not None
        assert other.funded_s >= got.funded_s
        assert other.hold_micros >= got.hold_micros


@always
@given(budget=budgets(ONE_PRICE), then_after_s=st.integers(0, 400), want_s=SECONDS, max_s=SECONDS, talk_ms=SECONDS)
def test_two_equal_prices_are_one_price(
    budget: tuple[Tariff, int], then_after_s: int, want_s: int, max_s: int, talk_ms: int
) -> None:
    one, available = budget
    two = replace(one, then_after_s=then_after_s, then_per_minute_micros=one.per_minute_micros)
    assert charge(two, talk_ms * 20) == charge(one, talk_ms * 20)
    assert fund(two, available, want_s, max_s) == fund(one, available, want_s, max_s)


@always
@given(tariff=TARIFFS, threshold_ms=st.integers(0, 100_000), talk_ms=st.integers(0, 900_000), longer_ms=SECONDS)
def test_a_longer_talk_never_costs_less_and_an_increment_costs_the_same_to_its_end(
    tariff: Tariff, threshold_ms: int, talk_ms: int, longer_ms: int
) -> None:
    tariff = replace(tariff, billable_threshold_ms=threshold_ms)
    price = charge(tariff, talk_ms)
    assert price.price_micros <= charge(tariff, talk_ms + longer_ms).price_micros
    if price.billable:
        assert charge(tariff, price.billed_seconds * 1_000) == price
    else:
        assert price == Charge(False, 0, 0)
