"""Bursts from several processes on one PostgreSQL against every other kind of limit: exact, whoever was first."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable
from dataclasses import replace

import pytest

from capconduit.domain.model import Attempt, Call
from capconduit.vocab import CapMetric, CapScope, Strategy, WindowKind
from tests.store_contract.conftest import Opener
from tests.store_contract.test_races import race_processes
from tests.unit.estate_builder import DOLLAR, EstateBuilder, Till, small_estate

NAMES = [f"race-{i}" for i in range(600)]
HOUR_MS = 3_600_000
MINUTE_S = 60

pytestmark = pytest.mark.postgres


def rich(**campaign: object) -> EstateBuilder:
    """Money without end; the first slice of a call is one minute for 0.20."""
    builder = small_estate(**campaign)
    builder.accounts[0] = replace(builder.accounts[0], balance_micros=10**15)
    return builder


def rolling(builder: EstateBuilder) -> str:
    builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.BILLABLE, 100, WindowKind.ROLLING, HOUR_MS)
    return "cap_reached:campaign:billable:rolling:1h"


def spend(builder: EstateBuilder) -> str:
    builder.cap(CapScope.SELLER, "acme", CapMetric.SPEND, 20 * DOLLAR, WindowKind.DAY)
    return "cap_reached:seller:spend:day"


def minutes(builder: EstateBuilder) -> str:
    builder.cap(CapScope.SYSTEM, "T", CapMetric.MINUTES, 100 * MINUTE_S, WindowKind.MONTH)
    return "cap_reached:system:minutes:month"


def minutes_of_a_target(builder: EstateBuilder) -> str:
    builder.cap(CapScope.TARGET, "buyer1", CapMetric.MINUTES, 100 * MINUTE_S, WindowKind.ROLLING, HOUR_MS)
    return "targets_all_capped"


@pytest.mark.parametrize("limit", [rolling, spend, minutes, minutes_of_a_target])
def test_a_burst_takes_exactly_what_there_is(
    opened: Opener, postgres_url: str, limit: Callable[[EstateBuilder], str]
) -> None:
    builder = rich()
    reason = limit(builder)
    till = Till(opened(postgres_url), builder)
    assert race_processes(postgres_url, NAMES) == {"dial": 100, reason: len(NAMES) - 100}
    till.verify()


def test_no_second_sees_more_new_calls_than_the_limit(opened: Opener, postgres_url: str) -> None:
    builder = rich()
    builder.cap(CapScope.TRUNK, "carrier", CapMetric.CPS, 20)
    till = Till(opened(postgres_url), builder)
    tally = race_processes(postgres_url, NAMES)
    assert tally.keys() <= {"dial", "cps_limit"}
    at_ms = sorted(call.decided_ms for call in till.rows(Call))
    assert len(at_ms) == tally["dial"] >= 20
    assert all(later - first >= 1_000 for first, later in zip(at_ms, at_ms[20:], strict=False))
    till.verify()


def test_one_caller_is_taken_once(opened: Opener, postgres_url: str) -> None:
    till = Till(opened(postgres_url), rich(duplicate_window_ms=HOUR_MS))
    assert race_processes(postgres_url, NAMES) == {"dial": 1, "duplicate_caller": len(NAMES) - 1}
    till.verify()


def test_turns_are_shared_to_the_call(opened: Opener, postgres_url: str) -> None:
    builder = rich(strategy=Strategy.ROUND_ROBIN)
    builder.rules[0] = replace(builder.rules[0], weight=3)
    builder.target("buyer2", rule={"weight": 2})
    builder.target("buyer3", rule={"weight": 1})
    till = Till(opened(postgres_url), builder)
    assert race_processes(postgres_url, NAMES) == {"dial": len(NAMES)}
    assert Tally(a.target_id for a in till.rows(Attempt)) == {"buyer1": 300, "buyer2": 200, "buyer3": 100}
    till.verify()


def test_legs_at_once_take_exactly_their_places(opened: Opener, postgres_url: str) -> None:
    """The nearer limit of each leg holds for itself: the call goes on with the legs that have room."""
    builder = rich(strategy=Strategy.RING_ALL)
    builder.target("buyer2")
    builder.cap(CapScope.TARGET, "buyer1", CapMetric.CONCURRENT, 30)
    builder.cap(CapScope.TARGET, "buyer2", CapMetric.CONCURRENT, 50)
    till = Till(opened(postgres_url), builder)
    assert race_processes(postgres_url, NAMES) == {"dial": 50, "targets_all_capped": len(NAMES) - 50}
    assert Tally(a.target_id for a in till.rows(Attempt)) == {"buyer1": 30, "buyer2": 50}
    till.verify()
