"""Decisions through the engine on both databases: strategies over many calls, callers, schedules, prices, what-if."""

from __future__ import annotations

from collections import Counter as Tally
from dataclasses import replace

import pytest

from capconduit.domain.calls import DialAnswer
from capconduit.domain.model import Call, Cdr, Counter, Event, LedgerEntry
from capconduit.domain.trace import load_trace
from capconduit.services.blocks import Where, add_block, remove_block
from capconduit.services.campaigns import set_campaign
from capconduit.services.engine import Engine
from capconduit.services.targets import set_rule, set_target
from capconduit.services.whatif import what_if
from capconduit.vocab import (
    CapMetric,
    CapScope,
    DialStatus,
    EventKind,
    LedgerKind,
    RejectCode,
    Strategy,
    WindowKind,
)
from tests.store_contract.capped import DAY_MS, HOUR_MS, Shop, utc
from tests.unit.estate_builder import (
    CALLER,
    TENANT,
    EstateBuilder,
    Till,
    answer_of,
    attempt_of,
    extend_of,
    route_of,
    settle_of,
    small_estate,
)


def weighted(strategy: Strategy, *weights: int) -> EstateBuilder:
    builder = small_estate(strategy=strategy)
    builder.rules[0] = replace(builder.rules[0], priority=1, weight=weights[0])
    for i, weight in enumerate(weights[1:], 2):
        builder.target(f"buyer{i}", rule={"priority": 1, "weight": weight})
    return builder


def targets_of(till: Till, names: list[str]) -> Tally[str]:
    answers = till.batch([route_of(name) for name in names])
    assert all(isinstance(a, DialAnswer) for a in answers)
    return Tally(a.target for a in answers)


# --- strategies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [Strategy.ROUND_ROBIN, Strategy.PERCENTAGE])
def test_shares_are_exact_over_batches_restarts_and_targets_that_come_and_go(
    open_shop: Shop, strategy: Strategy
) -> None:
    builder = weighted(strategy, 60, 30, 10)
    till, shares = open_shop(builder), Tally[str]()
    for i in range(10):
        till.engine = Engine(till.store, till.clock)
        shares += targets_of(till, [f"u{i}-{n}" for n in range(20)])
        assert all(abs(shares[f"buyer{t}"] * 100 - w * 20 * (i + 1)) < 100 for t, w in ((1, 60), (2, 30), (3, 10)))
    assert shares == {"buyer1": 120, "buyer2": 60, "buyer3": 20}
    set_target(till.office(), "buyer2", enabled=False)
    assert targets_of(till, [f"v{n}" for n in range(70)]) == {"buyer1": 60, "buyer3": 10}
    set_target(till.office(), "buyer2", enabled=True)
    assert targets_of(till, [f"w{n}" for n in range(100)]) == {"buyer1": 60, "buyer2": 30, "buyer3": 10}


def test_a_share_that_a_full_target_could_not_take_is_made_up_for(open_shop: Shop) -> None:
    builder = weighted(Strategy.PERCENTAGE, 50, 50)
    cap = builder.cap(CapScope.TARGET, "buyer2", CapMetric.CONCURRENT, 0)
    till = open_shop(builder)
    assert targets_of(till, [f"a{n}" for n in range(8)]) == {"buyer1": 8}
    till.put(replace(cap, limit_value=1_000))
    assert targets_of(till, [f"b{n}" for n in range(8)]) == {"buyer2": 8}
    assert targets_of(till, [f"c{n}" for n in range(8)]) == {"buyer1": 4, "buyer2": 4}


def test_idle_and_active_targets_are_known_after_a_restart(open_shop: Shop) -> None:
    till = open_shop(weighted(Strategy.LONGEST_IDLE, 1, 1, 1))
    ended = []
    for i in range(3):
        ended.append(till.dial(route_of(f"a{i}")).target)
        till.clock.pass_ms(1_000)
        till.ask(settle_of(f"a{i}", talk_ms=500))
    assert len(set(ended)) == 3
    till.engine = Engine(till.store, till.clock)
    assert till.dial(route_of("b")).target == ended[0]
    set_campaign(till.office(), "solar", strategy=Strategy.FEWEST_ACTIVE)
    assert targets_of(till, ["c", "d"]) == Tally(ended[1:])
    till.verify()


def test_prices_order_the_targets_as_they_are_now(open_shop: Shop) -> None:
    builder = weighted(Strategy.LEAST_COST, 1, 1)
    builder.rate("low", per_minute_micros=100_000)
    builder.rate("lower", per_minute_micros=90_000)
    till = open_shop(builder)
    set_target(till.office(), "buyer2", rate="low", payout="low")
    assert till.dial(route_of("a")).target == "buyer2"
    set_rule(till.office(), "solar", "buyer1", rate="lower")
    assert till.dial(route_of("b")).target == "buyer1"
    set_campaign(till.office(), "solar", strategy=Strategy.HIGHEST_PAYOUT)
    assert till.dial(route_of("c")).target == "buyer2"


# --- prices, to the record -------------------------------------------------------------------------------------------


def test_rates_payouts_and_two_steps_are_on_the_record_and_in_the_ledger(open_shop: Shop) -> None:
    builder = small_estate()
    builder.rate(
        "dear", per_minute_micros=600_000, first_s=30, step_s=6, then_after_s=60, then_per_minute_micros=60_000
    )
    builder.rate("paid", per_minute_micros=300_000, first_s=1, step_s=1)
    builder.target("buyer2", rate_id="dear", payout_rate_id="paid")
    till = open_shop(builder)
    till.dial(route_of())
    till.dial(attempt_of(dialstatus=DialStatus.BUSY))
    till.ask(answer_of(answered_ms=till.clock.now_ms()))
    till.ask(extend_of())
    till.clock.pass_ms(90_000)
    till.ask(settle_of(talk_ms=90_000, attempt=2))
    cdr = till.rows(Cdr)[0]
    assert (cdr.amount_micros, cdr.billed_seconds, cdr.payout_micros) == (630_000, 90, 450_000)
    assert (cdr.first_s, cdr.step_s, cdr.then_after_s, cdr.then_per_minute_micros) == (30, 6, 60, 60_000)
    entry = next(e for e in till.rows(LedgerEntry) if e.kind is LedgerKind.CALL)
    assert (entry.amount_micros, entry.reason) == (-630_000, "90s to buyer2")
    till.verify()


def test_a_low_balance_is_told_once_for_each_crossing(open_shop: Shop) -> None:
    builder = small_estate()
    builder.sellers[0] = replace(builder.sellers[0], low_balance_micros=500_000)
    builder.accounts[0] = replace(builder.accounts[0], balance_micros=900_000)
    till = open_shop(builder)
    till.batch([route_of(f"u{i}") for i in range(4)])
    for i in range(4):
        till.ask(settle_of(f"u{i}", talk_ms=1_000))
    assert [e.kind for e in till.rows(Event)].count(EventKind.BALANCE_LOW) == 1


# --- callers ---------------------------------------------------------------------------------------------------------


def test_blocks_come_into_force_expire_and_are_lifted_with_the_next_decision(open_shop: Shop) -> None:
    till = open_shop(small_estate())
    add_block(till.office(), "+1212*", Where(seller="acme"), expires_ms=till.clock.now_ms() + HOUR_MS)
    assert till.reject(route_of("a")).code is RejectCode.CALLER_BLOCKED
    till.dial(route_of("b", ani="+13125550100"))
    till.clock.pass_ms(HOUR_MS)
    till.dial(route_of("c"))
    add_block(till.office(), CALLER, Where(campaign="solar"))
    assert till.reject(route_of("d")).code is RejectCode.CALLER_BLOCKED
    remove_block(till.office(), CALLER, Where(campaign="solar"))
    till.dial(route_of("e"))
    cdr = till.rows(Cdr, uniqueid="d")[0]
    assert load_trace(cdr.trace)[-1].detail["scope"] == "campaign"


def test_policies_of_the_campaign_are_in_force_with_the_next_decision(open_shop: Shop) -> None:
    till = open_shop(small_estate())
    till.dial(route_of("a", ani="anonymous"))
    set_campaign(till.office(), "solar", anonymous_callers="reject", min_attestation="B")
    assert till.reject(route_of("b", ani="anonymous")).code is RejectCode.CALLER_ANONYMOUS
    assert till.reject(route_of("c", attestation="C")).code is RejectCode.ATTESTATION_MISSING
    assert till.reject(route_of("d", attestation="A", stir_verdict="failed")).code is RejectCode.ATTESTATION_INVALID
    till.dial(route_of("e", attestation="B"))
    set_campaign(till.office(), "solar", duplicate_window_ms=HOUR_MS)
    till.dial(route_of("f", attestation="B"))  # the calls before were not remembered
    assert till.reject(route_of("g", attestation="B")).code is RejectCode.DUPLICATE_CALLER


# --- schedules -------------------------------------------------------------------------------------------------------


def test_schedules_of_campaign_and_target_follow_their_zones_over_a_change_of_the_clock(open_shop: Shop) -> None:
    """New York goes forward on 2026-03-08: nine o'clock is 14:00 UTC before and 13:00 UTC after."""
    builder = small_estate()
    builder.schedule("office", hours="Mon-Sun 09:00-17:00")
    builder.campaigns[0] = replace(builder.campaigns[0], schedule_id="office")
    builder.schedule("tokyo", timezone="Asia/Tokyo", hours="Mon-Sun 00:00-23:30")
    builder.targets[0] = replace(builder.targets[0], schedule_id="tokyo")
    till = open_shop(builder)
    for i, (text, code) in enumerate(
        [
            ("2026-03-07T13:59:59.999", RejectCode.CAMPAIGN_CLOSED),
            ("2026-03-07T14:00:00", None),
            ("2026-03-08T12:59:59.999", RejectCode.CAMPAIGN_CLOSED),
            ("2026-03-08T13:00:00", None),
            ("2026-03-08T14:30:00", RejectCode.TARGETS_ALL_CLOSED),  # 23:30 in Tokyo
            ("2026-03-08T15:00:00", None),
            ("2026-03-08T21:00:00", RejectCode.CAMPAIGN_CLOSED),
        ]
    ):
        till.clock.wall_ms = utc(text)
        answer = till.ask(route_of(f"u{i}"))
        assert getattr(answer, "code", None) is code, text


# --- what if ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [Strategy.PRIORITY, Strategy.PERCENTAGE, Strategy.RING_ALL])
def test_what_if_tells_the_decision_at_any_instant_and_takes_nothing(open_shop: Shop, strategy: Strategy) -> None:
    builder = weighted(strategy, 70, 30)
    builder.rules[1] = replace(builder.rules[1], priority=2)  # nothing is drawn
    builder.cap(CapScope.SYSTEM, TENANT, CapMetric.CPS, 1)
    builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.MINUTES, 90, WindowKind.ROLLING, HOUR_MS)
    builder.cap(CapScope.TARGET, "buyer2", CapMetric.ATTEMPTS, 1, WindowKind.DAY)
    till = open_shop(builder)
    told = what_if(till.office(), "+18005550100", caller=CALLER)
    assert till.rows(Counter) == []
    answer = till.dial(route_of())
    assert isinstance(told.answer, DialAnswer)
    assert (told.answer.target, told.answer.dial, told.answer.funded_s, told.answer.ring_s) == (
        answer.target, answer.dial, answer.funded_s, answer.ring_s,
    )  # fmt: skip
    before = {(c.cap_id, c.window_start_ms): (c.used, c.in_flight) for c in till.rows(Counter)}
    assert what_if(till.office(), "+18005550100").decision.reason == "cps_limit"
    later = till.clock.now_ms() + 2_000
    assert what_if(till.office(), "+18005550100", at_ms=later).decision.reason == (
        "cap_reached:campaign:minutes:rolling:1h"
    )
    assert what_if(till.office(), "+18005550100", at_ms=later + 2 * HOUR_MS).decision.reject is None
    assert what_if(till.office(), "+18005550100", at_ms=later + DAY_MS).decision.reject is None
    assert {(c.cap_id, c.window_start_ms): (c.used, c.in_flight) for c in till.rows(Counter)} == before
    assert len(till.rows(Call)) == 1
    till.verify()
