"""The funding of one Dial of several legs: paid at each leg's prices, within each leg's room, never more than asked."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from capconduit.domain.rating import Tariff, fund, minimum_micros, round_up_to_increment
from capconduit.domain.routing import fund_legs, hold_for
from capconduit.domain.usage import UNLIMITED, Room

TARIFFS = st.builds(
    Tariff,
    connect_fee_micros=st.sampled_from([0, 1, 50_000]),
    per_minute_micros=st.one_of(st.sampled_from([0, 1, 59, 61, 200_000]), st.integers(0, 10**7)),
    first_s=st.sampled_from([1, 6, 30, 60, 90]),
    step_s=st.sampled_from([1, 6, 30, 60]),
    then_after_s=st.sampled_from([0, 0, 30, 60, 120]),
    then_per_minute_micros=st.one_of(st.just(0), st.integers(0, 10**6)),
)
MONEY = st.one_of(st.integers(0, 3_000_000), st.just(10**12))
ROOMS = st.builds(
    Room,
    st.one_of(st.just(UNLIMITED), st.integers(0, 400)),
    st.one_of(st.just(UNLIMITED), st.integers(0, 3_000_000)),
)
SECONDS = st.integers(1, 600)


@settings(max_examples=500, deadline=None)
@given(TARIFFS, MONEY, SECONDS, st.integers(1, 20_000))
def test_what_funded_seconds_may_cost_is_exactly_what_is_held_for_them(
    tariff: Tariff, money: int, want_s: int, ceiling_s: int
) -> None:
    funding = fund(tariff, money, want_s, ceiling_s)
    if funding is not None:
        assert hold_for(tariff, funding.funded_s) == funding.hold_micros


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(TARIFFS, ROOMS), min_size=1, max_size=4), MONEY, SECONDS, st.integers(1, 20_000))
def test_legs_are_funded_within_money_and_rooms_and_each_alone_would_get_as_much(
    legs: list[tuple[Tariff, Room]], money: int, want_s: int, ceiling_s: int
) -> None:
    funding = fund_legs(legs, money, want_s, ceiling_s)
    alone = [fund_legs([leg], money, want_s, ceiling_s) for leg in legs]
    assert (funding is None) is any(one is None for one in alone)
    for (tariff, room), one in zip(legs, alone, strict=True):
        payable = minimum_micros(tariff) <= min(money, room.micros) and room.seconds > 0
        assert (one is not None) is payable
    if funding is None:
        return
    assert funding.funded_s == min(one.funded_s for one in alone if one)
    assert 0 < funding.funded_s <= ceiling_s
    assert funding.hold_micros <= money
    assert funding.hold_micros == max(hold_for(tariff, funding.funded_s) for tariff, _ in legs)
    for tariff, room in legs:
        assert hold_for(tariff, funding.funded_s) <= room.micros
        assert funding.funded_s <= room.seconds
        if room.seconds < UNLIMITED:
            assert funding.funded_s <= round_up_to_increment(tariff, want_s)
