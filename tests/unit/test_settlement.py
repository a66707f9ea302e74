"""The end of a call: its price, its record, and that a second word of it never bills again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from capconduit.domain.calls import LegTimes, SettleReport
from capconduit.domain.settlement import CUT_TOLERANCE_MS, TALK_TOLERANCE_MS, counted_by
from capconduit.vocab import (
    CapMetric,
    CapScope,
    DialStatus,
    EventKind,
    HoldState,
    HungUpBy,
    LedgerKind,
    PlaceState,
    RejectCode,
    WindowKind,
)
from tests.unit.estate_builder import (
    DOLLAR,
    MINUTE_MS,
    NODE,
    T0,
    EstateBuilder,
    PureTill,
    answer_of,
    attempt_of,
    extend_of,
    route_of,
    settle_of,
    small_estate,
)

COUNTING = [CapMetric.ATTEMPTS, CapMetric.CONNECTED, CapMetric.BILLABLE]


def admitted(builder: EstateBuilder | None = None, **campaign: Any) -> PureTill:
    till = PureTill(builder or small_estate(**campaign))
    till.ask(route_of())
    return till


def poor(balance: int, **campaign: Any) -> EstateBuilder:
    builder = small_estate(**campaign)
    builder.accounts[0] = replace(builder.accounts[0], balance_micros=balance)
    return builder


# --- money -----------------------------------------------------------------------------------------------------------


def test_the_price_is_posted_the_rest_of_the_hold_is_void_and_the_call_is_gone() -> None:
    till = admitted()
    till.clock.pass_ms(50_000)
    answer = till.ask(settle_of(talk_ms=45_000))
    assert answer.first
    assert till.call() is None
    assert (till.account().balance_micros, till.account().held_micros) == (100 * DOLLAR - 200_000, 0)
    assert till.books.holds[answer.call_id].state is HoldState.POSTED
    entry = till.books.new_ledger[0]
    assert (entry.kind, entry.amount_micros, entry.call_id) == (LedgerKind.CALL, -200_000, answer.call_id)
    assert entry.balance_after_micros == till.account().balance_micros
    cdr = till.cdr()
    assert (cdr.talk_ms, cdr.billed_seconds, cdr.amount_micros, cdr.written_off_micros) == (45_000, 60, 200_000, 0)
    assert (cdr.billable, cdr.dialstatus, cdr.sip_code, cdr.hangup_cause) == (True, "ANSWER", 200, 16)
    assert cdr.balance_after_micros == till.account().balance_micros
    assert cdr.ended_ms == T0 + 50_000
    assert cdr.answered_ms == T0 + 5_000


def test_a_call_that_was_not_answered_costs_nothing() -> None:
    till = admitted()
    answer = till.ask(settle_of(hangup_source="PJSIP/carrier-1", channel="PJSIP/carrier-1"))
    assert (till.account().balance_micros, till.account().held_micros) == (100 * DOLLAR, 0)
    assert till.books.new_ledger == []
    assert till.books.holds[answer.call_id].state is HoldState.VOID
    cdr = till.cdr()
    assert (cdr.answered_ms, cdr.talk_ms, cdr.amount_micros, cdr.billable, cdr.sip_code) == (None, 0, 0, False, 487)
    assert cdr.hangup_cause == 19


@pytest.mark.parametrize(("talk_ms", "billable"), [(29_999, False), (30_000, True)])
def test_the_threshold_decides_what_is_billed(talk_ms: int, billable: bool) -> None:
    till = admitted(billable_threshold_ms=30_000)
    till.ask(settle_of(talk_ms=talk_ms))
    assert till.cdr().billable is billable
    assert till.cdr().amount_micros == (200_000 if billable else 0)
    assert till.account().held_micros == 0


def test_a_second_settlement_changes_nothing() -> None:
    till = admitted()
    first = till.ask(settle_of(talk_ms=45_000))
    account, cdr = till.account(), till.cdr()
    again = till.ask(settle_of(talk_ms=45_000))
    assert (again.first, again.call_id, again.disagreement) == (False, first.call_id, "")
    assert (till.account(), till.cdr()) == (account, cdr)
    assert len(till.books.new_ledger) == 1
    assert not till.changes.events


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (settle_of(talk_ms=45_000 + TALK_TOLERANCE_MS), ""),
        (settle_of(talk_ms=45_001 + TALK_TOLERANCE_MS), "talk_ms=47001 against 45000"),
        (settle_of(talk_ms=600_000), "talk_ms=600000 against 45000"),
        (settle_of(), "answered=False against True"),
        (settle_of(talk_ms=45_000, leg=LegTimes(answered_ms=T0, ended_ms=T0 + 90_000)), "talk_ms=90000 against 45000"),
        (settle_of(talk_ms=90_000, leg=LegTimes(answered_ms=T0, ended_ms=T0 + 45_000)), ""),
        (SettleReport(node=NODE, uniqueid="u1"), ""),
    ],
)
def test_other_numbers_the_second_time_are_logged_and_never_billed(report: SettleReport, told: str) -> None:
    till = admitted()
    till.ask(settle_of(talk_ms=45_000))
    account = till.account()
    answer = till.ask(report)
    assert (answer.first, answer.disagreement) == (False, told)
    assert till.account() == account
    assert [e.kind for e in till.changes.events] == ([EventKind.SETTLEMENT_DISAGREED] if told else [])


def test_a_call_that_overran_its_funding_is_charged_to_what_is_available_and_no_further() -> None:
    till = admitted(poor(300_000))
    till.ask(settle_of(talk_ms=3 * MINUTE_MS))
    cdr = till.cdr()
    assert (cdr.billed_seconds, cdr.amount_micros, cdr.written_off_micros) == (180, 300_000, 300_000)
    assert till.account().balance_micros == 0
    assert till.account().available_micros == 0


def test_what_other_calls_hold_is_not_charged_for_an_overrun() -> None:
    builder = poor(500_000)
    till = PureTill(builder)
    till.ask(route_of("u1"))
    till.ask(route_of("u2"))
    till.ask(settle_of("u1", talk_ms=10 * MINUTE_MS))
    assert (till.cdr("u1").amount_micros, till.cdr("u1").written_off_micros) == (300_000, 1_700_000)
    assert (till.account().balance_micros, till.account().held_micros) == (200_000, 200_000)
    till.ask(settle_of("u2", talk_ms=MINUTE_MS))
    assert till.account().balance_micros == 0


def test_credit_is_charged_like_money() -> None:
    builder = poor(0)
    builder.accounts[0] = replace(builder.accounts[0], credit_limit_micros=250_000)
    till = admitted(builder)
    till.ask(settle_of(talk_ms=2 * MINUTE_MS))
    assert (till.cdr().amount_micros, till.cdr().written_off_micros) == (250_000, 150_000)
    assert till.account().balance_micros == -250_000
    assert till.account().available_micros == 0


@pytest.mark.parametrize(
    ("talk_ms", "billed_s"),
    [(60_000, 60), (60_001, 60), (60_000 + CUT_TOLERANCE_MS, 60), (60_001 + CUT_TOLERANCE_MS, 120)],
)
def test_a_cut_at_the_funded_limit_that_lands_late_starts_no_increment(talk_ms: int, billed_s: int) -> None:
    till = admitted()
    till.ask(settle_of(talk_ms=talk_ms))
    assert till.cdr().billed_seconds == billed_s
    assert till.cdr().talk_ms == talk_ms


# --- whose word of the time is taken ---------------------------------------------------------------------------------


def test_the_target_s_leg_is_the_clock_where_ami_saw_it() -> None:
    """The caller heard an announcement for a minute before: its channel was up longer than the target talked."""
    till = admitted()
    till.clock.pass_ms(100_000)
    leg = LegTimes(rang_ms=T0 + 1_000, answered_ms=T0 + 60_000, ended_ms=T0 + 90_000)
    till.ask(settle_of(talk_ms=95_000, leg=leg))
    cdr = till.cdr()
    assert (cdr.talk_ms, cdr.answered_ms, cdr.ended_ms, cdr.ring_ms) == (30_000, T0 + 60_000, T0 + 90_000, 59_000)
    assert cdr.witness == "handler+ami"


def test_a_caller_who_was_answered_before_the_dial_pays_for_no_more_than_the_dial() -> None:
    """An IVR answered ten minutes ago, AMI is away: the channel's own time is not that of the target."""
    till = admitted()
    till.clock.pass_ms(8_000)
    till.ask(settle_of(talk_ms=608_000))
    assert till.cdr().talk_ms == 8_000


def test_an_answer_that_was_recorded_counts_though_the_handler_knows_of_none() -> None:
    till = admitted()
    till.ask(answer_of(answered_ms=T0 + 2_000))
    till.clock.pass_ms(12_000)
    till.ask(SettleReport(node=NODE, uniqueid="u1"))
    assert (till.cdr().talk_ms, till.cdr().amount_micros) == (10_000, 200_000)


def test_a_settlement_that_comes_late_does_not_bill_until_it_came() -> None:
    """The answer was recorded, the end was told by the channel only, and the word of it waited for an hour."""
    till = admitted()
    till.ask(answer_of(answered_ms=T0 + 2_000))
    till.clock.pass_ms(3_600_000)
    till.ask(settle_of(talk_ms=30_000, witness="spool"))
    cdr = till.cdr()
    assert (cdr.talk_ms, cdr.billed_seconds, cdr.amount_micros) == (30_000, 60, 200_000)
    assert cdr.ended_ms == T0 + 32_000


@pytest.mark.parametrize(("told_ms", "talk_ms"), [(90_000, 90_000), (None, 0), (0, 0)])
def test_a_clock_that_was_set_back_meanwhile_leaves_the_channel_s_own_measure(
    told_ms: int | None, talk_ms: int
) -> None:
    till = admitted()
    till.ask(extend_of())
    till.ask(answer_of(answered_ms=T0 + 2_000))
    till.clock.wall_ms = T0 - 3_600_000
    till.ask(settle_of(talk_ms=told_ms) if told_ms is not None else SettleReport(node=NODE, uniqueid="u1"))
    cdr = till.cdr()
    assert (cdr.talk_ms, cdr.ended_ms) == (talk_ms, T0 + 2_000 + talk_ms)
    assert cdr.amount_micros == (400_000 if talk_ms else 200_000)


# --- who hung up -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("talk_ms", "source", "who"),
    [
        (5_000, "PJSIP/carrier-00000001", HungUpBy.CALLER),
        (5_000, "PJSIP/capconduit-out-00000002", HungUpBy.TARGET),
        (5_000, "dialplan/builtin", HungUpBy.SYSTEM),
        (5_000, "", HungUpBy.SYSTEM),
        (None, "", HungUpBy.SYSTEM),  # from AMI, or by Asterisk that stops: DIALSTATUS is CANCEL as well
        (None, "PJSIP/carrier-00000001", HungUpBy.CALLER),
    ],
)
def test_who_hung_up_is_told(talk_ms: int | None, source: str, who: HungUpBy) -> None:
    till = admitted()
    till.ask(settle_of(talk_ms=talk_ms, hangup_source=source, channel="PJSIP/carrier-00000001"))
    assert till.cdr().hung_up_by is who


# --- places ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", [CapScope.CAMPAIGN, CapScope.TARGET])
@pytest.mark.parametrize(
    ("talk_ms", "kept"),
    [
        (None, {CapMetric.ATTEMPTS}),
        (29_999, {CapMetric.ATTEMPTS, CapMetric.CONNECTED}),
        (30_000, {CapMetric.ATTEMPTS, CapMetric.CONNECTED, CapMetric.BILLABLE}),
    ],
)
def test_a_place_stays_used_by_what_the_metric_counts(
    talk_ms: int | None, kept: set[CapMetric], scope: CapScope
) -> None:
    builder = small_estate(billable_threshold_ms=30_000)
    scope_id = "solar" if scope is CapScope.CAMPAIGN else "buyer1"
    caps = {m: builder.cap(scope, scope_id, m, 5, WindowKind.DAY) for m in COUNTING}
    caps[CapMetric.CONCURRENT] = builder.cap(scope, scope_id, CapMetric.CONCURRENT, 5)
    till = admitted(builder)
    call_id = till.call().id  # type: ignore[union-attr]  # just admitted
    till.ask(settle_of(talk_ms=talk_ms))
    for metric, cap in caps.items():
        assert till.count(cap) == (int(metric in kept), 0), metric
    assert all(p.state is PlaceState.RELEASED for p in till.books.places[call_id].values())


def test_an_admission_that_came_too_late_uses_no_attempt() -> None:
    builder = small_estate()
    caps = [
        builder.cap(scope, scope_id, CapMetric.ATTEMPTS, 5, WindowKind.DAY)
        for scope, scope_id in ((CapScope.CAMPAIGN, "solar"), (CapScope.TARGET, "buyer1"))
    ]
    till = admitted(builder)
    till.ask(SettleReport(node=NODE, uniqueid="u1", reject=RejectCode.ENGINE_TIMEOUT, witness="late"))
    assert [till.count(cap) for cap in caps] == [(0, 0), (0, 0)]
    assert (till.cdr().reject_code, till.cdr().amount_micros) == ("engine_timeout", 0)


def test_a_cap_that_was_cleared_meanwhile_keeps_nothing_and_breaks_nothing() -> None:
    builder = small_estate()
    cap = builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.BILLABLE, 5, WindowKind.DAY)
    till = admitted(builder)
    builder.caps.clear()
    till.rebuild()
    till.ask(settle_of(talk_ms=45_000))
    assert till.count(cap) == (0, 0)


@pytest.mark.parametrize("metric", CapMetric)
def test_a_place_uses_one_or_nothing(metric: CapMetric) -> None:
    for dialled in (False, True):
        for answered in (False, True):
            assert counted_by(metric, dialled=dialled, answered=answered, billable=False) in (0, 1)
    assert counted_by(CapMetric.CONCURRENT, dialled=True, answered=True, billable=True) == 0


# --- after a failover ------------------------------------------------------------------------------------------------


def test_the_record_of_a_call_names_the_target_that_answered() -> None:
    builder = small_estate()
    builder.target("buyer2")
    till = admitted(builder)
    till.clock.pass_ms(5_000)
    till.ask(attempt_of())
    till.ask(answer_of(answered_ms=T0 + 9_000))
    till.clock.pass_ms(14_000)
    till.ask(settle_of(talk_ms=10_000, attempt=2))
    cdr = till.cdr()
    assert (cdr.target, cdr.rule_id, cdr.attempts, cdr.talk_ms) == ("buyer2", "solar/buyer2", 2, 10_000)
    attempts = till.books.attempts[cdr.call_id]
    assert [(a.dialstatus, a.hangup_cause) for a in attempts.values()] == [
        (DialStatus.BUSY, 17),
        (DialStatus.ANSWER, 16),
    ]


def test_a_call_whose_targets_all_failed_is_recorded_as_such() -> None:
    till = admitted()
    till.ask(attempt_of())
    till.ask(settle_of(dialstatus=DialStatus.BUSY, hangup_cause=17))
    cdr = till.cdr()
    assert (cdr.reject_code, cdr.reject_reason, cdr.hangup_cause, cdr.sip_code) == (
        "targets_all_failed", "targets_all_failed", 17, 486,
    )  # fmt: skip
    assert till.account().held_micros == 0


@pytest.mark.parametrize("told_by_ami", [False, True])
def test_an_answer_after_all_targets_failed_is_not_the_seller_s_to_pay(told_by_ami: bool) -> None:
    """The operator's own context for rejects may dial a voice box: DIALSTATUS and AMI then tell of that Dial."""
    builder = small_estate()
    cap = builder.cap(CapScope.TARGET, "buyer1", CapMetric.BILLABLE, 5, WindowKind.DAY)
    till = admitted(builder)
    till.ask(attempt_of())
    till.clock.pass_ms(60_000)
    leg = LegTimes(answered_ms=T0 + 5_000, ended_ms=T0 + 60_000) if told_by_ami else LegTimes()
    if told_by_ami:
        assert till.ask(answer_of(answered_ms=T0 + 5_000)) is None
        assert till.call().answered_ms is None  # type: ignore[union-attr]  # it lives
    till.ask(settle_of(talk_ms=55_000, hangup_cause=16, leg=leg))
    cdr = till.cdr()
    assert (cdr.answered_ms, cdr.talk_ms, cdr.amount_micros, cdr.billable) == (None, 0, 0, False)
    assert (cdr.dialstatus, cdr.hangup_cause, cdr.reject_code) == ("BUSY", 17, "targets_all_failed")
    assert till.count(cap) == (0, 0)
    assert till.account().balance_micros == 100 * DOLLAR


@pytest.mark.parametrize("dialstatus", [DialStatus.BUSY, DialStatus.ANSWER])
def test_a_target_whose_verdict_came_too_late_was_not_dialled(dialstatus: DialStatus) -> None:
    """The dialplan knows of the first attempt only. If it tells of an answer, that is of the operator's own Dial."""
    builder = small_estate()
    builder.target("buyer2")
    caps = [builder.cap(CapScope.TARGET, t, CapMetric.ATTEMPTS, 5, WindowKind.DAY) for t in ("buyer1", "buyer2")]
    till = admitted(builder)
    till.ask(attempt_of())
    till.ask(settle_of(talk_ms=55_000, attempt=1, dialstatus=dialstatus))
    cdr = till.cdr()
    assert (cdr.attempts, cdr.target, cdr.dialstatus, cdr.hangup_cause) == (1, "buyer1", "BUSY", 17)
    assert (cdr.answered_ms, cdr.amount_micros) == (None, 0)
    assert [till.count(cap) for cap in caps] == [(1, 0), (0, 0)]


def test_a_clock_that_was_set_forward_meanwhile_bills_what_our_own_clock_saw() -> None:
    till = admitted()
    till.ask(extend_of())
    till.ask(answer_of(answered_ms=T0 + 2_000))
    leg = LegTimes(answered_ms=T0 + 2_000, ended_ms=T0 + 3_600_000, clock_talk_ms=61_000)
    till.ask(settle_of(talk_ms=None, dialstatus=None, leg=leg))
    assert (till.cdr().talk_ms, till.cdr().billed_seconds) == (61_000, 120)


@pytest.mark.parametrize(("source", "code"), [("dialplan/builtin", "engine_timeout"), ("PJSIP/carrier-00000001", "")])
def test_a_dialplan_that_never_heard_of_its_admission_uses_no_attempt(source: str, code: str) -> None:
    """Unless it was the caller who left while we decided: that call was admitted and is counted."""
    builder = small_estate()
    cap = builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.ATTEMPTS, 5, WindowKind.DAY)
    till = admitted(builder)
    till.ask(
        SettleReport(node=NODE, uniqueid="u1", hangup_source=source, channel="PJSIP/carrier-00000001", hangup_cause=16)
    )
    assert till.cdr().reject_code == code
    assert till.count(cap) == (int(not code), 0)
    assert till.account().held_micros == 0


GIVEN_BACK = SettleReport(node=NODE, uniqueid="u1", reject=RejectCode.ENGINE_TIMEOUT, witness="undelivered")


@pytest.mark.parametrize(
    "sign", [answer_of(answered_ms=T0 + 1_000), answer_of(), attempt_of()], ids=["up", "seen", "failed"]
)
def test_a_call_that_was_dialled_after_all_is_not_given_back(sign: Any) -> None:
    till = admitted()
    till.ask(sign)
    held = till.account().held_micros
    answer = till.ask(GIVEN_BACK)
    assert (answer.first, till.account().held_micros) == (False, held)
    assert till.call() is not None
    till.clock.pass_ms(40_000)
    till.ask(settle_of(talk_ms=30_000))
    assert till.account().held_micros == 0
    assert (till.cdr().amount_micros > 0) is (till.cdr().reject_code == "")


def test_after_the_end_nothing_of_the_call_can_be_changed() -> None:
    till = admitted()
    till.ask(settle_of(talk_ms=5_000))
    account = till.account()
    assert till.ask(answer_of()) is None
    assert till.ask(extend_of()) is None
    till.ask(attempt_of())
    assert till.account() == account
    assert till.call() is None
