"""Admitting a call: what it takes, what it answers, and that asking twice takes nothing twice."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from capconduit.domain.admission import admit, ring_seconds
from capconduit.domain.books import Books
from capconduit.domain.calls import DialAnswer, RejectAnswer
from capconduit.domain.strategies import Candidate
from capconduit.domain.trace import load_trace
from capconduit.vocab import (
    REJECTS,
    CallState,
    CapMetric,
    CapScope,
    DialStatus,
    EventKind,
    HoldState,
    PlaceState,
    RejectCode,
    WindowKind,
)
from tests.unit.estate_builder import (
    DOLLAR,
    NODE,
    TENANT,
    PureTill,
    attempt_of,
    route_of,
    settle_of,
    small_estate,
)


def test_an_admitted_call_holds_its_first_slice_and_is_told_what_it_pays_for() -> None:
    till = PureTill(small_estate())
    answer = till.ask(route_of())
    assert isinstance(answer, DialAnswer)
    assert (answer.attempt, answer.funded_s, answer.ring_s, answer.target) == (1, 60, 20, "buyer1")
    assert answer.dial == "PJSIP/capconduit-out/sip:buyer1@127.0.0.1:5080"
    assert answer.ceiling_ms == 4 * 3_600_000
    hold = till.books.holds[answer.call_id]
    assert (hold.amount_micros, hold.state) == (200_000, HoldState.OPEN)
    assert till.account().held_micros == 200_000
    assert till.account().available_micros == 100 * DOLLAR - 200_000
    call = till.call()
    assert call is not None
    assert (call.state, call.attempt, call.funded_s) == (CallState.DIALING, 1, 60)
    assert call.lease_until_ms == till.clock.now_ms() + (20 + 15) * 1_000
    assert [e.kind for e in till.changes.events] == [EventKind.CALL_STARTED]


def test_the_same_channel_asking_again_gets_its_answer_and_takes_nothing() -> None:
    builder = small_estate()
    cap = builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.CONCURRENT, 1)
    till = PureTill(builder)
    first = till.ask(route_of())
    assert till.ask(route_of()) == first
    assert till.count(cap) == (0, 1)
    assert till.account().held_micros == 200_000
    assert till.changes.calls == []
    assert till.changes.events == []


def test_a_rejected_channel_asking_again_gets_the_same_reject() -> None:
    builder = small_estate()
    builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.BILLABLE, 0, WindowKind.DAY)
    till = PureTill(builder)
    first = till.ask(route_of())
    assert first.reason == "cap_reached:campaign:billable:day"
    assert till.ask(route_of()) == first
    assert till.changes.cdrs == []


def test_a_channel_whose_targets_all_failed_is_not_dialled_when_it_asks_again() -> None:
    till = PureTill(small_estate())
    till.ask(route_of())
    assert till.ask(attempt_of()).code is RejectCode.TARGETS_ALL_FAILED
    again = till.ask(route_of())
    assert isinstance(again, RejectAnswer)
    assert again.code is RejectCode.TARGETS_ALL_FAILED


def test_a_route_after_the_settlement_takes_nothing() -> None:
    till = PureTill(small_estate())
    till.ask(route_of())
    till.ask(settle_of(talk_ms=5_000))
    late = till.ask(route_of())
    assert isinstance(late, RejectAnswer)
    assert till.account().held_micros == 0
    assert till.call() is None


def test_a_route_after_a_settlement_that_came_first_takes_nothing() -> None:
    builder = small_estate()
    cap = builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.ATTEMPTS, 5, WindowKind.DAY)
    till = PureTill(builder)
    assert till.ask(settle_of()).first
    assert till.ask(settle_of()).first is False
    late = till.ask(route_of())
    assert isinstance(late, RejectAnswer)
    assert late.code is RejectCode.ENGINE_TIMEOUT
    assert till.account().held_micros == 0
    assert till.count(cap) == (0, 0)
    assert till.call() is None


def test_places_are_taken_in_every_cap_of_the_path() -> None:
    builder = small_estate()
    ids = {
        CapScope.SYSTEM: TENANT,
        CapScope.SELLER: "acme",
        CapScope.CAMPAIGN: "solar",
        CapScope.DID: "did+18005550100",
        CapScope.TRUNK: "carrier",
        CapScope.TARGET: "buyer1",
        CapScope.RULE: "solar/buyer1",
    }
    caps = {scope: builder.cap(scope, ids[scope], CapMetric.BILLABLE, 5, WindowKind.DAY) for scope in CapScope}
    till = PureTill(builder)
    answer = till.ask(route_of())
    for scope, cap in caps.items():
        assert till.count(cap) == (0, 1), scope
    attempts = {p.cap_id: p.attempt for p in till.books.open_places(answer.call_id)}
    assert {scope for scope, cap in caps.items() if attempts[cap.id] == 1} == {CapScope.TARGET, CapScope.RULE}
    assert all(p.state is PlaceState.HELD for p in till.books.open_places(answer.call_id))


def test_filling_a_window_is_told_once() -> None:
    builder = small_estate()
    cap = builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.BILLABLE, 2, WindowKind.DAY)
    builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.CONCURRENT, 2)
    till = PureTill(builder)
    told = []
    for i in range(4):
        till.ask(route_of(f"u{i}"))
        told.append([e.subject for e in till.changes.events if e.kind is EventKind.CAP_REACHED])
    assert told == [[], [cap.id], [], []]
    data = json.loads(
        next(e for e in till.books.new_events if e.kind is EventKind.CAP_REACHED).data,
    )
    assert data == {"scope": "campaign", "limited": "solar", "metric": "billable", "window": "day", "limit": 2}


def test_a_reject_has_a_record_with_its_numbers_and_costs_nothing() -> None:
    builder = small_estate()
    builder.cap(CapScope.SELLER, "acme", CapMetric.CONCURRENT, 0)
    till = PureTill(builder)
    answer = till.ask(route_of(caller_name="Zoë ☎"))
    assert (answer.code, answer.reason, answer.cause, answer.sip) == (
        RejectCode.CAP_REACHED,
        "cap_reached:seller:concurrent",
        17,
        486,
    )
    cdr = till.cdr()
    assert (cdr.reject_code, cdr.reject_reason, cdr.sip_code, cdr.hangup_cause) == (
        "cap_reached", "cap_reached:seller:concurrent", 486, 17,
    )  # fmt: skip
    assert (cdr.attempts, cdr.talk_ms, cdr.amount_micros, cdr.billable, cdr.answered_ms) == (0, 0, 0, False, None)
    assert cdr.caller_name == "Zoë ☎"
    assert load_trace(cdr.trace)[-1].detail["limit"] == 0
    assert [e.kind for e in till.changes.events] == [EventKind.CALL_REJECTED]
    assert till.account().held_micros == 0
    assert not till.books.places


@pytest.mark.parametrize(("setting", "sip"), [(None, 403), ("402", 402)])
def test_the_sip_code_of_want_of_money_is_a_setting(setting: str | None, sip: int) -> None:
    builder = small_estate()
    builder.accounts[0] = replace(builder.accounts[0], balance_micros=0)
    if setting:
        builder.setting("balance_sip_code", setting)
    answer = PureTill(builder).ask(route_of())
    assert (answer.code, answer.cause, answer.sip) == (RejectCode.BALANCE_EXHAUSTED, 21, sip)


def test_no_business_limit_is_answered_with_503() -> None:
    assert 503 not in {sip for _, sip, _ in REJECTS.values()}


@pytest.mark.parametrize(
    ("ring_ms", "budget_ms", "ring_s"),
    [(20_000, 90_000, 20), (20_000, 7_500, 8), (1, 90_000, 1), (20_000, 0, 1), (1_500, 90_000, 2)],
)
def test_a_target_rings_within_the_campaign_s_budget(ring_ms: int, budget_ms: int, ring_s: int) -> None:
    builder = small_estate()
    builder.targets[0] = replace(builder.targets[0], ring_ms=ring_ms)
    (offer,) = builder.estate().offers(builder.campaigns[0]).all
    candidate = Candidate(offer, Books().target(TENANT, offer.target.id))
    assert ring_seconds([candidate], budget_ms) == ring_s


def test_what_is_needed_for_a_decision_is_not_taken_by_asking() -> None:
    """admit() is pure: without apply() nothing has happened, and the same arguments give the same answer."""
    till = PureTill(small_estate())
    ids = iter(f"id{i}" for i in range(100))
    first, _ = admit(route_of(), till.estate, till.books, till.clock.now_ms(), lambda: next(ids))
    ids = iter(f"id{i}" for i in range(100))
    second, _ = admit(route_of(), till.estate, till.books, till.clock.now_ms(), lambda: next(ids))
    assert first == second
    assert till.books.call_of((NODE, "u1")) is None
    assert till.account().held_micros == 0


def test_an_answer_for_a_dial_that_failed_is_never_given_again() -> None:
    builder = small_estate()
    builder.target("buyer2")
    till = PureTill(builder)
    till.ask(route_of())
    second = till.ask(attempt_of(dialstatus=DialStatus.BUSY))
    assert till.ask(route_of()) == second
