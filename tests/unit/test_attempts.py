"""Failover: which Dials go on to the next target, what is given back, and where it ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from capconduit.domain.attempts import counted_when_failed, real_cause
from capconduit.domain.calls import DialAnswer, RejectAnswer
from capconduit.domain.trace import load_trace
from capconduit.vocab import (
    CapMetric,
    CapScope,
    DialStatus,
    EventKind,
    PlaceState,
    RejectCode,
    WindowKind,
)
from tests.unit.estate_builder import (
    EstateBuilder,
    PureTill,
    answer_of,
    attempt_of,
    route_of,
    settle_of,
    small_estate,
)

TOTAL = WindowKind.TOTAL
COUNTING = [CapMetric.ATTEMPTS, CapMetric.CONNECTED, CapMetric.BILLABLE]


def three_targets(**campaign: Any) -> EstateBuilder:
    builder = small_estate(**campaign)
    builder.target("buyer2")
    builder.target("buyer3")
    return builder


@pytest.mark.parametrize(
    "status", [DialStatus.CHANUNAVAIL, DialStatus.CONGESTION, DialStatus.NOANSWER, DialStatus.BUSY]
)
def test_a_dial_that_failed_goes_on_to_the_next_target(status: DialStatus) -> None:
    till = PureTill(three_targets())
    first = till.ask(route_of())
    second = till.ask(attempt_of(dialstatus=status))
    assert isinstance(second, DialAnswer)
    assert (second.call_id, second.attempt, second.target) == (first.call_id, 2, "buyer2")
    assert second.funded_s == first.funded_s
    assert till.ask(attempt_of(attempt=2, dialstatus=status)).target == "buyer3"
    last = till.ask(attempt_of(attempt=3, dialstatus=status))
    assert isinstance(last, RejectAnswer)
    assert last.code is RejectCode.TARGETS_ALL_FAILED
    assert till.account().held_micros == 200_000  # until the settlement


@pytest.mark.parametrize(
    "status", [DialStatus.CANCEL, DialStatus.INVALIDARGS, DialStatus.DONTCALL, DialStatus.TORTURE, None]
)
def test_other_ends_of_a_dial_end_the_call(status: DialStatus | None) -> None:
    till = PureTill(three_targets())
    till.ask(route_of())
    assert isinstance(till.ask(attempt_of(dialstatus=status)), RejectAnswer)


@pytest.mark.parametrize(
    ("cause", "told", "sip"), [(17, 17, 486), (0, 19, 480), (127, 19, 480), (34, 34, 503), (1, 1, 404), (99, 99, 603)]
)
def test_the_last_leg_s_own_cause_is_passed_through(cause: int, told: int, sip: int) -> None:
    till = PureTill(small_estate())
    till.ask(route_of())
    answer = till.ask(attempt_of(cause=cause))
    assert (answer.code, answer.cause, answer.sip) == (RejectCode.TARGETS_ALL_FAILED, told, sip)
    assert till.ask(attempt_of(cause=cause)) == answer
    assert real_cause(cause) == told


@pytest.mark.parametrize("metric", [CapMetric.CONCURRENT, *COUNTING])
def test_a_failed_attempt_gives_its_places_back_and_keeps_only_the_attempt(metric: CapMetric) -> None:
    builder = three_targets()
    window = WindowKind.NONE if metric is CapMetric.CONCURRENT else TOTAL
    first = builder.cap(CapScope.TARGET, "buyer1", metric, 5, window)
    pair = builder.cap(CapScope.RULE, "solar/buyer1", metric, 5, window)
    second = builder.cap(CapScope.TARGET, "buyer2", metric, 5, window)
    campaign = builder.cap(CapScope.CAMPAIGN, "solar", metric, 5, window)
    till = PureTill(builder)
    till.ask(route_of())
    assert (till.count(first), till.count(pair), till.count(second)) == ((0, 1), (0, 1), (0, 0))
    till.ask(attempt_of())
    used = 1 if metric is CapMetric.ATTEMPTS else 0
    assert (till.count(first), till.count(pair), till.count(second)) == ((used, 0), (used, 0), (0, 1))
    assert till.count(campaign) == (0, 1)
    assert counted_when_failed(metric) == used


def test_the_same_report_twice_gives_the_same_answer_and_changes_nothing() -> None:
    builder = three_targets()
    cap = builder.cap(CapScope.TARGET, "buyer1", CapMetric.ATTEMPTS, 5, TOTAL)
    till = PureTill(builder)
    till.ask(route_of())
    second = till.ask(attempt_of())
    assert till.ask(attempt_of()) == second
    assert not (till.changes.calls + till.changes.places + till.changes.attempts + till.changes.events)
    assert till.count(cap) == (1, 0)


@pytest.mark.parametrize("number", [0, 2, 99, -1])
def test_a_report_of_an_attempt_that_is_not_the_current_one_changes_nothing(number: int) -> None:
    till = PureTill(three_targets())
    first = till.ask(route_of())
    assert till.ask(attempt_of(attempt=number)) == first
    assert not till.changes.places


def test_a_report_of_a_call_nobody_knows_ends_it() -> None:
    till = PureTill(small_estate())
    answer = till.ask(attempt_of("unknown"))
    assert isinstance(answer, RejectAnswer)
    till.ask(route_of())
    till.ask(settle_of())
    assert till.ask(attempt_of()).call_id == till.cdr().call_id


@pytest.mark.parametrize("witnessed", [True, False])
@pytest.mark.parametrize("metric", COUNTING)
def test_an_answered_dial_keeps_its_places_for_the_settlement(metric: CapMetric, witnessed: bool) -> None:
    """A report of a Dial that was answered is no failure: what the target used must stay counted."""
    builder = three_targets()
    cap = builder.cap(CapScope.TARGET, "buyer1", metric, 5, TOTAL)
    till = PureTill(builder)
    first = till.ask(route_of())
    if witnessed:
        till.ask(answer_of(answered_ms=till.clock.now_ms()))
    till.clock.pass_ms(30_000)
    answer = till.ask(attempt_of(dialstatus=DialStatus.ANSWER, cause=16))
    assert isinstance(answer, RejectAnswer)
    assert answer.call_id == first.call_id
    assert till.count(cap) == (0, 1)
    assert EventKind.ATTEMPT_FAILED not in [e.kind for e in till.books.new_events]
    till.ask(settle_of(talk_ms=30_000))
    assert till.count(cap) == (1, 0)
    assert (till.cdr().talk_ms, till.cdr().reject_code, till.cdr().dialstatus) == (30_000, "", "ANSWER")


def test_a_call_that_is_up_is_not_dialled_elsewhere() -> None:
    """A late or hostile report of a failure does not take a talking call to another target."""
    till = PureTill(three_targets())
    till.ask(route_of())
    till.ask(answer_of(answered_ms=till.clock.now_ms()))
    assert isinstance(till.ask(attempt_of(dialstatus=DialStatus.NOANSWER)), RejectAnswer)
    call = till.call()
    assert call is not None
    assert call.attempt == 1


def test_a_target_is_tried_once() -> None:
    till = PureTill(three_targets(max_attempts=20))
    targets = [till.ask(route_of()).target]
    number = 1
    while isinstance(answer := till.ask(attempt_of(attempt=number)), DialAnswer):
        targets.append(answer.target)
        number += 1
    assert targets == ["buyer1", "buyer2", "buyer3"]


def test_no_more_targets_are_tried_than_the_campaign_allows() -> None:
    till = PureTill(three_targets(max_attempts=2))
    till.ask(route_of())
    assert isinstance(till.ask(attempt_of()), DialAnswer)
    assert isinstance(till.ask(attempt_of(attempt=2)), RejectAnswer)


def test_the_ring_budget_is_shared_by_all_attempts() -> None:
    till = PureTill(three_targets(ring_budget_ms=30_000))
    assert till.ask(route_of()).ring_s == 20
    till.clock.pass_ms(18_500)
    assert till.ask(attempt_of(dialstatus=DialStatus.NOANSWER)).ring_s == 12  # 11.5 s are left
    till.clock.pass_ms(11_500)
    assert isinstance(till.ask(attempt_of(attempt=2, dialstatus=DialStatus.NOANSWER)), RejectAnswer)


def test_a_target_that_filled_meanwhile_is_passed_by_and_noted() -> None:
    builder = three_targets()
    builder.cap(CapScope.TARGET, "buyer2", CapMetric.CONCURRENT, 1)
    till = PureTill(builder)
    till.ask(route_of("u1"))
    assert till.ask(attempt_of("u1")).target == "buyer2"
    till.ask(route_of("u2"))
    assert till.ask(attempt_of("u2")).target == "buyer3"
    call = till.call("u2")
    assert call is not None
    skipped = [c.detail["target"] for c in load_trace(call.trace) if c.name == "target" and not c.ok]
    assert skipped == ["buyer2", "buyer2"]  # by the route, and again by the failover


def test_a_campaign_that_is_gone_ends_the_failover() -> None:
    till = PureTill(three_targets())
    till.ask(route_of())
    till.builder.dids.clear()
    till.builder.rules.clear()
    till.builder.campaigns.clear()
    till.rebuild()
    assert isinstance(till.ask(attempt_of()), RejectAnswer)


def test_a_paused_campaign_ends_no_live_call() -> None:
    till = PureTill(three_targets())
    till.ask(route_of())
    till.builder.campaigns[0] = replace(till.builder.campaigns[0], status="paused")
    till.rebuild()
    assert isinstance(till.ask(attempt_of()), DialAnswer)


def test_the_window_of_an_attempt_is_that_of_its_own_start() -> None:
    builder = three_targets()
    caps = [builder.cap(CapScope.TARGET, t, CapMetric.ATTEMPTS, 5, WindowKind.DAY) for t in ("buyer1", "buyer2")]
    till = PureTill(builder)
    till.clock.wall_ms = 1_772_495_999_000  # a second before midnight UTC
    till.ask(route_of())
    till.clock.pass_ms(10_000)
    till.ask(attempt_of(dialstatus=DialStatus.NOANSWER))
    windows = {c.cap_id: c.window_start_ms for c in till.books.counters.values()}
    assert windows[caps[1].id] - windows[caps[0].id] == 86_400_000


def test_places_of_the_failed_attempt_say_why_they_were_released() -> None:
    builder = three_targets()
    cap = builder.cap(CapScope.TARGET, "buyer1", CapMetric.CONCURRENT, 5)
    till = PureTill(builder)
    call_id = till.ask(route_of()).call_id
    till.ask(attempt_of())
    place = till.books.places[call_id][(1, cap.id)]
    assert (place.state, place.reason, place.counted) == (PlaceState.RELEASED, "attempt 1 failed", 0)
